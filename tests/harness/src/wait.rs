//! Waiting for a condition: never a fixed sleep, always a deadline, and a word on what was last seen.

use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// The first and the longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Looks again and again until `look` gives `Ok`, at most `limit`.
///
/// `what` completes "waited for ..."; the `Err` of a look is the state seen, shown if time runs out.
/// `look` is called at least once, and once more when the limit has passed.
///
/// # Errors
/// [`Error::Deadline`] with the last state.
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, Error> {
    let start = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        let late = start.elapsed() >= limit;
        match look() {
            Ok(value) => return Ok(value),
            Err(last) if late => {
                return Err(Error::Deadline { what: what.into(), waited: start.elapsed(), last });
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true() {
        let mut looks = 0;
        let mut look = || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks.to_string()) }
        };
        assert_eq!(until(Duration::from_secs(5), "three", &mut look).unwrap(), 3);
    }

    #[test]
    fn a_deadline_says_what_was_seen() {
        let error = until(Duration::from_millis(20), "rain", || Err::<(), _>("sun".into())).unwrap_err();
        assert!(error.to_string().contains("for rain; last seen: sun"), "{error}");
    }
}
