//! Where the output of children goes: journald by its native protocol, or standard error.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use u7s_plan::printable::printable;

/// journald's native socket.
///
/// Source: systemd's "Native Journal Protocol".
const SOCKET: &str = "/run/systemd/journal/socket";

/// What a pipe takes at once without blocking when it is writable at all, bytes: PIPE_BUF.
const CHUNK: usize = 4096;

/// Takes lines; never blocks: what journald does not take at once is lost.
#[derive(Debug)]
pub(crate) struct Journal {
    native: Option<(UnixDatagram, PathBuf)>,
}

impl Journal {
    /// journald, if it is there.
    pub(crate) fn open() -> Self {
        Self::at(SOCKET.into())
    }

    fn at(path: PathBuf) -> Self {
        let socket = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        Self { native: socket.ok().filter(|_| path.exists()).map(|socket| (socket, path)) }
    }

    /// Writes one line under its own identifier (`journalctl -t kubelet`).
    pub(crate) fn line(&self, identifier: &str, line: &[u8]) {
        let text = sanitise(line);
        let priority = priority(&text);
        match &self.native {
            Some((socket, path)) => {
                let entry = format!("SYSLOG_IDENTIFIER={identifier}\nPRIORITY={priority}\nMESSAGE={text}\n");
                // By name each time, so that a restarted journald is found again; a full one loses the line.
                let _ = socket.send_to(entry.as_bytes(), path);
            }
            None => drop(Stderr.write_all(format!("{identifier}: {text}\n").as_bytes())),
        }
    }
}

/// Standard error that loses what a stopped reader, such as a journald that hangs, does not take at once.
///
/// Blocking there would stop the watchdog's pings, and with them the node, because of a log line.
#[derive(Debug, Clone, Copy)]
pub struct Stderr;

impl Write for Stderr {
    /// Takes a whole line, since what comes from inside may hold more of them: those are shown as `\n`, so that nobody
    /// speaks in the supervisor's name, or with a priority of his choice (`<0>`, sd-daemon(3)).
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let line = sanitise(text.strip_suffix(b"\n").unwrap_or(text)) + "\n";
        let mut stderr = io::stderr();
        for chunk in line.as_bytes().chunks(CHUNK) {
            let mut descriptors = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut descriptors, PollTimeout::ZERO) != Ok(1) {
                break;
            }
            stderr.write_all(chunk)?;
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Valid text in which nothing can move a terminal's cursor or begin another field.
fn sanitise(line: &[u8]) -> String {
    printable(&String::from_utf8_lossy(line)).replace('\n', "\\n")
}

/// syslog's priority, from klog's first letter or logrus' `level=`; info if there is neither.
fn priority(text: &str) -> u8 {
    let klog = text.as_bytes().get(1..5).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
    match text.as_bytes().first() {
        Some(b'I') if klog => return 6,
        Some(b'W') if klog => return 4,
        Some(b'E') if klog => return 3,
        Some(b'F') if klog => return 2,
        _ => {}
    }
    let level =
        text.split_once("level=").map_or("", |(_, rest)| rest.split([' ', '"']).next().unwrap_or_default());
    match level {
        "trace" | "debug" => 7,
        "warning" => 4,
        "error" => 3,
        "fatal" | "panic" => 2,
        _ => 6,
    }
}

/// A line of a child on its way to the journal: one entry, whatever is in it.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(line: &[u8]) {
    let text = sanitise(line);
    assert!(text.chars().all(|letter| letter == '\t' || !letter.is_control()), "{text:?}");
    assert!(priority(&text) <= 7 && text.len() <= 10 * line.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_journal_entry() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        Journal::at(path).line("kubelet", b"E0101 oh\x1b[31m\nPRIORITY=0");
        let mut buffer = [0; 256];
        let length = journald.recv(&mut buffer).unwrap();
        let entry = String::from_utf8(buffer[..length].to_vec()).unwrap();
        assert_eq!(
            entry,
            "SYSLOG_IDENTIFIER=kubelet\nPRIORITY=3\nMESSAGE=E0101 oh\\u{1b}[31m\\nPRIORITY=0\n"
        );
    }

    #[test]
    fn a_full_journal_blocks_nobody() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let _journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(path);
        for _ in 0..10_000 {
            journal.line("crio", b"a line that nobody reads");
        }
    }

    #[test]
    fn priorities_are_taken_from_klog_and_logrus() {
        let table = [
            ("W1122 07:00:00.0 x", 4),
            ("Wonder", 6),
            ("time=\"x\" level=error msg=\"y\"", 3),
            ("level=info msg=z", 6),
            ("level=fatal msg=z", 2),
        ];
        for (line, expected) in table {
            assert_eq!(priority(line), expected, "{line}");
        }
    }
}
