//! What supervisor and pid 1 of the node say to each other: one JSON document a packet, descriptors beside it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The longest packet, bytes: a component's arguments and environment, below the default socket buffer.
pub(crate) const MAX_PACKET: usize = 128 * 1024;

/// From the supervisor to pid 1.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Repeated in the answer.
    pub(crate) id: u64,
    /// What to do.
    pub(crate) command: Command,
}

/// What pid 1 can be told; it decides nothing by itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// The id maps are written: go on building.
    Mapped,
    /// Start a program; standard output and error come with the packet. Answer: [`Answer::Started`] and a pidfd.
    Start {
        /// Program and arguments.
        argv: Vec<String>,
        /// The whole environment.
        env: BTreeMap<String, String>,
    },
    /// Connect to a unix stream socket. Answer: [`Answer::Descriptor`].
    Connect {
        /// Path inside.
        socket: PathBuf,
    },
    /// Begin to connect to a TCP port of 127.0.0.1. Answer: [`Answer::Descriptor`], maybe still connecting.
    ConnectPort {
        /// Port.
        port: u16,
    },
    /// Make a raw ICMP socket that speaks with one host. Answer: [`Answer::Descriptor`].
    ConnectIcmp {
        /// The host.
        host: Ipv4Addr,
    },
    /// Open a file for reading. Answer: [`Answer::Descriptor`].
    Open {
        /// Path inside.
        path: PathBuf,
    },
    /// Signal the processes of all pods, that is of each cgroup but pid 1's own. Answer: [`Answer::Counted`].
    SignalPods {
        /// Number of the signal; 0 only counts.
        signal: i32,
    },
    /// Nothing, but say so. Answer: [`Answer::Alive`].
    Ping,
    /// End all that is left inside, then yourself.
    Shutdown,
}

/// From pid 1 to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// tap0 is there: a driver may attach. A driver that takes it by descriptor gets the one beside this; otherwise nobody
    /// holds it.
    Tap,
    /// Mounts, sysctls and names are done; things that could not be had and are not needed. The node's /run comes with the
    /// packet: nothing of a pod has run yet, so it is the one that was made.
    Built {
        /// A sentence each.
        warnings: Vec<String>,
    },
    /// The node cannot be built; pid 1 ends.
    Failed {
        /// A sentence.
        reason: String,
    },
    /// A new forwarder runs; the supervisor's end of its channel comes with the packet.
    Forwarder,
    /// To [`Order`] `id`.
    Answer {
        /// Of the order.
        id: u64,
        /// What came of it.
        answer: Answer,
    },
    /// A program that was started has ended.
    Exited {
        /// Its pid inside.
        pid: i32,
        /// How.
        exit: Exit,
    },
    /// Somebody inside sent pid 1 a signal that means the end.
    Terminated,
}

/// What came of an order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The program runs; a pidfd comes with the packet.
    Started {
        /// Its pid inside.
        pid: i32,
    },
    /// It comes with the packet.
    Descriptor,
    /// So many processes were there.
    Counted {
        /// How many.
        processes: u32,
    },
    /// Pid 1 hears.
    Alive,
    /// Nothing was done.
    Refused {
        /// Error number, 0 if there is none.
        errno: i32,
        /// A sentence.
        reason: String,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exit {
    /// With a status.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// The end that a wait status tells of, if it does.
    pub(crate) fn of(status: WaitStatus) -> Option<(i32, Self)> {
        match status {
            WaitStatus::Exited(pid, code) => Some((pid.as_raw(), Self::Code(code))),
            WaitStatus::Signaled(pid, signal, _) => Some((pid.as_raw(), Self::Signal(signal as i32))),
            _ => None,
        }
    }
}

/// As systemd words it: `exited, status=1`, `signal, status=9/KILL`.
impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "exited, status={code}"),
            Self::Signal(number) => {
                let name = Signal::try_from(*number).map_or("?", Signal::as_str);
                write!(out, "signal, status={number}/{}", name.strip_prefix("SIG").unwrap_or(name))
            }
        }
    }
}

/// Sends one message; never blocks.
///
/// # Errors
/// [`Error::Message`]; [`Error::System`]: EPIPE, the other side is gone; EMSGSIZE; EAGAIN, it does not read.
pub(crate) fn send<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    descriptors: &[OwnedFd],
) -> Result<(), Error> {
    let packet = serde_json::to_vec(message).map_err(|source| Error::Message { source })?;
    if packet.len() > MAX_PACKET {
        let source = u7s_sys::Error::Call { call: "sendmsg", source: Errno::EMSGSIZE };
        return Err(Error::System { what: "send a message to the node's pid 1", source });
    }
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    u7s_sys::channel::send(socket, &packet, &borrowed)
        .map_err(Error::system("send a message of the node's pid 1"))
}

/// Receives one message with its descriptors if one is there; `None` at the end of the stream.
///
/// # Errors
/// [`Error::Message`]; [`Error::System`] with EAGAIN: none is there.
pub(crate) fn receive<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<Option<(M, Vec<OwnedFd>)>, Error> {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.is_empty() {
            // Zeroes that the kernel gives by the page: only what a message fills is ever touched.
            *buffer = vec![0; MAX_PACKET];
        }
        receive_into(socket, buffer)
    })
}

thread_local! {
    /// Kept: a new one for each message would be a new mapping each time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn receive_into<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<Option<(M, Vec<OwnedFd>)>, Error> {
    let mut received = u7s_sys::channel::receive(socket, buffer);
    if matches!(&received, Err(error) if error.errno() == Some(Errno::ECONNRESET)) {
        // The other side ended without reading all: said once, before its own last words.
        received = u7s_sys::channel::receive(socket, buffer);
    }
    let (length, descriptors) = received.map_err(Error::system("receive a message of the node's pid 1"))?;
    if length == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[..length]).map_err(|source| Error::Message { source })?;
    Ok(Some((message, descriptors)))
}

/// Whether an error only means that the other side is slow.
pub(crate) fn would_block(error: &Error) -> bool {
    matches!(error, Error::System { source, .. } if source.errno() == Some(Errno::EAGAIN))
}

/// A packet of the other side: whatever it is, the answer is a message or an error.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    if let Ok(order) = serde_json::from_slice::<Order>(data) {
        let again = serde_json::to_value(&order).unwrap_or_default();
        assert!(serde_json::from_value::<Order>(again).is_ok());
    }
    if let Ok(event) = serde_json::from_slice::<Event>(data) {
        if let Event::Exited { exit, .. } = &event {
            let shown = exit.to_string();
            assert!(!shown.contains(char::is_control) && shown.len() < 64, "{shown}");
        }
        let again = serde_json::to_value(&event).unwrap_or_default();
        assert!(serde_json::from_value::<Event>(again).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_worded_as_systemd_does() {
        assert_eq!(Exit::Code(1).to_string(), "exited, status=1");
        assert_eq!(Exit::Signal(9).to_string(), "signal, status=9/KILL");
    }

    #[test]
    fn a_message_comes_through_and_nonsense_does_not() {
        let (ours, theirs) = u7s_sys::channel::pair().unwrap();
        send(ours.as_fd(), &Event::Tap, &[]).unwrap();
        assert!(matches!(receive(theirs.as_fd()).unwrap(), Some((Event::Tap, _))));
        assert!(would_block(&receive::<Event>(theirs.as_fd()).unwrap_err()));
        u7s_sys::channel::send(ours.as_fd(), b"{", &[]).unwrap();
        assert!(matches!(receive::<Event>(theirs.as_fd()).unwrap_err(), Error::Message { .. }));
        drop(ours);
        assert!(receive::<Event>(theirs.as_fd()).unwrap().is_none());
    }

    #[test]
    fn last_words_are_heard_although_ours_were_not() {
        let (ours, theirs) = u7s_sys::channel::pair().unwrap();
        send(ours.as_fd(), &Order { id: 0, command: Command::Mapped }, &[]).unwrap();
        send(theirs.as_fd(), &Event::Failed { reason: "no tap".into() }, &[]).unwrap();
        drop(theirs);
        let heard = receive::<Event>(ours.as_fd()).unwrap().unwrap().0;
        assert!(matches!(heard, Event::Failed { reason } if reason == "no tap"));
        assert!(receive::<Event>(ours.as_fd()).unwrap().is_none());
    }
}
