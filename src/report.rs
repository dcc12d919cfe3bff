//! The only place that prints: results to standard output, everything else to standard error; and the only place that
//! knows which error means which exit status and which hint.
//!
//! There is no colour, `NO_COLOR` or not. The cursor is moved for one thing: a line of progress on a terminal that the next one
//! replaces ([`passing`]). A reader that went away is no error of ours.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use u7s_host::{control, enter};
use u7s_plan::need::{Level, Unmet};
use u7s_plan::printable::{self, printable};

use crate::{End, Error, words};

/// Something went wrong that has no status of its own.
const GENERAL: u8 = 1;
/// Preflight: the host is not ready.
const PREFLIGHT: u8 = 2;
/// A command line, a configuration or a document is wrong.
const VALIDATION: u8 = 3;
/// Something did not happen in time.
const TIMEOUT: u8 = 4;

/// The end of every `main`: says what went wrong and gives the exit status.
///
/// `doing` is what the user asked for, in a word or two: `init`.
#[must_use]
pub fn finish(doing: &str, result: Result<End, Error>) -> ExitCode {
    let status = status(&result);
    match result {
        Ok(End::Code(code)) => ExitCode::from(code),
        Ok(End::Signal(signal)) => {
            u7s_sys::enter::end_by(signal);
            status.into()
        }
        Err(error) => {
            complain(doing, &error);
            status.into()
        }
    }
}

/// The exit status of a result.
#[must_use]
pub fn status(result: &Result<End, Error>) -> u8 {
    match result {
        Ok(End::Code(code)) => *code,
        Ok(End::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        Err(error) => code(error),
    }
}

/// Prints a result. Much of what we print the node's user has chosen: a terminal must not obey it (S39).
///
/// # Errors
/// `Output`, unless the reader merely went away.
pub fn result(text: &str) -> Result<(), Error> {
    write(&printable(text))
}

/// Prints a result that is a text of JSON.
///
/// # Errors
/// As [`result`].
pub fn json(text: &str) -> Result<(), Error> {
    write(&printable::json(text))
}

fn write(text: &str) -> Result<(), Error> {
    clear();
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}

/// Prints a result for people, each line in the reader's language.
///
/// # Errors
/// `Output`, unless the reader merely went away.
pub fn text(text: &str) -> Result<(), Error> {
    let lines: Vec<_> = text.split('\n').map(words::say).collect();
    result(&lines.join("\n"))
}

/// Prints a line beside the results, in the reader's language: progress, warnings.
pub fn line(text: &str) {
    clear();
    let text = words::say(text);
    let mut out = io::stderr().lock();
    // Whoever closed our standard error does not want to hear about it either.
    let _ = writeln!(out, "{}", printable(&text));
}

/// A line is on the terminal that the next one replaces.
static PASSING: AtomicBool = AtomicBool::new(false);

/// Whether results go to a terminal.
#[must_use]
pub fn to_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether standard error is a terminal on which a line can be written over.
#[must_use]
pub fn can_write_over() -> bool {
    io::stderr().is_terminal()
        && std::env::var_os("TERM").is_none_or(|name| !name.is_empty() && name != "dumb")
}

/// Shows a line that the next one replaces, as much of it as fits; for terminals, see [`can_write_over`].
pub fn passing(text: &str) {
    let columns = u7s_sys::tty::size(io::stderr()).map_or(0, |size| <(u16, u16)>::from(size).0);
    let mut out = io::stderr().lock();
    let _ =
        write!(out, "\r\x1b[K{}", fitting(&printable(&words::say(text)), columns)).and_then(|()| out.flush());
    PASSING.store(true, Ordering::Relaxed);
}

/// What of a text fits into a line without wrapping; a terminal that does not know its width has 80 columns.
fn fitting(text: &str, columns: u16) -> String {
    let columns = if columns == 0 { 80 } else { usize::from(columns) };
    text.chars().filter(|c| *c != '\n').take(columns - 1).collect()
}

fn clear() {
    if PASSING.swap(false, Ordering::Relaxed) {
        let mut out = io::stderr().lock();
        let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
    }
}

/// Takes JSON objects, one a line.
#[derive(Debug)]
pub struct Events(File);

/// Standard output for events alone: what else would be printed there, by us and by programs that we start, goes to standard
/// error from now on.
///
/// # Errors
/// `Output`: one of the two is closed.
pub fn events() -> Result<Events, Error> {
    let out = u7s_sys::streams::divert_stdout().map_err(|error| Error::Output(io::Error::other(error)))?;
    Ok(Events(out.into()))
}

impl Events {
    /// Events that go elsewhere.
    #[cfg(test)]
    pub(crate) fn to(file: File) -> Self {
        Self(file)
    }

    /// Writes one object. A reader that went away does not end a command half done.
    pub fn say(&mut self, object: &serde_json::Value) {
        let _ = self.0.write_all(printable::json(&format!("{object}\n")).as_bytes());
    }
}

/// Prints texts that another program would print, with its line ends: to standard output, then to standard error.
pub fn relay(stdout: &str, stderr: &str) {
    clear();
    let (stdout, stderr) = (printable(stdout), printable(stderr));
    let _ = io::stdout().write_all(stdout.as_bytes()).and_then(|()| io::stdout().flush());
    let _ = io::stderr().write_all(stderr.as_bytes());
}

/// Asks a question on standard output without ending the line, as kubeadm does.
pub fn ask(question: &str) {
    let _ = io::stdout().write_all(question.as_bytes()).and_then(|()| io::stdout().flush());
}

/// Prints needs in kubeadm's form, each with its remedy.
pub fn needs(needs: &[Unmet]) {
    for need in needs {
        line(&need.to_string());
        line(&format!("hint: {}", need.remedy));
    }
}

fn complain(doing: &str, error: &Error) {
    complaint(doing, error).iter().for_each(|text| line(text));
}

/// The lines that tell of an error: what was being done and why not, what is unmet, hints.
#[must_use]
pub fn complaint(doing: &str, error: &Error) -> Vec<String> {
    let mut lines = vec![format!("u7s: {doing}: {}", chain(error))];
    match error {
        Error::Unmet(unmet) => {
            for need in unmet {
                lines.push(need.to_string());
                lines.push(format!("hint: {}", need.remedy));
            }
        }
        Error::Reset(errors) => lines.extend(errors.iter().map(|error| format!("  {}", chain(error)))),
        _ => {}
    }
    let joining = if doing == "join" && ended_inside(error) { JOINING } else { &[] };
    lines.extend(joining.iter().copied().chain(hints(error)).map(|hint| format!("hint: {hint}")));
    lines
}

/// What makes most joins fail, when kubeadm itself has said how.
const JOINING: &[&str] = &[
    "a token lives for 24 hours; a new one, on a control plane: kubeadm token create --print-join-command",
    "the API server must answer from this host, in a few milliseconds: curl -k https://HOST:PORT/livez",
    "packets of full size must pass: ping -M do -s 1472 HOST    (28 bytes less than the interface's MTU)",
    "the clocks of both hosts must agree: timedatectl",
];

/// A program that ran inside the namespaces failed.
fn ended_inside(error: &Error) -> bool {
    let Error::Host(error) = error else { return false };
    let mut cause: &u7s_host::Error = error;
    while let u7s_host::Error::Step { source, .. } | u7s_host::Error::Left { source, .. } = cause {
        cause = source;
    }
    matches!(cause, u7s_host::Error::Inside { .. })
}

/// The error and its causes, each said once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Exit statuses of ux: 1 general, 2 preflight, 3 validation, 4 timeout; a program inside that failed keeps its own.
#[must_use]
pub fn code(error: &Error) -> u8 {
    match error {
        Error::Unmet(_) => PREFLIGHT,
        Error::Config(_) | Error::Yaml(_) | Error::Request(_) | Error::Usage(_) | Error::NotUtf8 { .. } => {
            VALIDATION
        }
        Error::Host(error) => host_code(error),
        Error::Enter(error) => enter_code(error),
        Error::Control(control::Error::Deadline { .. }) => TIMEOUT,
        Error::Reset(errors) => {
            errors.iter().find_map(u7s_host::Error::interrupted).map_or(GENERAL, by_signal)
        }
        _ => GENERAL,
    }
}

/// As a shell tells of a signal.
fn by_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(GENERAL)
}

fn host_code(error: &u7s_host::Error) -> u8 {
    use u7s_host::Error as Host;
    match error {
        Host::Step { source, .. } | Host::Left { source, .. } => host_code(source),
        Host::Inside { status: enter::Status::Exited(code), .. } => u8::try_from(*code).unwrap_or(GENERAL),
        Host::Inside { status: enter::Status::Signaled(signal), .. } => by_signal(*signal),
        Host::Deadline { .. } | Host::Control(control::Error::Deadline { .. }) => TIMEOUT,
        Host::Enter(error) => enter_code(error),
        Host::NotText { .. }
        | Host::NotRegular { .. }
        | Host::TooLarge { .. }
        | Host::TooManyFiles { .. } => VALIDATION,
        _ => GENERAL,
    }
}

fn enter_code(error: &enter::Error) -> u8 {
    match error {
        enter::Error::Deadline { .. } | enter::Error::Control(control::Error::Deadline { .. }) => TIMEOUT,
        enter::Error::Start { source: u7s_sys::enter::Failure::Late { .. }, .. } => TIMEOUT,
        enter::Error::Interrupted { signal, .. } => by_signal(*signal),
        enter::Error::Link { .. } | enter::Error::Foreign { .. } => VALIDATION,
        _ => GENERAL,
    }
}

/// The node does not run.
fn not_running(error: &Error) -> bool {
    let control = match error {
        Error::Control(control) | Error::Enter(enter::Error::Control(control)) => Some(control),
        _ => None,
    };
    matches!(control, Some(control::Error::NotRunning { .. }))
}

/// Commands to paste, or files to look at.
fn hints(error: &Error) -> Vec<&'static str> {
    match error {
        _ if not_running(error) => vec![
            "systemctl start u7s.service    (a node that was made before)",
            "kubeadm init    (a new one)",
        ],
        Error::Host(u7s_host::Error::Kubeconfig { .. }) => KUBECONFIG.to_vec(),
        Error::Host(error) => host_hints(error),
        Error::Enter(enter::Error::Link { .. }) => LINK.to_vec(),
        Error::Enter(enter::Error::Foreign { .. }) => FOREIGN.to_vec(),
        Error::Enter(error) if stands(error) => STANDS.to_vec(),
        Error::Control(_) | Error::Enter(_) => vec!["journalctl -u u7s.service -n 50"],
        Error::Config(_) => vec!["every key is explained in /etc/u7s/config.toml"],
        Error::NoRun => vec!["u7s check    (is this machine ready for one?)"],
        Error::Inside => vec!["exit, then run it on the host"],
        Error::Reset(errors) => reset_hints(errors),
        Error::Declined => vec!["kubeadm reset --force"],
        Error::Usage(_) => vec!["u7s --help"],
        _ => Vec::new(),
    }
}

/// What keeps reset from its end, each kind once, and how to go on.
fn reset_hints(errors: &[u7s_host::Error]) -> Vec<&'static str> {
    let mut hints = Vec::new();
    for hint in errors.iter().flat_map(|error| causes(error)).filter_map(reset_hint) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    hints.push("kubeadm reset    (again: what is done already holds)");
    hints
}

/// An error, or those that it stands for.
fn causes(error: &u7s_host::Error) -> Vec<&u7s_host::Error> {
    use u7s_host::Error as Host;
    match error {
        Host::Step { source, .. } | Host::Left { source, .. } => causes(source),
        Host::Several { errors } => errors.iter().flat_map(causes).collect(),
        other => vec![other],
    }
}

fn reset_hint(error: &u7s_host::Error) -> Option<&'static str> {
    use u7s_host::Error as Host;
    match error {
        Host::Alive { .. } => Some(
            "kill -KILL PID; what is in state D waits for a file system, and a reboot ends it. Until then nothing else is taken away: the nft table still bounds them",
        ),
        Host::Link { .. } => Some("ls -l FILE    (where does it lead?); rm FILE"),
        Host::LeftBehind { .. } => Some("look at it as root, then remove it: rm -r FILE"),
        Host::Aside { .. } => Some("look at it as root, then remove it: rm -r DIRECTORY.u7s-left"),
        _ => None,
    }
}

/// Something inside does not answer, and whoever asked it waits in the kernel.
const STANDS: &[&str] = &[
    "a file system inside the node does not answer: systemctl restart u7s.service    (ends what serves it)",
    "cat /proc/PID/wchan    (where it waits); it ends with what it waits for",
];

fn stands(error: &enter::Error) -> bool {
    use u7s_sys::enter::Failure;
    match error {
        enter::Error::LeftBehind { .. } => true,
        enter::Error::Start { source, .. } | enter::Error::Interrupted { source: Some(source), .. } => {
            matches!(source, Failure::Late { .. } | Failure::Interrupted { .. })
        }
        _ => false,
    }
}

/// A kubeconfig of the node is not as kubeadm writes it, or there is none.
const KUBECONFIG: &[&str] =
    &["only a control plane has one; u7s status    (names what is wrong with one that is there)"];

/// Somebody else than root may lead root by a link.
const LINK: &[&str] = &["ls -l FILE    (where does it lead?), then name the file that is meant itself"];

/// Somebody else than root may have written a document that names files.
const FOREIGN: &[&str] = &[
    "read the document, then: cp FILE /root/    (root alone may write there), and name the copy",
    "or let the node's user read what the document names",
];

fn host_hints(error: &u7s_host::Error) -> Vec<&'static str> {
    use u7s_host::Error as Host;
    match error {
        Host::Step { source, .. } => {
            let mut hints = host_hints(source);
            hints.push("the same command again goes on from here; kubeadm reset takes everything back");
            hints
        }
        Host::Left { source, .. } => {
            let mut hints = host_hints(source);
            hints.push("rm what is left behind: it holds a credential");
            hints
        }
        Host::Inside { .. } => vec!["u7s logs -n 100"],
        Host::Firewall { .. } => vec![
            "nft list ruleset    (works?); modprobe nf_tables nft_ct nft_reject_inet",
            "without bounds for pods: in /etc/u7s/config.toml, section [firewall]: enabled = false",
        ],
        Host::Node { .. } => vec!["kubeadm init    (again: it writes the file anew)"],
        Host::NotOurs { .. } => {
            vec!["rm what lies there, then the same command again: this program makes it anew"]
        }
        Host::Busy { .. } => vec!["wait until it ends; its pid is in /run/u7s.lock"],
        Host::Enter(enter::Error::Link { .. }) => LINK.to_vec(),
        Host::Enter(enter::Error::Foreign { .. }) => FOREIGN.to_vec(),
        Host::Enter(error) if stands(error) => STANDS.to_vec(),
        Host::UnitFailed { .. } | Host::Control(_) | Host::Enter(_) => {
            vec!["journalctl -u u7s.service -n 50"]
        }
        _ => Vec::new(),
    }
}

/// How much the worst of these needs weighs.
#[must_use]
pub fn worst(needs: &[Unmet]) -> Option<Level> {
    needs.iter().map(|need| need.level).max()
}

/// What is printed moves no terminal.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(text: &str) {
    let shown = printable(text);
    assert!(shown.chars().all(|char| matches!(char, '\n' | '\t') || !char.is_control()), "{shown:?}");
    assert!(fitting(&shown, 0).chars().count() < 80);
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn status_of(error: Error) -> u8 {
        code(&error)
    }

    fn not_there() -> control::Error {
        control::Error::NotRunning { path: "/run/u7s/control.sock".into() }
    }

    #[test]
    fn statuses_are_those_of_the_table() {
        assert_eq!(status_of(Error::Unmet(Vec::new())), 2);
        assert_eq!(status_of(Error::Usage("x".into())), 3);
        assert_eq!(status_of(Error::Inside), 1);
        assert_eq!(status_of(Error::Control(not_there())), 1);
        assert_eq!(status_of(Error::Control(control::Error::Deadline { seconds: 1 })), 4);
        let late = enter::Error::Deadline { program: "x".into(), seconds: 1 };
        assert_eq!(status_of(Error::Enter(late)), 4);
        let link = || enter::Error::Link { path: "/x".into() };
        assert_eq!((status_of(Error::Enter(link())), status_of(Error::Host(link().into()))), (3, 3));
    }

    #[test]
    fn a_document_that_others_may_write_has_a_remedy() {
        let foreign = enter::Error::Foreign { path: "/x".into(), uid: 9, reason: "y".into() };
        assert!(hints(&Error::Host(foreign.into()))[0].contains("cp FILE /root/"));
    }

    #[test]
    fn f67_a_step_that_ran_a_program_keeps_its_status() {
        for code in [2, 3, 137] {
            let inside =
                u7s_host::Error::Inside { program: "kubeadm".into(), status: enter::Status::Exited(code) };
            let step = u7s_host::Error::Step {
                phase: u7s_plan::step::Phase::Cluster,
                step: "inside: run kubeadm".into(),
                source: Box::new(inside),
            };
            assert_eq!(i32::from(status_of(Error::Host(step))), code);
        }
    }

    #[test]
    fn a_secret_left_behind_does_not_hide_how_kubeadm_ended() {
        let inside = u7s_host::Error::Inside { program: "kubeadm".into(), status: enter::Status::Exited(7) };
        let left = u7s_host::Error::AsUser { uid: 9, reason: "cannot remove /x: read-only".into() };
        let both = u7s_host::Error::Left { left: vec![left], source: Box::new(inside) };
        let step = u7s_host::Error::Step {
            phase: u7s_plan::step::Phase::Cluster,
            step: "inside: run kubeadm".into(),
            source: Box::new(both),
        };
        let error = Error::Host(step);
        let said = chain(&error);
        assert!(
            said.contains("cannot remove /x: read-only") && said.contains("kubeadm failed inside"),
            "{said}"
        );
        assert!(ended_inside(&error));
        assert_eq!(status_of(error), 7);
    }

    #[test]
    fn a_node_that_does_not_run_has_a_remedy() {
        assert!(hints(&Error::Control(not_there()))[0].starts_with("systemctl start u7s.service"));
    }

    #[test]
    fn causes_are_said_once() {
        let source = io::Error::from(ErrorKind::PermissionDenied);
        let error = Error::Enter(enter::Error::File { path: PathBuf::from("/x"), source });
        assert_eq!(chain(&error), "cannot read /x: permission denied");
    }

    #[test]
    fn a_line_that_is_written_over_never_wraps() {
        assert_eq!(fitting("0123456789012345678901234", 20), "0123456789012345678");
        assert_eq!(fitting("\u{430}\u{431}\nc", 20), "\u{430}\u{431}c");
        assert_eq!((fitting("abc", 1), fitting(&"x".repeat(100), 0).len()), (String::new(), 79));
    }
}
