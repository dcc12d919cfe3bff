//! Commands with a deadline: their whole process group ends when it is over.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::{Error, until};

/// What one stream may hold; what comes later is read and dropped.
const STREAM_BYTES: usize = 32 << 20;

/// How a command ended and what it printed; text that is no UTF-8 is replaced.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status; killed by a signal has no code.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The exit code, or `None` after a signal.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// True for exit code 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.status.success()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            for line in text.lines() {
                writeln!(f, "  {name}: {line}")?;
            }
        }
        Ok(())
    }
}

/// A command that runs; dropped, its process group is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    stdout: Stream,
    stderr: Stream,
    ended: bool,
}

/// One stream, read by a thread of its own so that the command never blocks on us.
#[derive(Debug)]
struct Stream {
    seen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts a command in a process group of its own, `input` on its standard input.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub(crate) fn start(mut command: Command, shown: String, input: &[u8]) -> Result<Self, Error> {
        let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        command.process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.spawn();
        let mut child = spawned.map_err(|source| Error::Start { program: shown.clone(), source })?;
        if let Some(mut stdin) = child.stdin.take() {
            let input = input.to_vec();
            // A command that does not read its input is no error of ours.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let stdout = Stream::read(child.stdout.take());
        let stderr = Stream::read(child.stderr.take());
        Ok(Self { child, command: shown, stdout, stderr, ended: false })
    }

    /// The host pid of the process that was started (nsenter, where the command runs in a node).
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far: (standard output, standard error).
    #[must_use]
    pub fn so_far(&self) -> (String, String) {
        (self.stdout.text(), self.stderr.text())
    }

    /// Sends a signal to the whole process group.
    pub fn signal(&self, signal: Signal) {
        if !self.ended {
            let _ = killpg(self.group(), signal);
        }
    }

    /// The exit status if it has ended.
    ///
    /// # Errors
    /// The kernel does not know the child.
    pub fn try_status(&mut self) -> Result<Option<ExitStatus>, Error> {
        let status = self.child.try_wait().map_err(Error::file("waiting for", self.command.as_str()))?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// Waits for the end, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Deadline`]: it was still running; its group is killed.
    pub fn wait(mut self, limit: Duration) -> Result<Output, Error> {
        let what = format!("the end of `{}`", self.command);
        let start = Instant::now();
        let status = until(limit, &what, || {
            self.try_status().map_err(|error| error.to_string())?.ok_or_else(String::new)
        });
        let Ok(status) = status else {
            self.signal(Signal::SIGKILL);
            let (stdout, stderr) = self.so_far();
            return Err(Error::Deadline { what, waited: start.elapsed(), last: format!("{stdout}{stderr}") });
        };
        // A daemon that it left behind may hold the pipes open: its words are not the command's.
        let grace = Instant::now() + Duration::from_millis(500);
        Ok(Output { status, stdout: self.stdout.finish(grace), stderr: self.stderr.finish(grace) })
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Stream {
    fn read(pipe: Option<impl Read + Send + 'static>) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let reader = pipe.map(|pipe| thread::spawn(move || copy(pipe, &sink)));
        Self { seen, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn finish(&mut self, grace: Instant) -> String {
        let Some(reader) = self.reader.take() else { return self.text() };
        while !reader.is_finished() && Instant::now() < grace {
            thread::sleep(Duration::from_millis(1));
        }
        self.text()
    }
}

fn copy(mut pipe: impl Read, sink: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16384];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
                let room = STREAM_BYTES.saturating_sub(seen.len()).min(count);
                seen.extend_from_slice(&buffer[..room]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Runs a program of this machine to its end and wants status 0.
pub(crate) fn run(argv: &[&str], limit: Duration) -> Result<Output, Error> {
    let mut command = Command::new(argv.first().copied().unwrap_or("true"));
    command.args(argv.get(1..).unwrap_or_default());
    let output = Running::start(command, argv.join(" "), &[])?.wait(limit)?;
    wanted(&argv.join(" "), output)
}

/// Turns any status but 0 into an error that shows the whole output.
pub(crate) fn wanted(command: &str, output: Output) -> Result<Output, Error> {
    if output.ok() {
        return Ok(output);
    }
    Err(Error::Command { command: command.into(), output: Box::new(output) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str, input: &[u8]) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(command, script.into(), input).unwrap()
    }

    #[test]
    fn input_output_and_status() {
        let output = start("cat; echo no >&2; exit 3", b"yes").wait(Duration::from_secs(9)).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.code()), ("yes", "no\n", Some(3)));
    }

    #[test]
    fn a_deadline_kills_the_group_and_names_the_command() {
        let began = Instant::now();
        let error =
            start("echo started; sleep 60 & sleep 60", b"").wait(Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("sleep 60") && error.to_string().contains("started"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_daemon_left_behind_does_not_hold_us() {
        let began = Instant::now();
        let output = start("sleep 30 & echo done", b"").wait(Duration::from_secs(20)).unwrap();
        assert_eq!(output.stdout, "done\n");
        assert!(began.elapsed() < Duration::from_secs(15));
    }
}
