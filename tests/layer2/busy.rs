//! A cgroup that cannot be removed, since its processes outlive SIGKILL, costs the next node a name and nothing else.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bench::Bench;
use crate::proc::{cgroup, wait_for};

/// A child that waits for its tracer before it leaves its cgroup, whatever kills it, and its tracer.
///
/// Two that trace each other need no third; here the end of the tracer frees it.
///
/// Source: ptrace(2), `PTRACE_O_TRACEEXIT` (0x40), `PTRACE_SEIZE` (0x4206).
const TRACER: &str = "
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
child = os.fork()
while child == 0: time.sleep(100)
assert libc.ptrace(0x4206, child, None, 0x40) == 0, ctypes.get_errno()
print(child, flush=True)
while True: time.sleep(100)
";

/// A process that SIGKILL does not end, until this is dropped.
struct Unkillable {
    tracer: Child,
    pid: i32,
}

impl Unkillable {
    fn new() -> Self {
        let mut command = Command::new("/usr/bin/python3");
        let mut tracer = command.args(["-c", TRACER]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(tracer.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { tracer, pid: line.trim().parse().unwrap() }
    }

    fn move_to(&self, cgroup: &Path) {
        fs::write(cgroup.join("cgroup.procs"), self.pid.to_string()).unwrap();
    }

    fn is_there(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| !stat.contains(") Z "))
    }
}

impl Drop for Unkillable {
    fn drop(&mut self) {
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

#[test]
fn a_node_starts_beside_processes_that_sigkill_does_not_end() {
    let held = Unkillable::new();
    let mut first = Bench::new().start();
    let unit = first.bench.cgroup().to_owned();
    let name = format!("/{}", unit.file_name().unwrap().display());
    held.move_to(&unit.join("node/init"));
    // The supervisor says what it could not remove, and ends all the same.
    assert_eq!(first.end(Signal::SIGTERM).code(), Some(1));
    assert!(first.output().contains("remove the node's cgroup"), "{}", first.output());
    assert!(held.is_there() && cgroup(held.pid) == format!("{name}/node/init"));
    let mut second = first.restart();
    assert_eq!(second.status().cgroup, format!("{name}/node-1"));
    assert_eq!(cgroup(second.init()), format!("{name}/node-1/init"));
    assert_eq!(second.inside("cat /sys/fs/cgroup/init/cgroup.procs | head -1"), "1\n");
    assert_eq!(second.inside("cat /sys/fs/cgroup/cgroup.max.depth"), "64\n");
    assert!(second.output().contains("its processes do not end"), "{}", second.output());
    assert_eq!(second.end(Signal::SIGTERM).code(), Some(0), "{}", second.output());
    assert!(!unit.join("node-1").exists());
    let pid = held.pid;
    drop(held);
    wait_for("the held process to end", Duration::from_secs(10), || cgroup_is_free(&unit.join("node"), pid));
    let third = second.restart();
    assert_eq!(third.status().cgroup, format!("{name}/node"));
}

fn cgroup_is_free(cgroup: &Path, pid: i32) -> Option<()> {
    let procs = fs::read_to_string(cgroup.join("init/cgroup.procs")).unwrap_or_default();
    (!procs.lines().any(|line| line == pid.to_string())).then_some(())
}
