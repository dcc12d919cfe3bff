//! One clone3 that makes the namespaces of the node and places its first process into a cgroup.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::Error;

/// Exit status of a child whose closure panicked.
const PANICKED: i32 = 101;

/// Clones this process, which must have a single thread, and runs `child` in the copy.
///
/// `namespaces` are CLONE_NEW* flags; the copy is born in the cgroup2 directory `cgroup`.
/// The copy ends with the value of `child`; nothing of the caller's frames runs there, so no descriptor is closed twice.
///
/// Shape: the child's pid as the caller sees it, and a pidfd (close-on-exec) for it.
///
/// A cgroup namespace made by the same call would be rooted at the *caller's* cgroup: the child unshares it by itself.
///
/// # Errors
/// [`Error::Answer`]: this process has more than one thread.
/// [`Error::Call`]: EPERM, user namespaces are switched off or the cgroup is not ours; ENOSPC, a limit of
/// /proc/sys/user; EBUSY, the cgroup has controllers enabled for children.
///
/// Source: clone(2), "clone3()"; kernel/cgroup/namespace.c, `copy_cgroup_ns`.
pub fn clone_into<F>(
    namespaces: CloneFlags,
    cgroup: BorrowedFd<'_>,
    child: F,
) -> Result<(i32, OwnedFd), Error>
where
    F: FnOnce() -> i32,
{
    require_single_thread()?;
    let mut pidfd: libc::c_int = -1;
    let flags = namespaces.bits().unsigned_abs();
    let mut arguments = no_arguments();
    arguments.flags = u64::from(flags) | CLONE_PIDFD | CLONE_INTO_CGROUP;
    arguments.pidfd = std::ptr::from_mut(&mut pidfd).addr() as u64;
    arguments.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    arguments.cgroup = cgroup.as_raw_fd().unsigned_abs().into();
    // SAFETY: clone3 reads `size_of::<clone_args>()` bytes, which `arguments` has, and writes one int to `pidfd`, which
    // outlives the call. Without CLONE_VM and with one thread (checked above) it behaves as fork: the copy owns its memory.
    let answer = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut arguments), size_of::<libc::clone_args>())
    };
    match Errno::result(answer).map_err(Error::call("clone3"))? {
        0 => run_child(child),
        pid => {
            // SAFETY: with CLONE_PIDFD a successful clone3 stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((i32::try_from(pid).unwrap_or(i32::MAX), pidfd))
        }
    }
}

/// Forks this process, which must have a single thread, and runs `child` in the copy, as [`clone_into`] does.
///
/// # Errors
/// [`Error::Answer`]: more than one thread. [`Error::Call`]: EAGAIN, a limit of processes.
pub fn fork<F: FnOnce() -> i32>(child: F) -> Result<i32, Error> {
    require_single_thread()?;
    // SAFETY: fork demands that a copy of a multi-threaded process calls async-signal-safe functions only;
    // there is one thread (checked above), so no lock can be held by a thread that the copy lacks.
    let answer = unsafe { libc::fork() };
    match Errno::result(answer).map_err(Error::call("fork"))? {
        0 => run_child(child),
        pid => Ok(pid),
    }
}

/// Ends this process at once: no destructor, no exit handler, no flush.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no condition; what it skips is the purpose.
    unsafe { libc::_exit(status) }
}

/// Source: include/uapi/linux/sched.h.
const CLONE_PIDFD: u64 = 0x1000;
/// Source: include/uapi/linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn run_child<F: FnOnce() -> i32>(child: F) -> ! {
    exit_now(catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED))
}

fn no_arguments() -> libc::clone_args {
    libc::clone_args {
        flags: 0,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    }
}

fn require_single_thread() -> Result<(), Error> {
    // Two links are the directory's own, each thread makes one more. Source: fs/proc/base.c, `proc_task_getattr`.
    let links =
        std::fs::metadata("/proc/self/task").map_or(0, |task| std::os::unix::fs::MetadataExt::nlink(&task));
    if links == 3 {
        Ok(())
    } else {
        Err(Error::Answer { call: "clone", expected: "a process with a single thread" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_not_cloned() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || receiver.recv());
        let refused = fork(|| 0);
        drop(sender);
        let _ = other.join();
        assert_eq!(
            refused.unwrap_err().to_string(),
            "clone: unexpected answer, a process with a single thread was expected"
        );
    }
}
