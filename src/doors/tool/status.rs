//! `u7s status`: how the node stands.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use u7s_host::{enter, probe};
use u7s_plan::control::{ActiveState, ComponentStatus, Status};
use u7s_plan::health::{self, Seen, Verdict};
use u7s_plan::nagios;
use u7s_plan::need::{Ignored, Unmet};

use super::{Format, Output, client};
use crate::doors::machine::{self, Caller};
use crate::{End, Error, report};

/// Flags of the command.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    output: Format,
    /// One line for monitoring, with performance data; exit status 0, 1, 2 or 3.
    #[arg(long, conflicts_with = "output")]
    nagios: bool,
    /// With --nagios: warn when a certificate lasts fewer days.
    #[arg(short, long, value_name = "DAYS", default_value_t = 30)]
    warning: u64,
    /// With --nagios: critical when a certificate lasts fewer days.
    #[arg(short, long, value_name = "DAYS", default_value_t = 7)]
    critical: u64,
    /// Problems that shall not count: ids with commas between them, or `all`.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    ignore: Vec<String>,
}

/// Below the help of the command.
pub(super) const HELP: &str = "\
The supervisor, the API server, the node's certificates, its processes, ports and disk are looked at. What is wrong is
listed with an id and what to type, causes first; /usr/share/doc/u7s/troubleshooting.md explains each. Root and the node's
user may ask. The schema of -o json is /usr/share/u7s/schema/status.json.

Examples:
  u7s status
  u7s status -o json | jq '{verdict, problems: [.problems[].id]}'
  u7s status --ignore=Degraded                 a node that was made with --ignore-preflight-errors
  u7s status --nagios -w 21 -c 3

It answers within 45 s (times timeout_factor), whatever the node does.

Exit status: 0 all is well, 1 the node does not work, 5 it works, but something wants to be looked at.
With --nagios: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.";

/// How long an answer may take, times the configured factor: what the parts of the look may take together, and some.
///
/// Monitoring asks each minute, and counts on it.
const ANSWER: Duration = Duration::from_secs(45);

/// Prints how the node stands, within [`ANSWER`] whatever the node does.
///
/// A copy of this process looks, and is left behind if it does not end: whoever waits for our output is not kept by it.
///
/// # Errors
/// The caller may not ask; node.json is not ours; it took too long.
pub(super) fn run(arguments: &Arguments) -> Result<End, Error> {
    if enter::inside() {
        return inside(arguments.output.output);
    }
    let config = machine::config_or_default(machine::effective_uid() == 0).unwrap_or_default();
    let deadline = ANSWER * config.timeout_factor.clamp(1, 100);
    let (text, complaint, code) = match enter::within("u7s status", deadline, || answer(arguments)) {
        Err(error) => told(arguments, &error.into()),
        Ok(answer) => answer,
    };
    match arguments.output.output {
        _ if arguments.nagios => report::result(&text)?,
        Output::Json => report::json(&text)?,
        Output::Text => report::text(&text)?,
    }
    complaint.iter().for_each(|line| report::line(line));
    Ok(End::Code(code))
}

/// What goes to standard output, what is said beside it line by line, and the exit status.
type Answer = (String, Vec<String>, u8);

/// Looks, and judges.
fn answer(arguments: &Arguments) -> Answer {
    let seen = match look() {
        Ok(seen) => seen,
        Err(error) => return told(arguments, &error),
    };
    let ignored = Ignored::new(&arguments.ignore);
    let problems = health::problems(&seen);
    if arguments.nagios {
        let days = (arguments.warning, arguments.critical);
        let (line, status) = nagios::line(&seen, &problems, &ignored, days);
        return (format!("{line}\n"), Vec::new(), status);
    }
    let verdict = health::verdict(&problems, &ignored);
    let text = match arguments.output.output {
        Output::Json => format!("{:#}\n", document(&seen, &problems, verdict)),
        Output::Text => text(&seen, &problems, verdict),
    };
    (text, Vec::new(), nagios::exit(verdict))
}

/// That it could not be looked.
fn told(arguments: &Arguments, error: &Error) -> Answer {
    if arguments.nagios {
        return (format!("{}\n", nagios::unknown(&report::chain(error))), Vec::new(), 3);
    }
    let code = report::code(error);
    (String::new(), report::complaint("status", error), code)
}

/// Everything that is to be judged.
pub(super) fn look() -> Result<Seen, Error> {
    let config = machine::config_or_default(machine::effective_uid() == 0)?;
    let user = machine::user(&config);
    if user.is_some() && Caller::this(user.as_ref()) == Caller::Other {
        let message = "only root and the node's user may ask how the node stands";
        return Err(machine::need("IsPrivilegedUser", message, "sudo u7s status".into()));
    }
    Ok(probe::standing(&config)?)
}

/// From inside only the supervisor can be seen.
fn inside(output: Output) -> Result<End, Error> {
    let status = client()?.status()?;
    match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(&status).map_err(|error| Error::Output(error.into()))?;
            report::json(&format!("{text}\n"))?;
        }
        Output::Text => report::text(&supervisor(&status))?,
    }
    Ok(End::Code(u8::from(!status.ready)))
}

/// The supervisor's own document, and beside its fields what else was seen.
pub(super) fn document(seen: &Seen, problems: &[Unmet], verdict: Verdict) -> Value {
    let mut document = json!({"version": 1, "verdict": verdict, "ready": false, "problems": problems});
    let status = seen.status.as_ref().and_then(|status| serde_json::to_value(status).ok());
    let rest = json!({
        "unit": seen.facts.unit,
        "node": seen.node.as_ref().map(|node| &node.node_name),
        "node_ip": seen.node.as_ref().map(|node| node.network.node_ip),
        "cluster": seen.cluster,
        "certificates": seen.certificates,
        "disk": seen.facts.space,
        "ports": seen.ports,
    });
    let parts = [status, Some(rest)].into_iter().flatten();
    if let Some(whole) = document.as_object_mut() {
        for part in parts.filter_map(|part| part.as_object().cloned()) {
            whole.extend(part);
        }
    }
    document
}

pub(super) fn text(seen: &Seen, problems: &[Unmet], verdict: Verdict) -> String {
    let mut text = String::new();
    if let Some(node) = &seen.node {
        let _ = writeln!(text, "name: {} at {}", node.node_name, node.network.node_ip);
        let unit = &seen.facts.unit;
        let _ = writeln!(text, "unit: u7s.service {} ({})", unit.active, unit.sub);
    }
    if let Some(status) = &seen.status {
        text += &supervisor(status);
    }
    if let Some(cluster) = &seen.cluster {
        let _ = writeln!(text, "API: {}", if cluster.api { "answers" } else { "does not answer" });
        let _ = writeln!(text, "Ready: {}", if cluster.ready { "yes" } else { "no" });
    }
    if let Some(least) = seen.certificates.iter().min_by_key(|certificate| certificate.days) {
        let count = seen.certificates.len();
        let _ = writeln!(
            text,
            "certificates: {count}, the first to end is {} in {} days",
            least.name, least.days
        );
    }
    if let Some(space) = seen.facts.space.filter(|space| space.total > 0) {
        let percent = space.free.saturating_mul(100) / space.total;
        let _ = writeln!(text, "disk: {percent} % free ({} MiB)", space.free >> 20);
    }
    for problem in problems {
        let _ = write!(text, "\n{problem}\nhint: {}\n", problem.remedy);
    }
    let _ = writeln!(text, "{}STATUS: {verdict}", if problems.is_empty() { "" } else { "\n" });
    text
}

/// What the supervisor says.
fn supervisor(status: &Status) -> String {
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
    if status.connections.refused > 0 {
        let refused = status.connections.refused;
        let _ = writeln!(text, "refused clients with addresses of the inside: {refused}");
    }
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

/// A state of the node, for people and for programs.
#[cfg(feature = "fuzzing")]
pub fn fuzz(seen: &Seen, problems: &[Unmet]) {
    let verdict = health::verdict(problems, &Ignored::default());
    report::fuzz(&text(seen, problems, verdict));
    assert!(document(seen, problems, verdict).is_object());
}
