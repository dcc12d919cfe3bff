//! `kubeadm reset`: the real reset inside, then everything that init changed on the host.

use std::io::BufRead;

use serde_json::json;
use u7s_host::apply::{Applier, Event, Tally};
use u7s_host::enter;
use u7s_host::lock::Lock;
use u7s_host::probe;
use u7s_plan::config::Config;
use u7s_plan::request::{self, Form};
use u7s_plan::step::Plan;

use super::progress::Progress;
use super::{init, machine};
use crate::{End, Error, report};

/// The longest answer that is read, bytes.
const LONGEST: u64 = 1024;

/// Plans `kubeadm reset` and applies it, or with `--dry-run` prints it.
pub(super) fn run(request: &request::Reset) -> Result<End, Error> {
    let config = machine::config_or_default(machine::effective_uid() == 0)?;
    if request.dry_run {
        return show(&plan(&config, request)?, request.output);
    }
    let mut progress = Progress::begin("reset", request.output)?;
    let mut tally = None;
    let result = perform(&config, request, &mut progress, &mut tally);
    progress.finish(&result, tally);
    result
}

fn show(plan: &Plan, form: Form) -> Result<End, Error> {
    match form {
        Form::Text => report::result(&plan.to_string())?,
        Form::Json => {
            let document = json!({"version": 1, "command": "reset", "phases": init::phases(plan)});
            report::json(&format!("{document:#}\n"))?;
        }
    }
    Ok(End::OK)
}

fn perform(
    config: &Config,
    request: &request::Reset,
    progress: &mut Progress,
    done: &mut Option<Tally>,
) -> Result<End, Error> {
    if enter::inside() {
        return Err(Error::Inside);
    }
    if machine::effective_uid() != 0 {
        return Err(machine::not_privileged("kubeadm reset"));
    }
    if !request.force && !skips_preflight(request) {
        confirm()?;
    }
    let _lock = Lock::take()?;
    apply(config, &plan(config, request)?, progress, done)
}

fn plan(config: &Config, request: &request::Reset) -> Result<Plan, Error> {
    let request = request::Reset { document: document(request)?, ..request.clone() };
    Ok(u7s_plan::reset::reset(config, &request, &probe::facts(config)?))
}

/// The ResetConfiguration in the user's file, relative to the directory that he called us from.
fn document(request: &request::Reset) -> Result<Option<serde_json::Value>, Error> {
    let Some(path) = &request.config else { return Ok(None) };
    let name = path.display().to_string();
    let documents = u7s_plan::yaml::documents(&machine::document(path)?, &name)?;
    match documents.into_iter().find(|document| document["kind"] == "ResetConfiguration") {
        Some(document) => Ok(Some(document)),
        None => Err(Error::Usage(format!("{name}: no ResetConfiguration found in the configuration file"))),
    }
}

fn apply(
    config: &Config,
    plan: &Plan,
    progress: &mut Progress,
    done: &mut Option<Tally>,
) -> Result<End, Error> {
    progress.expect(plan.phases.iter().map(|phase| phase.steps.len()).sum());
    let mut tell = |event: Event<'_>| progress.hear(&event);
    let (tally, errors) = Applier::new(&config.user, &mut tell)?.run_on(&plan.phases);
    progress.end();
    *done = Some(tally);
    if !errors.is_empty() {
        return Err(Error::Reset(errors));
    }
    report::text(match tally.done {
        0 => "[u7s] no node is left on this host, there was nothing to do\n",
        _ => "[u7s] the host is as it was before init\n",
    })?;
    Ok(End::OK)
}

/// kubeadm asks in its phase preflight, so that skipping the phase skips the question.
fn skips_preflight(request: &request::Reset) -> bool {
    let lists = request.pass_flags.iter().filter_map(|flag| flag.strip_prefix("--skip-phases="));
    lists.flat_map(|list| list.split(',')).any(|phase| phase.trim() == "preflight")
}

/// kubeadm's own question, word by word. Without a terminal the answer is read all the same; no answer means no.
///
/// Source: kubernetes 1.34, cmd/kubeadm/app/cmd/phases/reset/preflight.go; util.go, `InteractivelyConfirmAction`.
fn confirm() -> Result<(), Error> {
    report::line(
        "[reset] WARNING: Changes made to this host by 'kubeadm init' or 'kubeadm join' will be reverted.",
    );
    report::ask("[reset] Are you sure you want to proceed? [y/N]: ");
    let mut answer = String::new();
    // An answer that cannot be read is none.
    let _ = std::io::Read::take(std::io::stdin().lock(), LONGEST).read_line(&mut answer);
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::Declined),
    }
}
