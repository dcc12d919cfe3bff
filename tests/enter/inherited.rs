//! What an entered program has of its caller's process: nothing of root's.

use std::fs;
use std::process::{Command, ExitCode, Stdio};

use u7s_host::enter::as_user;
use u7s_sys::keyring;

use crate::fuse::Kit;
use crate::node::{Node, SOON};
use crate::{Check, Listed, driver, holds};

pub(crate) const TESTS: &[Listed] = &[
    ("f6_a_key_of_roots_session_is_not_found_by_what_enters", a_key_of_roots_session_is_not_found),
    ("f6_limits_priorities_and_marks_are_not_the_callers", limits_priorities_and_marks_are_not_the_callers),
    ("f6_no_limit_is_above_the_callers_own", no_limit_is_above_the_callers_own),
];

/// The word that makes this program look for the key.
const FINDER: &str = "find-key";

/// Looks for the key if this process was started to.
pub(crate) fn run() -> Option<ExitCode> {
    (std::env::args_os().nth(1)? == FINDER).then_some(())?;
    let text = if keyring::finds(driver::NAME) { "found\n" } else { "not found\n" };
    Some(u7s::report::finish("find-key", u7s::report::result(text).map(|()| u7s::End::OK)))
}

fn a_key_of_roots_session_is_not_found(node: &Node) -> Check {
    let kit = Kit::new()?;
    let program = kit.program().display().to_string();
    for host in [false, true] {
        let mut command = node.driver(&[&program, FINDER])?;
        command.env(driver::KEY, "1").stdin(Stdio::null());
        if host {
            command.env(driver::HOST, "1");
        }
        let output = command.output()?;
        holds(output.stdout == b"not found\n", format!("on the host: {host}: {output:?}"))?;
    }
    keyring::join_empty()?;
    keyring::add(driver::NAME, b"TOPSECRET")?;
    holds(keyring::finds(driver::NAME), "this machine has no session keyrings, nothing was shown")?;
    let copy = as_user(&Node::user(), SOON, || keyring::finds(driver::NAME))?;
    holds(!copy, "found by work as the user")?;
    Ok(keyring::join_empty()?)
}

/// The entering program, worse and better off than others in all that a process inherits.
fn marked(node: &Node, script: &str) -> Result<Command, Box<dyn std::error::Error>> {
    let driver = node.driver(&["sh", "-c", script])?;
    let marks = "umask 077; echo 0x7f > /proc/self/coredump_filter; echo 300 > /proc/self/oom_score_adj; \
                 exec prlimit --nofile=200: chrt -b 0 setarch -R ionice -c 2 -n 0 nice -n -7 \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", marks, "sh"]).arg(driver.get_program()).args(driver.get_args()).current_dir("/");
    command.envs(driver.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    Ok(command)
}

fn limits_priorities_and_marks_are_not_the_callers(node: &Node) -> Check {
    // Nice value, policy: fields 19 and 41 of stat, as proc_pid_stat(5) counts.
    let script = "read -r stat < /proc/self/stat; set -- ${stat##*) }; echo nice ${17} policy ${39}; umask; ionice -p $$; \
                  cat /proc/$$/oom_score_adj /proc/$$/personality /proc/$$/coredump_filter; grep 'open files' /proc/$$/limits";
    let output = marked(node, script)?.output()?;
    let text = String::from_utf8(output.stdout)?;
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.pid))?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).ok_or("no limits")?;
    let soft = files.split_whitespace().nth(3).ok_or("no soft limit")?;
    let wanted = "nice 0 policy 0\n0022\nnone: prio 0\n0\n00000000\n00000033\nMax open files ";
    holds(text.starts_with(wanted), text.clone())?;
    let got = text.split("Max open files").nth(1).and_then(|rest| rest.split_whitespace().next());
    holds(got == Some(soft), format!("{got:?} open files, the node has {soft}"))
}

fn no_limit_is_above_the_callers_own(node: &Node) -> Check {
    let driver = node.driver(&["sh", "-c", "ulimit -Hn; ulimit -Hc"])?;
    let mut command = Command::new("prlimit");
    command.args(["--nofile=150:150", "--core=0:0"]).arg(driver.get_program()).args(driver.get_args());
    command.envs(driver.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir("/");
    let output = command.stdin(Stdio::null()).output()?;
    holds(output.stdout == b"150\n0\n", format!("{output:?}"))
}
