//! Progress for programs: one JSON object a line. The texts are English in every locale.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use u7s_host::apply::{Event, Tally};
use u7s_plan::need::Unmet;
use u7s_plan::step::{Phase, Step};

use crate::report;

/// Version of the events.
const VERSION: u32 = 1;

/// How often a wait is told of.
const AGAIN: Duration = Duration::from_secs(1);

/// Turns events into objects.
#[derive(Debug)]
pub(in crate::doors) struct Events {
    out: report::Events,
    command: &'static str,
    began: Instant,
    phase: Option<Phase>,
    /// Steps that have ended, and how many there are in all.
    ended: usize,
    steps: usize,
    /// What is waited for, and when that was told.
    waited: Option<(String, Instant)>,
    /// Which part of its work the program of a step said last.
    part: Option<String>,
}

impl Events {
    pub(super) fn new(command: &'static str, out: report::Events) -> Self {
        let began = Instant::now();
        Self { out, command, began, phase: None, ended: 0, steps: 0, waited: None, part: None }
    }

    pub(super) fn expect(&mut self, steps: usize) {
        self.steps = self.ended + steps;
    }

    pub(super) fn hear(&mut self, event: &Event<'_>, now: Instant) {
        if let Some(object) = self.object(event, now) {
            self.say(object, now);
        }
    }

    pub(super) fn unmet(&mut self, unmet: &[Unmet]) {
        for need in unmet {
            let Unmet { id, message, remedy, level } = need;
            let object =
                json!({"event": "unmet", "id": id, "level": level, "message": message, "remedy": remedy});
            self.say(object, Instant::now());
        }
    }

    pub(super) fn finish(&mut self, exit: u8, cause: Option<String>, tally: Option<Tally>) {
        let state = if cause.is_none() { "done" } else { "failed" };
        let mut object = json!({"event": "end", "state": state, "exit": exit});
        if let Some(Tally { done, held, skipped }) = tally {
            object["done"] = done.into();
            object["held"] = held.into();
            object["skipped"] = skipped.into();
        }
        if let Some(cause) = cause {
            object["why"] = cause.into();
        }
        self.say(object, Instant::now());
    }

    fn object(&mut self, event: &Event<'_>, now: Instant) -> Option<Value> {
        Some(match event {
            Event::Phase(phase) => {
                self.phase = Some(*phase);
                json!({"event": "phase", "phase": phase.as_str()})
            }
            Event::Begins(_, step) => {
                (self.waited, self.part) = (None, None);
                self.step(step, "begins", self.ended + 1)
            }
            Event::Held(_, step) => self.ends(step, "holds"),
            Event::Done(_, step, took) => with(self.ends(step, "done"), "took", seconds(*took)),
            Event::Skipped(_, step, why) => with(self.ends(step, "skipped"), "why", why.as_str().into()),
            Event::Failed(_, step, error) => {
                with(self.ends(step, "failed"), "why", report::chain(error).into())
            }
            Event::Waiting(what, elapsed, limit) => return self.wait(what, (*elapsed, *limit), now),
            Event::Part(what, took) => with(self.part(what, "done"), "took", seconds(*took)),
            Event::Heard(what) => {
                if self.part.as_deref() == Some(*what) {
                    return None;
                }
                self.part = Some((*what).to_owned());
                self.part(what, "begins")
            }
            Event::Started(_) => return None,
        })
    }

    fn wait(&mut self, what: &str, (elapsed, limit): (Duration, Duration), now: Instant) -> Option<Value> {
        let told =
            self.waited.as_ref().is_some_and(|(last, at)| last == what && now.duration_since(*at) < AGAIN);
        if told {
            return None;
        }
        self.waited = Some((what.to_owned(), now));
        let phase = self.phase.map(Phase::as_str);
        Some(json!({
            "event": "wait", "phase": phase, "text": what, "took": seconds(elapsed), "limit": limit.as_secs(),
        }))
    }

    fn part(&self, what: &str, state: &str) -> Value {
        json!({"event": "part", "phase": self.phase.map(Phase::as_str), "state": state, "text": what})
    }

    fn ends(&mut self, step: &Step, state: &str) -> Value {
        self.ended += 1;
        self.step(step, state, self.ended)
    }

    fn step(&self, step: &Step, state: &str, number: usize) -> Value {
        json!({
            "event": "step", "phase": self.phase.map(Phase::as_str), "step": number, "steps": self.steps, "state": state,
            "realm": step.realm.to_string(), "text": step.action.to_string(), "why": step.why,
        })
    }

    fn say(&mut self, object: Value, now: Instant) {
        let elapsed = seconds(now.saturating_duration_since(self.began));
        let mut whole = json!({"version": VERSION, "command": self.command, "elapsed": elapsed});
        if let (Some(whole), Value::Object(members)) = (whole.as_object_mut(), object) {
            whole.extend(members);
        }
        self.out.say(&whole);
    }
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

/// Milliseconds are enough.
fn seconds(duration: Duration) -> Value {
    let thousandth = Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    thousandth.as_secs_f64().into()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Seek};

    use u7s_plan::need::Level;
    use u7s_plan::step::Action;

    use super::*;

    #[test]
    fn each_event_is_a_line_and_steps_are_counted() {
        let mut file = tempfile::tempfile().unwrap();
        let mut events = Events::new("init", report::Events::to(file.try_clone().unwrap()));
        let now = events.began;
        let at = |ms: u64| now + Duration::from_millis(ms);
        let step = Step::root(Action::EnableUnit { unit: "u7s.service".into() }, "it starts with the host");
        events.expect(2);
        events.hear(&Event::Phase(Phase::Enable), at(1));
        events.hear(&Event::Held(Phase::Enable, &step), at(2));
        events.hear(&Event::Begins(Phase::Enable, &step), at(3));
        for ms in [10, 20, 1500] {
            let wait = Event::Waiting("waiting for x", Duration::from_millis(ms), Duration::from_secs(9));
            events.hear(&wait, at(ms));
        }
        for part in ["certs", "certs", "etcd"] {
            events.hear(&Event::Heard(part), at(1600));
        }
        events.hear(&Event::Done(Phase::Enable, &step, Duration::from_micros(1_234_567)), at(2000));
        events.unmet(&[Unmet {
            id: "Tun".into(),
            message: "m".into(),
            remedy: "r".into(),
            level: Level::Error,
        }]);
        events.finish(2, Some("no".into()), Some(Tally { done: 1, held: 1, skipped: 0 }));
        file.rewind().unwrap();
        let lines: Vec<Value> =
            BufReader::new(file).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        let brief = |it: &Value| {
            let word = |name: &str| it[name].as_str().unwrap_or_default().to_owned();
            (word("event"), word("state"), it["step"].as_u64(), it["steps"].as_u64())
        };
        let expected = [
            ("phase", "", None, None),
            ("step", "holds", Some(1), Some(2)),
            ("step", "begins", Some(2), Some(2)),
            ("wait", "", None, None),
            ("wait", "", None, None),
            ("part", "begins", None, None),
            ("part", "begins", None, None),
            ("step", "done", Some(2), Some(2)),
            ("unmet", "", None, None),
            ("end", "failed", None, None),
        ]
        .map(|(event, state, step, steps)| (event.to_owned(), state.to_owned(), step, steps));
        assert_eq!(lines.iter().map(brief).collect::<Vec<_>>(), expected);
        assert!(
            lines.iter().all(|it| it["version"] == 1 && it["command"] == "init" && it["elapsed"].is_f64())
        );
        assert_eq!(lines[7]["took"], 1.234);
        assert_eq!(
            (&lines[9]["exit"], &lines[9]["why"], &lines[9]["done"]),
            (&json!(2), &json!("no"), &json!(1))
        );
    }
}
