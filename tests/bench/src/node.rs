//! A whole node: from nothing to Ready, start of its unit, reboot; beside the same node as root.
//!
//! Pairs of nested nodes in turn, on one machine: the same tree, kernel, programs, images, CRI-O, crun and bridge network.
//! Both begin with the images as an OCI layout on disk and no CRI-O running, and both copy them with skopeo.

mod rootful;
mod rootless;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use u7s_harness::Lan;

use crate::{Bar, Chart, Error, Section, Series, Settings, Summary, Table, ratio, short};

/// Pairs of a full run: each takes one to two minutes.
const PAIRS: usize = 5;

/// Starts of the unit in each node.
const STARTS: usize = 3;

/// The ratio that is wanted at most.
const WANTED: f64 = 1.05;

/// What one node took.
#[derive(Debug, Default)]
struct Seen {
    /// Parts of the way to Ready in order, each with its name.
    parts: Vec<(&'static str, Duration)>,
    /// From the node's Ready to both CoreDNS pods'.
    dns: Duration,
    /// From the order to start to the answer of CRI; as root there is nothing like it, see [`NOTE`].
    starts: Vec<Duration>,
    /// From the start of systemd to the kubelet's first word that the node is Ready.
    reboot: Duration,
}

/// Names of the parts, in order.
const CHECKS: &str = "checks, files";
const IMAGES: &str = "images";
const RUNTIME: &str = "namespaces, CRI-O";
const CERTIFICATES: &str = "kubeadm: certificates";
const CONTROL_PLANE: &str = "kubeadm: control plane";
const ADDONS: &str = "kubeadm: uploads, add-ons";
const PUBLISH: &str = "kubeconfigs, enabling";
const READY: &str = "to node Ready";

impl Seen {
    /// The sum of those parts that `wanted` takes.
    fn sum(&self, wanted: impl Fn(&str) -> bool) -> Duration {
        self.parts.iter().filter(|(name, _)| wanted(name)).map(|(_, took)| *took).sum()
    }

    fn part(&self, name: &str) -> Duration {
        self.sum(|part| part == name)
    }
}

/// A row of the table: what, and how it is read from one node.
type Row = (&'static str, fn(&Seen) -> Duration);

const ROWS: &[Row] = &[
    ("images on disk → end of `kubeadm init`", |seen| seen.sum(|part| part != READY)),
    ("images on disk → node Ready", |seen| seen.sum(|_| true)),
    ("images on disk → CoreDNS Ready", |seen| seen.sum(|_| true) + seen.dns),
    ("the same without copying images → node Ready", |seen| seen.sum(|part| part != IMAGES)),
    ("the real kubeadm alone", |seen| seen.part(CERTIFICATES) + seen.part(CONTROL_PLANE) + seen.part(ADDONS)),
    ("`systemctl start u7s` → CRI answers", |seen| middle(&seen.starts)),
    ("power on → node Ready again", |seen| seen.reboot),
];

/// The row that is compared with [`WANTED`].
const JUDGED: usize = 1;

/// Measures and compares.
///
/// A quick run is one rootless node, its init and the starts of its unit: a twin and a reboot take a minute more.
///
/// # Errors
/// A node does not come up.
pub(crate) fn run(settings: &Settings) -> Result<Section, Error> {
    let programs: PathBuf = settings.programs.clone();
    let lan = Lan::new()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    if settings.quick {
        ours.push(rootless::measure(&lan, &programs, ("q", 1, false))?);
        return Ok(section(&ours, &theirs));
    }
    for round in 0..PAIRS {
        settings.say(&format!("pair {} of {PAIRS} of nodes", round + 1));
        // Who is first has no advantage in the end.
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                ours.push(rootless::measure(&lan, &programs, (&format!("a{round}"), STARTS, true))?);
            } else {
                theirs.push(rootful::measure(&lan, &programs, (&format!("b{round}"), true))?);
            }
        }
    }
    Ok(section(&ours, &theirs))
}

fn section(ours: &[Seen], theirs: &[Seen]) -> Section {
    let mut table = Table::new(
        "Seconds, median and quartiles; the ratio is taken pair by pair",
        ["", "u7s", "as root", "u7s ÷ as root"],
    );
    let mut kept = Vec::new();
    let mut judged = Summary::of([]);
    for (place, (what, read)) in ROWS.iter().enumerate() {
        let us = series(format!("u7s: {what}"), ours, *read);
        let root = series(format!("as root: {what}"), theirs, *read);
        let quotient = ratio(&us, &root);
        if place == JUDGED {
            judged = quotient;
        }
        table.row([(*what).to_owned(), us.text(), root.text(), quotient.text()]);
        kept.extend([us, root]);
    }
    table.note = NOTE.to_owned();
    let bars = [bar("u7s", ours), bar("as root", theirs)];
    let chart = Chart {
        name: "node-init".into(),
        title: "From images on disk to a Ready node, medians of the parts".into(),
        unit: "s".into(),
        bars: bars.into_iter().flatten().collect(),
    };
    let text = format!("{HEAD}\n\n{}", verdict(judged));
    Section { title: "The node".into(), text, tables: vec![table], charts: vec![chart], series: kept }
}

const HEAD: &str = "\
Nested nodes in turn, one rootless, one as root, with the same programs, images, CRI-O, crun and bridge network. Both begin with \
their images as an OCI layout on disk and without CRI-O; both copy them with skopeo into CRI-O's store. For u7s all of it is one \
`kubeadm init`, which copies several images side by side; as root it is a loop of skopeo, `systemctl start crio`, `kubeadm init`.";

const NOTE: &str = "\
The rootful nodes run crun by a small shell script, because this kind of nested node lacks capabilities that a privileged container \
asks for; it costs them a few milliseconds a container. CoreDNS is late there because what it sends to \
a service address before kube-proxy has written its rules is lost; inside u7s it is refused at once, and tried again. The start of the unit \
has no twin: a stop of crio.service leaves the containers running. Ready after a reboot is the first status that the kubelet posts after the \
power cut and that says so.";

fn verdict(ratio: Summary) -> String {
    if ratio.count == 0 {
        return "This was a quick run without a rootful twin.".into();
    }
    let word = if ratio.median <= WANTED { "met" } else { "missed" };
    format!(
        "`kubeadm init` to a Ready node takes {} times what it takes as root ({} pairs); at most {WANTED} is wanted: {word}.",
        short(ratio.median),
        ratio.count
    )
}

fn series(label: String, nodes: &[Seen], read: fn(&Seen) -> Duration) -> Series {
    let mut series = Series::new(label, "s");
    // What a quick run leaves out is nothing that failed.
    nodes
        .iter()
        .map(read)
        .filter(|took| !took.is_zero())
        .for_each(|took| series.push(Some(took.as_secs_f64())));
    series
}

fn bar(label: &str, nodes: &[Seen]) -> Option<Bar> {
    let first = nodes.first()?;
    let parts = first.parts.iter().map(|(name, _)| {
        let all = nodes.iter().map(|seen| seen.part(name).as_secs_f64());
        ((*name).to_owned(), Summary::of(all).median)
    });
    Some(Bar { label: label.to_owned(), parts: parts.collect() })
}

/// The middle one; zero of none.
fn middle(all: &[Duration]) -> Duration {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(images: u64, rest: u64) -> Seen {
        let second = Duration::from_secs;
        Seen {
            parts: vec![(IMAGES, second(images)), (ADDONS, second(rest)), (READY, second(1))],
            dns: second(2),
            starts: vec![second(3), second(1), second(2)],
            reboot: second(9),
        }
    }

    #[test]
    fn rows_are_read_from_nodes_and_compared_pair_by_pair() {
        let (ours, theirs) = ([seen(1, 7), seen(1, 8)], [seen(2, 7), seen(2, 7)]);
        let section = section(&ours, &theirs);
        let row = |place: usize| section.tables[0].rows[place].clone();
        assert_eq!(row(0)[1..], ["8.50 (8.25–8.75)", "9.00 (9.00–9.00)", "0.944 (0.917–0.972)"]);
        assert_eq!(row(3)[1..], ["8.50 (8.25–8.75)", "8.00 (8.00–8.00)", "1.06 (1.03–1.09)"]);
        assert_eq!(row(5)[1], "2.00 (2.00–2.00)");
        assert!(
            section
                .text
                .ends_with("0.950 times what it takes as root (2 pairs); at most 1.05 is wanted: met.")
        );
        assert_eq!(section.charts[0].bars[0].parts[1], (ADDONS.to_owned(), 7.5));
    }

    #[test]
    fn a_quick_run_has_no_twin_and_judges_nothing() {
        let section = section(&[Seen { reboot: Duration::ZERO, ..seen(1, 2) }], &[]);
        assert_eq!(section.tables[0].rows[6][1..], ["–", "–", "–"]);
        assert!(section.text.ends_with("without a rootful twin."));
        assert_eq!(section.charts[0].bars.len(), 1);
    }
}
