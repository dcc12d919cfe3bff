//! What is said while a plan is applied: lines for people, or events for programs.
//!
//! Nothing runs beside the plan for it: steps of the node's user are done by copies of this process, which must have one thread.

use std::time::Instant;

use u7s_host::apply::{Event, Tally};
use u7s_plan::need::Unmet;
use u7s_plan::request::Form;
use u7s_plan::step::Phase;

use crate::{End, Error, report};

mod events;
mod lines;

use events::Events;
use lines::Lines;

/// Hears of everything that happens, and says it in one form.
#[derive(Debug)]
pub(super) enum Progress {
    /// On standard error.
    Lines(Lines),
    /// On standard output, which has nothing else then.
    Events(Events),
}

impl Progress {
    /// The command begins: `init`. With events, what is printed to standard output goes to standard error from now on.
    ///
    /// # Errors
    /// `Output`: there is no standard output or error.
    pub(super) fn begin(command: &'static str, form: Form) -> Result<Self, Error> {
        Ok(match form {
            Form::Text => Self::Lines(Lines::new(command, report::can_write_over())),
            Form::Json => Self::Events(Events::new(command, report::events()?)),
        })
    }

    /// A plan of so many steps is walked next, after those that were walked already.
    pub(super) fn expect(&mut self, steps: usize) {
        match self {
            Self::Lines(lines) => lines.expect(steps),
            Self::Events(events) => events.expect(steps),
        }
    }

    /// A phase begins that has no steps.
    pub(super) fn phase(&mut self, phase: Phase) {
        if let Self::Events(events) = self {
            events.hear(&Event::Phase(phase), Instant::now());
        }
    }

    /// Says what happened, if it is worth it.
    pub(super) fn hear(&mut self, event: &Event<'_>) {
        match self {
            Self::Lines(lines) => lines.hear(event, Instant::now()),
            Self::Events(events) => events.hear(event, Instant::now()),
        }
    }

    /// Needs that are not met. People get them with the rest of the complaint, or as warnings.
    pub(super) fn unmet(&mut self, unmet: &[Unmet]) {
        if let Self::Events(events) = self {
            events.unmet(unmet);
        }
    }

    /// The last phase is over.
    pub(super) fn end(&mut self) {
        if let Self::Lines(lines) = self {
            lines.end();
        }
    }

    /// The command is over; `tally` is what it did, if it came so far.
    pub(super) fn finish(&mut self, result: &Result<End, Error>, tally: Option<Tally>) {
        if let Self::Events(events) = self {
            let cause = result.as_ref().err().map(|error| report::chain(error));
            events.finish(report::status(result), cause, tally);
        }
    }
}
