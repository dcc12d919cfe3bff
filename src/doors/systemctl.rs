//! The systemctl shim: kubelet and crio are answered with the supervisor's help, all else is the real systemctl's.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use u7s_host::control::{self, Client};
use u7s_host::enter::{self, Environment};
use u7s_plan::control::{ActiveState, Request, Status};
use u7s_shim::systemctl::{Call, Ours, Outcome, Place, Rendered, act, parse, render};

use super::machine;
use crate::{End, Error, report};

/// The real one.
const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// How long starting or stopping a component may take; the supervisor has shorter deadlines of its own.
const PATIENCE: Duration = Duration::from_secs(150);

/// Does what a command line of systemctl asks for; `argv` is without the program's name.
///
/// # Errors
/// `Missing`, and `Control` where a question cannot be answered: the supervisor runs and may not be asked.
pub fn run(argv: &[OsString]) -> Result<End, Error> {
    let inside = enter::inside();
    match parse(argv, if inside { Place::Inside } else { Place::Host }) {
        Call::Ours(ours) => Ok(End::Code(answer(&ours, inside)?)),
        Call::Mixed { ours, real } => {
            let code = answer(&ours, inside)?;
            let real = run_real(&real)?;
            Ok(if code == 0 { real } else { End::Code(code) })
        }
        Call::Real => Err(become_real(argv)),
    }
}

fn answer(ours: &Ours, inside: bool) -> Result<u8, Error> {
    let client = client(inside)?;
    let rendered = if ours.is_question() {
        question(ours, client.as_ref(), inside)?
    } else {
        order(ours, client.as_ref())
    };
    report::relay(&rendered.stdout, &rendered.stderr);
    Ok(rendered.code)
}

/// The supervisor is the node's user; inside, that is uid 0. Without such a user nothing of the node can run.
fn client(inside: bool) -> Result<Option<Client>, Error> {
    if inside {
        return Ok(Some(Client::new(0)));
    }
    let config = machine::config_or_default(machine::effective_uid() == 0)?;
    Ok(machine::user(&config).map(|user| Client::new(user.uid)))
}

fn question(ours: &Ours, client: Option<&Client>, inside: bool) -> Result<Rendered, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(render(ours, status(client)?.as_ref(), now, inside))
}

/// A node that does not run has no status; that is an answer.
fn status(client: Option<&Client>) -> Result<Option<Status>, Error> {
    match client.map(Client::status) {
        None | Some(Err(control::Error::NotRunning { .. })) => Ok(None),
        Some(status) => Ok(status.map(Some)?),
    }
}

/// Requests are made in order; what fails does not keep the next from being tried, as with the real one.
fn order(ours: &Ours, client: Option<&Client>) -> Rendered {
    let status = status(client).ok().flatten();
    let running = |state| matches!(state, ActiveState::Active | ActiveState::Activating);
    let active = |name| {
        let components = status.iter().flat_map(|status| &status.components);
        components.into_iter().any(|component| component.name == name && running(component.active))
    };
    let ask = |request: Request| {
        let outcome = match client.map(|client| client.clone().patience(PATIENCE).ask(&request)) {
            Some(Ok(answer)) => Outcome::Answered(answer),
            Some(Err(error)) => Outcome::Unreachable(error.to_string()),
            None => Outcome::Unreachable("the node has no user yet".into()),
        };
        (request, outcome)
    };
    act(ours, &ours.requests(active).into_iter().map(ask).collect::<Vec<_>>())
}

/// Root's environment is cut down to the allow-list (S8). Others gain nothing by theirs, and need it: `--user` finds its
/// manager by it.
fn real(argv: &[OsString]) -> Result<Command, Error> {
    let mut command = Command::new(machine::real(Path::new(SYSTEMCTL))?);
    command.args(argv);
    if machine::effective_uid() == 0 {
        let environment = Environment::unprivileged(std::env::vars_os());
        command.env_clear().envs(environment.iter()).env("HOME", "/root");
    }
    Ok(command)
}

fn become_real(argv: &[OsString]) -> Error {
    match real(argv) {
        Ok(mut command) => failed(command.exec()),
        Err(missing) => missing,
    }
}

fn run_real(argv: &[OsString]) -> Result<End, Error> {
    let status = real(argv)?.status().map_err(failed)?;
    Ok(End::Code(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn failed(source: std::io::Error) -> Error {
    enter::Error::Watch { program: SYSTEMCTL.into(), source }.into()
}
