//! Where the time goes: the parts of a traced run, in proportion, at the length of the untraced one.

use std::collections::BTreeMap;

use super::traced::Traced;
use super::variants::{RK_HOST, RK_PODSEC, SUPERVISOR};
use crate::strace::{Call, between, calls};
use crate::trial::{STAMP, Variant};
use crate::{Bar, Chart, Series};

/// Where a part of the supervisor's way begins: name of the call, text in its line, the part that begins there.
const OURS: [(&str, &str, &str); 6] = [
    ("execve", SUPERVISOR, "program start, checks, listeners"),
    ("clone3", "CLONE_NEWUSER", "clone and maps"),
    ("prctl", "u7s-init", "tap, network, proc, sysfs"),
    ("setgroups", "", "/run, binds, sysctls"),
    ("sethostname", "", "runtime, commands, payload's exec"),
    ("execve", STAMP, ""),
];

/// Name and length of each part, in order.
type Parts = Vec<(String, f64)>;

/// Finds the parts of a traced run.
type Divide = fn(&[Call<'_>]) -> Parts;

/// One for our variants, one for RootlessKit's.
pub(super) fn charts(traced: &[Traced], variants: &[Variant], ready: &[Series]) -> Vec<Chart> {
    let length = |name: &str| {
        let place = variants.iter().position(|variant| variant.name == name)?;
        Some(ready[place].summary().median)
    };
    let bars = |of: &dyn Fn(&Traced) -> bool, divide: Divide| -> Vec<Bar> {
        let bar = |tool: &Traced| {
            let parts = mean(tool, divide, length(&tool.name)?);
            Some(Bar { label: tool.name.clone(), parts })
        };
        traced.iter().filter(|tool| of(tool)).filter_map(bar).collect()
    };
    let chart = |name: &str, whose: &str, bars| Chart {
        name: name.into(),
        title: format!("{whose}: where the time to ready goes (parts in proportion of a traced run)"),
        unit: "ms".into(),
        bars,
    };
    let is_rootlesskit = |tool: &Traced| [RK_HOST, RK_PODSEC].contains(&tool.name.as_str());
    vec![
        chart("phases-u7s", "u7s", bars(&|tool| tool.program == SUPERVISOR, our_parts)),
        chart("phases-rootlesskit", "RootlessKit", bars(&is_rootlesskit, exec_parts)),
    ]
}

/// Mean share of each part in all runs, times the length.
fn mean(tool: &Traced, divide: Divide, length: f64) -> Parts {
    let (mut order, mut shares) = (Vec::new(), BTreeMap::<String, f64>::new());
    for log in &tool.logs {
        let all = calls(log);
        for (name, seconds) in divide(between(&all, &tool.program, STAMP)) {
            if !order.contains(&name) {
                order.push(name.clone());
            }
            *shares.entry(name).or_default() += seconds;
        }
    }
    let total: f64 = shares.values().sum();
    order.into_iter().map(|name| (name.clone(), shares[&name] / total * length)).collect()
}

fn our_parts(calls: &[Call<'_>]) -> Parts {
    let mut marks: Vec<(&str, f64)> = Vec::new();
    let mut next = 0;
    for call in calls {
        let Some((name, text, part)) = OURS.get(next) else { break };
        if call.name == *name && call.line.contains(text) {
            marks.push((part, call.at));
            next += 1;
        }
    }
    segments(&marks)
}

/// A part is named after the program that was executed last.
fn exec_parts(calls: &[Call<'_>]) -> Parts {
    let program = |call: &Call<'_>| {
        let path = call.line.split('"').nth(1).unwrap_or_default();
        (call.name == "execve").then(|| path.rsplit('/').next().unwrap_or_default().to_owned())
    };
    let marks: Vec<(String, f64)> =
        calls.iter().filter_map(|call| program(call).map(|name| (name, call.at))).collect();
    let marks: Vec<(&str, f64)> = marks.iter().map(|(name, at)| (name.as_str(), *at)).collect();
    segments(&marks)
}

/// From each mark to the next; the last one only ends.
fn segments(marks: &[(&str, f64)]) -> Parts {
    let pair = |pair: &[(&str, f64)]| match pair {
        [(name, from), (_, to)] => Some(((*name).to_owned(), to - from)),
        _ => None,
    };
    marks.windows(2).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_between_marks() {
        let log = format!(
            "5 1.0 execve(\"{SUPERVISOR}\", []) = 0\n5 1.5 clone3({{flags=CLONE_NEWUSER}}) = 6\n\
             6 2.0 prctl(PR_SET_NAME, \"u7s-init\") = 0\n6 3.0 setgroups(0, NULL) = 0\n6 3.5 sethostname(\"n\") = 0\n\
             6 4.0 execve(\"{STAMP}\") = 0\n"
        );
        let parts = our_parts(&calls(&log));
        let lengths: Vec<f64> = parts.iter().map(|(_, length)| *length).collect();
        assert_eq!(lengths, [0.5, 0.5, 1.0, 0.5, 0.5]);
        assert_eq!(exec_parts(&calls(&log)), [("u7s-supervisor".to_owned(), 3.0)]);
    }
}
