//! The port forwarder against RootlessKit's builtin driver, slirp4netns' hostfwd, and no forwarder at all.
//!
//! All peers stand at the same time, each on a host of its own; they are measured in turn, in one order in even rounds and in the other
//! in odd ones. Client, server and forwarder share the machine's CPUs, unpinned, for every peer alike.
//!
//! `U7S_BENCH_BEFORE` may name another build of u7s-supervisor, which is then measured beside this one;
//! `U7S_BENCH_MEASURES` names what alone is measured, as `Datagrams, Requests(64)`.

mod connects;
mod cost;
mod net;
mod peers;
mod requests;
mod rows;
mod server;
mod streams;
mod supervisor;
mod table;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{Error, Section, Settings};
use peers::{From, Kind, Peer};
use rows::{Measure, Outcome, Row, measures};

/// No round begins after this.
const BUDGET: Duration = Duration::from_secs(420);

/// Measures all peers.
///
/// # Errors
/// RootlessKit cannot be built; a peer does not stand; no network namespace can be made (root is needed).
pub(crate) fn run(settings: &Settings) -> Result<Section, Error> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Error::call("getrlimit"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(Error::call("setrlimit"))?;
    let mut peers = start(settings)?;
    let mut results = Results::default();
    for peer in &peers {
        for from in [From::Host, From::Outside] {
            let seen = peer.awake(|| peer.seen_as(from)).map_err(Error::program(peer.kind.to_string()))?;
            results.seen_as.insert((peer.kind.clone(), from), seen);
        }
    }
    let began = Instant::now();
    for round in 0..settings.rounds(8) {
        if began.elapsed() > BUDGET {
            break;
        }
        results.round(&mut peers, round, settings);
    }
    Ok(table::section(&results))
}

fn start(settings: &Settings) -> Result<Vec<Peer>, Error> {
    let rootlesskit = u7s_kit::rootlesskit(&|line| settings.say(line))?;
    let ours = settings.programs.join("u7s-supervisor");
    let before = std::env::var_os("U7S_BENCH_BEFORE").map(|path| Kind::Former(path.into()));
    let kinds = [Kind::Direct, Kind::Slirp, Kind::RootlessKit(rootlesskit)];
    let kinds = kinds.into_iter().chain(before).chain([Kind::Ours(ours)]);
    (0..)
        .zip(kinds)
        .map(|(number, kind)| {
            let name = kind.to_string();
            Peer::start(kind, number).map_err(Error::program(name))
        })
        .collect()
}

/// Numbers of all runs: of each row and peer one a round, `None` where the run failed.
#[derive(Debug, Default)]
struct Results {
    samples: BTreeMap<Row, BTreeMap<Kind, Vec<Option<f64>>>>,
    failures: BTreeMap<Kind, Failures>,
    /// The client's address that a server inside sees.
    seen_as: BTreeMap<(Kind, From), String>,
    /// What failed; it is not waited for again, so that there are as many rounds of the others.
    hopeless: BTreeSet<(Kind, From, Measure)>,
}

/// What did not work with a peer.
#[derive(Debug, Default)]
struct Failures {
    /// Runs that gave no number, and all.
    runs: (u64, u64),
    /// Requests and connections without an answer, and all.
    parts: (u64, u64),
    /// The first cause.
    cause: Option<String>,
}

impl Results {
    fn round(&mut self, peers: &mut [Peer], round: usize, settings: &Settings) {
        let time = Duration::from_millis(if settings.quick { 30 } else { 400 });
        settings.say(&format!("forwarder: round {}", round + 1));
        let wanted = std::env::var("U7S_BENCH_MEASURES").unwrap_or_default();
        for from in [From::Host, From::Outside] {
            for measure in measures(from).into_iter().filter(|measure| measure.is_among(&wanted)) {
                let mut order: Vec<&mut Peer> = peers.iter_mut().collect();
                if round % 2 == 1 {
                    order.reverse();
                }
                for peer in order {
                    let outcome = self.run(peer, from, measure, time);
                    self.note(&peer.kind, round, outcome);
                }
            }
        }
        for samples in self.samples.values_mut().flat_map(BTreeMap::values_mut) {
            samples.resize(round + 1, None);
        }
    }

    /// Runs it unless it failed before. A peer that failed may never work again (slirp4netns does not): another takes its place.
    fn run(&mut self, peer: &mut Peer, from: From, measure: Measure, time: Duration) -> io::Result<Outcome> {
        let known = (peer.kind.clone(), from, measure);
        if self.hopeless.contains(&known) {
            return Err(io::Error::other("it failed before"));
        }
        let outcome = peer.awake(|| measure.run(peer, from, time));
        if outcome.is_err() {
            self.hopeless.insert(known);
            peer.start_again()?;
        }
        outcome
    }

    fn note(&mut self, kind: &Kind, round: usize, outcome: io::Result<Outcome>) {
        let failures = self.failures.entry(kind.clone()).or_default();
        failures.runs.1 += 1;
        match outcome {
            Ok(outcome) => {
                failures.parts.0 += outcome.failed.0;
                failures.parts.1 += outcome.failed.1;
                for (row, value) in outcome.samples {
                    let samples = self.samples.entry(row).or_default().entry(kind.clone()).or_default();
                    samples.resize(round, None);
                    samples.push(Some(value));
                }
            }
            Err(error) => {
                failures.runs.0 += 1;
                failures.cause.get_or_insert_with(|| error.to_string());
            }
        }
    }
}
