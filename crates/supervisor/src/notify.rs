//! What systemd is told: readiness, a sentence, and that the loop is alive.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::{patience, tick};

/// What the unit gives for a start, `TimeoutStartSec=`.
const START: Duration = Duration::from_secs(180);

/// How soon a message is sent again that systemd did not take.
const AGAIN: Duration = Duration::from_millis(200);

/// The messages that were sent, so that none is sent twice.
#[derive(Debug)]
pub(crate) struct Notifier {
    systemd: Option<(UnixDatagram, SocketAddr)>,
    ready: bool,
    said: String,
    /// systemd took what was said last.
    taken: bool,
    every: Option<Duration>,
    ping_at: Instant,
}

impl Notifier {
    /// Pings with all other questions, or at half of `WATCHDOG_USEC` where that is less, if systemd set it for this process.
    pub(crate) fn new() -> Self {
        let notifier = Self {
            systemd: std::env::var_os("NOTIFY_SOCKET").and_then(|name| open(&name).ok()),
            ready: false,
            said: String::new(),
            taken: true,
            every: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            ping_at: Instant::now(),
        };
        notifier.ask_for_patience(patience::factor());
        notifier
    }

    /// On a slow machine systemd shall wait longer than the unit says, for the start and for the next ping.
    fn ask_for_patience(&self, factor: u32) {
        let micros = |limit: Duration| u32::try_from((limit * factor).as_micros()).unwrap_or(u32::MAX);
        if factor > 1 {
            self.send(NotifyState::ExtendTimeoutUsec(micros(START)));
            if let Some(every) = self.every {
                self.send(NotifyState::WatchdogUsec(micros(every * 2)));
            }
        }
    }

    /// Whether READY=1 was sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Sends `STATUS=` if the sentence is new, and once `READY=1` when `up`; what is not taken is sent again soon.
    pub(crate) fn publish(&mut self, state: &str, up: bool) {
        if self.said != state {
            state.clone_into(&mut self.said);
            tracing::info!("{state}");
            self.taken = false;
        }
        self.taken = self.taken || self.send(NotifyState::Status(state));
        self.ready = self.ready || up && self.send(NotifyState::Ready);
        if !self.taken || up && !self.ready {
            self.ping_at = self.ping_at.min(Instant::now() + AGAIN);
        }
    }

    /// Sends `STOPPING=1`.
    pub(crate) fn stopping(&mut self, state: &str) {
        self.send(NotifyState::Stopping);
        self.publish(state, false);
    }

    /// When the next ping is due.
    pub(crate) fn next_ping(&self) -> Instant {
        self.ping_at
    }

    /// Pings when it is time: from the loop itself, so that a hung one does not.
    pub(crate) fn ping_if_due(&mut self, now: Instant) {
        if self.ping_at <= now {
            self.ping_at = match self.every {
                Some(every) if every < tick::PERIOD => now + every,
                _ => tick::next(),
            };
            if self.every.is_some() {
                self.send(NotifyState::Watchdog);
            }
        }
    }

    /// Pings at once, during a stop that has no loop.
    pub(crate) fn ping(&mut self) {
        self.ping_at = Instant::now();
        self.ping_if_due(self.ping_at);
    }

    /// Whether systemd took it, or never will. A systemd that is busy or stopped must not stop the node as well, so this
    /// does not block, as sd_notify(3) would.
    ///
    /// Without systemd there is nobody to tell, and one that does not listen is not helped by our death.
    fn send(&self, state: NotifyState<'_>) -> bool {
        let Some((socket, systemd)) = &self.systemd else { return true };
        match socket.send_to_addr(state.to_string().as_bytes(), systemd) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                tracing::debug!(%error, "systemd was not notified");
                true
            }
            Ok(_) => true,
        }
    }
}

/// A socket that can be sent from, and the one that `NOTIFY_SOCKET` names: a path, or `@` and an abstract name.
///
/// Source: sd_notify(3).
fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let systemd = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, systemd))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that was emulated and busy: its node was taken down while it came up.
    #[test]
    fn systemd_waits_longer_for_a_slow_machine() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let mut notifier = Notifier::new();
        notifier.systemd = Some(open(path.as_os_str()).unwrap());
        notifier.every = Some(Duration::from_secs(15));
        notifier.ask_for_patience(1);
        let mut buffer = [0; 64];
        assert!(systemd.recv(&mut buffer).is_err());
        notifier.ask_for_patience(15);
        for wanted in ["EXTEND_TIMEOUT_USEC=2700000000", "WATCHDOG_USEC=450000000"] {
            let length = systemd.recv(&mut buffer).unwrap();
            assert_eq!(String::from_utf8_lossy(&buffer[..length]), wanted);
        }
        notifier.ask_for_patience(100);
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"EXTEND_TIMEOUT_USEC=4294967295");
    }

    #[test]
    fn a_systemd_that_does_not_listen_blocks_nobody_and_hears_of_readiness_later() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let mut notifier = Notifier::new();
        notifier.systemd = Some(open(path.as_os_str()).unwrap());
        for number in 0..10_000 {
            notifier.publish(&number.to_string(), false);
        }
        notifier.publish("ready", true);
        assert!(!notifier.is_ready() && notifier.next_ping() <= Instant::now() + AGAIN);
        systemd.set_nonblocking(true).unwrap();
        let mut buffer = [0; 64];
        while systemd.recv(&mut buffer).is_ok() {}
        notifier.publish("ready", true);
        assert!(notifier.is_ready());
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STATUS=ready");
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
