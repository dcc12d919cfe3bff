//! `u7s shell`: a command inside the node's namespaces.

use std::ffi::OsString;
use std::path::Path;

use u7s_host::enter::{self, Entry, Environment};

use crate::doors::machine::{self, Caller};
use crate::{End, Error};

/// Runs a command inside, or a shell.
///
/// # Errors
/// The node does not run; the caller may not enter; the command cannot be started.
pub(super) fn run(command: Vec<OsString>) -> Result<End, Error> {
    let argv = if command.is_empty() { vec![login_shell().into()] } else { command };
    if enter::inside() {
        let environment = Environment::inside(std::env::vars_os());
        let program = argv.first().cloned().unwrap_or_default();
        return Err(enter::exec_here(Path::new(&program), argv.into_iter().skip(1), &environment).into());
    }
    let config = machine::config_or_default(machine::effective_uid() == 0)?;
    let user = machine::user(&config).ok_or_else(machine::no_namespace)?;
    if Caller::this(Some(&user)) == Caller::Other {
        return Err(machine::need(
            "IsPrivilegedUser",
            "only root and the node's user may enter",
            "sudo u7s shell".into(),
        ));
    }
    let target = machine::target(&user)?;
    Ok(Entry::inside(&target, argv).run()?.status.into())
}

fn login_shell() -> &'static str {
    if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}
