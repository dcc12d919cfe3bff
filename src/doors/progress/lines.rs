//! Lines of progress for people.

use std::time::{Duration, Instant};

use u7s_host::apply::Event;
use u7s_plan::step::Phase;

use crate::report;

/// Steps and waits that are shorter than this are not worth a number.
const SHORT: Duration = Duration::from_secs(2);

/// How often a wait says that it still waits, where a line cannot be written over.
const AGAIN: Duration = Duration::from_secs(5);

/// A sign that something goes on; plain characters, since a terminal need not show others.
const SPINNER: [char; 4] = ['|', '/', '-', '\\'];

/// Turns events into lines.
#[derive(Debug, Default)]
pub(in crate::doors) struct Lines {
    phase: Option<(Phase, usize)>,
    waited: Option<Instant>,
    /// Standard error is a terminal: a wait is one line that is written over.
    live: bool,
    turn: usize,
    /// The first line was said, or is not this command's.
    begun: bool,
}

/// What is said about an event.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// A line that stays.
    Line(String),
    /// A line that the next one replaces.
    Passing(String),
}

impl Lines {
    pub(super) fn new(command: &str, live: bool) -> Self {
        Self { live, begun: !matches!(command, "init" | "join"), ..Self::default() }
    }

    /// The first line: what will happen, how long it takes.
    pub(super) fn expect(&mut self, steps: usize) {
        if !std::mem::replace(&mut self.begun, true) {
            report::line(&format!(
                "[u7s] {steps} steps; what holds already is left alone. With all images at hand it takes about a minute"
            ));
        }
    }

    pub(super) fn hear(&mut self, event: &Event<'_>, now: Instant) {
        match self.said(event, now) {
            Some(Said::Line(line)) => report::line(&line),
            Some(Said::Passing(line)) => report::passing(&line),
            None => {}
        }
    }

    pub(super) fn end(&mut self) {
        if let Some(line) = self.conclude() {
            report::line(&line);
        }
    }

    fn said(&mut self, event: &Event<'_>, now: Instant) -> Option<Said> {
        if let Event::Waiting(what, elapsed, limit) = event {
            return self.wait(what, (*elapsed, *limit), now);
        }
        self.line(event).map(Said::Line)
    }

    fn line(&mut self, event: &Event<'_>) -> Option<String> {
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
            Event::Part(what, took) => {
                self.waited = None;
                Some(format!("  {what} ({:.1} s)", took.as_secs_f64()))
            }
            Event::Held(..) | Event::Waiting(..) | Event::Started(_) | Event::Heard(_) => None,
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

    fn wait(&mut self, what: &str, (elapsed, limit): (Duration, Duration), now: Instant) -> Option<Said> {
        let phase = self.phase.map_or_else(String::new, |(phase, _)| format!("[{}] ", phase.as_str()));
        let line = format!("{phase}{what}: {} s of {} s", elapsed.as_secs(), limit.as_secs());
        if self.live {
            self.turn = (self.turn + 1) % SPINNER.len();
            let sign = SPINNER.get(self.turn).unwrap_or(&' ');
            return Some(Said::Passing(format!("{sign} {line}")));
        }
        let due = elapsed >= SHORT && self.waited.is_none_or(|last| now.duration_since(last) >= AGAIN);
        due.then(|| {
            self.waited = Some(now);
            Said::Line(line)
        })
    }
}

#[cfg(test)]
mod tests {
    use u7s_plan::step::{Action, Step};

    use super::*;

    #[test]
    fn a_phase_without_work_says_so_and_one_with_work_does_not() {
        let step = Step::root(Action::EnableUnit { unit: "u7s.service".into() }, "it starts with the host");
        let mut lines = Lines::default();
        assert_eq!(lines.line(&Event::Phase(Phase::Host)), None);
        assert_eq!(lines.line(&Event::Held(Phase::Host, &step)), None);
        assert_eq!(lines.line(&Event::Phase(Phase::Enable)).unwrap(), "[host] holds already");
        let done = lines.line(&Event::Done(Phase::Enable, &step, Duration::from_millis(2500)));
        assert_eq!(done.unwrap(), "[enable] done: enable u7s.service (2.5 s)");
        assert_eq!(lines.conclude(), None);
    }

    fn waits(live: bool, seconds: &[u64]) -> Vec<Option<Said>> {
        let mut lines = Lines::new("init", live);
        let (begun, limit) = (Instant::now(), Duration::from_secs(30));
        let at = |seconds: &u64| {
            let elapsed = Duration::from_secs(*seconds);
            lines.said(&Event::Waiting("waiting for CRI", elapsed, limit), begun + elapsed)
        };
        seconds.iter().map(at).collect()
    }

    #[test]
    fn a_wait_names_the_thing_and_is_not_repeated_too_often() {
        let line = |text: &str| Some(Said::Line(text.into()));
        let expected =
            [None, line("waiting for CRI: 2 s of 30 s"), None, line("waiting for CRI: 12 s of 30 s")];
        assert_eq!(waits(false, &[1, 2, 6, 12]), expected);
    }

    #[test]
    fn on_a_terminal_a_wait_is_one_line_that_turns() {
        let passing = |text: &str| Some(Said::Passing(text.into()));
        let expected = [passing("/ waiting for CRI: 1 s of 30 s"), passing("- waiting for CRI: 1 s of 30 s")];
        assert_eq!(waits(true, &[1, 1]), expected);
    }
}
