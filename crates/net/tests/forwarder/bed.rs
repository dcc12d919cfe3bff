//! Three network namespaces: a client, a host, and a node that was built as the supervisor builds it.
//!
//! ```text
//!   client 192.0.2.20 ─veth─ 192.0.2.10 host │ node: tap0 192.0.2.10/32, user namespace of its own
//! ```
//! Namespaces of client and host belong to threads of the test; node and inner half are processes (see `roles`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use tokio::sync::oneshot;
use u7s_net::forward::{Acceptor, bind};
use u7s_plan::node::{Forward, Protocol};

/// The host's and so the node's address.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Another machine.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
/// Where connections from the host itself come from.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 41, 0, 2);
/// The forwarded port.
pub(crate) const PORT: u16 = 6443;

/// A port for what does not use the bed's own acceptor.
pub(crate) const OTHER_PORT: u16 = 10250;

/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A network namespace.
#[derive(Clone)]
pub(crate) struct Net(Arc<File>);

impl Net {
    /// A new one with `lo` up.
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Self(Arc::new(File::open("/proc/thread-self/ns/net").unwrap()))
        });
        let net = made.join().unwrap();
        net.ip("link set lo up");
        net
    }

    /// That of a process.
    pub(crate) fn of(pid: u32) -> Self {
        Self(Arc::new(File::open(format!("/proc/{pid}/ns/net")).unwrap()))
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip ARGUMENTS` inside.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run(|| {
            let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {arguments}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// A connection from inside.
    pub(crate) fn connect(&self, address: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
        let stream =
            self.run(|| TcpStream::connect_timeout(&SocketAddrV4::new(address, port).into(), DEADLINE))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(stream)
    }

    /// A connection from inside, from this one of its addresses.
    pub(crate) fn connect_from(&self, source: Ipv4Addr, address: Ipv4Addr, port: u16) -> TcpStream {
        let socket = self.run(|| {
            let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
            let socket = socket(AddressFamily::Inet, kind, flags, None).unwrap();
            let at = |address, port| SockaddrIn::from(SocketAddrV4::new(address, port));
            nix::sys::socket::bind(socket.as_raw_fd(), &at(source, 0)).unwrap();
            connect(socket.as_raw_fd(), &at(address, port)).unwrap();
            socket
        });
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// A listener inside.
    pub(crate) fn listen(&self, address: Ipv4Addr, port: u16) -> Service {
        Service(self.run(|| TcpListener::bind((address, port)).unwrap()))
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// A listening service.
pub(crate) struct Service(TcpListener);

impl Service {
    /// Whether a connection waits to be accepted.
    pub(crate) fn has_one(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        self.0.accept().is_ok()
    }

    /// The next connection, however long it takes.
    pub(crate) fn accept_now(&self) -> Option<TcpStream> {
        self.0.accept().ok().map(|(stream, _)| stream)
    }

    /// The next connection; fails the test when none comes.
    pub(crate) fn accept(&self) -> TcpStream {
        self.0.set_nonblocking(true).unwrap();
        let stream = until("a connection to the service", || self.0.accept().ok()).0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }
}

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A process of the test: killed by pid and reaped at the end.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines that somebody logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    pub(crate) fn count(&self, needle: &str) -> usize {
        self.text().matches(needle).count()
    }

    pub(crate) fn wait_for(&self, needle: &str) {
        until(needle, || self.text().contains(needle).then_some(()));
    }

    /// Collects what comes from a pipe, on a thread of its own.
    pub(crate) fn collect(&self, mut pipe: impl Read + Send + 'static) {
        let log = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                log.0.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts this program again in a role, in the thread's network namespace.
pub(crate) fn role(wrapper: &[&str], name: &str) -> Command {
    let me = std::env::current_exe().unwrap();
    let mut line: Vec<&std::ffi::OsStr> = wrapper.iter().map(std::ffi::OsStr::new).collect();
    line.push(me.as_os_str());
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).env("U7S_TEST_ROLE", name);
    command
}

/// The node's namespaces: a process that sleeps until its standard input is closed.
pub(crate) fn node() -> Process {
    let mut command = role(&["unshare", "--user", "--map-root-user", "--net"], "node");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "node is ready\n");
    Process(child)
}

/// An inner half.
pub(crate) struct Inner {
    pub(crate) process: Process,
    pub(crate) log: Log,
}

/// Everything.
pub(crate) struct Bed {
    pub(crate) client: Net,
    pub(crate) host: Net,
    pub(crate) node: Net,
    pub(crate) log: Log,
    pub(crate) acceptor: Arc<Acceptor>,
    /// When a connection of an inner half that is started counts as idle.
    pub(crate) idle: Duration,
    runtime: tokio::runtime::Handle,
    _stop: oneshot::Sender<()>,
    init: Process,
}

impl Bed {
    /// Builds the namespaces and runs the acceptor; no inner half yet.
    pub(crate) fn new() -> Self {
        let (client, host) = (Net::new(), Net::new());
        host.ip("link add h0 type veth peer name c0");
        host.ip(&format!("link set c0 netns {}", client.path()));
        for (net, link, address) in [(&host, "h0", NODE), (&client, "c0", CLIENT)] {
            net.ip(&format!("addr add {address}/24 dev {link}"));
            net.ip(&format!("link set {link} up"));
        }
        // A link that has just come up drops its first packets.
        until("the link between client and host", || {
            let refused = client.connect(NODE, 1).unwrap_err();
            (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
        });
        let forwards: Vec<Forward> = [NODE, Ipv4Addr::LOCALHOST]
            .map(|address| Forward { protocol: Protocol::Tcp, address, port: PORT })
            .into();
        let listeners = host.run(|| bind(&forwards)).unwrap();
        let init = host.run(node);
        let (stop, stopped) = oneshot::channel();
        let (log, net) = (Log::default(), host.clone());
        let (sender, receiver) = std::sync::mpsc::channel();
        let writer = log.clone();
        std::thread::spawn(move || {
            setns(&*net.0, CloneFlags::CLONE_NEWNET).unwrap();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
            let _guard = tracing::subscriber::set_default(subscriber.finish());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let acceptor = Arc::new(Acceptor::new(listeners).unwrap());
                sender.send((acceptor.clone(), tokio::runtime::Handle::current())).unwrap();
                tokio::select! {
                    _ = acceptor.run() => {}
                    _ = stopped => {}
                }
            });
        });
        let (acceptor, runtime) = receiver.recv().unwrap();
        let node = Net::of(init.pid());
        Self { client, host, node, log, acceptor, idle: 60 * DEADLINE, runtime, _stop: stop, init }
    }

    /// Starts an inner half with a limit of open files and attaches it.
    pub(crate) fn inner(&self, files: u64) -> Inner {
        let (ours, theirs) = u7s_sys::channel::pair().unwrap();
        let inner = self.inner_on(theirs, files);
        self.attach(ours);
        inner.log.wait_for("limits");
        until("the capacity", || (self.acceptor.connections().limit > 0).then_some(()));
        inner
    }

    /// Gives the client another address, to which the host has a way.
    pub(crate) fn another_client(&self, address: Ipv4Addr) {
        self.client.ip(&format!("addr add {address}/32 dev c0"));
        self.host.ip(&format!("route replace {address}/32 dev h0"));
    }

    /// Makes these the open ports, on the host.
    pub(crate) fn set_forwards(&self, wanted: &BTreeSet<Forward>) -> BTreeMap<Forward, u7s_net::Error> {
        self.host.run(|| {
            let _inside = self.runtime.enter();
            self.acceptor.set_forwards(wanted)
        })
    }

    pub(crate) fn attach(&self, channel: OwnedFd) {
        let _inside = self.runtime.enter();
        self.acceptor.attach(channel).unwrap();
    }

    /// Starts an inner half on its end of a channel.
    pub(crate) fn inner_on(&self, channel: OwnedFd, files: u64) -> Inner {
        let target = format!("--target={}", self.init.pid());
        let mut command = role(&["nsenter", &target, "--user", "--net"], "inner");
        command.env("U7S_TEST_IDLE", self.idle.as_millis().to_string());
        command.env("U7S_TEST_FILES", files.to_string()).stdin(channel).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Log::default();
        log.collect(child.stderr.take().unwrap());
        Inner { process: Process(child), log }
    }

    /// Leaves only these local ports inside.
    pub(crate) fn narrow_ports(&self, first: u16, last: u16) {
        let target = format!("--target={}", self.init.pid());
        let write = format!("echo {first} {last} > /proc/sys/net/ipv4/ip_local_port_range");
        let status =
            Command::new("nsenter").args([&target, "--user", "--net", "sh", "-c", &write]).status().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn init_pid(&self) -> i32 {
        i32::try_from(self.init.pid()).unwrap()
    }

    /// A connection from the client to a new service inside.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        let service = self.node.listen(NODE, PORT);
        let client = self.client.connect(NODE, PORT).unwrap();
        (client, service.accept())
    }
}
