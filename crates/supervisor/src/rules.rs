//! Loads the forwarder's nft table inside, while crio starts, and again until it is there.
//!
//! The text is handed over as an argument: there is no file that anybody inside could change, and pid 1 gives its
//! programs no standard input.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::time::timeout;
use u7s_plan::control::{MAX_PROBLEM, cut};
use u7s_plan::forwarding;
use u7s_plan::node::NodeSpec;

use crate::pid_one::PidOne;
use crate::serve::Happened;
use crate::{Error, output, start, tick};

/// How long nft may take: it says some twenty things to the kernel.
const NFT: Duration = Duration::from_secs(10);

/// How much of its complaints is kept, bytes.
const WORDS: u64 = 2048;

/// When the table is to be loaded, and what came of it.
///
/// A failure is kept for `status`: the node is ready without the table, and nothing else of it tells that it is missing.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    due: Option<Instant>,
    tried: bool,
    problem: Option<String>,
}

impl Rules {
    /// It shall be loaded now.
    pub(crate) fn begin(&mut self) {
        self.due = Some(Instant::now());
    }

    /// When it shall be loaded; never again once it is there.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether to load it by now; it is taken off the list.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// How it went; after a problem it is tried again when everybody is asked.
    pub(crate) fn heard(&mut self, problem: Option<String>) {
        let problem = problem.map(|problem| cut(problem, MAX_PROBLEM));
        match (&self.problem, &problem) {
            (Some(_), None) => tracing::info!("the forwarder's rules are loaded now"),
            (before, Some(problem)) if before.as_ref() != Some(problem) => {
                // Connections to the node's own ports need them not: a node without Services' ports is better than none.
                tracing::error!(
                    problem,
                    "the forwarder's rules: ports of Services and datagrams do not work"
                );
            }
            _ => {}
        }
        self.due = problem.is_some().then(tick::next);
        self.tried = true;
        self.problem = problem;
    }

    /// It is there, or was tried once: the node waits for it no longer.
    pub(crate) fn is_tried(&self) -> bool {
        self.tried
    }

    /// Why it is not there.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

/// Loads the table in the background; how it went comes as news.
pub(crate) fn load(spec: &NodeSpec, pid_one: PidOne, happened: mpsc::Sender<Happened>) {
    let text = forwarding::rules(&spec.network);
    let nft = spec.programs.nft.clone();
    tokio::spawn(async move {
        let outcome = match nft {
            Some(nft) => run(&nft, text, &pid_one).await.map_err(|error| crate::error::chain(&error)),
            None => Err("nft is not installed".to_owned()),
        };
        let problem = match outcome {
            Ok(complaint) if complaint.is_empty() => None,
            Ok(problem) | Err(problem) => Some(problem),
        };
        let _ = happened.send(Happened::RulesLoaded(problem)).await;
    });
}

/// What it complained of; it says nothing when all is well, and ends with its output.
async fn run(nft: &Path, text: String, pid_one: &PidOne) -> Result<String, Error> {
    let (reader, writer) = output::pipe()?;
    let copy = writer.try_clone().map_err(Error::io("make a pipe"))?;
    let argv = vec![nft.display().to_string(), text];
    let (inside, process) = pid_one.start(argv, std::collections::BTreeMap::new(), [writer, copy]).await?;
    let reader = Receiver::from_owned_fd(reader).map_err(Error::io("read from a pipe"))?;
    let mut said = Vec::new();
    let read = timeout(crate::patience::of(NFT), reader.take(WORDS).read_to_end(&mut said)).await;
    match read {
        Ok(outcome) => outcome.map_err(Error::io("hear nft"))?,
        Err(_) => {
            // It is tried again: those that hang must not become many. Only a process of the node is killed.
            if start::pid_of(&process, inside).is_ok() {
                let _ = u7s_sys::pidfd::signal(process.as_fd(), Some(Signal::SIGKILL));
            }
            return Err(Error::Deadline { what: "nft inside", seconds: crate::patience::of(NFT).as_secs() });
        }
    };
    Ok(String::from_utf8_lossy(&said).trim().escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An nft that failed once at the start left the node without Services' ports, and status said that all was well.
    #[test]
    fn rules_that_could_not_be_loaded_are_tried_on_the_shared_tick_until_they_are() {
        let mut rules = Rules::default();
        assert!(!rules.take_due(Instant::now()) && !rules.is_tried());
        rules.begin();
        assert!(rules.take_due(Instant::now()) && !rules.take_due(Instant::now()), "once");
        for _ in 0..3 {
            let before = tick::next();
            rules.heard(Some("nft inside: no memory".into()));
            assert!(rules.is_tried(), "READY waits for it");
            assert_eq!(rules.problem(), Some("nft inside: no memory"));
            let due = rules.next_due().unwrap();
            assert!([before, tick::next()].contains(&due), "it has a tick of its own");
            assert!(!rules.take_due(due - Duration::from_nanos(1)) && rules.take_due(due));
        }
        rules.heard(None);
        assert_eq!((rules.problem(), rules.next_due(), rules.is_tried()), (None, None, true));
    }
}
