//! Reads the output of children line by line, each of bounded length, and hands it to the journal.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::Error;
use crate::journal::Journal;

/// The longest line that is kept, bytes; the rest of a longer one is thrown away.
const MAX_LINE: usize = 8 * 1024;

/// What marks a line that was cut.
const CUT: &[u8] = b" [cut]";

/// Makes a pipe whose lines go to the journal under `identifier`; returns its write end.
///
/// # Errors
/// [`Error::Io`]: EMFILE.
pub(crate) fn pipe_to(journal: &Arc<Journal>, identifier: &'static str) -> Result<OwnedFd, Error> {
    let (reader, writer) = pipe()?;
    watch(journal, identifier, reader)?;
    Ok(writer)
}

/// A pipe whose read end is for [`watch`], and its write end.
///
/// # Errors
/// [`Error::Io`]: EMFILE.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let (reader, writer) = std::io::pipe().map_err(Error::io("make a pipe"))?;
    Ok((reader.into(), writer.into()))
}

/// Hands the lines of a pipe's read end to the journal until its writers are gone.
///
/// # Errors
/// [`Error::Io`]: it is no pipe.
pub(crate) fn watch(journal: &Arc<Journal>, identifier: &'static str, reader: OwnedFd) -> Result<(), Error> {
    let reader = Receiver::from_owned_fd(reader).map_err(Error::io("read from a pipe"))?;
    tokio::spawn(copy(reader, identifier, Arc::clone(journal)));
    Ok(())
}

async fn copy(mut reader: Receiver, identifier: &'static str, journal: Arc<Journal>) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; MAX_LINE];
    while let Ok(length @ 1..) = reader.read(&mut buffer).await {
        lines.feed(&buffer[..length], |line| journal.line(identifier, line));
        // One buffer may hold thousands of lines, each a call of the kernel: the watchdog's ping must not wait for more.
        tokio::task::yield_now().await;
    }
    lines.end(|line| journal.line(identifier, line));
}

/// Cuts a stream into lines.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    /// The line was reported already, what follows of it is thrown away.
    cut: bool,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], mut report: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end], &mut report);
            if !self.cut {
                report(&self.begun);
            }
            self.begun.clear();
            self.cut = false;
            bytes = &bytes[end + 1..];
        }
        self.add(bytes, &mut report);
    }

    fn end(&mut self, mut report: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            report(&self.begun);
        }
    }

    fn add(&mut self, bytes: &[u8], report: &mut impl FnMut(&[u8])) {
        if self.cut {
            return;
        }
        let room = MAX_LINE - self.begun.len();
        self.begun.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            self.begun.extend_from_slice(CUT);
            report(&self.begun);
            self.begun.clear();
            self.cut = true;
        }
    }
}

/// A stream of a child's: however it is cut into pieces, the lines are the same, and each is bounded.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let seen = |size: usize| {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        data.chunks(size).for_each(|piece| lines.feed(piece, |line| seen.push(line.to_vec())));
        lines.end(|line| seen.push(line.to_vec()));
        seen
    };
    let whole = seen(data.len().max(1));
    assert!(whole.iter().all(|line| line.len() <= MAX_LINE + CUT.len()));
    assert!(whole == seen(11));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for part in parts {
            lines.feed(part, |line| seen.push(line.to_vec()));
        }
        lines.end(|line| seen.push(line.to_vec()));
        seen
    }

    #[test]
    fn lines_are_put_together_from_parts() {
        assert_eq!(lines_of(&[b"a\nb", b"c\n\nd"]), [&b"a"[..], b"bc", b"", b"d"]);
    }

    #[test]
    fn a_line_without_end_is_cut_once_and_the_next_is_whole() {
        let long = vec![b'x'; 3 * MAX_LINE];
        let seen = lines_of(&[&long, &long, b"\nnext\n"]);
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].len(), seen[0].ends_with(CUT)), (MAX_LINE + CUT.len(), true));
        assert_eq!(seen[1], b"next");
    }
}
