//! Sysctls outside `net/` belong to the whole machine: what u7s or a kubelet sets is put back.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Those that u7s or a kubelet sets.
const NAMES: [&str; 9] = [
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/maxkeys",
    "kernel/keys/maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "vm/overcommit_memory",
];

/// How many lans of this process are alive, and the values from before the first one.
static HELD: Mutex<(usize, Vec<(&str, String)>)> = Mutex::new((0, Vec::new()));

/// Remembers the values, unless another lan of this process has.
pub(crate) fn hold() {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if held.0 == 0 {
        let read =
            |name| fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|value| (name, value));
        held.1 = NAMES.into_iter().filter_map(read).collect();
    }
    held.0 += 1;
}

/// Puts the values back when the last lan of this process goes; those that did not change are not written.
pub(crate) fn release() {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.0 = held.0.saturating_sub(1);
    if held.0 > 0 {
        return;
    }
    for (name, value) in held.1.drain(..) {
        let path = Path::new("/proc/sys").join(name);
        if fs::read_to_string(&path).is_ok_and(|now| now != value) {
            let _ = fs::write(path, value);
        }
    }
}
