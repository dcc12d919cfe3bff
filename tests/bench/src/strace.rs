//! Reads what strace(1) wrote with `-f`, with or without `-ttt`.

use std::collections::BTreeMap;

/// The beginning of a call; its end is not looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Call<'a> {
    /// Who called.
    pub pid: i32,
    /// When, seconds since 1970; 0 without `-ttt`.
    pub at: f64,
    /// The call's name.
    pub name: &'a str,
    /// The whole line.
    pub line: &'a str,
}

/// All calls, in the order in which they began.
#[must_use]
pub fn calls(log: &str) -> Vec<Call<'_>> {
    log.lines().filter_map(call).collect()
}

/// From the exec of `program`, which is the first, to the exec of `payload`, which is the last; empty if one is missing.
#[must_use]
pub fn between<'a, 'b>(calls: &'b [Call<'a>], program: &str, payload: &str) -> &'b [Call<'a>] {
    let exec = |call: &Call<'_>, path: &str| {
        call.name == "execve" && call.line.contains(&format!("execve(\"{path}\""))
    };
    let Some(first) = calls.iter().position(|call| exec(call, program)) else { return &[] };
    let last = calls.iter().skip(first + 1).position(|call| exec(call, payload));
    last.map_or(&[], |last| &calls[first..=first + 1 + last])
}

/// How often each call was made, of those that `wanted` takes.
#[must_use]
pub fn count<'a>(calls: &[Call<'a>], wanted: impl Fn(&Call<'a>) -> bool) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for call in calls.iter().filter(|call| wanted(call)) {
        *counts.entry(call.name).or_default() += 1;
    }
    counts
}

/// "712 1700000000.5 execve(...", "712  execve(..."; not "<... read resumed>", "+++", "---".
fn call(line: &str) -> Option<Call<'_>> {
    let (pid, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    let (at, rest) = match rest.split_once(' ') {
        Some((at, rest)) if at.starts_with(|c: char| c.is_ascii_digit()) => (at.parse().ok()?, rest),
        _ => (0.0, rest),
    };
    let name = rest.split_once('(')?.0;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some(Call { pid: pid.parse().ok()?, at, name, line })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "10 1.5 execve(\"/bin/launch\", [\"launch\"], 0x7f /* 1 var */) = 0\n\
        10 1.6 execve(\"/bin/tool\", [\"tool\"], 0x7f /* 1 var */) = 0\n\
        10 1.7 clone3({flags=CLONE_NEWUSER}, 88 <unfinished ...>\n\
        11 1.8 mount(NULL, \"/\", NULL, MS_REC, NULL) = 0\n\
        10 1.8 <... clone3 resumed>) = 11\n\
        10 1.9 --- SIGCHLD {si_signo=SIGCHLD} ---\n\
        11 2.0 execve(\"/bin/payload\", [\"payload\"], 0x7f /* 1 var */) = 0\n\
        11 2.1 exit_group(0) = ?\n\
        11 2.2 +++ exited with 0 +++\n";

    #[test]
    fn what_lies_between_two_programs_is_counted() {
        let all = calls(LOG);
        assert_eq!(all.len(), 6);
        let some = between(&all, "/bin/tool", "/bin/payload");
        let counts = count(some, |_| true);
        assert_eq!(counts, [("clone3", 1), ("execve", 2), ("mount", 1)].into());
        assert_eq!((some[0].at, some[0].pid), (1.6, 10));
        assert!(between(&all, "/bin/other", "/bin/payload").is_empty());
    }

    #[test]
    fn without_times() {
        assert_eq!(calls("7    close(3) = 0\n")[0].name, "close");
    }
}
