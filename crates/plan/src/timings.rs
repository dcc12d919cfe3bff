//! How long the parts of the last init or join took: what `u7s timings` shows.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control;

/// Where the last run's durations are kept: 0644 root.
pub const PATH: &str = "/var/lib/u7s/timings.json";

/// Version of the document.
pub const VERSION: u32 = 1;

/// The most parts that one part has; what comes after is counted to the last of them.
///
/// kubeadm's own output is one source of names, and it ran as the node's user.
pub const MOST: usize = 64;

/// The widest column of names; the standard library pads to 65535 at most, and panics where it is asked for more.
const WIDEST: usize = 200;

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// [`VERSION`].
    pub version: u32,
    /// `kubeadm init`.
    pub command: String,
    /// When it began, seconds since the epoch.
    pub began: u64,
    /// The step at which it ended in failure; none for a run that came to its end.
    pub failed: Option<String>,
    /// From the first look at the host to the last step, microseconds.
    pub took_us: u64,
    /// Phases in order.
    pub parts: Vec<Part>,
}

/// A part of a run, or of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// A phase of ours, a step in it, or a phase that kubeadm printed.
    pub name: String,
    /// Its begin, microseconds from the run's.
    pub at_us: u64,
    /// How long it took, microseconds. Parts that overlap add up to more than the whole.
    pub took_us: u64,
    /// What it is made of; the rest of its time is its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// The start of u7s.service as parts of it: each lasts until the next thing was there.
///
/// `end_us`: when the unit was seen to be active, from the run's begin. What systemd and `u7s host-apply` did before the
/// supervisor's first instruction comes first and is what remains of `took_us`.
#[must_use]
pub fn of_unit(timings: &control::Timings, end_us: u64, took_us: u64) -> Vec<Part> {
    let mut reached = [
        ("namespaces", timings.namespace_us),
        ("mounts", timings.mounts_us),
        ("network", timings.network_us),
        ("CRI", timings.cri_us),
    ];
    reached.sort_by_key(|(_, us)| *us);
    let inner = timings.cri_us.min(took_us);
    let begin = end_us.saturating_sub(took_us);
    let exec = end_us.saturating_sub(inner);
    let before = Part { name: "systemd".into(), at_us: begin, took_us: took_us - inner, parts: Vec::new() };
    let mut parts = vec![before];
    let mut last = 0;
    for (name, us) in reached {
        let (at_us, took_us) = (exec.saturating_add(last), us.saturating_sub(last));
        parts.push(Part { name: name.into(), at_us, took_us, parts: Vec::new() });
        last = us;
    }
    parts
}

/// The name of a phase in a line of kubeadm's: `[certs] Using …` is `certs`.
#[must_use]
pub fn phase_of(line: &str) -> Option<&str> {
    let (name, rest) = line.strip_prefix('[')?.split_once(']')?;
    let plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
    (!name.is_empty() && name.len() <= 32 && name.chars().all(plain) && rest.starts_with(' ')).then_some(name)
}

/// The table that people read.
impl fmt::Display for Run {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.failed.is_some() { "until it failed" } else { "whole" };
        let mut rows = Vec::new();
        rows_of(&self.parts, 0, &mut rows);
        rows.push((whole.to_owned(), self.took_us));
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).min(WIDEST);
        writeln!(out, "{:<width$}{:>9}{:>9}", "part", "seconds", "share")?;
        rows.iter().try_for_each(|(name, took)| {
            let share = (u128::from(*took) * 1000).checked_div(u128::from(self.took_us)).unwrap_or(0);
            let ms = took.saturating_add(500) / 1000;
            let seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
            writeln!(out, "{name:<width$}{seconds:>9}{:>5}.{} %", share / 10, share % 10)
        })
    }
}

/// Names, indented by depth, and microseconds. Deeper than 8 is none of ours.
fn rows_of(parts: &[Part], depth: usize, rows: &mut Vec<(String, u64)>) {
    for part in parts {
        rows.push((format!("{:1$}{2}", "", depth * 2, part.name), part.took_us));
        if depth < 8 {
            rows_of(&part.parts, depth + 1, rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, at_us: u64, took_us: u64, parts: Vec<Part>) -> Part {
        Part { name: name.into(), at_us, took_us, parts }
    }

    #[test]
    fn the_table_shows_parts_below_their_wholes_with_seconds_and_share() {
        let cluster =
            part("cluster", 2_000_000, 6_000_000, vec![part("certs", 2_100_000, 1_234_600, vec![])]);
        let run = Run {
            version: VERSION,
            command: "kubeadm init".into(),
            began: 0,
            failed: None,
            took_us: 8_000_000,
            parts: vec![part("host", 0, 2_000_000, vec![]), cluster],
        };
        let wanted = "\
part     seconds    share
host       2.000   25.0 %
cluster    6.000   75.0 %
  certs    1.235   15.4 %
whole      8.000  100.0 %
";
        assert_eq!(run.to_string(), wanted);
        let failed = Run { failed: Some("x".into()), took_us: 0, parts: vec![], ..run };
        assert!(failed.to_string().ends_with("until it failed    0.000    0.0 %\n"));
    }

    #[test]
    fn the_start_of_the_unit_is_told_in_the_order_in_which_things_were_there() {
        let timings =
            control::Timings { namespace_us: 2_000, mounts_us: 3_000, network_us: 9_000, cri_us: 200_000 };
        let parts = of_unit(&timings, 1_000_000, 300_000);
        let seen: Vec<(&str, u64, u64)> =
            parts.iter().map(|part| (part.name.as_str(), part.at_us, part.took_us)).collect();
        let wanted = [
            ("systemd", 700_000, 100_000),
            ("namespaces", 800_000, 2_000),
            ("mounts", 802_000, 1_000),
            ("network", 803_000, 6_000),
            ("CRI", 809_000, 191_000),
        ];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_name_of_any_length_is_shown() {
        let name = "x".repeat(100_000);
        let run = Run {
            version: VERSION,
            command: String::new(),
            began: 0,
            failed: None,
            took_us: 1,
            parts: vec![part(&name, 0, 1, vec![])],
        };
        assert!(run.to_string().contains(&name));
    }

    #[test]
    fn only_kubeadms_own_lines_name_a_phase() {
        assert_eq!(phase_of("[wait-control-plane] Waiting for the kubelet"), Some("wait-control-plane"));
        for line in ["[u7s done", "[x]", "[WARNING Swap]: x", " [certs] x", "[] x", "[a\u{1b}b] x", "x"] {
            assert_eq!(phase_of(line), None, "{line}");
        }
    }
}
