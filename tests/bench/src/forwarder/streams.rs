//! Throughput of long streams.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::server::{BLOCK, SINK, SOURCE, STALL};
use super::target::Target;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// What streams came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    /// Of all streams, as the receiving end counted them.
    pub(super) bytes: u64,
    /// Of the slowest one.
    pub(super) time: Duration,
}

impl Moved {
    /// Megabytes (10^6) per second.
    pub(super) fn rate(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.time.as_secs_f64()
    }
}

/// Moves bytes for about `time` by `count` streams at once; must be called in the client's network namespace.
pub(super) fn run(target: &Target, way: Way, count: usize, time: Duration) -> io::Result<Moved> {
    let port = if way == Way::Up { SINK } else { SOURCE };
    let streams: Vec<TcpStream> = (0..count).map(|_| connect(target.of(port))).collect::<io::Result<_>>()?;
    let start = Barrier::new(count);
    let moved = std::thread::scope(|scope| {
        let work = |stream| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                if way == Way::Up { push(stream, time) } else { pull(stream, time) }
            })
        };
        let threads: Vec<_> = streams.into_iter().map(work).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|moved| moved.unwrap_or_else(|_| Err(io::Error::other("a panic")))).collect::<Vec<_>>()
    });
    let mut total = Moved { bytes: 0, time: Duration::ZERO };
    for moved in moved {
        let moved = moved?;
        total = Moved { bytes: total.bytes + moved.bytes, time: total.time.max(moved.time) };
    }
    Ok(total)
}

fn connect(target: SocketAddrV4) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target.into(), STALL)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    Ok(stream)
}

/// The clock stops when the server has told that it got everything.
fn push(mut stream: TcpStream, time: Duration) -> io::Result<Moved> {
    let block = vec![7; BLOCK];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < time {
        stream.write_all(&block)?;
        sent += BLOCK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let received = u64::from_be_bytes(count);
    if received != sent {
        return Err(io::Error::other(format!("{sent} bytes were sent, {received} arrived")));
    }
    Ok(Moved { bytes: received, time: start.elapsed() })
}

fn pull(mut stream: TcpStream, time: Duration) -> io::Result<Moved> {
    let mut block = vec![0; BLOCK];
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < time {
        match stream.read(&mut block)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes += count as u64,
        }
    }
    Ok(Moved { bytes, time: start.elapsed() })
}
