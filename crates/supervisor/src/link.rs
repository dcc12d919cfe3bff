//! The network driver's process: attached, watched, attached again.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use u7s_net::{Driver, Link};

use crate::backoff::Backoff;
use crate::journal::Journal;
use crate::namespace::Namespace;
use crate::probe::Echo;
use crate::serve::Happened;
use crate::watch::watch;
use crate::{Error, output, tick};

/// How long a driver may take to say that it is ready.
pub(crate) const READY: Duration = Duration::from_secs(10);

/// How soon it is asked again after a miss.
const AGAIN: Duration = Duration::from_secs(1);

/// Echoes in a row that may be missing before it is killed: with three seconds each that is seen within 21 s.
const MISSES: u32 = 3;

/// How long it may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// The driver of the node and its current process.
pub(crate) struct Attachment {
    /// None where the node has no way out.
    driver: Option<Box<dyn Driver + Send + Sync>>,
    init: i32,
    held: OwnedFd,
    /// Kept for the next process: while it is open, tap0 has carrier and queues packets.
    tap: Option<OwnedFd>,
    link: Option<Link>,
    ready: bool,
    since: Instant,
    due: Option<Instant>,
    backoff: Backoff,
    probe_at: Option<Instant>,
    /// The current process has answered once: only then its silence means something.
    answered: bool,
    misses: u32,
}

impl Attachment {
    /// Attaches for the first time, before any runtime runs.
    ///
    /// With `tap`, for a driver that takes it by descriptor, that is left to [`begin`](Self::begin): what is inside need not
    /// wait for the driver then, and shall not share the processors with it.
    ///
    /// # Errors
    /// [`Error::Network`]; [`Error::Io`]: no descriptor is left.
    pub(crate) fn new(
        driver: Box<dyn Driver + Send + Sync>,
        namespace: &Namespace,
        tap: Option<OwnedFd>,
    ) -> Result<Self, Error> {
        let mut attachment = Self { driver: Some(driver), tap, ready: false, ..Self::none(namespace)? };
        if attachment.tap.is_none() {
            attachment
                .attach()
                .map_err(|source| Error::Network { what: "start the network driver", source })?;
        }
        Ok(attachment)
    }

    /// All inside is built: a driver that was not started yet is due.
    pub(crate) fn begin(&mut self) {
        if self.driver.is_some() && self.link.is_none() && self.due.is_none() {
            self.due = Some(Instant::now());
        }
    }

    /// The attachment of a node without a driver: nothing is waited for.
    ///
    /// # Errors
    /// [`Error::Io`]: no descriptor is left.
    pub(crate) fn none(namespace: &Namespace) -> Result<Self, Error> {
        Ok(Self {
            driver: None,
            init: namespace.pid,
            held: namespace.pidfd.try_clone().map_err(Error::io("hold the node's pid 1"))?,
            tap: None,
            link: None,
            ready: true,
            since: Instant::now(),
            due: None,
            backoff: Backoff::default(),
            probe_at: None,
            answered: false,
            misses: 0,
        })
    }

    fn attach(&mut self) -> Result<(), u7s_net::Error> {
        let Some(driver) = &self.driver else { return Ok(()) };
        let tap = self.tap.as_ref().map(AsFd::as_fd);
        self.since = Instant::now();
        self.link =
            Some(driver.attach(u7s_net::driver::Node { pid: self.init, pidfd: self.held.as_fd(), tap })?);
        self.due = Some(self.since + crate::patience::of(READY));
        Ok(())
    }

    /// Host pid of the driver's process.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.link.as_ref().map(|link| link.pid)
    }

    /// It said that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// How many times it died soon, in a row.
    pub(crate) fn deaths(&self) -> u32 {
        self.backoff.deaths()
    }

    /// When it must have become ready, or shall be attached again.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.probe_at).min()
    }

    /// The process to ask for an echo now, if one is due.
    pub(crate) fn take_probe(&mut self, now: Instant) -> Option<i32> {
        self.probe_at.take_if(|at| *at <= now).and_then(|_| self.pid())
    }

    /// What came of asking the process `pid`; one that was silent too often is killed, which also ends a stopped one.
    pub(crate) fn probed(&mut self, pid: i32, answer: Result<Echo, String>) {
        let Some(link) = self.link.as_ref().filter(|link| link.pid == pid && self.ready) else { return };
        self.probe_at = Some(tick::next());
        match answer {
            Ok(echo) => {
                self.answered |= echo == Echo::Answered;
                self.misses = 0;
            }
            Err(_) if !self.answered => {}
            Err(reason) => {
                self.misses += 1;
                self.probe_at = Some(Instant::now() + AGAIN);
                let killed = self.misses >= MISSES;
                tracing::warn!(pid, reason, killed, "the network driver does not answer");
                if killed {
                    self.probe_at = None;
                    let _ = u7s_sys::pidfd::signal(link.pidfd.as_fd(), Some(Signal::SIGKILL));
                }
            }
        }
    }

    /// Sends what the current process writes to the journal, and its readiness and end to `happened`.
    ///
    /// # Errors
    /// [`Error::Io`]: no descriptor is left.
    pub(crate) fn watch(
        &self,
        journal: &Arc<Journal>,
        happened: &mpsc::Sender<Happened>,
    ) -> Result<(), Error> {
        let Some(link) = &self.link else { return Ok(()) };
        let copy =
            |descriptor: &OwnedFd| descriptor.try_clone().map_err(Error::io("watch the network driver"));
        output::watch(journal, "slirp4netns", copy(&link.output)?)?;
        let ready =
            Receiver::from_owned_fd(copy(&link.ready)?).map_err(Error::io("watch the network driver"))?;
        tokio::spawn(tell_readiness(ready, link.pid, happened.clone()));
        let process = watch(copy(&link.pidfd)?).map_err(Error::io("watch the network driver"))?;
        tokio::spawn(tell_end(process, link.pid, happened.clone()));
        Ok(())
    }

    /// The process `pid` said that it is ready.
    pub(crate) fn became_ready(&mut self, pid: i32) {
        if self.pid() == Some(pid) {
            self.ready = true;
            self.due = None;
            (self.answered, self.misses) = (false, 0);
            self.probe_at = Some(Instant::now());
        }
    }

    /// The process `pid` has ended: the next attempt is scheduled, the first one at once.
    pub(crate) fn ended(&mut self, pid: i32) {
        if self.pid() != Some(pid) {
            return;
        }
        self.reap();
        if !self.ready && self.tap.take().is_some() {
            tracing::warn!(
                "the network driver does not take tap0 by descriptor; from now on it opens it by name"
            );
        }
        let pause = self.backoff.endless(self.since.elapsed());
        let at_once = self.ready && self.backoff.deaths() == 1;
        self.ready = false;
        self.due = Some(Instant::now() + if at_once { Duration::ZERO } else { pause });
    }

    /// Ends the current process; another one comes after a pause.
    pub(crate) fn give_up(&mut self) {
        self.reap();
        self.ready = false;
        self.due = Some(Instant::now() + self.backoff.endless(self.since.elapsed()));
    }

    /// Does what is due: gives up on a process that is not ready in time, or attaches again; returns whether it attached.
    pub(crate) fn act(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        if let Some(pid) = self.pid() {
            tracing::warn!(
                pid,
                "the network driver was not ready within {} s",
                crate::patience::of(READY).as_secs()
            );
            self.ended(pid);
            return false;
        }
        match self.attach() {
            Ok(()) => {
                tracing::info!(pid = self.pid(), "the network driver was started");
                true
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(error, "the network driver cannot be started");
                self.due = Some(Instant::now() + self.backoff.endless(Duration::ZERO));
                false
            }
        }
    }

    /// Ends the process, if there is one, and reaps it.
    pub(crate) fn reap(&mut self) {
        self.probe_at = None;
        if let Some(link) = self.link.take() {
            let pid = link.pid;
            match link.detach(GRACE) {
                Ok(how) => tracing::info!(pid, ?how, "the network driver has ended"),
                Err(error) => {
                    tracing::warn!(pid, error = crate::error::chain(&error), "end the network driver")
                }
            }
        }
    }
}

async fn tell_readiness(mut ready: Receiver, pid: i32, happened: mpsc::Sender<Happened>) {
    if let Ok(1..) = ready.read(&mut [0; 1]).await {
        let _ = happened.send(Happened::DriverReady(pid)).await;
    }
}

async fn tell_end(process: AsyncFd<OwnedFd>, pid: i32, happened: mpsc::Sender<Happened>) {
    let _ = process.readable().await;
    let _ = happened.send(Happened::DriverEnded(pid)).await;
}
