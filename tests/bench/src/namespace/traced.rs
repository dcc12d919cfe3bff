//! The same tools under strace: how many calls they make, and in what parts their time falls.

use std::fs;

use crate::stage::{Stage, place};
use crate::strace::{between, calls, count};
use crate::trial::{Job, Kind, STAMP, Variant};
use crate::{Error, Settings, Table};

/// Traced runs of a full run.
const ROUNDS: usize = 5;

/// Calls of a tool from its exec to that of its payload.
pub(super) struct Traced {
    pub(super) name: String,
    pub(super) program: String,
    /// strace's logs, one a run.
    pub(super) logs: Vec<String>,
}

/// Traces every tool.
pub(super) fn run(stage: &Stage, settings: &Settings, variants: &[Variant]) -> Result<Vec<Traced>, Error> {
    let log = place("run/strace");
    let mut all = Vec::new();
    for variant in variants.iter().filter(|variant| !matches!(variant.kind, Kind::Driver | Kind::Command)) {
        let mut traced =
            Traced { name: variant.name.clone(), program: variant.argv[0].clone(), logs: Vec::new() };
        let job = Job { rounds: 1, variants: vec![Variant { trace: Some(log.clone()), ..variant.clone() }] };
        for _ in 0..if settings.quick { 1 } else { ROUNDS } {
            stage.run(settings, &format!("strace of {}", variant.name), &job)?;
            let path = stage.file(&log)?;
            traced.logs.push(fs::read_to_string(&path).map_err(Error::file("reading", path))?);
        }
        all.push(traced);
    }
    Ok(all)
}

/// Medians of the counts.
pub(super) fn table(traced: &[Traced]) -> Table {
    let head = ["", "all calls", "execve", "clone, fork", "mount", "of the tool's first process and pid 1"];
    let mut table = Table::new("System calls from the tool's exec to its payload's", head);
    for tool in traced {
        let counts: Vec<[usize; 5]> = tool.logs.iter().map(|log| counts(log, &tool.program)).collect();
        let middle = |which: usize| {
            let mut sorted: Vec<usize> = counts.iter().map(|counts| counts[which]).collect();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).map_or_else(String::new, ToString::to_string)
        };
        table.row([tool.name.clone(), middle(0), middle(1), middle(2), middle(3), middle(4)]);
    }
    table.note = "By `strace -f`, all processes of the tool; the first execve is the tool's own, the last its payload's.".into();
    table
}

/// All; execve; clone and fork; mount; of the first process and the one that execs the payload's parent.
fn counts(log: &str, program: &str) -> [usize; 5] {
    let all = calls(log);
    let some = between(&all, program, STAMP);
    let names = count(some, |_| true);
    let sum = |wanted: &[&str]| wanted.iter().filter_map(|name| names.get(name)).sum();
    let first = some.first().map_or(0, |call| call.pid);
    // The first child is pid 1 of the namespaces with every tool but RootlessKit, whose child is one of several threads.
    let second = some.iter().map(|call| call.pid).find(|pid| *pid != first).unwrap_or(first);
    let own = some.iter().filter(|call| call.pid == first || call.pid == second).count();
    let clones = sum(&["clone", "clone3", "fork", "vfork"]);
    [some.len(), sum(&["execve"]), clones, sum(&["mount", "move_mount", "fsmount"]), own]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_log() {
        let log = format!(
            "5 1.0 execve(\"/t\", []) = 0\n5 1.1 clone3({{}}) = 6\n6 1.2 mount(\"proc\") = 0\n5 1.2 clone(x) = 7\n\
             7 1.3 execve(\"/driver\") = 0\n7 1.3 read(0) = 0\n6 1.4 execve(\"{STAMP}\") = 0\n6 1.5 close(1) = 0\n"
        );
        assert_eq!(counts(&log, "/t"), [7, 3, 2, 1, 5]);
    }
}
