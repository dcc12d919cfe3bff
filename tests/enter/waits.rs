//! No command of root's waits without end for what the node's user serves, and each obeys its caller's signals.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_host::lock::Lock;

use crate::fuse::{Kit, Server};
use crate::node::{Node, until};
use crate::terminal::{on_terminal, type_in};
use crate::{Check, Listed, driver, holds};

pub(crate) const TESTS: &[Listed] = &[
    (
        "f4_a_program_a_directory_or_a_file_that_does_not_answer_is_left_behind",
        what_does_not_answer_is_left_behind,
    ),
    ("f4_the_callers_signals_end_the_way_to_execution", signals_end_the_way_to_execution),
    ("f4_control_c_ends_the_way_to_execution", control_c_ends_the_way_to_execution),
    ("f4_a_running_program_that_cannot_be_killed_is_left_behind", a_running_program_is_left_behind),
    (
        "f4_work_as_the_user_and_copies_are_left_behind_and_hold_nothing",
        copies_are_left_behind_and_hold_nothing,
    ),
    (
        "a_program_that_ignores_a_signal_is_ended_by_a_second_one",
        a_second_signal_ends_a_program_that_ignores_it,
    ),
    ("a_signal_to_a_part_of_a_command_ends_the_command", a_signal_to_a_part_ends_the_command),
    ("n4_a_dead_mount_over_a_directory_of_path_is_passed_over", a_dead_mount_in_path_is_passed_over),
];

/// Longer than any wait of a command here, shorter than one without end.
const ENDS: Duration = Duration::from_secs(60);

/// How a command has ended, and what it said; killed if it does not end.
fn ended(mut child: Child) -> Result<Output, Box<dyn std::error::Error>> {
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > ENDS {
            let _ = child.kill();
            return Err(format!("it has not ended within {} s", ENDS.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child.wait_with_output()?)
}

/// Whoever was left behind holds the caller's standard output: not that of the test.
fn silent(mut command: Command) -> Result<Child, Box<dyn std::error::Error>> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors()?).spawn()?)
}

/// A file: a pipe would be held open by who was left behind.
fn errors() -> Result<fs::File, Box<dyn std::error::Error>> {
    Ok(fs::File::create(LOG)?)
}

const LOG: &str = "/run/u7s-test-enter.log";

fn said() -> Result<String, Box<dyn std::error::Error>> {
    let said = fs::read_to_string(LOG)?;
    fs::remove_file(LOG)?;
    println!("{said}");
    Ok(said)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(0))
}

/// Over the mount point, whatever is left of its server.
fn uncover(node: &Node, kit: &Kit) -> Check {
    node.text(&["/usr/bin/umount", "-l", &kit.at("point").display().to_string()]).map(drop)
}

fn what_does_not_answer_is_left_behind(node: &Node) -> Check {
    let kit = Kit::new()?;
    // On the host a plain file, so that its name is an argument with a file behind it.
    fs::write(kit.at("point/file"), "x")?;
    let server = kit.serve(node, &kit.at("point"))?;
    let file = kit.at("point/file").display().to_string();
    let cases = [
        (vec![file.as_str()], "", "/", "execute the program"),
        (vec!["cat", &file], "1", "/", "look at the files that arguments name"),
        (vec!["true"], "", "point", "enter the working directory"),
    ];
    for (argv, argument, directory, stage) in cases {
        let mut command = node.driver(&argv)?;
        command.env(driver::SECONDS, "2").env(driver::LOCK, "1").current_dir(kit.dir.path().join(directory));
        if !argument.is_empty() {
            command.env(driver::FILE, argument);
        }
        let output = ended(silent(command)?)?;
        let said = said()?;
        holds(
            said.contains(stage) && said.contains("cannot be killed and is left behind"),
            format!("{stage}: {said}"),
        )?;
        holds(output.status.code() == Some(4), format!("{stage}: {:?}", output.status))?;
        // The child that was left holds nothing that the next command needs.
        drop(Lock::take()?);
    }
    server.end()?;
    uncover(node, &kit)
}

fn signals_end_the_way_to_execution(node: &Node) -> Check {
    let kit = Kit::new()?;
    let program = kit.at("point/program").display().to_string();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut server = kit.serve(node, &kit.at("point"))?;
        let child = silent(node.driver(&[&program])?)?;
        server.is_asked()?;
        kill(pid(&child), signal)?;
        let output = ended(child)?;
        let said = said()?;
        let wanted =
            format!("was ended by signal {}, which reached this command: execute the program", signal as i32);
        holds(said.contains(&wanted) && said.contains("is left behind"), said)?;
        holds(output.status.code() == Some(128 + signal as i32), format!("{signal}: {:?}", output.status))?;
        server.end()?;
        uncover(node, &kit)?;
    }
    Ok(())
}

/// The terminal is not raw before the program runs.
fn control_c_ends_the_way_to_execution(node: &Node) -> Check {
    let kit = Kit::new()?;
    let mut server = kit.serve(node, &kit.at("point"))?;
    let (child, pty) = on_terminal(node, &[&kit.at("point/program").display().to_string()])?;
    server.is_asked()?;
    type_in(&pty.master, "\x03")?;
    let output = ended(child)?;
    server.end()?;
    uncover(node, &kit)?;
    holds(output.status.code() == Some(128 + Signal::SIGINT as i32), format!("{:?}", output.status))
}

/// In one place it is all of the command, in the other a part with a deadline.
fn a_running_program_is_left_behind(node: &Node) -> Check {
    let kit = Kit::new()?;
    let file = kit.at("point/file").display().to_string();
    for (seconds, signals, code) in [("", 2, 1), ("600", 1, 128 + 15)] {
        let mut server = kit.serve(node, &kit.at("point"))?;
        let mut command = node.driver(&["cat", &file])?;
        if !seconds.is_empty() {
            command.env(driver::SECONDS, seconds);
        }
        let child = silent(command)?;
        server.is_asked()?;
        for _ in 0..signals {
            kill(pid(&child), Signal::SIGTERM)?;
            // Two that come at once are one.
            until("the signal is taken", || !is_pending(&child))?;
        }
        let output = ended(child)?;
        let said = said()?;
        holds(output.status.code() == Some(code), format!("{code}: {:?} {said}", output.status))?;
        holds(code != 1 || said.contains("cannot be killed and is left behind"), said)?;
        server.end()?;
        uncover(node, &kit)?;
    }
    Ok(())
}

/// Whether a process has yet to take a SIGTERM; one that was killed never takes its SIGKILL.
fn is_pending(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 << (Signal::SIGTERM as i32 - 1) != 0)
}

/// On the host, in namespaces of their own: root may mount there for all to see, and all ends with the shell.
fn copies_are_left_behind_and_hold_nothing(_node: &Node) -> Check {
    let kit = Kit::new()?;
    let server = kit.words(&kit.at("point")).map(|word| format!("'{word}'")).join(" ");
    let (log, file) = (kit.at("log").display().to_string(), kit.at("point/file").display().to_string());
    // That cat comes to an end shows that who was left behind does not hold the caller's output.
    let script = format!(
        "{server} > {log} 2>&1 & while ! grep -q 'asked 26' {log}; do sleep 0.05; done; \
         {{ \"$0\" {file} 2>&1; echo code $?; }} | cat"
    );
    for work in ["as_user", "within"] {
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation=private", "-p", "--fork", "--kill-child", "sh", "-c", &script]);
        command.arg(kit.program()).env(driver::WORK, work).stdin(Stdio::null());
        let output = ended(command.stdout(Stdio::piped()).spawn()?)?;
        fs::remove_file(&log)?;
        let said = String::from_utf8(output.stdout)?;
        println!("{said}");
        holds(said.contains("cannot be killed and is left behind"), format!("{work}: {said}"))?;
        holds(said.contains("code 1"), format!("{work}: {said}"))?;
    }
    Ok(())
}

fn a_second_signal_ends_a_program_that_ignores_it(node: &Node) -> Check {
    let mut command = node.driver(&["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.as_mut().ok_or("no output")?),
        &mut line,
    )?;
    for _ in 0..2 {
        kill(pid(&child), Signal::SIGTERM)?;
        until("the signal is taken", || !is_pending(&child))?;
    }
    let output = ended(child)?;
    holds(output.status.signal() == Some(Signal::SIGKILL as i32), format!("{:?}", output.status))
}

fn a_signal_to_a_part_ends_the_command(node: &Node) -> Check {
    // The program says that all is well; the command was asked to end all the same.
    let mut command =
        node.driver(&["sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"])?;
    let mut child =
        command.env(driver::SECONDS, "600").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.as_mut().ok_or("no output")?),
        &mut line,
    )?;
    kill(pid(&child), Signal::SIGTERM)?;
    let output = ended(child)?;
    holds(output.status.code() == Some(128 + Signal::SIGTERM as i32), format!("{:?}", output.status))
}

fn a_dead_mount_in_path_is_passed_over(node: &Node) -> Check {
    let kit = Kit::new()?;
    let first = std::path::Path::new("/usr/local/sbin");
    let server: Server = kit.serve(node, first)?;
    server.end()?;
    let found = node.run(&["id", "-u"])?;
    let missing = node.run(&["no-such-program"])?;
    node.text(&["/usr/bin/umount", "-l", "/usr/local/sbin"])?;
    holds(found.stdout == b"0\n", format!("{found:?}"))?;
    let said = String::from_utf8(missing.stderr)?;
    // It may be there, where nobody can look.
    holds(said.contains("cannot run no-such-program: execute the program: ENOTCONN"), said)
}
