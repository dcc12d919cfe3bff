//! Answers in systemctl's words, with its exit statuses, as with `LC_ALL=C`.
//!
//! Source: systemd 257, src/systemctl: systemctl-is-active.c, systemctl-is-enabled.c, systemctl-show.c, systemctl-start-unit.c;
//! exit statuses are those of LSB for init scripts.

use std::fmt::Write as _;

use u7s_plan::control::{Answer, Request, Status};
use u7s_plan::node::ComponentName;

use super::status::View;
use super::{Ours, Unit, Verb};

/// What the shim prints and exits with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit status.
    pub code: u8,
}

/// How one of [`Ours::requests`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The supervisor answered.
    Answered(Answer),
    /// It could not be asked: a sentence.
    Unreachable(String),
}

/// Answers a question ([`Ours::is_question`]).
///
/// `status` is the supervisor's, `None` when it does not run: then nothing of the node does.
/// `now` is in seconds since the epoch. `inside`: pids are those that the caller can see.
#[must_use]
pub fn render(ours: &Ours, status: Option<&Status>, now: u64, inside: bool) -> Rendered {
    let views: Vec<(String, Option<View>)> = ours
        .units
        .iter()
        .map(|unit| match unit {
            Unit::Component(name) => (unit.name(), Some(View::of(*name, status, inside))),
            Unit::Other(name) => (name.clone(), None),
        })
        .collect();
    let mut rendered = match ours.verb {
        Verb::IsActive => states(&views, &["active"], 3),
        Verb::IsFailed => states(&views, &["failed"], 1),
        Verb::IsEnabled => file_states(&views),
        Verb::Show => show(ours, &views),
        _ => blocks(&views, now),
    };
    if ours.options.quiet && matches!(ours.verb, Verb::IsActive | Verb::IsFailed | Verb::IsEnabled) {
        rendered.stdout.clear();
    }
    rendered
}

/// Answers an order, from how the requests of [`Ours::requests`] ended.
///
/// A unit that is not there fails first, as with the real one.
#[must_use]
pub fn act(ours: &Ours, outcomes: &[(Request, Outcome)]) -> Rendered {
    let mut rendered = Rendered::default();
    for unit in &ours.units {
        unknown(ours.verb, unit, &mut rendered);
    }
    let verb = word(ours.verb);
    let name = ours.units.iter().find(|unit| matches!(unit, Unit::Component(_))).map(Unit::name);
    let name = name.unwrap_or_default();
    if ours.verb == Verb::Reload && !name.is_empty() {
        let sentence = format!("Job type reload is not applicable for unit {name}.");
        // systemctl's own status for what a unit cannot do.
        rendered.fail(&format!("Failed to reload {name}: {sentence}"), 3);
    }
    for (request, outcome) in outcomes {
        let why = match outcome {
            Outcome::Answered(Answer::Refused { reason }) => reason,
            Outcome::Answered(_) => continue,
            Outcome::Unreachable(why) => why,
        };
        let unit = unit_of(request).unwrap_or(&name);
        let verb =
            if matches!(ours.verb, Verb::Enable | Verb::Disable) { asked(request, verb) } else { verb };
        let line: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        rendered.fail(&format!("Failed to {verb} {unit}: {line}"), 1);
    }
    rendered
}

impl Rendered {
    /// Adds a line of complaint; the first status counts.
    fn fail(&mut self, line: &str, code: u8) {
        self.stderr.push_str(line);
        self.stderr.push('\n');
        if self.code == 0 {
            self.code = code;
        }
    }
}

/// The full name of the unit that a request is about.
fn unit_of(request: &Request) -> Option<&'static str> {
    match request {
        Request::Start { component }
        | Request::Stop { component }
        | Request::Restart { component }
        | Request::Enable { component }
        | Request::Disable { component } => Some(match component {
            ComponentName::Crio => "crio.service",
            ComponentName::Kubelet => "kubelet.service",
        }),
        _ => None,
    }
}

/// `--now` adds a start or a stop, which fails in its own words.
fn asked(request: &Request, verb: &'static str) -> &'static str {
    match request {
        Request::Start { .. } => "start",
        Request::Stop { .. } => "stop",
        _ => verb,
    }
}

fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Start => "start",
        Verb::Stop => "stop",
        Verb::Restart => "restart",
        Verb::TryRestart => "try-restart",
        Verb::Reload => "reload",
        Verb::Enable => "enable",
        Verb::Disable => "disable",
        Verb::ResetFailed => "reset failed state of unit",
        _ => "do this with",
    }
}

/// What systemctl says to an order for a unit that is not there.
fn unknown(verb: Verb, unit: &Unit, rendered: &mut Rendered) {
    let Unit::Other(name) = unit else { return };
    let verb_word = word(verb);
    match verb {
        Verb::Start | Verb::Restart | Verb::TryRestart | Verb::Reload => {
            rendered.fail(&format!("Failed to {verb_word} {name}: Unit {name} not found."), 5);
        }
        Verb::Stop => rendered.fail(&format!("Failed to stop {name}: Unit {name} not loaded."), 5),
        Verb::DaemonReload => {}
        Verb::ResetFailed => {
            rendered.fail(&format!("Failed to {verb_word} {name}: Unit {name} not loaded."), 1);
        }
        _ => rendered.fail(&format!("Failed to {verb_word} unit: Unit {name} does not exist"), 1),
    }
}

/// One state a line; 4 if none of the units is there.
fn states(views: &[(String, Option<View>)], good: &[&str], code: u8) -> Rendered {
    let mut rendered = Rendered::default();
    let (mut found, mut known) = (false, false);
    for (_, view) in views {
        let active = view.as_ref().map_or("inactive", |view| view.active);
        found |= good.contains(&active);
        known |= view.is_some();
        rendered.stdout.push_str(active);
        rendered.stdout.push('\n');
    }
    rendered.code = if found {
        0
    } else if known {
        code
    } else {
        4
    };
    rendered
}

fn file_states(views: &[(String, Option<View>)]) -> Rendered {
    let mut rendered = Rendered::default();
    for (_, view) in views {
        rendered.stdout.push_str(view.as_ref().map_or("not-found", View::file_state));
        rendered.stdout.push('\n');
    }
    let enabled = views.iter().any(|(_, view)| view.as_ref().is_some_and(|view| view.enabled));
    let known = views.iter().any(|(_, view)| view.is_some());
    rendered.code = match (enabled, known) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 4,
    };
    rendered
}

fn blocks(views: &[(String, Option<View>)], now: u64) -> Rendered {
    let mut rendered = Rendered::default();
    for (name, view) in views {
        let Some(view) = view else {
            rendered.fail(&format!("Unit {name} could not be found."), 4);
            continue;
        };
        if !rendered.stdout.is_empty() {
            rendered.stdout.push('\n');
        }
        rendered.stdout.push_str(&view.block(now));
        if view.active != "active" && rendered.code == 0 {
            rendered.code = 3;
        }
    }
    rendered
}

/// `show`: blocks of `Name=value`, parted by empty lines; unknown properties print nothing.
fn show(ours: &Ours, views: &[(String, Option<View>)]) -> Rendered {
    let mut rendered = Rendered::default();
    let wanted = &ours.options.properties;
    for (index, (name, view)) in views.iter().enumerate() {
        if index > 0 {
            rendered.stdout.push('\n');
        }
        let properties = view.as_ref().map_or_else(|| absent(name), View::properties);
        for (key, value) in properties {
            if !wanted.is_empty() && !wanted.iter().any(|name| name == key) {
                continue;
            }
            // Writing to a String cannot fail.
            let _ = if ours.options.value {
                writeln!(rendered.stdout, "{value}")
            } else {
                writeln!(rendered.stdout, "{key}={value}")
            };
        }
    }
    rendered
}

/// What systemd says of a unit that it does not have; only a service has the first ones.
fn absent(name: &str) -> Vec<(&'static str, String)> {
    let service = [
        ("MainPID", "0"),
        ("Result", "success"),
        ("NRestarts", "0"),
        ("ExecMainPID", "0"),
        ("ControlGroup", ""),
    ];
    let unit = [
        ("Id", name),
        ("Names", name),
        ("Description", name),
        ("LoadState", "not-found"),
        ("ActiveState", "inactive"),
        ("FreezerState", "running"),
        ("SubState", "dead"),
        ("UnitFileState", ""),
        ("StateChangeTimestamp", ""),
        ("ActiveEnterTimestamp", ""),
        ("CanStart", "no"),
        ("CanStop", "yes"),
        ("CanReload", "no"),
        ("NeedDaemonReload", "no"),
    ];
    let own = service.into_iter().filter(|_| name.ends_with(".service"));
    own.chain(unit).map(|(key, value)| (key, value.to_owned())).collect()
}
