//! The supervisor's side of the channel to pid 1: orders with answers, and events.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::message::{self, Answer, Command, Event, Order};
use crate::serve::Happened;
use crate::tick;
use crate::watch::watch;

/// How long pid 1 may take to answer: it does nothing that waits.
const ANSWER: Duration = Duration::from_secs(5);

type Reply = (Answer, Vec<OwnedFd>);

/// Pid 1 of the node, to give orders to.
#[derive(Debug, Clone)]
pub(crate) struct PidOne {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    channel: AsyncFd<OwnedFd>,
    next: AtomicU64,
    pending: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
}

impl PidOne {
    /// Takes the channel over; events are passed on to `happened`.
    ///
    /// # Errors
    /// [`Error::Io`]: the runtime takes no more descriptors.
    pub(crate) fn new(channel: OwnedFd, happened: mpsc::Sender<Happened>) -> Result<Self, Error> {
        let channel = watch(channel).map_err(Error::io("watch the channel to pid 1"))?;
        let shared = Arc::new(Shared { channel, next: AtomicU64::new(1), pending: Mutex::default() });
        tokio::spawn(listen(Arc::clone(&shared), happened.clone()));
        let pid_one = Self { shared };
        tokio::spawn(pid_one.clone().watch_over(happened));
        Ok(pid_one)
    }

    /// Starts a program inside; returns its pid inside and a pidfd.
    pub(crate) async fn start(
        &self,
        argv: Vec<String>,
        env: std::collections::BTreeMap<String, String>,
        output: [OwnedFd; 2],
    ) -> Result<(i32, OwnedFd), Error> {
        match self.call(Command::Start { argv, env }, output.into()).await? {
            (Answer::Started { pid }, mut descriptors) if descriptors.len() == 1 => {
                Ok((pid, descriptors.remove(0)))
            }
            (answer, _) => Err(unexpected("start a program inside", answer)),
        }
    }

    /// A descriptor connected to a unix socket inside.
    pub(crate) async fn connect(&self, socket: &Path) -> Result<OwnedFd, Error> {
        self.borrow("connect inside", Command::Connect { socket: socket.to_owned() }).await
    }

    /// A descriptor that connects to a TCP port of 127.0.0.1 inside.
    pub(crate) async fn connect_port(&self, port: u16) -> Result<OwnedFd, Error> {
        self.borrow("connect inside", Command::ConnectPort { port }).await
    }

    /// A raw ICMP socket inside that speaks with one host.
    pub(crate) async fn connect_icmp(&self, host: Ipv4Addr) -> Result<OwnedFd, Error> {
        self.borrow("ask a host inside", Command::ConnectIcmp { host }).await
    }

    /// A descriptor of a file inside, open for reading.
    pub(crate) async fn open(&self, path: &Path) -> Result<OwnedFd, Error> {
        self.borrow("open a file inside", Command::Open { path: path.to_owned() }).await
    }

    /// Signals all processes of pods (none: only counts them); returns how many there were.
    pub(crate) async fn signal_pods(&self, signal: Option<Signal>) -> Result<u32, Error> {
        let signal = signal.map_or(0, |signal| signal as i32);
        match self.call(Command::SignalPods { signal }, Vec::new()).await? {
            (Answer::Counted { processes }, _) => Ok(processes),
            (answer, _) => Err(unexpected("signal the pods", answer)),
        }
    }

    /// Orders the end; there is no answer, pid 1 just ends.
    pub(crate) async fn shut_down(&self) -> Result<(), Error> {
        self.send(&Order { id: 0, command: Command::Shutdown }, &[]).await
    }

    /// Asks pid 1 from time to time; a stopped one reaps nobody, and so the node is lost.
    ///
    /// Two unanswered questions in a row are needed: the first may be an artefact of a machine that was paused.
    async fn watch_over(self, happened: mpsc::Sender<Happened>) {
        let mut heard = true;
        loop {
            if heard {
                tokio::time::sleep_until(tick::next().into()).await;
            }
            match self.call(Command::Ping, Vec::new()).await {
                Ok(_) => heard = true,
                Err(Error::Deadline { .. }) if heard => heard = false,
                Err(error @ Error::Deadline { .. }) => {
                    let _ = happened.send(Happened::InitGone(Some(error))).await;
                    return;
                }
                // The channel is closed, which `listen` reports.
                Err(_) => return,
            }
        }
    }

    async fn borrow(&self, what: &'static str, command: Command) -> Result<OwnedFd, Error> {
        match self.call(command, Vec::new()).await? {
            (Answer::Descriptor, mut descriptors) if descriptors.len() == 1 => Ok(descriptors.remove(0)),
            (answer, _) => Err(unexpected(what, answer)),
        }
    }

    async fn call(&self, command: Command, descriptors: Vec<OwnedFd>) -> Result<Reply, Error> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.shared.pending().insert(id, sender);
        let late = Error::Deadline {
            what: "an answer of the node's pid 1",
            seconds: crate::patience::of(ANSWER).as_secs(),
        };
        let answered = async {
            self.send(&Order { id, command }, &descriptors).await?;
            receiver.await.map_err(|_| Error::Io {
                what: "hear the node's pid 1",
                source: io::ErrorKind::BrokenPipe.into(),
            })
        };
        let reply = tokio::time::timeout(crate::patience::of(ANSWER), answered).await;
        self.shared.pending().remove(&id);
        reply.unwrap_or(Err(late))
    }

    async fn send(&self, order: &Order, descriptors: &[OwnedFd]) -> Result<(), Error> {
        loop {
            match message::send(self.shared.channel.as_fd(), order, descriptors) {
                Err(error) if message::would_block(&error) => {
                    let ready = self.shared.channel.writable().await;
                    ready.map_err(Error::io("wait for the node's pid 1"))?.clear_ready();
                }
                other => return other,
            }
        }
    }
}

impl Shared {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Reply>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self) -> Result<Option<(Event, Vec<OwnedFd>)>, Error> {
        loop {
            let mut ready = self.channel.readable().await.map_err(Error::io("wait for the node's pid 1"))?;
            match message::receive(self.channel.as_fd()) {
                Err(error) if message::would_block(&error) => ready.clear_ready(),
                other => return other,
            }
        }
    }
}

async fn listen(shared: Arc<Shared>, happened: mpsc::Sender<Happened>) {
    loop {
        let news = match shared.next().await {
            Ok(Some((Event::Answer { id, answer }, descriptors))) => {
                if let Some(waiting) = shared.pending().remove(&id) {
                    // Nobody waits any more: the deadline has passed.
                    let _ = waiting.send((answer, descriptors));
                }
                continue;
            }
            Ok(Some((event, descriptors))) => Happened::Inside(event, descriptors),
            Ok(None) => Happened::InitGone(None),
            Err(error) => Happened::InitGone(Some(error)),
        };
        let last = matches!(news, Happened::InitGone(_));
        if happened.send(news).await.is_err() || last {
            shared.pending().clear();
            return;
        }
    }
}

fn unexpected(what: &'static str, answer: Answer) -> Error {
    let source = match answer {
        Answer::Refused { errno: 0, reason } => io::Error::other(reason),
        Answer::Refused { errno, reason } => {
            let kind = io::Error::from_raw_os_error(errno).kind();
            io::Error::new(kind, reason)
        }
        other => io::Error::other(format!("{other:?} is no answer to that")),
    };
    Error::Io { what, source }
}
