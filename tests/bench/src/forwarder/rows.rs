//! What is measured of each peer, one row each.

use std::io;
use std::time::Duration;

use super::connects;
use super::peers::{From, Peer};
use super::requests::{self, Times};
use super::streams::{self, Way};

/// Connections that are held open to see what one costs.
pub(super) const IDLE: usize = 1000;

/// Which number is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
}

/// A row of the result.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    /// Position in the table.
    pub(super) order: (From, u32),
    pub(super) title: String,
    pub(super) unit: &'static str,
}

impl Row {
    pub(super) fn better(&self) -> Better {
        if self.unit.ends_with("/s") { Better::Higher } else { Better::Lower }
    }
}

/// One number of one run.
pub(super) type Sample = (Row, f64);

/// What one run of a group of rows came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) samples: Vec<Sample>,
    /// Connections and requests that failed, of how many.
    pub(super) failed: (u64, u64),
}

/// A group of rows that come from one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    Streams(Way, usize),
    Connects(usize),
    Requests(usize),
    Datagrams(usize),
    Idle,
}

/// All groups for a client at that place.
pub(super) fn measures(from: From) -> Vec<Measure> {
    use Measure::{Connects, Datagrams, Idle, Requests, Streams};
    match from {
        From::Host => vec![
            Streams(Way::Up, 1),
            Streams(Way::Down, 1),
            Streams(Way::Up, 4),
            Streams(Way::Down, 4),
            Connects(1),
            Connects(32),
            Requests(1),
            Requests(64),
            Requests(1000),
            Datagrams(16),
            Idle,
        ],
        From::Outside => vec![
            Streams(Way::Up, 1),
            Streams(Way::Down, 1),
            Connects(32),
            Requests(1),
            Requests(64),
            Datagrams(16),
        ],
    }
}

impl Measure {
    /// Whether a list with commas, where an empty one means all, begins a word like this one's name.
    pub(super) fn is_among(self, wanted: &str) -> bool {
        let name = format!("{self:?}");
        wanted.is_empty() || wanted.split(',').any(|word| name.starts_with(word.trim()))
    }

    /// Runs it once for about `time`.
    pub(super) fn run(self, peer: &Peer, from: From, time: Duration) -> io::Result<Outcome> {
        match self {
            Self::Streams(way, count) => stream(peer, from, way, count, time),
            Self::Connects(count) => connect(peer, from, count, time),
            Self::Requests(count) => request(peer, from, count, time),
            Self::Datagrams(count) => datagram(peer, from, count, time),
            Self::Idle => idle(peer, from),
        }
    }
}

fn stream(peer: &Peer, from: From, way: Way, count: usize, time: Duration) -> io::Result<Outcome> {
    let before = peer.group.cpu()?;
    let moved = peer.client(from, |target| streams::run(target, way, count, time))?;
    let used = peer.group.cpu()?.saturating_sub(before);
    let (base, name) = if way == Way::Up { (10, "to the namespace") } else { (14, "from the namespace") };
    let many = if count == 1 { "1 stream".to_owned() } else { format!("{count} streams") };
    let order = base + u32::from(count > 1) * 2;
    let gigabytes = moved.bytes as f64 / 1e9;
    let rows = [
        (row(from, order, format!("throughput {name}, {many}"), "MB/s"), moved.rate()),
        (row(from, order + 50, format!("CPU {name}, {many}"), "s/GB"), used.as_secs_f64() / gigabytes),
    ];
    Ok(Outcome { samples: rows.into(), failed: (0, 1) })
}

fn connect(peer: &Peer, from: From, count: usize, time: Duration) -> io::Result<Outcome> {
    let before = peer.group.cpu()?;
    let done = peer.client(from, |target| connects::run(target, count, time))?;
    let used = peer.group.cpu()?.saturating_sub(before);
    let (order, title) = (20 + u32::from(count > 1), format!("short connections, {count} at a time"));
    let cost = format!("CPU of a short connection, {count} at a time");
    let samples = vec![
        (row(from, order, title, "1/s"), done.rate()),
        (row(from, order + 47, cost, "µs"), microseconds(used) / done.done as f64),
    ];
    Ok(Outcome { samples, failed: (done.failed, done.done + done.failed) })
}

fn request(peer: &Peer, from: From, count: usize, time: Duration) -> io::Result<Outcome> {
    // One connection has 10 000 requests a second: the slowest thousandth shall be more than a handful.
    let time = if count == 1 { time * 5 } else { time };
    let before = peer.group.cpu()?;
    let times = peer.client(from, |target| requests::streams(target, count, time))?;
    let used = peer.group.cpu()?.saturating_sub(before);
    let order = match count {
        1 => 30,
        2..100 => 34,
        _ => 38,
    };
    let part = |place, name: &str, permille| {
        let title = format!("request, {count} connections, {name}");
        (row(from, order + place, title, "µs"), microseconds(times.permille(permille)))
    };
    let title = format!("requests, {count} connections");
    let rate = (row(from, order + 3, title, "1/s"), times.rate());
    let cost = format!("CPU of a request, {count} connections");
    let cost = (row(from, order + 40, cost, "µs"), microseconds(used) / times.answered() as f64);
    let samples = vec![part(0, "p50", 500), part(1, "p99", 990), part(2, "p99.9", 999), rate, cost];
    Ok(Outcome { samples, failed: failed(&times) })
}

fn datagram(peer: &Peer, from: From, count: usize, time: Duration) -> io::Result<Outcome> {
    let times = peer.client(from, |target| requests::datagrams(target, count, time))?;
    let samples = vec![
        (row(from, 45, format!("datagrams and answers, {count} clients"), "1/s"), times.rate()),
        (row(from, 46, format!("datagram, {count} clients, p50"), "µs"), microseconds(times.permille(500))),
    ];
    Ok(Outcome { samples, failed: failed(&times) })
}

fn failed(times: &Times) -> (u64, u64) {
    (times.lost, times.answered() + times.lost)
}

fn idle(peer: &Peer, from: From) -> io::Result<Outcome> {
    peer.client(from, |target| {
        let before = (peer.group.memory(), super::cost::kernel_memory());
        let _held = requests::connected(target, IDLE)?;
        let after = (peer.group.memory(), super::cost::kernel_memory());
        let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / IDLE as f64 / 1000.0;
        let title = "memory of an idle connection, forwarding processes".to_owned();
        let kernel = "memory of an idle connection, the whole kernel".to_owned();
        let samples = vec![
            (row(from, 90, title, "kB"), each(before.0, after.0)),
            (row(from, 91, kernel, "kB"), each(before.1, after.1)),
        ];
        Ok(Outcome { samples, failed: (0, IDLE as u64) })
    })
}

fn row(from: From, order: u32, title: String, unit: &'static str) -> Row {
    Row { order: (from, order), title, unit }
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}
