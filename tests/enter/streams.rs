//! Exit statuses, signals, pipes and descriptors.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::{Node, SOON, sleeper, until};
use crate::{Check, Listed, driver, holds};

pub(crate) const TESTS: &[Listed] = &[
    ("f67_exit_statuses_are_the_programs", exit_statuses_are_the_programs),
    ("fatal_signals_are_the_programs", fatal_signals_are_the_programs),
    ("signals_go_on_to_the_program", signals_go_on_to_the_program),
    ("nothing_is_left_when_the_door_is_killed", nothing_is_left_when_the_door_is_killed),
    ("s10_no_descriptor_but_the_three", no_descriptor_but_the_three),
    ("pipes_are_handed_on_byte_for_byte", pipes_are_handed_on_byte_for_byte),
    ("f45_arguments_are_handed_on_byte_for_byte", arguments_are_handed_on_byte_for_byte),
    ("the_callers_directory_or_the_root", the_callers_directory_or_the_root),
    ("f54_a_late_program_ends_with_its_group", a_late_program_ends_with_its_group),
    ("a_missing_program_is_named", a_missing_program_is_named),
];

fn exit_statuses_are_the_programs(node: &Node) -> Check {
    for code in [0, 1, 2, 3, 137, 255] {
        let output = node.run(&["sh", "-c", &format!("exit {code}")])?;
        holds(output.status.code() == Some(code), format!("{code}: {:?}", output.status))?;
    }
    Ok(())
}

fn fatal_signals_are_the_programs(node: &Node) -> Check {
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGINT, Signal::SIGPIPE] {
        let output = node.run(&["sh", "-c", &format!("kill -{} $$", signal as i32)])?;
        holds(output.status.signal() == Some(signal as i32), format!("{signal}: {:?}", output.status))?;
    }
    Ok(())
}

/// Starts a script that says `ready` once its traps are set.
fn ready(node: &Node, script: &str) -> Result<Child, Box<dyn std::error::Error>> {
    let mut child =
        node.driver(&["sh", "-c", script])?.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().ok_or("no output")?).read_line(&mut line)?;
    holds(line == "ready\n", format!("the script said {line:?}"))?;
    Ok(child)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(0))
}

fn signals_go_on_to_the_program(node: &Node) -> Check {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1] {
        let name = signal.as_str().trim_start_matches("SIG");
        let script = format!("trap 'exit 42' {name}; echo ready; while :; do sleep 0.05; done");
        let mut child = ready(node, &script)?;
        kill(pid(&child), signal)?;
        let status = child.wait()?;
        holds(status.code() == Some(42), format!("{name}: {status:?}"))?;
    }
    let mut child = ready(node, "echo ready; exec sleep 1000")?;
    kill(pid(&child), Signal::SIGTERM)?;
    let status = child.wait()?;
    holds(status.signal() == Some(Signal::SIGTERM as i32), format!("untrapped: {status:?}"))
}

fn nothing_is_left_when_the_door_is_killed(node: &Node) -> Check {
    let mut child = node.driver(&["sleep", "1000"])?.spawn()?;
    until("the program", || sleeper(node, child.id()).is_some())?;
    let inner = sleeper(node, child.id()).ok_or("gone")?;
    child.kill()?;
    child.wait()?;
    let begun = Instant::now();
    until("the end of the program", || fs::metadata(format!("/proc/{inner}")).is_err())?;
    println!("gone {:?} after its door", begun.elapsed());
    Ok(())
}

fn no_descriptor_but_the_three(node: &Node) -> Check {
    let file = fs::File::open("/etc/shadow")?;
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    let text = node.text(&["sh", "-c", "ls /proc/$$/fd"])?;
    holds(text == "0\n1\n2\n", format!("open: {text:?}"))
}

fn pipes_are_handed_on_byte_for_byte(node: &Node) -> Check {
    let mut bytes = vec![0; 3 << 20];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut child = node.driver(&["cat"])?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or("no input")?;
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent));
    let mut back = Vec::new();
    child.stdout.take().ok_or("no output")?.read_to_end(&mut back)?;
    writer.join().map_err(|_| "the writer failed")??;
    child.wait()?;
    println!("{} bytes there and back", back.len());
    holds(back == bytes, "they differ")
}

fn arguments_are_handed_on_byte_for_byte(node: &Node) -> Check {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let long = "x".repeat(120 * 1024);
    let odd: [&[u8]; 8] = [b"", b" ", b"a\nb", b"*", b"$(id)", b"'\"", b"\xff\xfe", long.as_bytes()];
    let mut command = node.driver(&["sh", "-c", "printf '%s\\0' \"$@\"", "sh"])?;
    let output = command.args(odd.map(OsStr::from_bytes)).stdin(Stdio::null()).output()?;
    let wanted: Vec<u8> = odd.iter().flat_map(|argument| [*argument, b"\0"].concat()).collect();
    holds(output.stdout == wanted, "the arguments differ")
}

fn the_callers_directory_or_the_root(node: &Node) -> Check {
    for (directory, wanted) in [("/usr", "/usr\n"), ("/root", "/\n")] {
        let output = node.driver(&["pwd"])?.current_dir(directory).stdin(Stdio::null()).output()?;
        holds(output.stdout == wanted.as_bytes(), format!("from {directory}: {output:?}"))?;
    }
    Ok(())
}

fn a_late_program_ends_with_its_group(node: &Node) -> Check {
    let begun = Instant::now();
    let script = "trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000";
    let output =
        node.driver(&["sh", "-c", script])?.env(driver::SECONDS, "1").stdin(Stdio::null()).output()?;
    let said = String::from_utf8(output.stderr)?;
    println!("{said} after {:?}", begun.elapsed());
    holds(said.contains("sh did not end within 1 s and was killed"), said.clone())?;
    holds(output.status.code() == Some(4) && begun.elapsed() < SOON, format!("{:?}", output.status))?;
    let left = node.text(&["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])?;
    holds(!left.contains("sleep 1000 "), format!("left: {left}"))
}

fn a_missing_program_is_named(node: &Node) -> Check {
    let output = node.run(&["/usr/bin/no-such-program"])?;
    let said = String::from_utf8(output.stderr)?;
    println!("{said}");
    holds(said.contains("cannot run /usr/bin/no-such-program: execute the program: "), said.clone())?;
    holds(output.status.code() == Some(1), format!("{:?}", output.status))
}
