//! `u7s`, the administrator's tool.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use u7s_host::control::Client;
use u7s_host::enter;

use super::{images, machine, ports};
use crate::{End, Error, report};

mod check;
mod completion;
mod config;
mod host_apply;
mod host_stop;
mod kubeconfig;
mod logs;
mod plan;
mod shell;
mod status;
mod support;
mod timings;

#[cfg(feature = "fuzzing")]
pub use status::fuzz as fuzz_status;

/// What clap's own usage errors exit with here: 3, since 2 means preflight.
const USAGE: u8 = 3;

/// Makes this machine a Kubernetes node that runs without root.
///
/// A node is made by `kubeadm init` and taken back by `kubeadm reset`, with /usr/libexec/u7s/bin first in PATH. This
/// tool shows what that would do, what there is, and leads into the node.
#[derive(Debug, Parser)]
#[command(name = "u7s", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  u7s check                                is this machine ready? changes nothing
  u7s plan init --pod-network-cidr=10.5.0.0/16
                                           every file, unit and command that `kubeadm init` would touch
  PATH=/usr/libexec/u7s/bin:$PATH kubeadm init
                                           make the node
  u7s status                               how it stands
  u7s timings                              what the making of it spent its time on
  u7s shell -- crictl ps                   a command inside the node; without one, a shell

Exit status: 0 done, 1 failed, 2 the machine is not ready, 3 wrong usage or configuration, 4 took too long,
5 the node works but is degraded; `shell` gives that of its command.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what `kubeadm init`, `join` or `reset` would do, and do nothing.
    Plan {
        #[command(subcommand)]
        of: plan::Planned,
    },
    /// Compare this machine with what a node needs; every unmet need has an id and a remedy.
    #[command(after_help = check::HELP)]
    Check(check::Check),
    /// Show how the node stands: what is wrong, and what to type.
    #[command(after_help = status::HELP)]
    Status(status::Arguments),
    /// Show what the last `kubeadm init` or `join` on this machine spent its time on.
    #[command(after_help = timings::HELP)]
    Timings {
        #[command(flatten)]
        output: Format,
    },
    /// Show, open and close ports of this host that lead into the node.
    #[command(after_help = ports::GROUP)]
    Ports {
        #[command(subcommand)]
        command: ports::Command,
    },
    /// Run a command inside the node's namespaces, or a shell.
    #[command(after_help = shell::HELP)]
    Shell {
        /// Command and arguments, after `--`.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Show what the node's parts have written to the journal.
    #[command(after_help = logs::HELP)]
    Logs(logs::Arguments),
    /// Print the administrator's kubeconfig, made of the checked parts of admin.conf.
    #[command(after_help = kubeconfig::HELP)]
    Kubeconfig(kubeconfig::Arguments),
    /// Write an archive for whoever helps: facts, logs and states, without secrets.
    #[command(after_help = support::HELP)]
    Support(support::Arguments),
    /// Print and check the configuration.
    #[command(after_help = config::HELP)]
    Config {
        #[command(subcommand)]
        command: config::Command,
    },
    /// Load images from /var/lib/u7s/images into the node's store.
    #[command(after_help = images::HELP)]
    LoadImages,
    /// Set again what a reboot loses on the host: modules, sysctls, device modes. u7s.service does this as root.
    HostApply,
    /// End what a stop of u7s.service does not end in time. u7s-stop.service does this as root.
    HostStop,
    /// Print what a shell needs to complete command lines of u7s.
    #[command(after_help = completion::HELP)]
    Completion(completion::Completion),
    /// Print the version.
    Version,
}

#[derive(Debug, Args)]
pub(super) struct Format {
    /// Form of the result.
    #[arg(short, long = "output", value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The whole grammar: what help, man pages and completions are made of.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Does what a command line of `u7s` asks for; `argv` begins with the program's name.
///
/// # Errors
/// [`Error`], for `report` to explain.
pub fn run(argv: &[OsString]) -> Result<End, Error> {
    let arguments = match Arguments::try_parse_from(argv) {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error),
    };
    match arguments.command {
        Command::Plan { of } => plan::run(of),
        Command::Check(check) => check::run(check),
        Command::Status(arguments) => status::run(&arguments),
        Command::Timings { output } => timings::run(output.output),
        Command::Ports { command } => ports::run(command),
        Command::Shell { command } => shell::run(command),
        Command::Logs(arguments) => logs::run(&arguments),
        Command::Kubeconfig(arguments) => kubeconfig::run(&arguments),
        Command::Support(arguments) => support::run(arguments),
        Command::Config { command } => config::run(command),
        Command::LoadImages => images::run(),
        Command::HostApply => host_apply::run(),
        Command::HostStop => host_stop::run(),
        Command::Completion(completion) => completion::run(&completion),
        Command::Version => version(),
    }
}

/// Help and version are results; anything else is a usage error.
fn explain(error: &clap::Error) -> Result<End, Error> {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return report::result(&text).map(|()| End::OK);
    }
    report::relay("", &text);
    Ok(End::Code(USAGE))
}

fn version() -> Result<End, Error> {
    report::result(concat!("u7s ", env!("CARGO_PKG_VERSION"), "\n")).map(|()| End::OK)
}

/// A client of the running node, on the host or inside.
pub(super) fn client() -> Result<Client, Error> {
    let uid = if enter::inside() {
        0
    } else {
        let config = machine::config_or_default(machine::effective_uid() == 0)?;
        machine::user(&config).ok_or_else(machine::no_namespace)?.uid
    };
    Ok(Client::new(uid))
}

/// What the user asked for, for the head of a complaint.
#[must_use]
pub fn doing(argv: &[OsString]) -> &str {
    let word = argv.get(1).and_then(|word| word.to_str());
    word.filter(|word| command().find_subcommand(word).is_some()).unwrap_or("usage")
}

#[cfg(test)]
mod tests {
    use super::plan::Planned;
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn the_shells_command_is_taken_as_it_is() {
        let argv = ["u7s", "shell", "--", "ls", "--help", "-o", "json"].map(OsString::from);
        match Arguments::try_parse_from(argv).unwrap().command {
            Command::Shell { command } => assert_eq!(command, ["ls", "--help", "-o", "json"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_of_a_planned_command_are_kubeadms() {
        let argv = ["u7s", "plan", "init", "--ignore-preflight-errors=all", "-v", "5"].map(OsString::from);
        match Arguments::try_parse_from(argv).unwrap().command {
            Command::Plan { of: Planned::Init { flags } } => assert_eq!(flags.len(), 3),
            other => panic!("{other:?}"),
        }
    }
}
