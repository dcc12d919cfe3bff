//! systemd over the system bus.
//!
//! Not over /run/systemd/private, which systemctl uses as root: there systemd signs with its well-known name, which zbus
//! refuses as no unique one. Properties are read anew each time; waits are short rounds of reading under a deadline, since
//! a unit's status text has to be followed anyway.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use u7s_plan::facts::UnitFact;
use zbus::wire::{DynamicDeserialize, DynamicType};
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant, connection};

use crate::child::printable;
use crate::error::Error;

/// The bus by its place: an address in our environment plays no role.
const BUS: &str = "unix:path=/run/dbus/system_bus_socket";
const NAME: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const SLICE: &str = "org.freedesktop.systemd1.Slice";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const ROOT: &str = "/org/freedesktop/systemd1";

/// How long systemd may take to answer one call.
const CALL: Duration = Duration::from_secs(25);

/// Pause between two looks at a unit that is being started or stopped.
const LOOK: Duration = Duration::from_millis(50);

type Properties = HashMap<String, OwnedVariant>;

/// A connection to systemd.
#[derive(Debug)]
pub(crate) struct Systemd {
    runtime: Runtime,
    connection: Connection,
}

/// What is read of a unit at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UnitState {
    /// The part that is a fact.
    pub(crate) fact: UnitFact,
    /// Last `STATUS=` text, printable.
    pub(crate) status: String,
    /// Start of the main process, microseconds since the epoch; 0: never.
    pub(crate) started_us: u64,
    /// Its files changed since systemd read them.
    pub(crate) needs_reload: bool,
    /// Id of the pending job, 0 if there is none.
    job: u32,
    /// Its conditions held at the last start.
    condition: bool,
}

impl UnitState {
    /// No process is wanted, and no next try is waited for.
    pub(crate) fn rests(&self) -> bool {
        matches!(self.fact.active.as_str(), "inactive" | "failed" | "")
    }

    /// A job of it waits or runs.
    pub(crate) fn has_job(&self) -> bool {
        self.job != 0
    }
}

impl Systemd {
    /// Connects.
    ///
    /// # Errors
    /// `NoSystemd`, after at most 25 s; `Runtime`.
    pub(crate) fn connect() -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Runtime { source })?;
        let connecting = runtime.block_on(async { tokio::time::timeout(CALL, connection()).await });
        let connection = connecting
            .unwrap_or_else(|_| Err(late("connect")))
            .map_err(|source| Error::NoSystemd { source: Box::new(source) })?;
        Ok(Self { runtime, connection })
    }

    /// The version number, without the distribution's part.
    pub(crate) fn version(&self) -> Result<u32, Error> {
        let manager = self.properties("ask for the version", ROOT, MANAGER)?;
        let digits: String = text(&manager, "Version").chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse().unwrap_or(0))
    }

    /// What systemd knows of a unit; one that does not exist is `not-found`.
    pub(crate) fn unit(&self, unit: &str) -> Result<UnitState, Error> {
        let what = format!("look at {unit}");
        let path: OwnedObjectPath = self.manager(&what, "LoadUnit", &(unit,))?;
        let general = self.properties(&what, path.as_str(), UNIT)?;
        let service = self.properties(&what, path.as_str(), SERVICE).unwrap_or_default();
        Ok(UnitState {
            fact: UnitFact {
                load: text(&general, "LoadState"),
                active: text(&general, "ActiveState"),
                sub: text(&general, "SubState"),
                result: text(&service, "Result"),
                file: text(&general, "UnitFileState"),
            },
            status: printable(&text(&service, "StatusText")),
            started_us: number(service.get("ExecMainStartTimestamp").map(|at| &**at)),
            needs_reload: general.get("NeedDaemonReload").is_some_and(|need| **need == Variant::Bool(true)),
            job: job_id(&general),
            condition: general.get("ConditionResult").is_none_or(|held| **held != Variant::Bool(false)),
        })
    }

    /// Starts a unit, or restarts it, and waits until it is active. `waiting` gets its status text at each look.
    ///
    /// A unit that did not come up is stopped again: with `Restart=always` it would go on failing unseen.
    ///
    /// # Errors
    /// `UnitFailed` with the unit's result and last status; `Deadline`; `Systemd`.
    pub(crate) fn start(
        &self,
        unit: &str,
        method: Start,
        deadline: Duration,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let job: OwnedObjectPath =
            self.manager(&format!("start {unit}"), method.name(), &(unit, "replace"))?;
        let job: u32 = job.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or(0);
        let come_up = self.come_up(unit, job, deadline, waiting);
        if come_up.is_err() {
            let _ = self.manager::<OwnedObjectPath>(&format!("stop {unit}"), "StopUnit", &(unit, "replace"));
        }
        come_up
    }

    fn come_up(
        &self,
        unit: &str,
        job: u32,
        deadline: Duration,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        loop {
            let state = self.unit(unit)?;
            if state.job != job || job == 0 {
                // Our job is over. A job of another number is systemd's own next try.
                return match state.fact.active.as_str() {
                    "active" => Ok(()),
                    _ => Err(failure(unit, state)),
                };
            }
            waiting(&state.status);
            if Instant::now() >= end {
                let status =
                    if state.status.is_empty() { String::new() } else { format!(" ({})", state.status) };
                return Err(Error::Deadline {
                    what: format!("the start of {unit}{status}"),
                    seconds: deadline.as_secs(),
                });
            }
            self.pause();
        }
    }

    /// Stops a unit and waits until it rests; clears a failed state.
    ///
    /// # Errors
    /// `Deadline`, `Systemd`.
    pub(crate) fn stop(
        &self,
        unit: &str,
        deadline: Duration,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        if !self.unit(unit)?.rests() {
            let _: OwnedObjectPath = self.manager(&format!("stop {unit}"), "StopUnit", &(unit, "replace"))?;
        }
        let end = Instant::now() + deadline;
        loop {
            let state = self.unit(unit)?;
            if state.rests() {
                return if state.fact.active == "failed" { self.reset_failed(unit) } else { Ok(()) };
            }
            waiting(&state.status);
            if Instant::now() >= end {
                return Err(Error::Deadline {
                    what: format!("the stop of {unit}"),
                    seconds: deadline.as_secs(),
                });
            }
            self.pause();
        }
    }

    /// Sends SIGKILL to all processes of a unit.
    pub(crate) fn kill(&self, unit: &str) -> Result<(), Error> {
        self.manager(
            &format!("kill {unit}"),
            "KillUnit",
            &(unit, "all", nix::sys::signal::Signal::SIGKILL as i32),
        )
    }

    /// The unit's cgroup, below /sys/fs/cgroup; empty if it has none.
    pub(crate) fn control_group(&self, unit: &str) -> Result<String, Error> {
        let interface = if unit.ends_with(".slice") { SLICE } else { SERVICE };
        Ok(text(&self.properties_of(unit, interface)?, "ControlGroup"))
    }

    /// `TimeoutStopSec=` of a service; `None`: infinity.
    pub(crate) fn stop_timeout(&self, unit: &str) -> Result<Option<Duration>, Error> {
        let micros = number(self.properties_of(unit, SERVICE)?.get("TimeoutStopUSec").map(|limit| &**limit));
        Ok((micros != u64::MAX).then(|| Duration::from_micros(micros)))
    }

    fn properties_of(&self, unit: &str, interface: &str) -> Result<Properties, Error> {
        let what = format!("look at {unit}");
        let path: OwnedObjectPath = self.manager(&what, "LoadUnit", &(unit,))?;
        self.properties(&what, path.as_str(), interface)
    }

    /// Ends that a user's manager runs without a session; logind forgets it then.
    ///
    /// Source: org.freedesktop.login1(5).
    pub(crate) fn stop_lingering(&self, uid: u32) -> Result<(), Error> {
        let what = (Some("org.freedesktop.login1.Manager"), "SetUserLinger", (uid, false, false));
        let name = Some("org.freedesktop.login1");
        let calling = self.connection.call_method(name, "/org/freedesktop/login1", what.0, what.1, &what.2);
        let answer = self.runtime.block_on(async { tokio::time::timeout(CALL, calling).await });
        let answer = answer.unwrap_or_else(|_| Err(late("SetUserLinger")));
        answer.map(drop).map_err(|source| Error::Systemd {
            operation: format!("stop the lingering of uid {uid}"),
            source: Box::new(source),
        })
    }

    /// Clears a failed state. A unit that systemd has forgotten meanwhile has none: somebody else cleared it.
    pub(crate) fn reset_failed(&self, unit: &str) -> Result<(), Error> {
        match self.manager(&format!("clear the failed state of {unit}"), "ResetFailedUnit", &(unit,)) {
            Err(Error::Systemd { source, .. }) if is_forgotten(&source) => Ok(()),
            other => other,
        }
    }

    /// Reads all unit files anew.
    pub(crate) fn reload(&self) -> Result<(), Error> {
        self.manager("reload unit files", "Reload", &())
    }

    /// Enables a unit at boot, and names the links that it made.
    ///
    /// Source: org.freedesktop.systemd1(5), EnableUnitFiles: the kind of a change, its file, where a link leads.
    pub(crate) fn enable(&self, unit: &str) -> Result<Vec<PathBuf>, Error> {
        let (_, changes): (bool, Vec<(String, String, String)>) =
            self.manager(&format!("enable {unit}"), "EnableUnitFiles", &(vec![unit], false, true))?;
        self.reload()?;
        Ok(changes.into_iter().map(|(_, file, _)| file.into()).collect())
    }

    /// Disables a unit at boot.
    pub(crate) fn disable(&self, unit: &str) -> Result<(), Error> {
        let done: Vec<(String, String, String)> =
            self.manager(&format!("disable {unit}"), "DisableUnitFiles", &(vec![unit], false))?;
        drop(done);
        self.reload()
    }

    /// Waits until the next look is due.
    pub(crate) fn pause(&self) {
        self.runtime.block_on(async { tokio::time::sleep(LOOK).await });
    }

    fn properties(&self, what: &str, path: &str, interface: &str) -> Result<Properties, Error> {
        self.call(what, path, (PROPERTIES, "GetAll"), &(interface,))
    }

    fn manager<T: Reply>(&self, what: &str, method: &str, body: &impl Body) -> Result<T, Error> {
        self.call(what, ROOT, (MANAGER, method), body)
    }

    /// One call, one answer. `what` completes the sentence "systemd: cannot ...".
    fn call<T: Reply>(
        &self,
        what: &str,
        path: &str,
        (interface, method): (&str, &str),
        body: &impl Body,
    ) -> Result<T, Error> {
        let calling = self.connection.call_method(Some(NAME), path, Some(interface), method, body);
        let answer = self.runtime.block_on(async { tokio::time::timeout(CALL, calling).await });
        answer
            .unwrap_or_else(|_| Err(late(method)))
            .and_then(|message| message.body().deserialize())
            .map_err(|source| Error::Systemd { operation: what.to_owned(), source: Box::new(source) })
    }
}

/// What an answer is read into.
trait Reply: for<'d> DynamicDeserialize<'d> {}
impl<T: for<'d> DynamicDeserialize<'d>> Reply for T {}

/// What a call carries.
trait Body: serde::Serialize + DynamicType {}
impl<T: serde::Serialize + DynamicType> Body for T {}

/// Start anew, or from nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// A unit that rests.
    Fresh,
    /// A unit that runs with older files.
    Again,
}

impl Start {
    fn name(self) -> &'static str {
        match self {
            Self::Fresh => "StartUnit",
            Self::Again => "RestartUnit",
        }
    }
}

async fn connection() -> zbus::Result<Connection> {
    connection::Builder::address(BUS).build().await
}

/// Source: org.freedesktop.systemd1(5), "Error Names"; a unit that failed and is wanted by nobody is unloaded once that is cleared.
fn is_forgotten(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit")
}

fn late(what: &str) -> zbus::Error {
    let text = format!("no answer to {what} within {} s", CALL.as_secs());
    std::io::Error::new(std::io::ErrorKind::TimedOut, text).into()
}

/// Why a unit whose job is over is not active.
fn failure(unit: &str, state: UnitState) -> Error {
    let result = if state.condition { state.fact.result } else { "condition".to_owned() };
    let status =
        if state.status.is_empty() { String::new() } else { format!(", last status: {}", state.status) };
    Error::UnitFailed { unit: unit.to_owned(), result, status }
}

fn text(properties: &Properties, name: &str) -> String {
    match properties.get(name).map(|value| &**value) {
        Some(Variant::Str(text)) => text.to_string(),
        _ => String::new(),
    }
}

fn number(value: Option<&Variant<'_>>) -> u64 {
    match value {
        Some(Variant::U64(number)) => *number,
        Some(Variant::U32(number)) => u64::from(*number),
        _ => 0,
    }
}

/// `Job` is a pair of id and path.
fn job_id(properties: &Properties) -> u32 {
    let Some(Variant::Structure(job)) = properties.get("Job").map(|job| &**job) else { return 0 };
    number(job.fields().first()).try_into().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(active: &str, result: &str, status: &str, condition: bool) -> UnitState {
        let fact = UnitFact { active: active.into(), result: result.into(), ..UnitFact::default() };
        UnitState { fact, status: status.into(), condition, ..UnitState::default() }
    }

    #[test]
    fn a_failed_start_names_result_status_and_the_journal() {
        let error = failure("u7s.service", state("failed", "exit-code", "waiting for port 6443", true));
        assert_eq!(
            error.to_string(),
            "u7s.service did not start: result exit-code, last status: waiting for port 6443; \
             see: journalctl -xeu u7s.service"
        );
        let error = failure("u7s.service", state("inactive", "success", "", false));
        assert_eq!(
            error.to_string(),
            "u7s.service did not start: result condition; see: journalctl -xeu u7s.service"
        );
    }

    #[test]
    fn a_unit_that_waits_for_its_next_try_does_not_rest() {
        assert!(!state("activating", "", "", true).rests());
        assert!(state("failed", "", "", true).rests());
        assert!(state("inactive", "", "", true).rests());
    }
}
