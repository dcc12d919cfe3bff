//! `u7s`, the administrator's tool.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use u7s_host::apply::Applier;
use u7s_host::control::Client;
use u7s_host::enter::{self, Entry, Environment};
use u7s_host::{probe, timings};
use u7s_plan::control::{ActiveState, ComponentStatus, Status};
use u7s_plan::need::Level;
use u7s_plan::{host, request};
use u7s_shim::kubeadm::{Call, parse};

use super::machine::{self, Caller};
use super::progress::Progress;
use super::{images, init, kubeadm, ports, reset};
use crate::{End, Error, report};

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

Exit status: 0 done, 1 failed, 2 the machine is not ready, 3 wrong usage or configuration, 4 took too long;
`shell` gives that of its command.";

const TIMINGS: &str = "\
Each phase of u7s has a line, below it its longer steps, below these what they consist of: the parts of the start of
u7s.service, each image that was copied, kubeadm's own phases. The share is of the whole run; the time of a line that is
in none of the lines below it was spent in between. Parts that ran side by side add up to more than their whole.

kubeadm shows the same table at its end when it runs with -v=1 or more. A run that changed nothing is not kept.
With -o json: began in seconds since the epoch, at_us and took_us in microseconds, at_us from the run's begin.

Examples:
  u7s timings
  u7s timings -o json | jq '.parts[] | {name, took_us}'";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what `kubeadm init`, `join` or `reset` would do, and do nothing.
    Plan {
        #[command(subcommand)]
        of: Planned,
    },
    /// Compare this machine with what a node needs; every unmet need has an id and a remedy.
    Check(Check),
    /// Show how the node stands.
    Status {
        #[command(flatten)]
        output: Format,
    },
    /// Show what the last `kubeadm init` or `join` on this machine spent its time on.
    #[command(after_help = TIMINGS)]
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
    Shell {
        /// Command and arguments, after `--`.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Load images from /var/lib/u7s/images into the node's store.
    #[command(after_help = images::HELP)]
    LoadImages,
    /// Set again what a reboot loses on the host: modules, sysctls, device modes. u7s.service does this as root.
    HostApply,
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
enum Planned {
    /// `kubeadm init`, with its flags.
    #[command(disable_help_flag = true)]
    Init {
        /// Flags of `kubeadm init`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        flags: Vec<OsString>,
    },
    /// `kubeadm join`, with its endpoint and flags.
    #[command(disable_help_flag = true)]
    Join {
        /// Endpoint and flags of `kubeadm join`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ENDPOINT FLAGS")]
        flags: Vec<OsString>,
    },
    /// `kubeadm reset`, with its flags.
    #[command(disable_help_flag = true)]
    Reset {
        /// Flags of `kubeadm reset`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        flags: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    output: Format,
    /// Needs that shall only be warnings: ids with commas between them, or `all`.
    #[arg(long, value_name = "IDS")]
    ignore_preflight_errors: Vec<OsString>,
    /// Further flags of `kubeadm init`, after `--`.
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
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
        Command::Plan { of: Planned::Init { flags } } => plan("init", flags),
        Command::Plan { of: Planned::Join { flags } } => plan("join", flags),
        Command::Plan { of: Planned::Reset { flags } } => plan("reset", flags),
        Command::Check(check) => self::check(check),
        Command::Status { output } => status(output.output),
        Command::Timings { output } => timings(output.output),
        Command::Ports { command } => ports::run(command),
        Command::Shell { command } => shell(command),
        Command::LoadImages => images::run(),
        Command::HostApply => host_apply(),
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

/// The same request as the shim's, shown. What kubeadm would refuse or explain, kubeadm refuses and explains.
fn plan(command: &str, flags: Vec<OsString>) -> Result<End, Error> {
    let argv: Vec<OsString> = std::iter::once(command.into()).chain(flags).collect();
    match parse(&argv) {
        Call::Init(request) => init::show(init::Command::Init(&request)),
        Call::Join(request) => init::show(init::Command::Join(&request)),
        Call::Reset(request) => reset::run(&request::Reset { dry_run: true, ..request }),
        Call::Phase => {
            Err(Error::Usage(format!("only the whole of kubeadm {command} has a plan, not its phases")))
        }
        _ => kubeadm::run(&argv),
    }
}

fn check(check: Check) -> Result<End, Error> {
    let ignored = check.ignore_preflight_errors.iter().map(|ids| {
        let mut flag = OsString::from("--ignore-preflight-errors=");
        flag.push(ids);
        flag
    });
    let argv: Vec<OsString> = std::iter::once("init".into()).chain(ignored).chain(check.flags).collect();
    let request = match parse(&argv) {
        Call::Init(request) => request,
        Call::NotUtf8 { flag } => return Err(Error::NotUtf8 { flag }),
        _ => return Err(Error::Usage("these are not the flags of a kubeadm init".into())),
    };
    // Whoever only asks need not be root: what root alone can see is then left out.
    let mut needs = init::needs(&request)?;
    needs.retain(|need| need.id != "IsPrivilegedUser");
    let ready = needs.iter().all(|need| need.level == Level::Warning);
    match check.output.output {
        Output::Json => {
            report::result(&format!("{:#}\n", json!({"version": 1, "ready": ready, "unmet": needs})))?;
        }
        Output::Text => {
            let mut text = String::new();
            for need in &needs {
                let _ = writeln!(text, "{need}\nhint: {}", need.remedy);
            }
            text.push_str(if ready { "STATUS: pass\n" } else { "STATUS: fail\n" });
            report::result(&text)?;
        }
    }
    Ok(End::Code(if ready { 0 } else { 2 }))
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

fn status(output: Output) -> Result<End, Error> {
    let status = client()?.status()?;
    match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(&status).map_err(|error| Error::Output(error.into()))?;
            report::result(&format!("{text}\n"))?;
        }
        Output::Text => report::result(&describe(&status))?,
    }
    Ok(End::Code(if status.ready { 0 } else { 1 }))
}

fn timings(output: Output) -> Result<End, Error> {
    let Some(run) = timings::last()? else { return Err(Error::NoRun) };
    match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(&run).map_err(|error| Error::Output(error.into()))?;
            report::result(&format!("{text}\n"))?;
        }
        Output::Text => {
            let failed = run.failed.as_ref().map_or_else(String::new, |step| format!(", failed at: {step}"));
            report::result(&format!("{}{failed}\n{run}", run.command))?;
        }
    }
    Ok(End::OK)
}

fn describe(status: &Status) -> String {
    let mut text = format!("node: {}\n", status.state);
    let runtime = status
        .runtime
        .as_ref()
        .map_or_else(|| "no answer".into(), |cri| format!("{} {}", cri.name, cri.version));
    let _ = writeln!(text, "CRI: {runtime}");
    for component in &status.components {
        let _ = writeln!(text, "{}: {}", component.name.as_str(), describe_component(component));
    }
    let forwards = status.forwards.iter().map(ToString::to_string);
    let _ = writeln!(text, "ports: {}", forwards.collect::<Vec<_>>().join(", "));
    let _ = writeln!(text, "connections: {} of {}", status.connections.open, status.connections.limit);
    let driver =
        status.driver_pid.map_or_else(|| "is being started again".into(), |pid| format!("pid {pid}"));
    let _ = writeln!(text, "network: {driver}");
    let _ = writeln!(
        text,
        "processes: supervisor {}, pid 1 of the node {}",
        status.supervisor_pid, status.init_pid
    );
    let _ = writeln!(text, "services from outside: {}", status.services.state);
    for refusal in &status.services.refused {
        let _ = writeln!(text, "  {refusal}");
    }
    if !status.degraded.is_empty() {
        let _ = writeln!(text, "degraded: {}", status.degraded.join(", "));
    }
    text
}

fn describe_component(component: &ComponentStatus) -> String {
    let state = match component.active {
        ActiveState::Active => "active",
        ActiveState::Activating => "activating",
        ActiveState::Deactivating => "deactivating",
        ActiveState::Inactive => "inactive",
        ActiveState::Failed => "failed",
    };
    let mut text = state.to_owned();
    if let Some(pid) = component.pid {
        let _ = write!(text, ", pid {pid}");
    }
    if component.restarts > 0 {
        let _ = write!(text, ", restarted {} times", component.restarts);
    }
    if let Some(exit) = &component.last_exit {
        let _ = write!(text, ", ended last with {exit}");
    }
    text
}

fn shell(command: Vec<OsString>) -> Result<End, Error> {
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

fn host_apply() -> Result<End, Error> {
    if machine::effective_uid() != 0 {
        return Err(machine::not_privileged("u7s host-apply"));
    }
    let plan = u7s_plan::init::volatile(&machine::config()?, &probe::machine(), probe::node()?.as_ref());
    let mut progress = Progress::default();
    let mut tell = |event: u7s_host::apply::Event<'_>| progress.hear(&event);
    Applier::new(host::USER, &mut tell)?.run(&plan.phases)?;
    progress.end();
    Ok(End::OK)
}

/// What the user asked for, for the head of a complaint.
#[must_use]
pub fn doing(argv: &[OsString]) -> &str {
    const COMMANDS: [&str; 9] =
        ["plan", "check", "status", "timings", "ports", "shell", "load-images", "host-apply", "version"];
    argv.get(1).and_then(|word| word.to_str()).filter(|word| COMMANDS.contains(word)).unwrap_or("usage")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
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
