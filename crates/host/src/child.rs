//! Short-lived children on the host: bounded output, a deadline, an environment of our own.

use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use u7s_sys::memfd;

use crate::error::Error;
use crate::programs::SEARCHED;

/// What is kept of each output stream by default, bytes; the rest is read and thrown away.
const KEPT: usize = 1 << 20;

/// How long a child that was killed may take to end.
const REAPED: Duration = Duration::from_secs(2);

/// A child to run.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Absolute.
    pub(crate) program: PathBuf,
    /// Arguments without the program's name.
    pub(crate) args: Vec<OsString>,
    /// uid and gid to drop to; no supplementary group is kept.
    pub(crate) user: Option<(u32, u32)>,
    /// After this it is killed with its whole group.
    pub(crate) deadline: Duration,
    /// What it reads on standard input; none is /dev/null.
    pub(crate) input: Option<Vec<u8>>,
    /// What is kept of each output stream, bytes.
    pub(crate) kept: usize,
}

/// How it ended and what it said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Job {
    /// A child of root.
    pub(crate) fn new<A: Into<OsString>>(program: &Path, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            user: None,
            deadline: Duration::from_secs(30),
            input: None,
            kept: KEPT,
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// `Start`; `Deadline` naming the program, after its group was killed.
    pub(crate) fn run(&self) -> Result<Output, Error> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir("/").env_clear();
        command.env("PATH", SEARCHED).env("LC_ALL", "C").env("HOME", "/");
        command.stdin(self.stdin()?).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if let Some((uid, gid)) = self.user {
            // std clears the supplementary groups when root sets a uid, and sets the gid first.
            command.gid(gid).uid(uid);
        }
        let started = |source| Error::Start { program: self.program.clone(), source };
        let child = command.spawn().map_err(started)?;
        let mut watched = Watched { child, kept: self.kept, stdout: Vec::new(), stderr: Vec::new() };
        match watched.wait(Instant::now() + self.deadline).map_err(started)? {
            Some(status) => Ok(Output {
                status,
                stdout: std::mem::take(&mut watched.stdout),
                stderr: std::mem::take(&mut watched.stderr),
            }),
            None => Err(Error::Deadline {
                what: self.program.display().to_string(),
                seconds: self.deadline.as_secs(),
            }),
        }
    }

    /// A memory file: no writer has to wait for a child that does not read.
    fn stdin(&self) -> Result<Stdio, Error> {
        let Some(input) = &self.input else { return Ok(Stdio::null()) };
        let own = || (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let (uid, gid) = self.user.unwrap_or_else(own);
        let file = memfd::sealed("u7s-input", input, memfd::Reader { uid, gid });
        file.map(Stdio::from).map_err(|error| Error::Start {
            program: self.program.clone(),
            source: std::io::Error::other(error),
        })
    }

    /// As [`Job::run`]; a failure of the program is an error that carries the end of what it said.
    ///
    /// # Errors
    /// `Failed`, and those of [`Job::run`].
    pub(crate) fn check(&self) -> Result<Vec<u8>, Error> {
        let output = self.run()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = last_line(&output.stderr);
        Err(Error::Failed { program: self.program.clone(), status: output.status.to_string(), said })
    }
}

/// The last line that is not empty, made printable: `: text`.
pub(crate) fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    if line.is_empty() { String::new() } else { format!(": {}", printable(line)) }
}

/// `text` in one line without control characters, at most 400 characters of it.
pub(crate) fn printable(text: &str) -> String {
    u7s_plan::printable::line(text, 400)
}

/// A running child; killed with its group when dropped unreaped.
struct Watched {
    child: Child,
    kept: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Watched {
    /// Reads until the child is gone; `None` when the deadline came first.
    fn wait(&mut self, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
        let mut out = self.child.stdout.take();
        let mut err = self.child.stderr.take();
        for fd in [out.as_ref().map(AsFd::as_fd), err.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        loop {
            // Asked before the last read, so that nothing written before the end is missed. A grandchild may hold the
            // pipes for longer: it is not waited for.
            let ended = self.child.try_wait()?;
            drain(&mut out, &mut self.stdout, self.kept)?;
            drain(&mut err, &mut self.stderr, self.kept)?;
            if ended.is_some() {
                return Ok(ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut fds = Vec::new();
            fds.extend(out.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            fds.extend(err.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            let slice = if fds.is_empty() { 5 } else { 100 };
            let slice = left.as_millis().clamp(1, slice);
            poll(&mut fds, PollTimeout::try_from(slice).unwrap_or(PollTimeout::ZERO))?;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None))
            && let Ok(pid) = i32::try_from(self.child.id())
        {
            // Not reaped yet, so the pid is still the child's.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            // One that waits for a disk does not hear of it: then init reaps it after us.
            let until = Instant::now() + REAPED;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Reads what is there; closes the stream at its end.
fn drain<R: Read>(stream: &mut Option<R>, kept: &mut Vec<u8>, most: usize) -> std::io::Result<()> {
    let Some(open) = stream else { return Ok(()) };
    let mut buffer = [0; 8192];
    // Bounded, so that a child that writes without end does not keep us from looking at the clock.
    for _ in 0..64 {
        match open.read(&mut buffer) {
            Ok(0) => {
                *stream = None;
                return Ok(());
            }
            Ok(count) => kept.extend(buffer.iter().take(count.min(most.saturating_sub(kept.len())))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Text of a child's, on its way into an error: bounded, and without control characters.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    for shown in [printable(&String::from_utf8_lossy(data)), last_line(data)] {
        assert!(!shown.contains(char::is_control) && shown.len() <= 400 * 10 + 2, "{shown:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(program: &str, args: &[&str]) -> Job {
        Job { deadline: Duration::from_secs(20), ..Job::new(Path::new(program), args) }
    }

    #[test]
    fn a_child_sees_our_environment_only() {
        let text = String::from_utf8(job("/usr/bin/env", &[]).check().unwrap()).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["HOME=/", "LC_ALL=C", &format!("PATH={SEARCHED}")]);
    }

    #[test]
    fn a_child_that_hangs_is_killed_with_its_group_and_named() {
        let mut hanging = job("/bin/sh", &["-c", "sleep 77 & echo $!; exec sleep 77"]);
        hanging.deadline = Duration::from_millis(300);
        let started = Instant::now();
        let error = hanging.run().unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh took longer than 0 s");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_grandchild_that_holds_the_pipes_is_not_waited_for() {
        let started = Instant::now();
        let said = job("/bin/sh", &["-c", "sleep 30 & echo done"]).check().unwrap();
        assert_eq!(said, b"done\n");
        assert!(started.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn a_flood_is_kept_to_its_bound() {
        let output = job("/bin/sh", &["-c", "head -c 5000000 /dev/zero"]).run().unwrap();
        assert_eq!(output.stdout.len(), KEPT);
        assert!(output.status.success());
    }

    #[test]
    fn a_child_reads_what_it_is_given() {
        let text = vec![b'x'; 300_000];
        let job = Job { input: Some(text.clone()), ..job("/bin/cat", &[]) };
        assert_eq!(job.check().unwrap(), text);
        let short = Job { kept: 10, ..job };
        assert_eq!(short.check().unwrap().len(), 10);
    }

    #[test]
    fn a_failure_carries_the_last_line_without_control_characters() {
        let error =
            job("/bin/sh", &["-c", "printf 'first\\n\\033[31mlast\\n\\n' >&2; exit 3"]).check().unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh failed, exit status: 3: \\u{1b}[31mlast");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        assert_eq!(job("/none", &[]).check().unwrap_err().to_string(), "cannot start /none");
    }
}
