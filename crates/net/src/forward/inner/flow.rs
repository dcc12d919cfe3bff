//! One direction of a connection: source, pipe, sink.
//!
//! What is short is copied, which costs two system calls and none of a pipe's; what fills the buffer is the beginning of more, and is
//! spliced until the source gives less again.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::write;

use super::pool::{Pipe, Pool};

/// Turns of one direction before the others have theirs.
const TURNS: usize = 8;

/// More than any pipe takes at once, bytes.
const CHUNK: usize = 1 << 20;

/// What is copied instead of spliced, bytes: as much as a pipe takes that the kernel gave the least room to.
///
/// Source: fs/pipe.c, `PIPE_MIN_DEF_BUFFERS`: two pages.
const SHORT: usize = 8192;

/// Where a direction stands after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing can be done before the next event.
    Waits,
    /// Its turns are over, there may be more to move.
    Runs,
    /// The end of the source was passed on.
    Ended,
}

/// State of one direction; the sockets are the connection's.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// The source may have data, an end or an error.
    pub(super) readable: bool,
    /// The source has an end or an error, which no further event will tell.
    pub(super) over: bool,
    /// The sink may take data.
    pub(super) writable: bool,
    /// The last read was not short: more of the same is likely.
    bulk: bool,
    pipe: Option<Pipe>,
    in_flight: usize,
    /// The end of the source was passed on.
    pub(super) ended: bool,
}

/// What one step of a direction came to.
enum Step {
    Moved,
    Blocked,
    End,
}

impl Flow {
    /// Moves what can be moved now.
    ///
    /// The end of the source is passed on, unless this is the `last` direction of a connection: closing the sink then says the same.
    ///
    /// # Errors
    /// What either socket said: the connection is over.
    pub(super) fn pump(
        &mut self,
        source: &TcpStream,
        sink: &TcpStream,
        pool: &mut Pool,
        last: bool,
    ) -> Result<Progress, Errno> {
        for _ in 0..TURNS {
            if self.ended {
                return Ok(Progress::Ended);
            }
            let step = match self.in_flight {
                0 if !self.readable || !self.writable => Step::Blocked,
                0 => self.fill(source, sink, pool)?,
                _ if !self.writable => Step::Blocked,
                _ => self.drain(sink, pool)?,
            };
            match step {
                Step::Moved => {}
                Step::Blocked => return Ok(Progress::Waits),
                Step::End => {
                    self.ended = true;
                    if !last {
                        sink.shutdown(Shutdown::Write).map_err(|error| errno(&error))?;
                    }
                }
            }
        }
        Ok(if self.ended { Progress::Ended } else { Progress::Runs })
    }

    /// Gives the pipe up, with whatever is in it.
    pub(super) fn release(self, pool: &mut Pool) {
        if let Some(pipe) = self.pipe {
            pool.close(pipe);
        }
    }

    /// Source to pipe; without a pipe, source to sink.
    fn fill(&mut self, source: &TcpStream, sink: &TcpStream, pool: &mut Pool) -> Result<Step, Errno> {
        let Some(pipe) = pool.take() else { return self.copy(source, sink, &mut pool.scratch) };
        if !self.bulk {
            return self.fill_short(source, sink, pipe, pool);
        }
        match splice(source, None, &pipe.write, None, CHUNK, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(bytes) if bytes > 0 => {
                self.in_flight = bytes;
                self.pipe = Some(pipe);
                self.bulk = bytes > SHORT;
                Ok(Step::Moved)
            }
            answer => {
                pool.give_back(pipe);
                self.source_step(answer)
            }
        }
    }

    /// Source to sink by way of a buffer; the pipe keeps what the sink does not take.
    fn fill_short(
        &mut self,
        source: &TcpStream,
        sink: &TcpStream,
        pipe: Pipe,
        pool: &mut Pool,
    ) -> Result<Step, Errno> {
        let buffer = &mut pool.scratch[..SHORT];
        let bytes = match recv(source.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(bytes) if bytes > 0 => bytes,
            answer => {
                pool.give_back(pipe);
                return self.source_step(answer);
            }
        };
        self.bulk = bytes == SHORT;
        // The source is empty, and what comes now raises a new event; its end may have come before.
        self.readable = self.bulk || self.over;
        let quiet = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match send(sink.as_raw_fd(), &buffer[..bytes], quiet) {
            Ok(sent) => sent,
            Err(Errno::EAGAIN) => {
                self.writable = false;
                0
            }
            Err(Errno::EINTR) => 0,
            Err(error) => {
                pool.give_back(pipe);
                return Err(error);
            }
        };
        if sent == bytes {
            pool.give_back(pipe);
            return Ok(Step::Moved);
        }
        let kept = write(&pipe.write, &buffer[sent..bytes]);
        self.in_flight = bytes - sent;
        self.pipe = Some(pipe);
        // It has room for this much, since it was empty.
        if kept == Ok(self.in_flight) { Ok(Step::Moved) } else { Err(Errno::EPIPE) }
    }

    /// Pipe to sink; an emptied pipe goes back to the pool.
    fn drain(&mut self, sink: &TcpStream, pool: &mut Pool) -> Result<Step, Errno> {
        let Some(pipe) = &self.pipe else { return Err(Errno::EPIPE) };
        match splice(&pipe.read, None, sink, None, self.in_flight, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(bytes) => {
                self.in_flight = self.in_flight.saturating_sub(bytes);
                if self.in_flight == 0
                    && let Some(pipe) = self.pipe.take()
                {
                    pool.give_back(pipe);
                }
                Ok(Step::Moved)
            }
            Err(error) => self.sink_step(error),
        }
    }

    /// Source to sink by way of the shared buffer: what the sink does not take stays in the source.
    ///
    /// It holds nothing between calls, so any number of directions can go on without a pipe.
    fn copy(&mut self, source: &TcpStream, sink: &TcpStream, buffer: &mut [u8]) -> Result<Step, Errno> {
        let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let seen = match recv(source.as_raw_fd(), buffer, peek) {
            Ok(bytes) if bytes > 0 => bytes,
            answer => return self.source_step(answer),
        };
        let quiet = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match send(sink.as_raw_fd(), &buffer[..seen], quiet) {
            Ok(bytes) => bytes,
            Err(error) => return self.sink_step(error),
        };
        // For TCP, MSG_TRUNC discards the bytes without copying them.
        let discard = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        let mut rest = sent;
        while rest > 0 {
            let bytes = recv(source.as_raw_fd(), &mut buffer[..rest], discard)?;
            rest = rest.saturating_sub(bytes.max(1));
        }
        Ok(Step::Moved)
    }

    fn source_step(&mut self, answer: Result<usize, Errno>) -> Result<Step, Errno> {
        match answer {
            Ok(_) => Ok(Step::End),
            Err(Errno::EAGAIN) => {
                self.readable = false;
                Ok(Step::Blocked)
            }
            Err(Errno::EINTR) => Ok(Step::Moved),
            Err(error) => Err(error),
        }
    }

    fn sink_step(&mut self, error: Errno) -> Result<Step, Errno> {
        match error {
            Errno::EAGAIN => {
                self.writable = false;
                Ok(Step::Blocked)
            }
            Errno::EINTR => Ok(Step::Moved),
            error => Err(error),
        }
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        far.set_nonblocking(true).unwrap();
        (near, far)
    }

    /// Pumps without an event loop: both flags are raised before every turn.
    fn turn(flow: &mut Flow, source: &TcpStream, sink: &TcpStream, pool: &mut Pool) -> Progress {
        (flow.readable, flow.writable) = (true, true);
        flow.pump(source, sink, pool, false).unwrap()
    }

    #[test]
    fn bytes_and_their_end_pass_with_and_without_a_pipe() {
        for pipes in [1, 0] {
            let ((mut sender, source), (mut receiver, sink)) = (pair(), pair());
            let (mut flow, mut pool) = (Flow::default(), Pool::new(pipes));
            sender.write_all(b"some words").unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
            while turn(&mut flow, &source, &sink, &mut pool) != Progress::Ended {}
            let mut text = String::new();
            receiver.read_to_string(&mut text).unwrap();
            assert_eq!(text, "some words", "{pipes} pipes");
            assert!(flow.pipe.is_none());
        }
    }

    #[test]
    fn a_slow_sink_keeps_the_pipe_and_stops_the_reading_and_nothing_is_lost() {
        for pipes in [1, 0] {
            let ((sender, source), (mut receiver, sink)) = (pair(), pair());
            let (mut flow, mut pool) = (Flow::default(), Pool::new(pipes));
            sender.set_nonblocking(true).unwrap();
            let mut sent = 0;
            let mut stuck = 0;
            while stuck < 3 {
                sent += (&sender).write(&[7; 65_536]).unwrap_or(0);
                let progress = turn(&mut flow, &source, &sink, &mut pool);
                stuck = if progress == Progress::Waits && !flow.writable { stuck + 1 } else { 0 };
            }
            assert_eq!((flow.pipe.is_some(), flow.in_flight > 0), (pipes == 1, pipes == 1));
            sender.shutdown(Shutdown::Write).unwrap();
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                receiver.read_to_end(&mut all).unwrap();
                all.len()
            });
            while turn(&mut flow, &source, &sink, &mut pool) != Progress::Ended {
                std::thread::yield_now();
            }
            assert_eq!(reader.join().unwrap(), sent, "{pipes} pipes");
        }
    }

    #[test]
    fn a_direction_without_data_holds_no_pipe() {
        let ((_sender, source), (_receiver, sink)) = (pair(), pair());
        let (mut flow, mut pool) = (Flow::default(), Pool::new(1));
        assert_eq!(turn(&mut flow, &source, &sink, &mut pool), Progress::Waits);
        assert!(flow.pipe.is_none() && !flow.readable && pool.take().is_some());
    }
}
