//! For how long a program is followed: its deadline, and what a signal leaves of it.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a late program may take to end by itself before it is killed, and then until it is left behind.
const GRACE: Duration = Duration::from_secs(3);

/// How long a part of a command of ours may go on once a signal has asked that command to end.
const PART: Duration = Duration::from_secs(5);

/// How long a program in whose place we stand may take to obey SIGTERM: as long as a pod, by default.
///
/// Source: kubernetes, `terminationGracePeriodSeconds`.
const WHOLE: Duration = Duration::from_secs(30);

/// When a program is told to end, and when it is killed.
#[derive(Debug)]
pub(crate) struct Clock {
    next: Option<Instant>,
    strikes: u32,
    /// The program is a part of a command of ours, which ends when that shall end.
    part: bool,
    asked: bool,
}

impl Clock {
    pub(crate) fn new(deadline: Option<Duration>, part: bool) -> Self {
        Self { next: deadline.map(|deadline| Instant::now() + deadline), strikes: 0, part, asked: false }
    }

    /// Until something is to be done.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// The program was told to end, or killed.
    pub(crate) fn late(&self) -> bool {
        self.strikes > 0
    }

    /// A signal went on to the program: it may take its time to end. A second one does not wait for that.
    ///
    /// A program in whose place we stand may understand SIGINT, SIGHUP and SIGQUIT otherwise: an editor does.
    pub(crate) fn ask(&mut self, signal: Signal) {
        let ends = match signal {
            Signal::SIGTERM => true,
            Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT => self.part,
            _ => false,
        };
        if !ends || self.strikes > 1 {
            return;
        }
        let grace = match (self.asked, self.part) {
            (true, _) => Duration::ZERO,
            (false, true) => PART,
            (false, false) => WHOLE,
        };
        let at = Instant::now() + grace;
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
        // It was told already.
        self.strikes = 1;
        self.asked = true;
    }

    /// First TERM, then KILL to the whole group; `true`: even that did not help in time.
    pub(crate) fn strike(&mut self, leader: Pid) -> bool {
        if self.left() != Some(Duration::ZERO) {
            return false;
        }
        self.strikes += 1;
        self.next = Some(Instant::now() + GRACE);
        match self.strikes {
            1 => drop(killpg(leader, Signal::SIGTERM)),
            2 => drop(killpg(leader, Signal::SIGKILL)),
            _ => return true,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_shortens_the_wait_and_a_second_one_ends_it() {
        let hours = Duration::from_secs(36_000);
        let mut part = Clock::new(Some(hours), true);
        part.ask(Signal::SIGUSR1);
        assert!(part.left() > Some(hours / 2) && !part.late());
        part.ask(Signal::SIGINT);
        assert!(part.left() <= Some(PART) && part.late());
        part.ask(Signal::SIGINT);
        assert_eq!(part.left(), Some(Duration::ZERO));
    }

    #[test]
    fn a_program_in_our_place_is_only_hurried_by_sigterm() {
        let mut whole = Clock::new(None, false);
        for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR2] {
            whole.ask(signal);
            assert_eq!((whole.left(), whole.late()), (None, false), "{signal}");
        }
        whole.ask(Signal::SIGTERM);
        assert!(whole.left().is_some_and(|left| left <= WHOLE));
    }

    #[test]
    fn a_signal_does_not_give_a_late_program_more_time() {
        let mut clock = Clock::new(Some(Duration::from_secs(1)), true);
        clock.ask(Signal::SIGTERM);
        assert!(clock.left() <= Some(Duration::from_secs(1)));
    }
}
