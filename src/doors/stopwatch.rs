//! Takes the times of an init or join while it goes on.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use u7s_host::apply::Event;
use u7s_plan::control::Timings;
use u7s_plan::step::{Action, Phase};
use u7s_plan::timings::{MOST, Part, Run, VERSION, of_unit};

/// Steps that are shorter have no line of their own.
const SHORT: Duration = Duration::from_millis(10);

/// One run; events are told to it as they happen.
#[derive(Debug)]
pub(super) struct Stopwatch {
    command: &'static str,
    began: SystemTime,
    start: Instant,
    /// Phases; the last one is open.
    phases: Vec<Part>,
    /// A step that was begun and has not ended: name and begin.
    step: Option<Part>,
    failed: Option<String>,
}

impl Stopwatch {
    /// The run of a command begins.
    pub(super) fn start(command: &'static str) -> Self {
        let (began, start) = (SystemTime::now(), Instant::now());
        Self { command, began, start, phases: Vec::new(), step: None, failed: None }
    }

    /// A phase begins, and the one before it ends.
    pub(super) fn phase(&mut self, phase: Phase, now: Instant) {
        self.close(now);
        self.phases.push(Part { name: phase.as_str().into(), at_us: self.at(now), ..Part::default() });
    }

    /// Something happened.
    pub(super) fn hear(&mut self, event: &Event<'_>, now: Instant) {
        match event {
            Event::Phase(phase) => self.phase(*phase, now),
            Event::Begins(_, step) => {
                self.step = Some(Part { name: name(&step.action), at_us: self.at(now), ..Part::default() });
            }
            Event::Started(timings) => self.started(timings, now),
            Event::Heard(part) => self.heard(part, now),
            Event::Part(part, took) => self.part((*part).to_owned(), *took, now),
            Event::Held(..) | Event::Skipped(..) => self.end_step(now, SHORT),
            Event::Done(_, step, took) => {
                if self.step.is_none() {
                    let at_us = self.at(now).saturating_sub(us(*took));
                    self.step = Some(Part { name: name(&step.action), at_us, ..Part::default() });
                }
                self.end_step(now, SHORT);
            }
            Event::Failed(_, step, _) => {
                self.end_step(now, Duration::ZERO);
                self.failed = Some(step.action.to_string());
            }
            Event::Waiting(..) => {}
        }
    }

    /// The run is over.
    pub(super) fn stop(mut self, now: Instant) -> Run {
        self.close(now);
        Run {
            version: VERSION,
            command: self.command.into(),
            began: self.began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            failed: self.failed,
            took_us: us(now.duration_since(self.start)),
            parts: self.phases,
        }
    }

    fn at(&self, now: Instant) -> u64 {
        us(now.duration_since(self.start))
    }

    fn close(&mut self, now: Instant) {
        self.end_step(now, SHORT);
        let at = self.at(now);
        if let Some(phase) = self.phases.last_mut() {
            phase.took_us = at.saturating_sub(phase.at_us);
        }
    }

    fn end_step(&mut self, now: Instant, short: Duration) {
        let at = self.at(now);
        let Some(mut step) = self.step.take() else { return };
        step.took_us = at.saturating_sub(step.at_us);
        end_last(&mut step, at);
        if let Some(phase) = self.phases.last_mut()
            && step.took_us >= us(short)
        {
            add(&mut phase.parts, step);
        }
    }

    fn started(&mut self, timings: &Timings, now: Instant) {
        let at = self.at(now);
        if let Some(step) = &mut self.step {
            step.parts = of_unit(timings, at, at.saturating_sub(step.at_us));
        }
    }

    /// kubeadm says it with several lines while it is at one phase.
    fn heard(&mut self, part: &str, now: Instant) {
        let at_us = self.at(now);
        let Some(step) = &mut self.step else { return };
        if step.parts.last().is_none_or(|last| last.name != part) {
            end_last(step, at_us);
            add(&mut step.parts, Part { name: part.to_owned(), at_us, ..Part::default() });
        }
    }

    fn part(&mut self, name: String, took: Duration, now: Instant) {
        let at_us = self.at(now).saturating_sub(us(took));
        if let Some(step) = &mut self.step {
            add(&mut step.parts, Part { name, at_us, took_us: us(took), parts: Vec::new() });
        }
    }
}

/// A part that was open until now.
fn end_last(step: &mut Part, at: u64) {
    if let Some(last) = step.parts.last_mut()
        && last.took_us == 0
    {
        last.took_us = at.saturating_sub(last.at_us);
    }
}

/// One list holds so many parts, whoever makes them up.
fn add(parts: &mut Vec<Part>, part: Part) {
    if parts.len() < MOST {
        parts.push(part);
    }
}

/// A short name of a step; those that are announced have one, for others their own words must do.
fn name(action: &Action) -> String {
    match action {
        Action::StartUnit { unit, .. } => unit.clone(),
        Action::LoadImages { .. } => "images".into(),
        Action::LoadFirewall { .. } => "firewall".into(),
        Action::LoadModule { name } => format!("module {name}"),
        Action::EnableUnit { unit } => format!("enable {unit}"),
        Action::EnableComponent { component, .. } => format!("enable {}", component.as_str()),
        Action::Run { argv, .. } => {
            let program = argv.first().map(Path::new).and_then(Path::file_name);
            program.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
        other => other.to_string().chars().take(40).collect(),
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use u7s_plan::step::Step;

    use super::*;

    fn names(parts: &[Part]) -> Vec<(&str, u64)> {
        parts.iter().map(|part| (part.name.as_str(), part.took_us / 1000)).collect()
    }

    #[test]
    fn phases_steps_and_what_kubeadm_prints_get_their_times() {
        let mut watch = Stopwatch::start("kubeadm init");
        let start = watch.start;
        let at = |ms: u64| start + Duration::from_millis(ms);
        let run = |program: &str| Action::Run {
            argv: vec![program.into(), "init".into()],
            config: None,
            documents: Vec::new(),
            secrets: Vec::new(),
            done_when: None,
            seconds: 1,
        };
        let step = Step::inside(run("/usr/bin/kubeadm"), "why");
        watch.phase(Phase::Preflight, at(0));
        watch.hear(&Event::Phase(Phase::Namespace), at(100));
        let start_unit = Action::StartUnit { unit: "u7s.service".into(), follows: Vec::new(), seconds: 1 };
        let unit = Step::root(start_unit, "why");
        watch.hear(&Event::Begins(Phase::Namespace, &unit), at(100));
        let timings = Timings { namespace_us: 1000, mounts_us: 2000, network_us: 3000, cri_us: 150_000 };
        watch.hear(&Event::Started(timings), at(400));
        watch.hear(&Event::Done(Phase::Namespace, &unit, Duration::from_millis(300)), at(400));
        watch.hear(&Event::Phase(Phase::Cluster), at(400));
        watch.hear(&Event::Begins(Phase::Cluster, &step), at(400));
        watch.hear(&Event::Heard("certs"), at(500));
        watch.hear(&Event::Heard("certs"), at(600));
        watch.hear(&Event::Heard("addons"), at(900));
        watch.hear(&Event::Done(Phase::Cluster, &step, Duration::from_millis(600)), at(1000));
        let run = watch.stop(at(1000));
        assert_eq!(names(&run.parts), [("preflight", 100), ("namespace", 300), ("cluster", 600)]);
        let unit = &run.parts[1].parts[0];
        assert_eq!((unit.name.as_str(), unit.parts.len(), unit.took_us), ("u7s.service", 5, 300_000));
        let kubeadm = &run.parts[2].parts[0];
        assert_eq!(names(&kubeadm.parts), [("certs", 400), ("addons", 100)]);
        assert_eq!((run.took_us, run.failed), (1_000_000, None));
    }

    #[test]
    fn a_step_that_failed_is_named_and_short_ones_are_not() {
        let mut watch = Stopwatch::start("kubeadm join");
        let start = watch.start;
        let step = Step::root(Action::LoadModule { name: "tun".into() }, "why");
        watch.hear(&Event::Phase(Phase::Host), start);
        let soon = start + Duration::from_millis(5);
        watch.hear(&Event::Done(Phase::Host, &step, Duration::from_millis(5)), soon);
        let error = u7s_host::Error::NoUser { name: "x".into() };
        watch.hear(&Event::Failed(Phase::Host, &step, &error), soon);
        let run = watch.stop(soon);
        assert_eq!(run.parts[0].parts, []);
        assert_eq!(run.failed.as_deref(), Some("load the module tun"));
    }

    #[test]
    fn an_endless_list_of_parts_is_cut() {
        let mut watch = Stopwatch::start("kubeadm init");
        let now = watch.start;
        watch.phase(Phase::Cluster, now);
        watch.step = Some(Part::default());
        for number in 0..10 * MOST {
            watch.heard(&format!("a{number}"), now);
        }
        watch.step.as_mut().unwrap().took_us = 1;
        assert_eq!(watch.step.unwrap().parts.len(), MOST);
    }
}
