//! Loads the forwarder's nft table inside, while crio starts.
//!
//! The text is handed over as an argument: there is no file that anybody inside could change, and pid 1 gives its
//! programs no standard input.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::time::timeout;
use u7s_plan::forwarding;
use u7s_plan::node::NodeSpec;

use crate::pid_one::PidOne;
use crate::serve::Happened;
use crate::{Error, output};

/// How long nft may take: it says some twenty things to the kernel.
const NFT: Duration = Duration::from_secs(10);

/// How much of its complaints is kept, bytes.
const WORDS: u64 = 2048;

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
    let (_, _process) = pid_one.start(argv, std::collections::BTreeMap::new(), [writer, copy]).await?;
    let reader = Receiver::from_owned_fd(reader).map_err(Error::io("read from a pipe"))?;
    let mut said = Vec::new();
    let read = timeout(crate::patience::of(NFT), reader.take(WORDS).read_to_end(&mut said)).await;
    match read {
        Ok(outcome) => outcome.map_err(Error::io("hear nft"))?,
        Err(_) => {
            return Err(Error::Deadline { what: "nft inside", seconds: crate::patience::of(NFT).as_secs() });
        }
    };
    Ok(String::from_utf8_lossy(&said).trim().escape_debug().to_string())
}
