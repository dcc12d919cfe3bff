//! Pid 1 of the node: reaps, starts what it is told to, lends its view of the namespaces; decides nothing.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrLike, UnixAddr, connect, socket,
};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use u7s_net::forward::inner::Settings;
use u7s_plan::node::Network;

use super::{CGROUPS, pods};
use crate::message::{self, Answer, Command, Event, Exit, Order};

/// How long the last processes may take after SIGTERM, before the end of pid 1 kills them.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A forwarder that lived shorter than this is started again only after as long.
const FORWARDER_PAUSE: Duration = Duration::from_secs(1);

/// How long a forwarded connection may take to be established inside, which is one machine.
const DIAL: Duration = Duration::from_secs(10);

/// Serves the supervisor until its end of the channel closes or it orders the end; returns the exit status.
pub(super) fn serve(channel: OwnedFd, network: &Network, built: Built) -> i32 {
    let Ok(signals) = catch_signals() else { return 1 };
    let mut init = Init {
        channel,
        signals,
        network: network.clone(),
        programs: BTreeSet::new(),
        forwarder: 0,
        forwarder_due: None,
        forwarder_since: Instant::now(),
        outgoing: VecDeque::new(),
    };
    init.outgoing.push_back((Event::Built { warnings: built.warnings }, vec![built.run]));
    // The supervisor's first orders are on their way while the copy of this process is made.
    init.flush();
    init.start_forwarder();
    remove_behind(&built.leftovers);
    loop {
        match init.turn() {
            Turn::Next => {}
            Turn::Orphaned => return 1,
            Turn::Shutdown => return init.shut_down(),
        }
    }
}

/// What pid 1 has made before it serves.
#[derive(Debug)]
pub(super) struct Built {
    /// What could not be had and is not needed, a sentence each.
    pub(super) warnings: Vec<String>,
    /// The node's /run, only to be measured.
    pub(super) run: OwnedFd,
    /// A directory that nobody needs any more.
    pub(super) leftovers: PathBuf,
}

/// Removes a directory tree in a process of its own: how much is in it was decided by somebody else.
///
/// What stays is tried again by the next start.
fn remove_behind(tree: &Path) {
    if std::fs::symlink_metadata(tree).is_err() {
        return;
    }
    let removed = u7s_sys::clone::fork(|| {
        let _ = u7s_sys::fork::close_all_but(&[]);
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
        let _ = nix::sys::prctl::set_name(c"u7s-clean");
        i32::from(std::fs::remove_dir_all(tree).is_err())
    });
    if let Err(error) = removed {
        tracing::warn!("{} stays: {}", tree.display(), crate::error::chain(&error));
    }
}

/// Signals that pid 1 takes by descriptor: its children's, and those that mean the end.
fn catch_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

#[derive(Debug)]
struct Init {
    channel: OwnedFd,
    signals: SignalFd,
    network: Network,
    /// Pids of programs that the supervisor asked for: their ends are reported, all others only reaped.
    programs: BTreeSet<i32>,
    /// Pid of the forwarder, 0 while there is none.
    forwarder: i32,
    /// When the next forwarder is due.
    forwarder_due: Option<Instant>,
    forwarder_since: Instant,
    /// What a slow supervisor has not taken yet.
    outgoing: VecDeque<(Event, Vec<OwnedFd>)>,
}

/// What follows after one round.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Next,
    Orphaned,
    Shutdown,
}

impl Init {
    fn turn(&mut self) -> Turn {
        self.flush();
        self.wait();
        self.take_signals();
        if self.forwarder_due.is_some_and(|due| due <= Instant::now()) {
            self.start_forwarder();
        }
        self.take_orders()
    }

    fn wait(&self) {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.outgoing.is_empty());
        let mut descriptors =
            [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), PollFd::new(self.channel.as_fd(), wanted)];
        let timeout = self.forwarder_due.map_or(PollTimeout::NONE, |due| {
            let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
        });
        // An error (EINTR) is a round without news.
        let _ = poll(&mut descriptors, timeout);
    }

    fn flush(&mut self) {
        while let Some((event, descriptors)) = self.outgoing.pop_front() {
            match message::send(self.channel.as_fd(), &event, &descriptors) {
                Err(error) if message::would_block(&error) => {
                    return self.outgoing.push_front((event, descriptors));
                }
                // Anything else is the end of the channel, which `take_orders` sees.
                _ => {}
            }
        }
    }

    fn report(&mut self, event: Event) {
        self.outgoing.push_back((event, Vec::new()));
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            if let Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) = Signal::try_from(number) {
                self.report(Event::Terminated);
            }
        }
        self.reap();
    }

    fn reap(&mut self) {
        while let Some((pid, exit)) = next_dead() {
            if pid == self.forwarder {
                self.forwarder = 0;
                let pause = FORWARDER_PAUSE.saturating_sub(self.forwarder_since.elapsed());
                self.forwarder_due = Some(Instant::now() + pause);
            } else if self.programs.remove(&pid) {
                self.report(Event::Exited { pid, exit });
            }
        }
    }

    fn take_orders(&mut self) -> Turn {
        loop {
            match message::receive::<Order>(self.channel.as_fd()) {
                Ok(Some((Order { command: Command::Shutdown, .. }, _))) => return Turn::Shutdown,
                Ok(Some((order, descriptors))) => self.obey(order, descriptors),
                Ok(None) => return Turn::Orphaned,
                Err(error) if message::would_block(&error) => return Turn::Next,
                Err(_) => return Turn::Orphaned,
            }
        }
    }

    fn obey(&mut self, order: Order, descriptors: Vec<OwnedFd>) {
        let (answer, descriptors) = match order.command {
            Command::Mapped | Command::Shutdown => (refused(Errno::EPROTO, "out of turn"), Vec::new()),
            Command::Ping => (Answer::Alive, Vec::new()),
            Command::Start { argv, env } => self.start(&argv, &env, descriptors),
            Command::Connect { socket } => lend(connect_unix(&socket), "connect"),
            Command::ConnectPort { port } => lend(connect_port(port), "connect"),
            Command::ConnectIcmp { host } => lend(connect_icmp(host), "connect"),
            Command::Open { path } => lend(open(&path), "open"),
            Command::SignalPods { signal } => {
                let processes = pods::signal(Path::new(CGROUPS), Signal::try_from(signal).ok());
                (Answer::Counted { processes }, Vec::new())
            }
        };
        self.outgoing.push_back((Event::Answer { id: order.id, answer }, descriptors));
    }

    fn start(
        &mut self,
        argv: &[String],
        env: &std::collections::BTreeMap<String, String>,
        descriptors: Vec<OwnedFd>,
    ) -> (Answer, Vec<OwnedFd>) {
        let Ok([stdout, stderr]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return (refused(Errno::EPROTO, "two descriptors belong to a start"), Vec::new());
        };
        let (stdout, stderr) = (stdout.as_fd(), stderr.as_fd());
        let program =
            u7s_sys::spawn::Program { argv, env, stdout, stderr, inherited: &[], user_namespace: None };
        match u7s_sys::spawn::start(&program) {
            Ok((pid, pidfd)) => {
                self.programs.insert(pid);
                (Answer::Started { pid }, vec![pidfd])
            }
            Err(error) => {
                let errno = error.errno().unwrap_or(Errno::UnknownErrno);
                (refused(errno, &crate::error::chain(&error)), Vec::new())
            }
        }
    }

    /// Forks the inner half of the forwarder; its other end goes to the supervisor.
    fn start_forwarder(&mut self) {
        self.forwarder_due = None;
        self.forwarder_since = Instant::now();
        let Ok((outer, inner)) = u7s_sys::channel::pair() else {
            self.forwarder_due = Some(Instant::now() + FORWARDER_PAUSE);
            return;
        };
        let network = &self.network;
        match u7s_sys::clone::fork(|| run_forwarder(inner, network)) {
            Ok(pid) => {
                self.forwarder = pid;
                self.outgoing.push_back((Event::Forwarder, vec![outer]));
            }
            Err(_) => self.forwarder_due = Some(Instant::now() + FORWARDER_PAUSE),
        }
    }

    /// The supervisor has ended components and pods before; what is left gets a moment.
    fn shut_down(&mut self) -> i32 {
        let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            while next_dead().is_some() {}
            let left = deadline.saturating_duration_since(Instant::now());
            if waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD) || left.is_zero() {
                return 0;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout);
            while let Ok(Some(_)) = self.signals.read_signal() {}
        }
    }
}

/// Runs in the forwarder: descriptors and signals of pid 1 are not its business.
fn run_forwarder(channel: OwnedFd, network: &Network) -> i32 {
    let _ = u7s_sys::fork::close_all_but(&[channel.as_fd()]);
    let _ = nix::unistd::setsid();
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    let _ = nix::sys::prctl::set_name(c"u7s-forwarder");
    if let Err(error) = super::network::furnish_forwarder(network) {
        tracing::error!("port forwarder: {}", crate::error::chain(&error));
        return 1;
    }
    // It speaks with strangers: of all capabilities it keeps the one for foreign source addresses, and never gains another.
    let confined =
        u7s_sys::capability::keep_net_admin().is_ok() && nix::sys::prctl::set_no_new_privs().is_ok();
    if !confined {
        tracing::error!("port forwarder: its capabilities cannot be given up");
        return 1;
    }
    let settings = Settings { dial_deadline: DIAL, ..Settings::from(network) };
    match u7s_net::forward::inner::run(channel, &settings) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("port forwarder: {}", crate::error::chain(&error));
            1
        }
    }
}

fn next_dead() -> Option<(i32, Exit)> {
    Exit::of(waitpid(None, Some(WaitPidFlag::WNOHANG)).ok()?)
}

fn refused(errno: Errno, reason: &str) -> Answer {
    Answer::Refused { errno: errno as i32, reason: reason.to_owned() }
}

fn lend(descriptor: nix::Result<OwnedFd>, what: &str) -> (Answer, Vec<OwnedFd>) {
    match descriptor {
        Ok(descriptor) => (Answer::Descriptor, vec![descriptor]),
        Err(errno) => (refused(errno, &format!("{what}: {}", errno.desc())), Vec::new()),
    }
}

/// Never blocks: a listener that does not accept and has a full queue is EAGAIN.
fn connect_unix(path: &Path) -> nix::Result<OwnedFd> {
    begin(AddressFamily::Unix, &UnixAddr::new(path)?)
}

fn connect_port(port: u16) -> nix::Result<OwnedFd> {
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    begin(AddressFamily::Inet, &address)
}

/// Raw, since `ping_group_range` is the node's own affair.
fn connect_icmp(host: Ipv4Addr) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(host, 0)))?;
    Ok(socket)
}

fn begin(family: AddressFamily, address: &dyn SockaddrLike) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// A FIFO does not block here; the supervisor checks that it got a regular file.
fn open(path: &Path) -> nix::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    file.map(File::into).map_err(|error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
}
