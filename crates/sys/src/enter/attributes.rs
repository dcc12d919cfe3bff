//! What a process inherits besides its ids and descriptors, and what of it is root's.
//!
//! A session keyring holds root's keys (passphrases of disks, Kerberos tickets, fscrypt); the rest are privileges of the
//! scheduler and marks of the caller. Each is set to what a service begins with.
//!
//! Only async-signal-safe calls are made here and nothing is allocated.

use std::ffi::CStr;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

use super::ids::check;
use crate::keyring;

/// A resource, its soft and its hard limit.
pub type Limit = (Resource, u64, u64);

/// The kernel's own default, nanoseconds. 0 would mean the caller's.
///
/// Source: init/init_task.c, `timer_slack_ns`.
const TIMER_SLACK: libc::c_ulong = 50_000;

/// Source: include/uapi/linux/personality.h, `PER_LINUX`.
const PER_LINUX: libc::c_ulong = 0;

/// Source: include/uapi/linux/ioprio.h, `IOPRIO_WHO_PROCESS`; class `IOPRIO_CLASS_NONE` with data 0.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_NONE: libc::c_int = 0;

/// What is written to files of /proc/self.
///
/// The OOM killer's score is that of an ordinary process, and the least that the process may set from now on.
/// No login is to blame for what the program does: the audit log would book it on the administrator.
/// Core dumps hold what they do by default.
///
/// Source: proc_pid_oom_score_adj(5), proc_pid_loginuid(5), core(5).
const FILES: [(&CStr, &[u8]); 3] = [
    (c"/proc/self/oom_score_adj", b"0"),
    (c"/proc/self/loginuid", b"4294967295"),
    (c"/proc/self/coredump_filter", b"0x33"),
];

/// Sets the umask that Kubernetes expects and gives up everything of root's that would outlive the drop to a user.
///
/// Should: the process has an empty session keyring, the default priority of processor and disk, and no login.
/// Must only be called as root, before the drop: later the node's user would pay for the keyring, and could have spent
/// all keys that he may have.
///
/// # Errors
/// The session keyring cannot be replaced (a kernel without keys has none), or the scheduler refuses the default.
/// What a container does not let root change, and what only makes the process worth less, stays.
pub(super) fn reset() -> Result<(), Errno> {
    tolerate(keyring::join_empty(), &[Errno::ENOSYS])?;
    schedule()?;
    umask(Mode::from_bits_truncate(0o022));
    // SAFETY: PR_SET_TIMERSLACK takes a number.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK, 0, 0, 0) };
    // SAFETY: personality takes a number.
    unsafe { libc::personality(PER_LINUX) };
    // SAFETY: PR_SET_SECUREBITS takes a number. Bits that are locked stay; that no capability is left is proved later.
    unsafe { libc::prctl(libc::PR_SET_SECUREBITS, 0, 0, 0, 0) };
    for (path, text) in FILES {
        write(path, text);
    }
    Ok(())
}

fn schedule() -> Result<(), Errno> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: sched_setscheduler reads one sched_param, which lives until it returns; 0 is this process.
    let policy =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const parameter) };
    // A caller that is worse off than the default may lack the right to be better off.
    let refused = [Errno::EPERM, Errno::EACCES];
    tolerate(check(policy), &refused)?;
    // SAFETY: setpriority takes three numbers; 0 is this process.
    let nice = unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, 0) };
    tolerate(check(nice), &refused)?;
    // SAFETY: ioprio_set takes three numbers; 0 is this process.
    let disk = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_NONE) };
    tolerate(check(disk), &[Errno::EPERM, Errno::EACCES, Errno::ENOSYS])
}

fn tolerate(result: Result<(), Errno>, known: &[Errno]) -> Result<(), Errno> {
    match result {
        Err(errno) if known.contains(&errno) => Ok(()),
        other => other,
    }
}

/// A file that is not there (a kernel without audit) or not ours to write leaves things as they are.
fn write(path: &CStr, text: &[u8]) {
    if let Ok(file) = nix::fcntl::open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        let _ = nix::unistd::write(file.as_fd(), text);
    }
}

/// Sets the limits of this process; none is higher than before.
///
/// # Errors
/// Source: getrlimit(2): EPERM, the hard limit would rise.
pub(super) fn limit(limits: &[Limit]) -> Result<(), Errno> {
    limits.iter().try_for_each(|(resource, soft, hard)| setrlimit(*resource, *soft, *hard))
}
