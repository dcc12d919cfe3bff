//! Signals that reach this process while it starts or follows a program.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that go on to the program.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Those of them that end a process by default and are meant to.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The signals, held back from this process until it is dropped.
pub(crate) struct Signals {
    all: SignalFd,
    ending: SignalFd,
    /// The first of [`ENDING`] that came and that this process does not ignore.
    asked: Option<Signal>,
    /// Unblocked last: what comes after the descriptors are closed is this process' own again.
    mask: Mask,
}

impl Signals {
    /// Holds them back from now on.
    pub(crate) fn hold() -> nix::Result<Self> {
        let mut all: SigSet = FORWARDED.into_iter().collect();
        all.add(Signal::SIGWINCH);
        let ending = ENDING.into_iter().filter(|signal| !u7s_sys::enter::is_ignored(*signal)).collect();
        let mask = Mask::block(&all)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            all: SignalFd::with_flags(&all, flags)?,
            ending: SignalFd::with_flags(&ending, flags)?,
            asked: None,
            mask,
        })
    }

    /// Readable: there is one for [`Signals::next`].
    pub(crate) fn any(&self) -> BorrowedFd<'_> {
        self.all.as_fd()
    }

    /// Readable: this process is asked to end.
    pub(crate) fn ending(&self) -> BorrowedFd<'_> {
        self.ending.as_fd()
    }

    /// Those that were blocked before.
    pub(crate) fn former(&self) -> SigSet {
        self.mask.0
    }

    /// The next one that has come.
    pub(crate) fn next(&mut self) -> Option<Signal> {
        loop {
            let info = self.all.read_signal().ok()??;
            let Ok(Ok(signal)) = i32::try_from(info.ssi_signo).map(Signal::try_from) else { continue };
            if ENDING.contains(&signal) && !u7s_sys::enter::is_ignored(signal) {
                self.asked.get_or_insert(signal);
            }
            return Some(signal);
        }
    }

    /// The signal that asked this process to end, if one did.
    pub(crate) fn asked(&self) -> Option<Signal> {
        self.asked
    }
}

/// Does what a signal would have done that was held back; returns where it is caught or ignored.
pub(crate) fn obey(signal: Signal) {
    let _ = raise(signal);
}

/// Blocked signals; unblocked again when dropped.
struct Mask(SigSet);

impl Mask {
    fn block(set: &SigSet) -> nix::Result<Self> {
        let mut former = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(set), Some(&mut former))?;
        Ok(Self(former))
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}
