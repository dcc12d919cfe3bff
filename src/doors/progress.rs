//! Lines of progress while a plan is applied.

use std::time::{Duration, Instant};

use u7s_host::apply::Event;
use u7s_plan::step::Phase;

use crate::report;

/// Steps and waits that are shorter than this are not worth a number.
const SHORT: Duration = Duration::from_secs(2);

/// How often a wait says that it still waits.
const AGAIN: Duration = Duration::from_secs(5);

/// Turns events into lines.
#[derive(Debug, Default)]
pub(super) struct Progress {
    phase: Option<(Phase, usize)>,
    waited: Option<Instant>,
}

impl Progress {
    /// Says what happened, if it is worth a line.
    pub(super) fn hear(&mut self, event: &Event<'_>) {
        if let Some(line) = self.line(event, Instant::now()) {
            report::line(&line);
        }
    }

    /// The last phase is over.
    pub(super) fn end(&mut self) {
        if let Some(line) = self.conclude() {
            report::line(&line);
        }
    }

    fn line(&mut self, event: &Event<'_>, now: Instant) -> Option<String> {
        match event {
            Event::Phase(phase) => {
                let line = self.conclude();
                self.phase = Some((*phase, 0));
                line
            }
            Event::Begins(phase, step) => {
                self.waited = None;
                Some(format!("[{}] {}: {}", phase.as_str(), step.action, step.why))
            }
            Event::Held(..) => None,
            Event::Done(phase, step, took) => {
                self.count();
                let took =
                    if *took >= SHORT { format!(" ({:.1} s)", took.as_secs_f64()) } else { String::new() };
                Some(format!("[{}] done: {}{took}", phase.as_str(), step.action))
            }
            Event::Skipped(phase, step, why) => {
                Some(format!("[{}] left out: {}: {why}", phase.as_str(), step.action))
            }
            // The complaint at the end names it, with its causes.
            Event::Failed(phase, step, _) => Some(format!("[{}] failed: {}", phase.as_str(), step.action)),
            Event::Waiting(what, elapsed, limit) => self.wait(what, *elapsed, *limit, now),
            Event::Part(what, took) => {
                self.waited = None;
                Some(format!("  {what} ({:.1} s)", took.as_secs_f64()))
            }
            Event::Started(_) | Event::Heard(_) => None,
        }
    }

    /// A phase in which nothing was done says so.
    fn conclude(&mut self) -> Option<String> {
        match self.phase.take() {
            Some((phase, 0)) => Some(format!("[{}] holds already", phase.as_str())),
            _ => None,
        }
    }

    fn count(&mut self) {
        self.waited = None;
        if let Some((_, done)) = &mut self.phase {
            *done += 1;
        }
    }

    fn wait(&mut self, what: &str, elapsed: Duration, limit: Duration, now: Instant) -> Option<String> {
        let due = elapsed >= SHORT && self.waited.is_none_or(|last| now.duration_since(last) >= AGAIN);
        if !due {
            return None;
        }
        self.waited = Some(now);
        let phase = self.phase.map_or_else(String::new, |(phase, _)| format!("[{}] ", phase.as_str()));
        Some(format!("{phase}{what}: {} s of {} s", elapsed.as_secs(), limit.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use u7s_plan::step::{Action, Step};

    use super::*;

    #[test]
    fn a_phase_without_work_says_so_and_one_with_work_does_not() {
        let step = Step::root(Action::EnableUnit { unit: "u7s.service".into() }, "it starts with the host");
        let now = Instant::now();
        let mut progress = Progress::default();
        assert_eq!(progress.line(&Event::Phase(Phase::Host), now), None);
        assert_eq!(progress.line(&Event::Held(Phase::Host, &step), now), None);
        assert_eq!(progress.line(&Event::Phase(Phase::Enable), now).unwrap(), "[host] holds already");
        let done = progress.line(&Event::Done(Phase::Enable, &step, Duration::from_millis(2500)), now);
        assert_eq!(done.unwrap(), "[enable] done: enable u7s.service (2.5 s)");
        assert_eq!(progress.conclude(), None);
    }

    #[test]
    fn a_wait_names_the_thing_and_is_not_repeated_too_often() {
        let mut progress = Progress::default();
        let (begun, limit) = (Instant::now(), Duration::from_secs(30));
        let mut at = |seconds: u64| {
            let elapsed = Duration::from_secs(seconds);
            progress.line(&Event::Waiting("waiting for CRI", elapsed, limit), begun + elapsed)
        };
        assert_eq!(at(1), None);
        assert_eq!(at(2).unwrap(), "waiting for CRI: 2 s of 30 s");
        assert_eq!(at(6), None);
        assert_eq!(at(12).unwrap(), "waiting for CRI: 12 s of 30 s");
    }
}
