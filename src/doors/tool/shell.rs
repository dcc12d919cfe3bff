//! `u7s shell`: a command inside the node's namespaces.

use std::ffi::OsString;
use std::path::Path;

use u7s_host::enter::{self, Entry, Environment};

use crate::doors::machine::{self, Caller};
use crate::{End, Error};

/// Below the help of the command.
pub(super) const HELP: &str = "\
It enters as root of the namespaces, who is u7s-admin outside. A terminal is replaced by a fresh one that follows the size
of yours; pipes and files stay what they are. kubectl, crictl and the images' store are to be used from in here.

Examples:
  u7s shell
  u7s shell -- crictl ps -a
  u7s shell -- ip address
  u7s shell -- sh -c 'cat /var/lib/kubelet/config.yaml' | less

Exit status: the command's; 128 and more by a signal.";

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
