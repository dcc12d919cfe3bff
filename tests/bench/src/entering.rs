//! Entering a node that runs, and what the shims cost.

use crate::stage::{self, Stage};
use crate::trial::{Job, Outcome, Variant};
use crate::unit::{SHIMS, command, up};
use crate::{Bar, Chart, Error, Section, Series, Settings, Summary, Table};

/// Rounds of a full run.
const ROUNDS: usize = 60;

const TEXT: &str = "A command in the namespaces of a running node, and the commands that kubeadm and administrators give most, by the shims and without.\n\
    Times are from the exec of the command to its end. The nsenter lines enter u7s's own node: the second is the one that RootlessKit's\n\
    documentation gives, with its `cat` of the pid, as the unprivileged user.";

/// Measures the section.
pub(crate) fn run(settings: &Settings) -> Result<Section, Error> {
    stage::with(settings, |stage| {
        up(stage, settings)?;
        measure(stage, settings)
    })
}

fn measure(stage: &Stage, settings: &Settings) -> Result<Section, Error> {
    let variants = variants(stage)?;
    let job = |rounds| Job { rounds, variants: variants.clone() };
    stage.run(settings, "entering, warm-up", &job(1))?;
    let outcome = stage.run(settings, "entering", &job(settings.rounds(ROUNDS)))?;
    let series = series(&variants, &outcome)?;
    Ok(Section {
        title: "Entering, and the shims".into(),
        text: TEXT.into(),
        tables: vec![all(&series), added(&series)],
        charts: vec![chart(&series)],
        series,
    })
}

/// What each shim is compared with: names of the rows.
const PAIRS: [(&str, &str); 3] = [
    ("shim: systemctl is-active kubelet", "systemctl is-active dbus"),
    ("shim: systemctl is-active dbus", "systemctl is-active dbus"),
    ("shim: kubeadm version", "kubeadm version"),
];

fn variants(stage: &Stage) -> Result<Vec<Variant>, Error> {
    // Its exit status tells of a degraded node, too.
    let status = stage.node.exec(&["u7s", "status", "-o", "json"])?.stdout;
    let status: serde_json::Value = serde_json::from_str(&status).map_err(Error::json("u7s status"))?;
    let pid = &status["init_pid"];
    let Some(pid) = pid.as_i64().or_else(|| status["status"]["init_pid"].as_i64()).map(|pid| pid.to_string())
    else {
        return Err(Error::Answer { what: "u7s status".into(), text: status.to_string() });
    };
    stage.node.write("/opt/bench/run/child_pid", &pid)?;
    let documented = "exec nsenter -U --preserve-credentials -n -m -t $(cat /opt/bench/run/child_pid) true";
    let all = ["/usr/bin/nsenter", "--target", &pid, "--all", "--setuid", "0", "--setgid", "0", "true"];
    let shim = |program: &str| format!("{SHIMS}/{program}");
    let (systemctl, kubeadm) = (shim("systemctl"), shim("kubeadm"));
    Ok(vec![
        command(stage, "u7s shell -- true", &["/usr/bin/u7s", "shell", "--", "true"], true),
        command(stage, "nsenter, all namespaces, as root", &all, true),
        command(stage, "RootlessKit's documented nsenter line", &["/bin/sh", "-c", documented], false),
        command(stage, PAIRS[0].0, &[&systemctl, "is-active", "kubelet"], true),
        command(stage, PAIRS[1].0, &[&systemctl, "is-active", "dbus"], true),
        command(stage, PAIRS[0].1, &["/usr/bin/systemctl", "is-active", "dbus"], true),
        command(stage, PAIRS[2].0, &[&kubeadm, "version"], true),
        command(stage, PAIRS[2].1, &["/usr/bin/kubeadm", "version"], true),
    ])
}

fn series(variants: &[Variant], outcome: &Outcome) -> Result<Vec<Series>, Error> {
    let mut all = Vec::new();
    for (place, variant) in variants.iter().enumerate() {
        let mut series = Series::new(variant.name.as_str(), "ms");
        outcome.times[place].iter().for_each(|times| series.push(times.map(|times| times.wall)));
        if series.summary().count == 0 {
            let text = outcome.complaints[place].clone();
            return Err(Error::Answer { what: variant.name.clone(), text });
        }
        all.push(series);
    }
    Ok(all)
}

fn all(series: &[Series]) -> Table {
    let mut table = Table::new("Milliseconds", ["", "time", "runs", "failed"]);
    for one in series {
        table.row([
            one.label.clone(),
            one.summary().text(),
            one.samples.len().to_string(),
            one.failed().to_string(),
        ]);
    }
    table
}

fn added(series: &[Series]) -> Table {
    let mut table = Table::new("What a shim adds, ms, pair by pair", ["", "added", "wanted"]);
    let find = |name: &str| series.iter().find(|series| series.label == name);
    for (shim, bare) in PAIRS {
        let (Some(above), Some(below)) = (find(shim), find(bare)) else { continue };
        let pairs = above.samples.iter().zip(&below.samples);
        let added = Summary::of(pairs.filter_map(|(above, below)| Some((*above)? - (*below)?)));
        table.row([format!("{shim} − {bare}"), added.text(), "≤ 3".into()]);
    }
    table.note = "The first is answered by the supervisor and asks no systemd at all.".into();
    table
}

fn chart(series: &[Series]) -> Chart {
    let bar = |series: &Series| Bar::plain(series.label.as_str(), "exec to end", series.summary().median);
    Chart {
        name: "entering".into(),
        title: "Entering, and the shims (medians)".into(),
        unit: "ms".into(),
        bars: series.iter().map(bar).collect(),
    }
}
