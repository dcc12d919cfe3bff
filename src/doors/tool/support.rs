//! `u7s support`: an archive for whoever helps, without secrets.

use std::path::PathBuf;

use clap::Args;
use u7s_host::{enter, probe, support, timings};
use u7s_plan::health;
use u7s_plan::init::Docs;
use u7s_plan::need::Ignored;
use u7s_plan::{calendar, nagios, request};

use super::status;
use crate::doors::machine;
use crate::{End, Error, report};

/// Flags of the command.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the archive goes; nothing may lie there yet. By default u7s-support-TIME.tar in this directory.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Below the help of the command.
pub(super) const HELP: &str = "\
In it: versions, facts, needs, plan, status, configuration, journal of u7s.service, unit, nft table, mounts, addresses.
Not in it: keys, certificates, kubeconfigs, tokens, passwords, values of environments, logs and objects of pods, names of
users. What looks like a secret in what is taken is redacted. Look into it before you send it on: it is a tar file.

Examples:
  sudo u7s support
  sudo u7s support --file /root/case-17.tar && tar -tvf /root/case-17.tar";

/// Makes the archive.
///
/// # Errors
/// Not root; something lies at the path; the disk is full.
pub(super) fn run(arguments: Arguments) -> Result<End, Error> {
    if enter::inside() {
        return Err(Error::Inside);
    }
    if machine::effective_uid() != 0 {
        return Err(machine::not_privileged("u7s support"));
    }
    let seen = status::look()?;
    let stamp = calendar::rfc3339(seen.now).replace(':', "");
    let path = arguments.file.unwrap_or_else(|| PathBuf::from(format!("u7s-support-{stamp}.tar")));
    let mut members =
        vec![("version.txt".to_owned(), concat!("u7s ", env!("CARGO_PKG_VERSION"), "\n").to_owned())];
    let problems = health::problems(&seen);
    let verdict = health::verdict(&problems, &Ignored::default());
    let line = nagios::line(&seen, &problems, &Ignored::default(), (30, 7)).0;
    members.push(("status.txt".into(), format!("{}\n{line}\n", status::text(&seen, &problems, verdict))));
    members.push(("status.json".into(), status::document(&seen, &problems, verdict).to_string()));
    members.push(("node.json".into(), serde_json::to_string(&seen.node).unwrap_or_default()));
    members.extend(asked());
    members.extend(support::gather(&seen));
    support::write(&path, &members, seen.now)?;
    report::result(&format!("{}\n", path.display()))?;
    report::line("readable by you alone; look into it before you send it on");
    Ok(End::OK)
}

/// Configuration, facts, plan and the last run; a part that cannot be had says why.
fn asked() -> Vec<support::Member> {
    let mut members = Vec::new();
    let config = machine::config();
    let text = match &config {
        Ok(config) => toml::to_string(config).unwrap_or_default(),
        // The parser shows the line, which may hold anything.
        Err(_) => "(wrong: u7s config validate)\n".to_owned(),
    };
    members.push(("config.toml".into(), text));
    let config = config.unwrap_or_default();
    if let Ok(facts) = probe::facts(&config) {
        members.push(("facts.json".into(), support::facts(&facts).to_string()));
        let planned = u7s_plan::init::init(&config, &request::Init::default(), Docs::default(), &facts);
        let plan = match planned {
            Ok(outcome) => {
                members
                    .push(("needs.json".into(), serde_json::to_string(&outcome.unmet).unwrap_or_default()));
                outcome.plan.to_string()
            }
            Err(error) => format!("(none: {error})\n"),
        };
        members.push(("plan.txt".into(), plan));
    }
    if let Ok(Some(run)) = timings::last() {
        members.push(("timings.json".into(), serde_json::to_string(&run).unwrap_or_default()));
    }
    members
}
