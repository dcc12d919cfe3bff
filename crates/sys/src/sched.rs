//! How the scheduler treats a thread.

use std::time::Duration;

use nix::errno::Errno;

use crate::Error;

/// Asks the scheduler to serve the calling thread, and threads that it starts, in slices of `slice` and not of its own measure
/// (0.7 to 2.8 ms): a thread that is woken goes before a running one with longer slices. Its share of the processor, policy and
/// nice value stay as they are.
///
/// The kernel takes 0.1 to 100 ms and cuts what lies beyond; before Linux 6.12 it takes any value and does nothing.
/// **Should** not be asked for by a thread that computes: it would only be interrupted more often.
///
/// # Errors
/// What sched_getattr and sched_setattr give: EPERM of a system call filter, EINVAL for a thread of a realtime policy.
///
/// Source: sched_setattr(2); Linux, kernel/sched/syscalls.c `__setparam_fair`, kernel/sched/features.h `PREEMPT_SHORT`.
pub fn request_slice(slice: Duration) -> Result<(), Error> {
    let mut attributes = attributes()?;
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    let attributes = &raw const attributes;
    // SAFETY: `attributes` points to a sched_attr that lives until the end of this function and whose field `size` is its
    // size; the kernel only reads it. 0 is the calling thread, and there are no flags.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attributes, 0) };
    Errno::result(result).map(drop).map_err(Error::call("sched_setattr"))
}

/// What the scheduler knows of the calling thread.
fn attributes() -> Result<libc::sched_attr, Error> {
    let mut attributes = libc::sched_attr {
        size: SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let place = &raw mut attributes;
    // SAFETY: `place` points to a sched_attr that lives until the end of this function, all of whose bit patterns are
    // valid; the kernel writes at most `SIZE` bytes, its size. 0 is the calling thread, and there are no flags.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, place, SIZE, 0) };
    Errno::result(result).map_err(Error::call("sched_getattr"))?;
    Ok(attributes)
}

/// Of a `sched_attr`, bytes.
#[expect(clippy::cast_possible_truncation, reason = "48")]
const SIZE: u32 = size_of::<libc::sched_attr>() as u32;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_slice_is_kept_and_inherited_and_changes_nothing_else() {
        let seen = thread::spawn(|| {
            let before = attributes().unwrap();
            request_slice(Duration::from_micros(300)).unwrap();
            (before, attributes().unwrap(), thread::spawn(|| attributes().unwrap()).join().unwrap())
        });
        let (before, after, child) = seen.join().unwrap();
        assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
        // Linux before 6.12 keeps none.
        let kept = [after, child].map(|attributes| attributes.sched_runtime);
        assert!(kept == [300_000; 2] || (kept == [0; 2] && before.sched_runtime == 0), "{kept:?}");
    }
}
