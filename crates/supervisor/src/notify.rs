//! What systemd is told: readiness, a sentence, and that the loop is alive.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How often the loop turns where no watchdog is asked for.
const IDLE: Duration = Duration::from_secs(15);

/// The messages that were sent, so that none is sent twice.
#[derive(Debug)]
pub(crate) struct Notifier {
    ready: bool,
    said: String,
    every: Option<Duration>,
    ping_at: Instant,
}

impl Notifier {
    /// Pings at half of `WATCHDOG_USEC`, if systemd set it for this process.
    pub(crate) fn new() -> Self {
        Self {
            ready: false,
            said: String::new(),
            every: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            ping_at: Instant::now(),
        }
    }

    /// Whether READY=1 was sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Sends `STATUS=` if the sentence is new, and once `READY=1` when `up`.
    pub(crate) fn publish(&mut self, state: &str, up: bool) {
        if self.said != state {
            state.clone_into(&mut self.said);
            tracing::info!("{state}");
            send(NotifyState::Status(state));
        }
        if up && !self.ready {
            self.ready = true;
            send(NotifyState::Ready);
        }
    }

    /// Sends `STOPPING=1`.
    pub(crate) fn stopping(&mut self, state: &str) {
        send(NotifyState::Stopping);
        self.publish(state, false);
    }

    /// When the next ping is due.
    pub(crate) fn next_ping(&self) -> Instant {
        self.ping_at
    }

    /// Pings when it is time: from the loop itself, so that a hung one does not.
    pub(crate) fn ping_if_due(&mut self, now: Instant) {
        if self.ping_at <= now {
            self.ping_at = now + self.every.unwrap_or(IDLE);
            if self.every.is_some() {
                send(NotifyState::Watchdog);
            }
        }
    }

    /// Pings at once, during a stop that has no loop.
    pub(crate) fn ping(&mut self) {
        self.ping_at = Instant::now();
        self.ping_if_due(self.ping_at);
    }
}

/// Without systemd there is nobody to tell, and a systemd that does not listen is not helped by our death.
fn send(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not notified");
    }
}
