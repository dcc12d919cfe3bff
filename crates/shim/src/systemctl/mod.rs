//! argv of systemctl: which calls are ours to answer, and the answers in systemctl's own words.
//!
//! `kubelet` and `crio` are children of the node's supervisor, so it is asked about them. On the host every other unit is the
//! real systemctl's; inside there is no other systemd to ask, so other units are not there.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use u7s_plan::control::Request;
use u7s_plan::node::ComponentName;

mod render;
mod status;
mod time;

pub use render::{Outcome, Rendered, act, render};

/// Where the shim was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the host: the real systemctl works.
    Host,
    /// Inside the node's namespaces, by kubeadm or an administrator's shell.
    Inside,
}

/// Who answers a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// We do.
    Ours(Ours),
    /// We do for the units of `ours`, the real systemctl with the arguments `real` for the others; the first exit status that is
    /// not 0 is the call's.
    Mixed {
        /// Our part.
        ours: Ours,
        /// The real one's arguments.
        real: Vec<OsString>,
    },
    /// The real systemctl, with the arguments as they are.
    Real,
}

/// A call that we answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// What to do.
    pub verb: Verb,
    /// The units in order, with suffix.
    pub units: Vec<Unit>,
    /// Options that change what happens or what is printed.
    pub options: Options,
}

/// A unit by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unit {
    /// The supervisor answers for it.
    Component(ComponentName),
    /// None of ours, with suffix.
    Other(String),
}

/// Verbs that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `start`
    Start,
    /// `stop`
    Stop,
    /// `restart`, `reload-or-restart`
    Restart,
    /// `try-restart`, `condrestart`, `try-reload-or-restart`
    TryRestart,
    /// `reload`: neither of ours can.
    Reload,
    /// `enable`, `reenable`
    Enable,
    /// `disable`
    Disable,
    /// `is-active`
    IsActive,
    /// `is-failed`
    IsFailed,
    /// `is-enabled`
    IsEnabled,
    /// `status`
    Status,
    /// `show`
    Show,
    /// `reset-failed`
    ResetFailed,
    /// `daemon-reload`, inside only: there is nothing to read again.
    DaemonReload,
}

/// Options with an effect; others that systemctl knows are accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `-q`, `--quiet`
    pub quiet: bool,
    /// `--no-block`: we answer when the work is done all the same.
    pub no_block: bool,
    /// `--now`, with enable and disable.
    pub now: bool,
    /// `--value`, `-P`
    pub value: bool,
    /// `-p`, `--property`, `-P`: names, also several in one with commas.
    pub properties: Vec<String>,
}

/// Verbs by name.
///
/// Source: systemctl(1).
const VERBS: [(&str, Verb); 18] = [
    ("start", Verb::Start),
    ("stop", Verb::Stop),
    ("restart", Verb::Restart),
    ("reload-or-restart", Verb::Restart),
    ("try-restart", Verb::TryRestart),
    ("condrestart", Verb::TryRestart),
    ("try-reload-or-restart", Verb::TryRestart),
    ("reload", Verb::Reload),
    ("enable", Verb::Enable),
    ("reenable", Verb::Enable),
    ("disable", Verb::Disable),
    ("is-active", Verb::IsActive),
    ("is-failed", Verb::IsFailed),
    ("is-enabled", Verb::IsEnabled),
    ("status", Verb::Status),
    ("show", Verb::Show),
    ("reset-failed", Verb::ResetFailed),
    ("daemon-reload", Verb::DaemonReload),
];

/// Options without a value, which say how to print or to wait; `--system` is what we are.
const SWITCHES: [&str; 14] = [
    "--quiet",
    "--no-block",
    "--now",
    "--value",
    "--all",
    "--full",
    "--no-pager",
    "--no-legend",
    "--no-ask-password",
    "--no-wall",
    "--no-reload",
    "--plain",
    "--system",
    "--wait",
];

/// Options with a value of the same kind.
const VALUES: [&str; 7] =
    ["--property", "--output", "--lines", "--type", "--state", "--job-mode", "--timestamp"];

/// Reads systemctl's arguments, without the program's name.
///
/// Anything that we do not know, in an option or a verb, makes the whole call [`Call::Real`]: complaints are systemctl's own.
///
/// Source: systemctl(1), getopt_long(3): options and operands mix, `--` ends the options.
#[must_use]
pub fn parse(argv: &[OsString], place: Place) -> Call {
    let Some(line) = Line::read(argv) else { return Call::Real };
    let Some(((_, first), operands)) = line.operands.split_first() else { return Call::Real };
    let known = VERBS.iter().find(|(name, _)| OsStr::new(name) == *first);
    let Some((_, verb)) = known else { return Call::Real };
    let Some(names) = operands.iter().map(|(_, name)| name.to_str()).collect::<Option<Vec<&str>>>() else {
        return Call::Real;
    };
    let units: Vec<Unit> = names.iter().map(|name| Unit::of(name)).collect();
    let ours = Ours { verb: *verb, units, options: line.options };
    match place {
        Place::Inside => inside(ours),
        Place::Host => host(ours, argv, operands),
    }
}

impl Ours {
    /// What the supervisor must be asked to do, in order; empty for questions, which need its status alone.
    ///
    /// `active` tells which component runs now: `try-restart` leaves the others alone.
    pub fn requests(&self, active: impl Fn(ComponentName) -> bool) -> Vec<Request> {
        let mut requests = Vec::new();
        // systemd enables all units of a call or none.
        let whole = matches!(self.verb, Verb::Enable | Verb::Disable);
        if whole && !self.units.iter().all(Unit::is_ours) {
            return requests;
        }
        for unit in &self.units {
            let Unit::Component(component) = *unit else { continue };
            match self.verb {
                Verb::Start => requests.push(Request::Start { component }),
                Verb::Stop => requests.push(Request::Stop { component }),
                Verb::Restart => requests.push(Request::Restart { component }),
                Verb::TryRestart if active(component) => requests.push(Request::Restart { component }),
                Verb::Enable => {
                    requests.push(Request::Enable { component });
                    requests.extend(self.options.now.then_some(Request::Start { component }));
                }
                Verb::Disable => {
                    requests.push(Request::Disable { component });
                    requests.extend(self.options.now.then_some(Request::Stop { component }));
                }
                _ => {}
            }
        }
        requests
    }

    /// Whether [`render`] answers it; else [`act`] does, with the supervisor's answers to [`Self::requests`].
    #[must_use]
    pub fn is_question(&self) -> bool {
        matches!(self.verb, Verb::IsActive | Verb::IsFailed | Verb::IsEnabled | Verb::Status | Verb::Show)
    }
}

impl Unit {
    /// The unit that a name means: without suffix it is a service.
    #[must_use]
    pub fn of(name: &str) -> Self {
        const SUFFIXES: [&str; 11] = [
            ".service",
            ".socket",
            ".device",
            ".mount",
            ".automount",
            ".swap",
            ".target",
            ".path",
            ".timer",
            ".slice",
            ".scope",
        ];
        match ComponentName::of_unit(name) {
            Some(component) => Self::Component(component),
            None if SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) => Self::Other(name.into()),
            None => Self::Other(format!("{name}.service")),
        }
    }

    /// Its full name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Component(component) => format!("{}.service", component.as_str()),
            Self::Other(name) => name.clone(),
        }
    }

    fn is_ours(&self) -> bool {
        matches!(self, Self::Component(_))
    }
}

/// Inside, every call that names a unit is ours, and `daemon-reload`.
fn inside(ours: Ours) -> Call {
    let unitless = matches!(ours.verb, Verb::DaemonReload | Verb::ResetFailed);
    if ours.units.is_empty() == unitless || ours.verb == Verb::ResetFailed {
        Call::Ours(ours)
    } else {
        Call::Real
    }
}

/// On the host, our units are ours.
fn host(ours: Ours, argv: &[OsString], operands: &[(usize, &OsStr)]) -> Call {
    if ours.verb == Verb::DaemonReload || !ours.units.iter().any(Unit::is_ours) {
        return Call::Real;
    }
    if ours.units.iter().all(Unit::is_ours) {
        return Call::Ours(ours);
    }
    let operands = operands.iter().zip(&ours.units);
    let mine: Vec<usize> =
        operands.filter(|(_, unit)| unit.is_ours()).map(|((index, _), _)| *index).collect();
    let theirs = argv.iter().enumerate().filter(|(index, _)| !mine.contains(index));
    let real = theirs.map(|(_, word)| word.clone()).collect();
    Call::Mixed { ours: Ours { units: ours.units.into_iter().filter(Unit::is_ours).collect(), ..ours }, real }
}

/// A command line taken apart.
struct Line<'a> {
    /// Position in argv and word.
    operands: Vec<(usize, &'a OsStr)>,
    options: Options,
}

impl<'a> Line<'a> {
    /// `None` for an option that is not ours to understand.
    fn read(argv: &'a [OsString]) -> Option<Self> {
        let mut line = Self { operands: Vec::new(), options: Options::default() };
        let mut words = argv.iter().map(OsString::as_os_str).enumerate();
        while let Some((index, word)) = words.next() {
            let bytes = word.as_bytes();
            if bytes == b"--" {
                line.operands.extend(words.by_ref());
            } else if bytes.starts_with(b"--") {
                line.long(word.to_str()?, &mut words)?;
            } else if bytes.len() > 1 && bytes.starts_with(b"-") {
                line.short(word.to_str()?.get(1..)?, &mut words)?;
            } else {
                line.operands.push((index, word));
            }
        }
        Some(line)
    }

    fn long(&mut self, word: &str, words: &mut impl Iterator<Item = (usize, &'a OsStr)>) -> Option<()> {
        if SWITCHES.contains(&word) {
            match word {
                "--quiet" => self.options.quiet = true,
                "--no-block" => self.options.no_block = true,
                "--now" => self.options.now = true,
                "--value" => self.options.value = true,
                _ => {}
            }
            return Some(());
        }
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        if !VALUES.contains(&name) {
            return None;
        }
        let value = match value {
            Some(value) => value,
            None => words.next()?.1.to_str()?,
        };
        if name == "--property" {
            self.property(value);
        }
        Some(())
    }

    /// A cluster of short options: `-ql`, `-pActiveState`, `-p ActiveState`.
    fn short(&mut self, cluster: &str, words: &mut impl Iterator<Item = (usize, &'a OsStr)>) -> Option<()> {
        for (index, letter) in cluster.char_indices() {
            match letter {
                'q' => self.options.quiet = true,
                'a' | 'l' => {}
                'p' | 'P' | 'n' | 'o' | 't' => {
                    let rest = cluster.get(index + 1..).filter(|rest| !rest.is_empty());
                    let value = match rest {
                        Some(rest) => rest,
                        None => words.next()?.1.to_str()?,
                    };
                    if matches!(letter, 'p' | 'P') {
                        self.property(value);
                    }
                    self.options.value |= letter == 'P';
                    return Some(());
                }
                _ => return None,
            }
        }
        Some(())
    }

    fn property(&mut self, names: &str) {
        self.options.properties.extend(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
    }
}

#[cfg(test)]
mod tests;
