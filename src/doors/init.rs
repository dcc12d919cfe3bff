//! `kubeadm init` and `kubeadm join`: facts, plan, needs; then the plan is applied, or only shown.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use u7s_host::apply::{Applier, Border, Tally, failpoint};
use u7s_host::enter::{self, Author};
use u7s_host::lock::Lock;
use u7s_host::{probe, timings};
use u7s_plan::closing::JoinCommand;
use u7s_plan::config::Config;
use u7s_plan::init::{Docs, Outcome};
use u7s_plan::need::Unmet;
use u7s_plan::request::{self, Form};
use u7s_plan::step::{Phase, PhaseSteps, Plan, Step};
use u7s_plan::timings::Run;
use u7s_plan::{kubeadm, yaml};

use super::machine;
use super::progress::Progress;
use super::stopwatch::Stopwatch;
use crate::{End, Error, report};

/// What is planned.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command<'a> {
    /// `kubeadm init`.
    Init(&'a request::Init),
    /// `kubeadm join`.
    Join(&'a request::Join),
}

impl<'a> Command<'a> {
    /// The flags that both have.
    fn given(self) -> &'a request::Init {
        match self {
            Self::Init(given) => given,
            Self::Join(request) => &request.given,
        }
    }

    /// The subcommand.
    fn word(self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            Self::Join(_) => "join",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Init(_) => "kubeadm init",
            Self::Join(_) => "kubeadm join",
        }
    }

    /// Kind of the document that it reads first.
    fn kind(self) -> &'static str {
        match self {
            Self::Init(_) => "InitConfiguration",
            Self::Join(_) => "JoinConfiguration",
        }
    }
}

/// Plans the command and applies it, or with `--dry-run` prints it.
pub(super) fn run(request: Command<'_>) -> Result<End, Error> {
    if request.given().dry_run {
        return show(request);
    }
    let mut progress = Progress::begin(request.word(), request.given().output)?;
    let mut tally = None;
    let result = perform(request, &mut progress, &mut tally);
    progress.finish(&result, tally);
    result
}

fn perform(request: Command<'_>, progress: &mut Progress, done: &mut Option<Tally>) -> Result<End, Error> {
    if enter::inside() {
        return Err(Error::Inside);
    }
    if machine::effective_uid() != 0 {
        return Err(machine::not_privileged(request.name()));
    }
    let config = machine::config()?;
    // Facts that another run is just changing are worth nothing.
    let _lock = Lock::take()?;
    let mut watch = Stopwatch::start(request.name());
    watch.phase(Phase::Preflight, Instant::now());
    progress.phase(Phase::Preflight);
    let docs = docs(&config, request)?;
    let outcome = plan(&config, request, docs.clone())?;
    failpoint(Border::Before, Phase::Preflight);
    preflight(&outcome, progress)?;
    failpoint(Border::After, Phase::Preflight);
    let applied = apply(&config, (request, docs), outcome, (&mut watch, progress));
    let run = watch.stop(Instant::now());
    if applied.as_ref().map_or(true, |(_, tally, _)| tally.done > 0) {
        keep(&run, request.given());
    }
    let (outcome, tally, joins) = applied?;
    *done = Some(tally);
    if outcome.summary.role.joins() {
        compare(&config)?;
    }
    report::text(&closing(&outcome, tally, &run))?;
    report::text(&joining(&joins))?;
    Ok(End::OK)
}

/// Prints the plan, changes nothing, and says whether the host is ready for it.
pub(super) fn show(request: Command<'_>) -> Result<End, Error> {
    let config = machine::config_or_default(machine::effective_uid() == 0)?;
    let outcome = plan(&config, request, docs(&config, request)?)?;
    match request.given().output {
        Form::Json => report::json(&format!("{:#}\n", document(request.word(), &outcome)))?,
        Form::Text => report::result(&outcome.plan.to_string())?,
    }
    if outcome.provisional {
        report::line("ids and what depends on them are a preview: the node's user does not exist yet");
    }
    warn(&outcome)?;
    Ok(End::OK)
}

/// The plan and what stands against it, for programs.
fn document(command: &str, outcome: &Outcome) -> Value {
    json!({
        "version": 1,
        "command": command,
        "provisional": outcome.provisional,
        "phases": phases(&outcome.plan),
        "unmet": outcome.unmet,
    })
}

/// A plan's phases for programs: no secrets, no content of files.
pub(super) fn phases(plan: &Plan) -> Value {
    let step = |step: &Step| json!({"realm": step.realm.to_string(), "text": step.action.to_string(), "why": step.why});
    let phase = |phase: &PhaseSteps| json!({"phase": phase.phase.as_str(), "steps": phase.steps.iter().map(step).collect::<Vec<_>>()});
    plan.phases.iter().map(phase).collect()
}

/// All needs that are not met, for `u7s check`.
pub(super) fn needs(request: &request::Init) -> Result<Vec<Unmet>, Error> {
    let config = machine::config_or_default(machine::effective_uid() == 0)?;
    let request = Command::Init(request);
    plan(&config, request, docs(&config, request)?).map(|outcome| outcome.unmet)
}

fn plan(config: &Config, request: Command<'_>, docs: Docs) -> Result<Outcome, Error> {
    let facts = probe::facts(config)?;
    Ok(match request {
        Command::Init(request) => u7s_plan::init::init(config, request, docs, &facts)?,
        Command::Join(request) => u7s_plan::init::join(config, request, docs, &facts)?,
    })
}

/// The user's own files, relative to the directory that he called us from.
///
/// Read once for a run: phase Host makes /etc/kubernetes the node's user's, and a pipe is read to its end.
fn docs(config: &Config, request: Command<'_>) -> Result<Docs, Error> {
    let given = request.given();
    let (mut docs, mut author) = (Docs::default(), Author::Root);
    if let Some(path) = given.config_file() {
        let (text, his) = machine::authored(path)?;
        docs.documents = yaml::documents(&text, &path.display().to_string())?;
        author = his;
    }
    // What a flag names is root's word, whoever wrote the document beside it.
    let whose = |flag: &str| {
        if given.value(flag).is_some_and(|path| !path.is_empty()) { Author::Root } else { author }
    };
    if let Some(directory) = kubeadm::patches_directory(given, &docs.documents, request.kind()) {
        docs.patches = probe::patches(&directory, whose("patches"), &machine::reader(config))?;
        for name in kubeadm::passed_over(&docs.patches) {
            report::line(&format!(
                "[patches] Ignoring file \"{}\": it is none of kubeadm's patches",
                name.escape_debug()
            ));
        }
    }
    if let Command::Join(_) = request
        && let Some(path) = kubeadm::discovery_file(given, &docs.documents)
    {
        docs.discovery = Some(machine::document_of(&path, whose("discovery-file"), config)?.into());
    }
    Ok(docs)
}

/// Warnings and errors are told of, all at once.
fn preflight(outcome: &Outcome, progress: &mut Progress) -> Result<(), Error> {
    progress.unmet(&outcome.unmet);
    warn(outcome)
}

/// Warnings are said, errors end the run.
fn warn(outcome: &Outcome) -> Result<(), Error> {
    if outcome.errors().next().is_some() {
        return Err(Error::Unmet(outcome.unmet.clone()));
    }
    report::needs(&outcome.unmet);
    Ok(())
}

/// Says what is odd about the cluster that was joined, now that it can be asked.
fn compare(config: &Config) -> Result<(), Error> {
    let cluster = machine::user(config).and_then(|user| probe::configuration(&user));
    if let Some(cluster) = cluster {
        report::needs(&u7s_plan::preflight::joined(config, &probe::facts(config)?, &cluster));
    }
    Ok(())
}

/// Applies all phases; where the user did not exist, phase Host alone first, and then all with his real ids.
fn apply(
    config: &Config,
    (request, docs): (Command<'_>, Docs),
    planned: Outcome,
    (watch, progress): (&mut Stopwatch, &mut Progress),
) -> Result<(Outcome, Tally, Vec<JoinCommand>), Error> {
    let mut tally = Tally::default();
    let mut outcome = planned;
    if outcome.provisional {
        // Of what follows as many steps as the preview has.
        progress.expect(steps(outcome.phases()) + steps(&outcome.plan.phases));
        tally = walk(config, &outcome, progress, watch)?.0;
        watch.phase(Phase::Preflight, Instant::now());
        outcome = plan(config, request, docs)?;
        preflight(&outcome, progress)?;
    }
    progress.expect(steps(outcome.phases()));
    let (rest, joins) = walk(config, &outcome, progress, watch)?;
    progress.end();
    let tally = Tally { done: tally.done + rest.done, held: rest.held, skipped: rest.skipped };
    Ok((outcome, tally, joins))
}

fn steps<'a>(phases: impl IntoIterator<Item = &'a PhaseSteps>) -> usize {
    phases.into_iter().map(|phase| phase.steps.len()).sum()
}

fn walk(
    config: &Config,
    outcome: &Outcome,
    progress: &mut Progress,
    watch: &mut Stopwatch,
) -> Result<(Tally, Vec<JoinCommand>), Error> {
    let mut tell = |event: u7s_host::apply::Event<'_>| {
        watch.hear(&event, Instant::now());
        progress.hear(&event);
    };
    let mut applier = Applier::new(&config.user, &mut tell)?;
    let tally = applier.run(outcome.phases())?;
    Ok((tally, applier.into_join_commands()))
}

/// What each part took is kept for `u7s timings`; who asked kubeadm for details sees it at once.
fn keep(run: &Run, given: &request::Init) {
    if let Err(error) = timings::keep(run) {
        report::line(&format!("the times of this run are not kept: {error}"));
    }
    if given.verbosity() > 0 {
        report::line(&format!("[u7s] what this run took:\n{run}"));
    }
}

/// The last words, in the place of kubeadm's own.
fn closing(outcome: &Outcome, tally: Tally, run: &Run) -> String {
    let seconds = Duration::from_micros(run.took_us).as_secs_f64();
    let head = match tally.done {
        0 => "the node stands as it should, there was nothing to do".to_owned(),
        done => {
            format!(
                "{done} steps done, {} held already, in {seconds:.1} s (u7s timings: of what)",
                tally.held
            )
        }
    };
    format!(
        "\n[u7s] {head}\n{}\n{}to look inside: u7s status, u7s shell\n",
        outcome.summary,
        kubectl(outcome)
    )
}

/// How kubectl is used on a control plane; a worker has no kubeconfig for it.
///
/// No file is named that the node's user can write: kubectl runs what such a file says.
fn kubectl(outcome: &Outcome) -> String {
    if outcome.summary.role.api_port().is_none() {
        return "kubectl works on the control plane: kubectl get nodes\n".to_owned();
    }
    let [root, _] = u7s_plan::host::kubeconfigs(&outcome.node.user.home);
    format!(
        "kubectl of root works as it is, by {}\na kubeconfig for somebody else: u7s kubeconfig --file FILE\n",
        root.display()
    )
}

/// How other nodes join, in kubeadm's own form and with the workers' command last: scripts look for it there.
fn joining(commands: &[JoinCommand]) -> String {
    let mut text = String::new();
    for command in commands {
        let _ = match (command.is_control_plane(), command.has_certificate_key()) {
            (true, true) => write!(
                text,
                "\nmore control planes: on each as root, within two hours, or after another \"kubeadm init phase upload-certs --upload-certs\";\n\
                 the certificate key opens secrets of the cluster: keep it to yourself\n\n  {command}\n"
            ),
            (true, false) => write!(
                text,
                "\nmore control planes: on each as root, once it has the cluster's certificate authorities and service account keys\n\n  {command}\n"
            ),
            (false, _) => write!(text, "\nworkers: on each as root\n\n{command}\n"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use u7s_plan::closing::Closing;

    use super::*;

    #[test]
    fn f1_the_commands_for_other_nodes_are_printed_and_the_workers_is_the_last() {
        let hash = format!("sha256:{}", "0".repeat(64));
        let token = "abcdef.0123456789abcdef";
        let worker =
            format!("kubeadm join h:6443 --token {token} \\\n\t--discovery-token-ca-cert-hash {hash} \n");
        let plane = format!("  {} \\\n\t--control-plane \n", worker.trim_end());
        let mut closing = Closing::default();
        let said = format!(
            "Your Kubernetes control-plane has initialized successfully!\n\n{plane}\nThen\n\n{worker}"
        );
        said.lines().for_each(|line| {
            let _ = closing.shows(line);
        });
        let text = joining(&closing.commands());
        assert!(text.ends_with(&worker), "{text}");
        assert!(text.contains("--control-plane \n") && text.contains("service account keys"), "{text}");
        assert_eq!(joining(&[]), "");
    }
}
