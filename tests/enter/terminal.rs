//! A new terminal stands in for the caller's, and only where there was one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use u7s_sys::tty::{self, Pty};

use crate::node::{Node, SOON, until};
use crate::{Check, Listed, holds};

pub(crate) const TESTS: &[Listed] = &[
    ("a_terminal_only_where_there_was_one", a_terminal_only_where_there_was_one),
    ("s11_the_callers_terminal_is_not_shared", the_callers_terminal_is_not_shared),
    (
        "what_is_typed_arrives_and_what_is_written_is_shown",
        what_is_typed_arrives_and_what_is_written_is_shown,
    ),
    ("control_c_reaches_the_program", control_c_reaches_the_program),
    ("size_and_its_changes_arrive", size_and_its_changes_arrive),
    ("settings_are_put_back", settings_are_put_back),
    ("settings_are_put_back_after_a_signal", settings_are_put_back_after_a_signal),
    ("the_end_of_a_long_output_is_shown", the_end_of_a_long_output_is_shown),
];

/// The door on a terminal of its own: a session whose controlling terminal is the pty's slave.
pub(crate) fn on_terminal(node: &Node, argv: &[&str]) -> Result<(Child, Pty), Box<dyn std::error::Error>> {
    let pty = tty::open()?;
    let driver = node.driver(argv)?;
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(driver.get_program()).args(driver.get_args()).current_dir("/");
    command.envs(driver.get_envs().filter_map(|(name, value)| value.map(|value| (name, value))));
    let slave = || pty.slave.try_clone().map(Stdio::from);
    let child = command.stdin(slave()?).stdout(slave()?).stderr(slave()?).spawn()?;
    Ok((child, pty))
}

/// Reads from the terminal until `wanted` was shown.
fn shown(master: &OwnedFd, wanted: &str) -> Result<String, Box<dyn std::error::Error>> {
    let (mut text, mut chunk) = (String::new(), [0; 4096]);
    let mut file = File::from(master.try_clone()?);
    let begun = Instant::now();
    while begun.elapsed() < SOON {
        let mut polled = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::from(50_u16))? == 0 {
            continue;
        }
        let count = file.read(&mut chunk).unwrap_or(0);
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
        if text.contains(wanted) {
            return Ok(text);
        }
    }
    Err(format!("{wanted:?} was not shown: {text:?}").into())
}

pub(crate) fn type_in(master: &OwnedFd, text: &str) -> Check {
    Ok(File::from(master.try_clone()?).write_all(text.as_bytes())?)
}

fn a_terminal_only_where_there_was_one(node: &Node) -> Check {
    let script = "for i in 0 1 2; do if test -t $i; then printf 'yes ' >&2; else printf 'no ' >&2; fi; done";
    let cases = [
        ([false, false, false], "no no no "),
        ([true, true, false], "yes yes no "),
        ([false, true, false], "no yes no "),
    ];
    for (terminals, wanted) in cases {
        let pty = tty::open()?;
        let stream = |number: usize| -> std::io::Result<Stdio> {
            if terminals[number] { pty.slave.try_clone().map(Stdio::from) } else { Ok(Stdio::null()) }
        };
        let mut command = node.driver(&["sh", "-c", script])?;
        let output = command
            .stdin(stream(0)?)
            .stdout(stream(1)?)
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output()?;
        let seen = String::from_utf8(output.stderr)?;
        println!("{terminals:?}: {seen}");
        holds(seen == wanted, format!("{terminals:?}: {seen:?}"))?;
    }
    Ok(())
}

fn the_callers_terminal_is_not_shared(node: &Node) -> Check {
    let (mut child, pty) = on_terminal(
        node,
        &["sh", "-c", "stat -L -c 'device %r' /proc/self/fd/0; ls -l /proc/$$/fd; echo end"],
    )?;
    let text = shown(&pty.master, "end\r\n")?;
    child.wait()?;
    let ours = nix::sys::stat::fstat(&pty.slave)?.st_rdev;
    println!("the caller's terminal is device {ours}");
    holds(text.contains("device ") && !text.contains(&format!("device {ours}\r\n")), text)
}

fn what_is_typed_arrives_and_what_is_written_is_shown(node: &Node) -> Check {
    let (mut child, pty) =
        on_terminal(node, &["sh", "-c", "echo name?; read x; echo \"hello $x\"; tty; exit 9"])?;
    shown(&pty.master, "name?\r\n")?;
    type_in(&pty.master, "world\r")?;
    let text = shown(&pty.master, "/dev/pts/")?;
    holds(text.contains("hello world\r\n"), text)?;
    let status = child.wait()?;
    holds(status.code() == Some(9), format!("{status:?}"))
}

fn control_c_reaches_the_program(node: &Node) -> Check {
    let (mut child, pty) = on_terminal(
        node,
        &["sh", "-c", "trap 'echo caught; exit 42' INT; echo ready; while :; do sleep 0.05; done"],
    )?;
    shown(&pty.master, "ready\r\n")?;
    type_in(&pty.master, "\u{3}")?;
    shown(&pty.master, "caught\r\n")?;
    let status = child.wait()?;
    holds(status.code() == Some(42), format!("{status:?}"))
}

fn resize(pty: &Pty, rows: u16, columns: u16) -> Check {
    let columns = columns.to_string();
    let output = Command::new("stty")
        .args(["rows", &rows.to_string(), "cols", &columns])
        .stdin(pty.slave.try_clone()?)
        .output()?;
    holds(output.status.success(), format!("{output:?}"))
}

fn size_and_its_changes_arrive(node: &Node) -> Check {
    let (mut child, pty) = on_terminal(
        node,
        &["sh", "-c", "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"],
    )?;
    shown(&pty.master, "ready\r\n")?;
    resize(&pty, 7, 20)?;
    shown(&pty.master, "7 20\r\n")?;
    let status = child.wait()?;
    holds(status.success(), format!("{status:?}"))
}

/// What a caller would notice of a terminal's settings.
fn settings(pty: &Pty) -> Result<Termios, Box<dyn std::error::Error>> {
    Ok(tcgetattr(&pty.slave)?)
}

fn settings_are_put_back(node: &Node) -> Check {
    let (mut child, pty) = on_terminal(node, &["sh", "-c", "echo ready; read x"])?;
    let cooked = |pty: &Pty| {
        settings(pty).is_ok_and(|now| now.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO))
    };
    shown(&pty.master, "ready\r\n")?;
    holds(!cooked(&pty), "the terminal was not raw while the program ran")?;
    type_in(&pty.master, "\r")?;
    child.wait()?;
    holds(cooked(&pty), "the terminal stayed raw")
}

fn settings_are_put_back_after_a_signal(node: &Node) -> Check {
    let (mut child, pty) = on_terminal(node, &["sh", "-c", "echo ready; exec sleep 1000"])?;
    let before = LocalFlags::ICANON | LocalFlags::ECHO;
    shown(&pty.master, "ready\r\n")?;
    let setsid = child.id();
    let children = std::fs::read_to_string(format!("/proc/{setsid}/task/{setsid}/children"))?;
    // setsid forks where it leads a group already.
    let door = children.split_whitespace().next().map_or(Ok(i32::try_from(setsid)?), str::parse)?;
    let door = if std::fs::read_to_string(format!("/proc/{door}/comm"))?.trim() == "sleep" {
        i32::try_from(setsid)?
    } else {
        door
    };
    kill(Pid::from_raw(door), Signal::SIGTERM)?;
    child.wait()?;
    until("settings as before", || settings(&pty).is_ok_and(|now| now.local_flags.contains(before)))
}

fn the_end_of_a_long_output_is_shown(node: &Node) -> Check {
    let (mut child, pty) = on_terminal(node, &["sh", "-c", "seq 1 20000; echo the end"])?;
    let text = shown(&pty.master, "the end\r\n")?;
    child.wait()?;
    holds(text.contains("\r\n20000\r\nthe end\r\n") && text.starts_with("1\r\n2\r\n"), "lines are missing")
}
