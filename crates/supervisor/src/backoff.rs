//! When something that died is started again, and when it counts as failed.

use std::time::Duration;

/// The pause before the first restart.
const FIRST: Duration = Duration::from_millis(200);

/// The longest pause, also between the tries of what has died too often.
pub(crate) const LONGEST: Duration = Duration::from_secs(30);

/// What lived as long was healthy: its next death counts as the first.
const HEALTHY: Duration = Duration::from_secs(60);

/// How many starts without a healthy life are tried.
const STARTS: u32 = 10;

/// The history of deaths that matters for the next start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// The pause after a death at the age of `lived`, doubled with each early death; `None`: that was the tenth.
    pub(crate) fn after(&mut self, lived: Duration) -> Option<Duration> {
        let pause = self.endless(lived);
        (self.deaths < STARTS).then_some(pause)
    }

    /// As [`after`](Self::after), for what is never given up.
    pub(crate) fn endless(&mut self, lived: Duration) -> Duration {
        if lived >= HEALTHY {
            self.deaths = 0;
        }
        self.deaths = self.deaths.saturating_add(1);
        (FIRST * 2_u32.saturating_pow(self.deaths - 1).min(1024)).min(LONGEST)
    }

    /// How many early deaths there were in a row.
    pub(crate) fn deaths(&self) -> u32 {
        self.deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_the_tenth_start_was_the_last() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> =
            (0..10).map(|_| backoff.after(Duration::from_secs(1)).map(|pause| pause.as_millis())).collect();
        let expected = [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000].map(Some);
        assert_eq!((&pauses[..9], pauses[9]), (&expected[..], None));
    }

    #[test]
    fn a_healthy_life_forgives_the_past() {
        let mut backoff = Backoff::default();
        for _ in 0..9 {
            backoff.after(Duration::ZERO);
        }
        assert_eq!(backoff.after(HEALTHY), Some(FIRST));
    }
}
