//! Runs of the host's own kubectl inside the node: started by pid 1, heard through pipes, killed when dropped.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::pid_one::PidOne;
use crate::{Error, output};

/// What is kept of its last words, bytes.
const WORDS: usize = 1024;

/// How long its last words may take after its standard output has ended.
const LAST: Duration = Duration::from_secs(2);

/// The search path, the home and the cache of kubectl: a directory of the node's own `/run`, gone with it.
///
/// It waits more than it computes; a second thread of Go's scheduler would only take memory.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    ("KUBECACHEDIR", "/run/u7s-kubectl"),
    ("GOMAXPROCS", "1"),
];

/// kubectl with one set of credentials.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    pub(crate) pid_one: PidOne,
    /// Absolute.
    pub(crate) program: PathBuf,
    /// Inside.
    pub(crate) kubeconfig: &'static Path,
}

/// A kubectl that runs; dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Running {
    process: OwnedFd,
    output: BufReader<Receiver>,
    words: JoinHandle<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // ESRCH: it has ended by itself.
        let _ = u7s_sys::pidfd::signal(self.process.as_fd(), Some(Signal::SIGKILL));
        self.words.abort();
    }
}

impl Kubectl {
    /// Runs it to its end, `within` at most, and returns all that it printed, at most `most` bytes.
    ///
    /// # Errors
    /// A sentence: it could not be started, it printed nothing (its own words then), too much, or took too long.
    pub(crate) async fn run(
        &self,
        arguments: &[&str],
        (most, within): (usize, Duration),
    ) -> Result<Vec<u8>, Failure> {
        collect(self.start(arguments).await?, (most, within)).await
    }

    /// As [`Self::run`], with a short document as its standard input.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) async fn feed(
        &self,
        arguments: &[&str],
        document: &str,
        bounds: (usize, Duration),
    ) -> Result<Vec<u8>, Failure> {
        // The document is expanded once, so nothing in it is code.
        let script = "document=$1; shift; exec \"$@\" <<END\n$document\nEND\n";
        let shell = ["/bin/sh", "-c", script, "sh", document].map(str::to_owned);
        collect(told(self.try_start(shell.to_vec(), arguments).await)?, bounds).await
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`Failure::Said`].
    pub(crate) async fn start(&self, arguments: &[&str]) -> Result<Running, Failure> {
        told(self.try_start(Vec::new(), arguments).await)
    }

    /// `before` are words in front of its own, which run it in the end.
    async fn try_start(&self, before: Vec<String>, arguments: &[&str]) -> Result<Running, Error> {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        let mut argv = before;
        argv.extend([self.program.display().to_string(), kubeconfig]);
        argv.extend(arguments.iter().map(|word| (*word).to_owned()));
        let env: BTreeMap<String, String> =
            ENVIRONMENT.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let (output, stdout) = output::pipe()?;
        let (errors, stderr) = output::pipe()?;
        let receive = |end| Receiver::from_owned_fd(end).map_err(Error::io("read from a pipe"));
        let (output, errors) = (receive(output)?, receive(errors)?);
        let (_, process) = self.pid_one.start(argv, env, [stdout, stderr]).await?;
        Ok(Running { process, output: BufReader::new(output), words: tokio::spawn(listen(errors)) })
    }
}

/// All that it prints.
async fn collect(mut running: Running, (most, within): (usize, Duration)) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let mut bounded = (&mut running.output).take(most as u64 + 1);
    match timeout(within, bounded.read_to_end(&mut text)).await {
        Err(_) => return Err(Failure::Said(format!("kubectl took longer than {} s", within.as_secs()))),
        Ok(Err(error)) => return Err(Failure::Said(format!("read from kubectl: {error}"))),
        Ok(Ok(length)) if length > most => return Err(Failure::TooLong),
        Ok(Ok(0)) => return Err(Failure::Said(running.words().await)),
        Ok(Ok(_)) => {}
    }
    Ok(text)
}

fn told(started: Result<Running, Error>) -> Result<Running, Failure> {
    started.map_err(|error| Failure::Said(format!("start kubectl: {}", crate::error::chain(&error))))
}

/// Why a run gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// It printed more than was allowed.
    #[error("kubectl printed more than is read")]
    TooLong,
    /// A sentence.
    #[error("{0}")]
    Said(String),
}

impl Running {
    /// Its next line without the end, `within` at most and of at most `most` bytes; `None`: it has ended.
    ///
    /// # Errors
    /// [`Failure::TooLong`]; [`Failure::Said`]: the time is over.
    pub(crate) async fn line(&mut self, most: usize, within: Duration) -> Result<Option<Vec<u8>>, Failure> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.output).take(most as u64 + 1);
        match timeout(within, bounded.read_until(b'\n', &mut line)).await {
            Err(_) => Err(Failure::Said("its time is over".into())),
            Ok(Err(error)) => Err(Failure::Said(format!("read from kubectl: {error}"))),
            Ok(Ok(_)) if line.last() == Some(&b'\n') => {
                line.pop();
                Ok(Some(line))
            }
            Ok(Ok(length)) if length > most => Err(Failure::TooLong),
            // What is left of a line without end was cut off.
            Ok(Ok(_)) => Ok(None),
        }
    }

    /// A whole line is there to be read at once.
    pub(crate) fn has_line(&self) -> bool {
        self.output.buffer().contains(&b'\n')
    }

    /// What it said last.
    pub(crate) async fn words(&mut self) -> String {
        let said = match timeout(LAST, &mut self.words).await {
            Ok(Ok(said)) => said,
            _ => String::new(),
        };
        if said.is_empty() { "kubectl ended without a word".into() } else { format!("kubectl: {said}") }
    }
}

/// Reads to the end, so that nobody waits for us; returns the last of it in one line.
async fn listen(mut errors: Receiver) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; WORDS];
    while let Ok(length @ 1..) = read(&mut errors, &mut buffer).await {
        kept.extend_from_slice(&buffer[..length]);
        kept.drain(..kept.len().saturating_sub(WORDS));
    }
    String::from_utf8_lossy(&kept).trim().replace('\n', "; ")
}

async fn read(errors: &mut Receiver, buffer: &mut [u8]) -> io::Result<usize> {
    errors.read(buffer).await
}
