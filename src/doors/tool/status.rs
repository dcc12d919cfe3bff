//! `u7s status`: how the node stands.

use std::fmt::Write as _;

use u7s_plan::control::{ActiveState, ComponentStatus, Status};

use super::{Output, client};
use crate::{End, Error, report};

/// Prints what the supervisor says.
///
/// # Errors
/// The node does not run.
pub(super) fn run(output: Output) -> Result<End, Error> {
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
