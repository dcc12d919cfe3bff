//! What is said while `kubeadm init` works: events for programs, lines for people, on a terminal of any width.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::Listed;
use crate::schema::faults;
use crate::world::{Check, IGNORED, SHIMS, World, exits, holds, kubeadm, note};

pub(crate) const TESTS: &[Listed] = &[
    ("progress::events_of_a_finished_node_cover_all_phases", events_of_a_finished_node_cover_all_phases),
    ("progress::a_refused_init_ends_with_an_event", a_refused_init_ends_with_an_event),
    ("progress::a_plan_is_a_document", a_plan_is_a_document),
    ("progress::a_terminal_of_20_columns_is_written_over", a_terminal_of_20_columns_is_written_over),
    ("progress::f63_russian_changes_words_and_nothing_else", f63_russian_changes_words_and_nothing_else),
    ("progress::events_of_a_start_have_waits_and_kubeadms_words_stay", a_start_has_waits),
];

const PHASES: [&str; 7] = ["preflight", "host", "configure", "namespace", "cluster", "publish", "enable"];

fn schema(name: &str) -> Result<Value, Box<dyn std::error::Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("packaging/schema/{name}.json"));
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// All lines of standard output are events; the last one tells the end, with this exit status.
fn events(stdout: &str, exit: u64) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    let parsed: Result<Vec<Value>, _> = stdout.lines().map(serde_json::from_str).collect();
    let events = parsed.map_err(|error| format!("{error} in {stdout}"))?;
    let (mut latest, mut step) = (0.0, 0);
    let schema = schema("progress")?;
    for event in &events {
        let faults = faults(&schema, event, "event");
        holds(faults.is_empty(), format!("{event} does not fit its schema: {faults:?}"))?;
        let common = event["version"] == 1 && event["command"] == "init" && event["event"].is_string();
        let elapsed = event["elapsed"].as_f64().unwrap_or(-1.0);
        holds(common && elapsed >= latest, format!("no event, or out of order: {event}"))?;
        latest = elapsed;
        if let Some(number) = event["step"].as_u64() {
            let begins = u64::from(event["state"] == "begins");
            holds(
                number >= step && number <= event["steps"].as_u64().unwrap_or(0),
                format!("step {number}: {event}"),
            )?;
            step = number - begins;
        }
    }
    let end = events.last().cloned().unwrap_or_default();
    holds(end["event"] == "end" && end["exit"] == exit, format!("the end: {end}"))?;
    note(format!("{} events in {latest} s, {step} steps; the last: {end}", events.len()));
    Ok(events)
}

fn named<'a>(events: &'a [Value], kind: &str, member: &str) -> Vec<&'a str> {
    events.iter().filter(|event| event["event"] == kind).filter_map(|event| event[member].as_str()).collect()
}

fn events_of_a_finished_node_cover_all_phases(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let again = kubeadm(cluster.node(), &["init", IGNORED, "--output", "json"]).run()?;
    exits(&again, 0)?;
    let events = events(&again.stdout, 0)?;
    let phases = named(&events, "phase", "phase");
    holds(phases == PHASES, format!("the phases are {phases:?}"))?;
    let states: BTreeSet<&str> = named(&events, "step", "state").into_iter().collect();
    note(format!("states of steps: {states:?}"));
    let last = events.iter().rev().find(|event| event["event"] == "step").cloned().unwrap_or_default();
    holds(last["step"] == last["steps"], format!("the last step is not the last: {last}"))?;
    holds(again.stderr.contains("nothing to do"), format!("the closing words: {}", again.stderr))
}

fn a_refused_init_ends_with_an_event(world: &World) -> Check {
    let bare = world.bare()?;
    let refused = kubeadm(&bare.node, &["init", "-o", "json"]).run()?;
    exits(&refused, 2)?;
    let events = events(&refused.stdout, 2)?;
    let ids = named(&events, "unmet", "id");
    holds(ids.contains(&"CgroupControllers"), format!("the ids are {ids:?}"))?;
    holds(refused.stderr.contains("[ERROR CgroupControllers]"), refused.stderr.clone())?;
    let wrong = kubeadm(&bare.node, &["init", "--output=yaml"]).run()?;
    exits(&wrong, 3)?;
    holds(wrong.stderr.contains("text or json"), wrong.stderr.clone())
}

fn a_plan_is_a_document(world: &World) -> Check {
    let bare = world.bare()?;
    let plan = kubeadm(&bare.node, &["init", "--dry-run", "--output=json", IGNORED]).run()?;
    exits(&plan, 0)?;
    let document: Value = serde_json::from_str(&plan.stdout)?;
    let faults = faults(&schema("plan")?, &document, "plan");
    holds(faults.is_empty(), format!("the plan does not fit its schema: {faults:?}"))?;
    let phases: Vec<&str> =
        document["phases"].as_array().into_iter().flatten().filter_map(|it| it["phase"].as_str()).collect();
    holds(phases == PHASES[1..], format!("the phases are {phases:?}"))?;
    holds(document["version"] == 1 && document["provisional"].is_boolean(), plan.stdout.clone())
}

/// A wait is one line of at most 19 characters, and is gone when the next line comes; with `NO_COLOR` as without.
fn a_terminal_of_20_columns_is_written_over(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    for variable in ["NO_COLOR=1", "COLOR="] {
        node.ok(&["systemctl", "stop", "u7s"])?;
        let script = format!("stty cols 20; {variable} PATH={SHIMS}:$PATH kubeadm init {IGNORED}");
        let shown = node.command(&["script", "-qec", &script, "/dev/null"]).env("TERM", "xterm");
        let shown = shown.within(Duration::from_secs(180)).run()?;
        exits(&shown, 0)?;
        let text = shown.stdout.clone();
        let passing: Vec<&str> = text
            .split("\r\u{1b}[K")
            .skip(1)
            .map(|part| part.split(['\r', '\n']).next().unwrap_or_default())
            .filter(|part| part.starts_with(['|', '/', '-', '\\']))
            .collect();
        note(format!("{} lines written over, such as {:?}", passing.len(), passing.first()));
        holds(!passing.is_empty(), format!("nothing was written over: {text:?}"))?;
        let longest = passing.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        holds(longest <= 19, format!("{longest} characters on a terminal of 20"))?;
        let others = text.replace("\r\u{1b}[K", "");
        holds(!others.contains('\u{1b}'), format!("other sequences: {others:?}"))?;
        holds(text.contains("done: start u7s.service"), format!("{text:?}"))?;
    }
    let piped = node.command(&[
        "sh",
        "-c",
        &format!("systemctl stop u7s; PATH={SHIMS}:$PATH kubeadm init {IGNORED}"),
    ]);
    let piped = piped.within(Duration::from_secs(180)).run()?;
    exits(&piped, 0)?;
    let sequences = [&piped.stdout, &piped.stderr].into_iter().any(|text| text.contains(['\u{1b}', '\r']));
    holds(!sequences, format!("sequences without a terminal: {piped}"))?;
    holds(piped.stderr.contains("[namespace] done: start u7s.service"), piped.stderr.clone())
}

/// Phases and ids stand in brackets at the begin of lines.
fn marks(text: &str) -> Vec<String> {
    let mark = |line: &str| line.strip_prefix('[')?.split_once(']').map(|(mark, _)| mark.to_owned());
    text.lines().filter_map(mark).collect()
}

fn f63_russian_changes_words_and_nothing_else(world: &World) -> Check {
    let cluster = world.cluster()?;
    let init = |locale: &str| -> Result<_, Box<dyn std::error::Error>> {
        let output = kubeadm(cluster.node(), &["init", IGNORED]).env("LC_ALL", locale).run()?;
        exits(&output, 0)?;
        Ok(output)
    };
    let (english, russian) = (init("C")?, init("ru_RU.UTF-8")?);
    note(&russian.stderr);
    note(&russian.stdout);
    holds(marks(&english.stderr) == marks(&russian.stderr), english.stderr.clone())?;
    holds(marks(&english.stdout) == marks(&russian.stdout), english.stdout.clone())?;
    for text in ["[host] уже в порядке", "подсказка: "] {
        holds(russian.stderr.contains(text), format!("{text}: {}", russian.stderr))?;
    }
    holds(english.stderr.is_ascii() && english.stdout.is_ascii(), "English is not plain")?;
    let koi8 = init("ru_RU.KOI8-R")?;
    holds(
        koi8.stderr.is_ascii() && koi8.stdout.is_ascii(),
        format!("bytes of another character set: {koi8}"),
    )?;
    // As a unit, where standard error is the journal.
    let unit = format!(
        "systemd-run --quiet --wait --collect --unit=u7s-words --setenv=LC_ALL=ru_RU.UTF-8 {SHIMS}/kubeadm init"
    );
    let script = format!("{unit} || true; journalctl --sync; journalctl --no-pager -u u7s-words -o cat");
    let journal = cluster.node().sh(&script)?;
    note(&journal);
    holds(journal.contains("[ERROR CgroupControllers]: cgroup v2 lacks"), "the journal is not English")?;
    holds(journal.is_ascii(), "Russian lines in the journal")
}

fn a_start_has_waits(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    node.ok(&["systemctl", "stop", "u7s"])?;
    let stopped = cluster.now()?;
    let again = kubeadm(node, &["init", IGNORED, "--output=json"]).run()?;
    exits(&again, 0)?;
    let events = events(&again.stdout, 0)?;
    let waits = named(&events, "wait", "text");
    note(format!("waits: {waits:?}"));
    holds(waits.iter().any(|text| text.contains("u7s.service")), format!("no wait for the unit: {waits:?}"))?;
    cluster.converge_anew(&stopped, Duration::from_secs(180)).map(drop)
}
