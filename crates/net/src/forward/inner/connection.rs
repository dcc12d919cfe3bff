//! A client, the node's service that it talks to, and the two directions between them.

use std::net::TcpStream;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::flow::{Flow, Progress};
use super::pool::Pool;
use super::sources::Holder;
use crate::forward::listen::abort;

/// Which socket of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that came from the host.
    Client,
    /// The one that was dialled inside.
    Server,
}

/// One forwarded connection.
#[derive(Debug)]
pub(super) struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Client to server.
    up: Flow,
    /// Server to client.
    down: Flow,
    dialling: bool,
    pub(super) holder: Holder,
    /// When it moved something last, in its relay's time.
    pub(super) moved_at: u64,
    /// It stands in the queue of those with more to move.
    pub(super) queued: bool,
}

impl Connection {
    /// A connection whose server is being dialled; flows start when that is done.
    pub(super) fn new(holder: Holder, client: TcpStream, server: TcpStream) -> Self {
        let (up, down) = (Flow::default(), Flow::default());
        Self { client, server, up, down, dialling: true, holder, moved_at: 0, queued: false }
    }

    pub(super) fn socket(&self, side: Side) -> &TcpStream {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    pub(super) fn is_dialling(&self) -> bool {
        self.dialling
    }

    /// Takes note of an event of one socket.
    ///
    /// # Errors
    /// The pending error of the socket: refused or reset, even while nothing is being read from it.
    pub(super) fn note(&mut self, side: Side, events: EpollFlags) -> Result<(), Errno> {
        if events.contains(EpollFlags::EPOLLERR)
            && let Ok(Some(error)) = self.socket(side).take_error()
        {
            return Err(Errno::from_raw(error.raw_os_error().unwrap_or(0)));
        }
        let over = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let readable = events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | over);
        let writable = events.intersects(EpollFlags::EPOLLOUT | over);
        let (from, to) = match side {
            Side::Client => (&mut self.up, &mut self.down),
            Side::Server => (&mut self.down, &mut self.up),
        };
        from.readable |= readable;
        from.over |= events.intersects(EpollFlags::EPOLLRDHUP | over);
        to.writable |= writable;
        self.dialling &= !(side == Side::Server && writable);
        Ok(())
    }

    /// Moves what can be moved now, both ways.
    ///
    /// # Errors
    /// What either socket said: the connection is to be [`reset`](Self::reset).
    pub(super) fn pump(&mut self, pool: &mut Pool) -> Result<Progress, Errno> {
        if self.dialling {
            return Ok(Progress::Waits);
        }
        let up = self.up.pump(&self.client, &self.server, pool, self.down.ended)?;
        let down = self.down.pump(&self.server, &self.client, pool, self.up.ended)?;
        Ok(match (up, down) {
            (Progress::Ended, Progress::Ended) => Progress::Ended,
            (Progress::Runs, _) | (_, Progress::Runs) => Progress::Runs,
            _ => Progress::Waits,
        })
    }

    /// Closes both sockets in peace.
    pub(super) fn close(self, pool: &mut Pool) {
        self.up.release(pool);
        self.down.release(pool);
    }

    /// Closes both sockets with RST, as a direct connection would have ended.
    pub(super) fn reset(self, pool: &mut Pool) {
        abort(&self.server);
        abort(&self.client);
        self.close(pool);
    }
}
