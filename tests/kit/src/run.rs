//! Long commands: output to a bounded log, a line of progress now and then, a deadline.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::{Error, Say};

/// No log grows beyond this many bytes; what comes later is read and dropped.
const LOG_BYTES: u64 = 4 << 20;
/// How long a step may be silent.
const QUIET: Duration = Duration::from_secs(15);

/// The log of one build.
pub(crate) struct Log<'a> {
    path: PathBuf,
    say: Say<'a>,
}

impl<'a> Log<'a> {
    pub(crate) fn create(path: PathBuf, say: Say<'a>) -> Result<Self, Error> {
        File::create(&path).map_err(Error::file("writing", &path))?;
        Ok(Self { path, say })
    }

    pub(crate) fn say(&self, line: &str) {
        (self.say)(line);
    }

    /// Runs a command to its end, its output into the log.
    ///
    /// `what` is the step in the imperative: "build k8s".
    ///
    /// # Errors
    /// It cannot start, ends with another status than 0, or is not done within `limit` (then its group is killed).
    pub(crate) fn run(&self, what: &str, limit: Duration, command: &mut Command) -> Result<(), Error> {
        let (reader, writer) = io::pipe().map_err(Error::file("piping to", &self.path))?;
        let twin = writer.try_clone().map_err(Error::file("piping to", &self.path))?;
        command.process_group(0).stdin(Stdio::null()).stdout(writer).stderr(twin);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|source| Error::Start { program, source })?;
        // Drops our ends of the pipe, so that the reader sees its end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let copier = self.copy_output(reader)?;
        let status = self.wait(what, limit, child)?;
        let _ = copier.join();
        if status.success() {
            return Ok(());
        }
        let (what, log, tail) = (what.to_string(), self.path.clone(), self.tail());
        Err(Error::Command { what, status: status.to_string(), log, tail })
    }

    fn copy_output(&self, mut reader: io::PipeReader) -> Result<thread::JoinHandle<()>, Error> {
        let open = File::options().append(true).open(&self.path);
        let mut file = open.map_err(Error::file("writing", &self.path))?;
        Ok(thread::spawn(move || {
            let _ = io::copy(&mut (&mut reader).take(LOG_BYTES), &mut file);
            let _ = file.flush();
            let _ = io::copy(&mut reader, &mut io::sink());
        }))
    }

    fn wait(&self, what: &str, limit: Duration, mut child: Child) -> Result<ExitStatus, Error> {
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let start = Instant::now();
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait()));
        let mut next = Duration::from_secs(2);
        while start.elapsed() < limit {
            match ended.recv_timeout(next) {
                Ok(status) => return status.map_err(Error::file("waiting for", what)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => (self.say)(&progress(what, start.elapsed(), limit)),
            }
            next = QUIET.min(limit.saturating_sub(start.elapsed()));
        }
        let _ = killpg(group, Signal::SIGKILL);
        Err(Error::Deadline { what: what.to_string(), seconds: limit.as_secs(), log: self.path.clone() })
    }

    fn tail(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

fn progress(what: &str, elapsed: Duration, limit: Duration) -> String {
    format!("kit: {what}: {} s of at most {} s", elapsed.as_secs(), limit.as_secs())
}

/// Runs a short command and gives its standard output.
///
/// # Errors
/// It cannot start, or ends with another status than 0.
pub(crate) fn answer(command: &mut Command) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|source| Error::Start { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let answer = format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Err(Error::Answer { program: format!("{command:?}"), answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &tempfile::TempDir) -> Log<'static> {
        Log::create(dir.path().join("log"), &|_| ()).unwrap()
    }

    #[test]
    fn a_failure_names_the_log_and_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        let error =
            log(&dir).run("try", Duration::from_secs(9), command.args(["-c", "echo no luck; exit 3"]));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("no luck") && text.contains("/log"), "{text}");
    }

    #[test]
    fn a_step_that_hangs_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let error = log(&dir).run("hang", Duration::from_millis(200), Command::new("sleep").arg("60"));
        assert!(matches!(error, Err(Error::Deadline { .. })), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
