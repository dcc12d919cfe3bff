//! Pipes for splicing, held by a direction only while data is in flight.

use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

/// Empty pipes that are kept; more are closed when they come back.
const KEPT: usize = 16;

/// Size of the shared buffer for directions that got no pipe, bytes.
const SCRATCH_BYTES: usize = 64 * 1024;

/// A pipe, 64 KiB, non-blocking.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

/// All pipes, and the buffer for those who come too late.
#[derive(Debug)]
pub(super) struct Pool {
    kept: Vec<Pipe>,
    existing: usize,
    limit: usize,
    pub(super) scratch: Box<[u8]>,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        Self { kept: Vec::new(), existing: 0, limit, scratch: vec![0; SCRATCH_BYTES].into() }
    }

    /// An empty pipe; `None` when all are in use or the kernel gives no more.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.kept.pop() {
            return Some(pipe);
        }
        if self.existing >= self.limit {
            return None;
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        self.existing += 1;
        Some(Pipe { read, write })
    }

    /// Takes an empty pipe back.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.kept.len() < KEPT {
            self.kept.push(pipe);
        } else {
            self.close(pipe);
        }
    }

    /// Takes back a pipe that may hold data of a connection that is no more.
    pub(super) fn close(&mut self, pipe: Pipe) {
        self.existing -= 1;
        drop(pipe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_gives_no_more_than_its_limit_and_reuses_what_comes_back() {
        let mut pool = Pool::new(2);
        let first = pool.take().unwrap();
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        pool.give_back(first);
        let third = pool.take().unwrap();
        pool.close(second);
        pool.close(third);
        assert_eq!((pool.existing, pool.kept.len()), (0, 0));
    }

    #[test]
    fn few_empty_pipes_are_kept() {
        let mut pool = Pool::new(2 * KEPT);
        let pipes: Vec<Pipe> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(pipes.len(), 2 * KEPT);
        pipes.into_iter().for_each(|pipe| pool.give_back(pipe));
        assert_eq!((pool.existing, pool.kept.len()), (KEPT, KEPT));
    }
}
