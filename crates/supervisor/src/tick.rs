//! The moments at which everybody is asked: all questions that come back go out together, so that an idle node wakes
//! the processor once a period and not once a question.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How often; also the pause between two signs of life for systemd's watchdog, where that asks for fewer.
pub(crate) const PERIOD: Duration = Duration::from_secs(10);

/// The next shared moment.
pub(crate) fn next() -> Instant {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let now = Instant::now();
    after(*FIRST.get_or_init(|| now), now)
}

fn after(first: Instant, now: Instant) -> Instant {
    let periods = now.saturating_duration_since(first).as_secs() / PERIOD.as_secs();
    first + PERIOD * u32::try_from(periods + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_within_a_period_gets_the_same_moment() {
        let first = Instant::now();
        let at = |millis| after(first, first + Duration::from_millis(millis) + Duration::from_nanos(1234));
        assert_eq!(at(0), first + PERIOD);
        assert_eq!(at(9_999), first + PERIOD);
        assert_eq!(at(10_000), first + 2 * PERIOD);
        assert_eq!(at(25_000), at(29_000));
    }
}
