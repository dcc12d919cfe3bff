//! What a node that does nothing costs: memory, processor, wake-ups; and what its programs weigh.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use u7s_harness::Process;

use crate::stage::{self, Stage};
use crate::trial::Job;
use crate::unit::{command, up};
use crate::{Bar, Chart, Error, Section, Series, Settings, Table, short};

/// What is looked at: name in the table, first letters of the process' name.
const PROCESSES: [(&str, &str); 5] = [
    ("supervisor", "u7s-supervisor"),
    ("pid 1", "u7s-init"),
    ("forwarder", "u7s-forwarder"),
    ("slirp4netns", "slirp4netns"),
    ("kubectl, watching for Services", "kubectl"),
];

/// Name in the table, path in the node, whether it answers `--version`.
const PROGRAMS: [(&str, &str, bool); 9] = [
    ("u7s", "/usr/bin/u7s", true),
    ("u7s-supervisor", "/usr/libexec/u7s/u7s-supervisor", true),
    ("kubeadm (shim)", "/usr/libexec/u7s/bin/kubeadm", false),
    ("systemctl (shim)", "/usr/libexec/u7s/bin/systemctl", true),
    ("systemctl (systemd's)", "/usr/bin/systemctl", true),
    ("u7s-crun", "/usr/libexec/u7s/u7s-crun", true),
    ("crun", "/usr/bin/crun", true),
    ("slirp4netns", "/usr/bin/slirp4netns", true),
    ("rootlesskit", "/opt/bench/rootlesskit", true),
];

/// Starts of each program for its version, in a full run.
const ROUNDS: usize = 40;

const TEXT: &str = "Processes of u7s on a node where nothing is started, deployed or asked for. *Pss* counts a page that several processes share in parts;\n\
    *wake-ups* are voluntary context switches. `u7s.service` runs, and with it, in a full run, a whole cluster of one node.";

/// What one kind of process has used so far.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    count: usize,
    rss: f64,
    pss: f64,
    cpu: f64,
    switches: f64,
}

/// Measures the section.
pub(crate) fn run(settings: &Settings) -> Result<Section, Error> {
    stage::with(settings, |stage| {
        up(stage, settings)?;
        measure(stage, settings)
    })
}

fn measure(stage: &Stage, settings: &Settings) -> Result<Section, Error> {
    let (settle, span) = if settings.quick { (1, 5) } else { (60, 60) };
    settings.say(&format!("footprint: {settle} s of rest, then {span} s that count"));
    std::thread::sleep(Duration::from_secs(settle));
    let before = usage(&stage.node.processes());
    std::thread::sleep(Duration::from_secs(span));
    let after = usage(&stage.node.processes());
    let versions = versions(stage, settings)?;
    Ok(Section {
        title: "Footprint".into(),
        text: TEXT.into(),
        tables: vec![idle(&before, &after, span), programs(stage, &versions)?],
        charts: vec![memory(&after)],
        series: versions,
    })
}

/// By name in the table.
fn usage(processes: &[Process]) -> BTreeMap<&'static str, Use> {
    let mut all = BTreeMap::<&str, Use>::new();
    for process in processes {
        let Some((name, _)) = PROCESSES.iter().find(|(_, comm)| process.comm.starts_with(comm)) else {
            continue;
        };
        let entry = all.entry(name).or_default();
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).unwrap_or_default();
        let (cpu, switches) = threads(process.pid);
        entry.count += 1;
        entry.rss += kibibytes(&rollup, "Rss:") / 1024.0;
        entry.pss += kibibytes(&rollup, "Pss:") / 1024.0;
        entry.cpu += cpu;
        entry.switches += switches;
    }
    all
}

/// Milliseconds on a processor and voluntary context switches of all threads.
///
/// Source: the kernel's scheduler/sched-stats.rst, `/proc/PID/schedstat`: nanoseconds spent on the processor come first.
fn threads(pid: i32) -> (f64, f64) {
    let (mut cpu, mut switches) = (0.0, 0.0);
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return (cpu, switches) };
    for entry in entries.flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let nanoseconds = read("schedstat").split(' ').next().and_then(|text| text.parse::<f64>().ok());
        cpu += nanoseconds.unwrap_or(0.0) / 1e6;
        let status = read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches += line.and_then(|text| text.trim().parse::<f64>().ok()).unwrap_or(0.0);
    }
    (cpu, switches)
}

/// Source: proc_pid_smaps(5): name, number, kB.
fn kibibytes(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

fn idle(before: &BTreeMap<&str, Use>, after: &BTreeMap<&str, Use>, seconds: u64) -> Table {
    let title = format!("Idle, over {seconds} s");
    let mut table = Table::new(title, ["", "processes", "Rss, MiB", "Pss, MiB", "processor, ms", "wake-ups"]);
    let mut both = Use::default();
    for (name, _) in PROCESSES {
        let Some(now) = after.get(name) else { continue };
        let then = before.get(name).copied().unwrap_or_default();
        let (cpu, switches) = (now.cpu - then.cpu, now.switches - then.switches);
        table.row([
            name.into(),
            now.count.to_string(),
            short(now.rss),
            short(now.pss),
            short(cpu),
            short(switches),
        ]);
        if ["supervisor", "pid 1"].contains(&name) {
            both.rss += now.rss;
            both.pss += now.pss;
            both.cpu += cpu;
            both.switches += switches;
        }
    }
    let sum = [both.rss, both.pss, both.cpu, both.switches].map(short);
    let [rss, pss, cpu, switches] = sum;
    table.row(["supervisor and pid 1 (wanted: under 6 MiB)".into(), "2".into(), rss, pss, cpu, switches]);
    table
}

fn versions(stage: &Stage, settings: &Settings) -> Result<Vec<Series>, Error> {
    let asked: Vec<_> = PROGRAMS.iter().filter(|(_, _, answers)| *answers).collect();
    let variants =
        asked.iter().map(|(name, path, _)| command(stage, name, &[path, "--version"], true)).collect();
    let outcome = stage.run(settings, "--version", &Job { rounds: settings.rounds(ROUNDS), variants })?;
    let mut all = Vec::new();
    for ((name, ..), times) in asked.iter().zip(&outcome.times) {
        let mut series = Series::new(*name, "ms");
        times.iter().for_each(|times| series.push(times.map(|times| times.wall)));
        all.push(series);
    }
    Ok(all)
}

fn programs(stage: &Stage, versions: &[Series]) -> Result<Table, Error> {
    let mut table = Table::new("Programs", ["", "size, MiB", "--version, ms"]);
    for (name, path, _) in PROGRAMS {
        let time = versions.iter().find(|series| series.label == name);
        let time = time.map_or_else(|| "–".into(), |series| series.summary().text());
        table.row([name.into(), size(&stage.file(path)?)?, time]);
    }
    table.note =
        "The shim `systemctl` and `u7s-crun` hand that over to systemd's systemctl and to crun.".into();
    Ok(table)
}

#[expect(clippy::cast_precision_loss, reason = "the size of a program")]
fn size(path: &Path) -> Result<String, Error> {
    let bytes = fs::metadata(path).map_err(Error::file("looking at", path))?.len();
    Ok(short(bytes as f64 / 1_048_576.0))
}

fn memory(after: &BTreeMap<&str, Use>) -> Chart {
    let bar = |(name, _): &(&str, &str)| Some(Bar::plain(*name, "Pss", after.get(name)?.pss));
    Chart {
        name: "footprint".into(),
        title: "Resident memory of an idle node's own processes".into(),
        unit: "MiB".into(),
        bars: PROCESSES.iter().filter_map(bar).collect(),
    }
}
