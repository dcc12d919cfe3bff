//! What is compared: each peer on a host of its own, with the same client outside and the same server inside.
//!
//! ```text
//!   client 192.0.2.20-27 ─veth─ 192.0.2.10 host, 127.0.0.1 │ the peer's inner network namespace: server
//! ```
//! A host is a network and a mount namespace; the peer runs there as an ordinary user, in a cgroup of its own.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use u7s_plan::node::{Forward, Protocol};

use super::cost::Group;
use super::net::Net;
use super::server::{ECHO, SINK, SOURCE, Server};
use super::supervisor;
use super::target::Target;

/// The host's address.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The first address of the client outside.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
/// How many addresses it has.
const CLIENTS: u32 = 8;
/// The first address of clients on the host itself, and how many they have.
const LOCAL: (Ipv4Addr, u32) = (Ipv4Addr::new(127, 0, 1, 1), 64);
/// How long a peer may take to stand.
const START: Duration = Duration::from_secs(30);

/// Who forwards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Nobody: client and server are in the same network namespace.
    Direct,
    /// RootlessKit's builtin driver; the program.
    RootlessKit(PathBuf),
    /// slirp4netns' `add_hostfwd`.
    Slirp,
    /// Ours: the supervisor that is measured.
    Ours(PathBuf),
    /// Ours: another build, to compare with.
    Former(PathBuf),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::RootlessKit(_) => "RootlessKit builtin",
            Self::Slirp => "slirp4netns hostfwd",
            Self::Ours(_) => "u7s",
            Self::Former(_) => "u7s before",
        })
    }
}

/// Where the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum From {
    /// On the host itself, by loopback.
    Host,
    /// On another machine.
    Outside,
}

/// A peer that runs.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) kind: Kind,
    number: u32,
    starts: u32,
    pub(super) server: Server,
    pub(super) group: Group,
    host: Net,
    outside: Net,
    by_loopback: Target,
    by_address: Target,
    process: Child,
    /// Removed when all processes are gone.
    _directory: TempDir,
}

impl Peer {
    /// Starts it and waits until its ports answer.
    pub(super) fn start(kind: Kind, number: u32) -> io::Result<Self> {
        Self::start_as(kind, number, 1)
    }

    /// Another of the same kind; this one ends.
    pub(super) fn start_again(&mut self) -> io::Result<()> {
        *self = Self::start_as(self.kind.clone(), self.number, self.starts + 1)?;
        Ok(())
    }

    fn start_as(kind: Kind, number: u32, starts: u32) -> io::Result<Self> {
        let uid = 62_000 + std::process::id() % 1000 + number * 1000;
        let directory = prepare(uid)?;
        let group = Group::new(&format!("u7s-bench-{}-{number}-{starts}", std::process::id()), uid)?;
        let mut process = launch(&kind, directory.path(), &group, uid)?;
        let host = Net::of(process.id())?;
        let outside = connect(&host)?;
        release(&mut process)?;
        let output = directory.path().join("output");
        let server =
            serve(&kind, &group, &host, directory.path()).map_err(|error| explain(&error, &output))?;
        let peer = Self {
            kind,
            number,
            starts,
            server,
            group,
            host,
            outside,
            by_loopback: Target::new(Ipv4Addr::LOCALHOST, LOCAL.0, LOCAL.1),
            by_address: Target::new(NODE, CLIENT, CLIENTS),
            process,
            _directory: directory,
        };
        peer.wait().map_err(|error| explain(&error, &output))?;
        Ok(peer)
    }

    /// Runs a client's work at its place.
    pub(super) fn client<T: Send>(
        &self,
        from: From,
        work: impl FnOnce(&Target) -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let (net, target) = match from {
            From::Host => (&self.host, &self.by_loopback),
            From::Outside => (&self.outside, &self.by_address),
        };
        net.run(|| work(target))
    }

    /// Does something while the peer may use processors; slirp4netns may not at any other time.
    pub(super) fn awake<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.kind != Kind::Slirp {
            return work();
        }
        self.group.freeze(false)?;
        let result = work();
        self.group.freeze(true)?;
        result
    }

    /// The address that the server sees of a client there.
    pub(super) fn seen_as(&self, from: From) -> io::Result<String> {
        self.client(from, |target| super::requests::exchange(&target.connect(ECHO)?))?;
        let seen = self.server.last_peer().map(|peer| peer.ip().to_string());
        seen.ok_or_else(|| io::Error::other("the server saw nobody"))
    }

    fn wait(&self) -> io::Result<()> {
        for from in [From::Host, From::Outside] {
            let what = format!("an answer through {}", self.kind);
            let answer = |target: &Target| super::requests::exchange(&target.connect(ECHO)?);
            until(&what, || self.client(from, answer))?;
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All forwards of a peer.
pub(super) fn forwards() -> Vec<Forward> {
    let of = |address| {
        let tcp = [ECHO, SINK, SOURCE].map(|port| Forward { protocol: Protocol::Tcp, address, port });
        let udp = Forward { protocol: Protocol::Udp, address, port: ECHO };
        tcp.into_iter().chain([udp])
    };
    [Ipv4Addr::LOCALHOST, NODE].into_iter().flat_map(of).collect()
}

fn protocol(forward: &Forward) -> &'static str {
    if forward.protocol == Protocol::Tcp { "tcp" } else { "udp" }
}

/// Where they lie: a node has a /tmp and a /var/tmp of its own over the host's.
const STAGE: &str = "/var/lib";

/// Files of the user that the peer runs as.
fn prepare(uid: u32) -> io::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("u7s-bench-").tempdir_in(STAGE)?;
    let root = directory.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    for name in ["home", "run", "target"] {
        fs::create_dir(root.join(name))?;
        chown(root.join(name), Some(uid), Some(uid))?;
    }
    fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o700))?;
    fs::write(root.join("subids"), format!("bench:{}:65536\n", supervisor::SUBIDS))?;
    let line = format!("bench:x:{uid}:{uid}::{}:/bin/sh\n", root.join("home").display());
    fs::write(root.join("passwd"), fs::read_to_string("/etc/passwd")? + &line)?;
    Ok(directory)
}

/// The peer's host: ids and a tun device that its user may use; then the shell becomes the peer.
const HOST: &str = r#"
mount --bind "$BENCH/subids" /etc/subuid
mount --bind "$BENCH/subids" /etc/subgid
mount --bind "$BENCH/passwd" /etc/passwd
mknod -m 666 "$BENCH/tun" c 10 200 2>/dev/null || test -c "$BENCH/tun"
mount --bind "$BENCH/tun" /dev/net/tun
ip link set lo up
echo $$ > "$CGROUP/cgroup.procs"
echo ready
read -r _
user="setpriv --pdeathsig=KILL --reuid=$OWN --regid=$OWN --clear-groups"
export HOME="$BENCH/home" XDG_RUNTIME_DIR="$BENCH/run" USER=bench
exec < /dev/null > "$BENCH/output" 2>&1
"#;

const DIRECT: &str = "exec $user sleep infinity";

/// podsec's flags.
const ROOTLESSKIT: &str = r#"exec $user "$BENCH/program" --state-dir="$BENCH/run/rootlesskit" \
    --net=slirp4netns --mtu=65520 --disable-host-loopback --slirp4netns-sandbox=true --slirp4netns-seccomp=true \
    --port-driver=builtin --copy-up=/etc --copy-up=/run --copy-up=/var/lib \
    --cgroupns --pidns --ipcns --utsns --propagation=rslave $PUBLISH sleep infinity"#;

const SLIRP: &str = r#"
$user unshare --user --map-root-user --net sleep infinity & inner=$!
until [ "$(readlink /proc/$inner/ns/net)" != "$(readlink /proc/self/ns/net)" ] && [ -n "$(cat /proc/$inner/uid_map)" ]; do sleep 0.05; done
exec $user slirp4netns --configure --mtu=65520 --disable-host-loopback --enable-sandbox --enable-seccomp \
    --api-socket="$BENCH/run/api" $inner tap0
"#;

const SUPERVISOR: &str = r#"exec $user --inh-caps=-all,+setuid,+setgid,+net_bind_service \
    --ambient-caps=-all,+setuid,+setgid,+net_bind_service --bounding-set=-all,+setuid,+setgid,+net_bind_service \
    "$BENCH/program" --spec "$BENCH/node.json" --runtime-dir "$BENCH/run""#;

fn launch(kind: &Kind, root: &Path, group: &Group, uid: u32) -> io::Result<Child> {
    let mut command = Command::new("unshare");
    let script = match kind {
        Kind::Direct => DIRECT,
        Kind::RootlessKit(_) => {
            let publish = |it: &Forward| format!("-p {0}:{1}:{1}/{2}", it.address, it.port, protocol(it));
            let publish: Vec<String> = forwards().iter().map(publish).collect();
            command.env("PUBLISH", publish.join(" "));
            ROOTLESSKIT
        }
        Kind::Slirp => SLIRP,
        Kind::Ours(_) | Kind::Former(_) => {
            let spec = serde_json::to_vec(&supervisor::spec(root, uid, forwards()))?;
            fs::write(root.join("node.json"), spec)?;
            SUPERVISOR
        }
    };
    if let Kind::RootlessKit(program) | Kind::Ours(program) | Kind::Former(program) = kind {
        // The peer's user may not be able to reach it where it is.
        fs::copy(program, root.join("program"))?;
        fs::set_permissions(root.join("program"), fs::Permissions::from_mode(0o755))?;
    }
    let script = format!("{HOST}\n{script}");
    command.args(["--mount", "--net", "--propagation", "private", "sh", "-ec", &script]);
    command.env("BENCH", root).env("CGROUP", group.path()).env("OWN", uid.to_string());
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_PID");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.as_mut() {
        BufReader::new(output.take(64)).read_line(&mut line)?;
    }
    if line == "ready\n" {
        return Ok(child);
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(io::Error::other(format!("the host of {kind} could not be made: {line:?}")))
}

/// The server inside, when there is an inside.
fn serve(kind: &Kind, group: &Group, host: &Net, root: &Path) -> io::Result<Server> {
    let inner = if *kind == Kind::Direct { host.clone() } else { inner_of(group, host)? };
    let server = Server::start(&inner)?;
    if *kind == Kind::Slirp {
        forward_by_slirp(&root.join("run/api"))?;
    }
    Ok(server)
}

/// An error with what the peer said.
fn explain(error: &io::Error, output: &Path) -> io::Error {
    let text = fs::read_to_string(output).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(5).collect();
    io::Error::other(format!("{error}; it said: {}", last.join(" / ")))
}

fn release(process: &mut Child) -> io::Result<()> {
    process.stdin.take().map_or(Ok(()), |mut input| input.write_all(b"\n"))
}

/// The client's machine, linked with the host.
fn connect(host: &Net) -> io::Result<Net> {
    let outside = Net::new()?;
    host.ip(&format!("link add h0 type veth peer name c0 netns {}", outside.path()))?;
    host.ip(&format!("addr add {NODE}/24 dev h0"))?;
    for number in 0..CLIENTS {
        let address = Ipv4Addr::from_bits(CLIENT.to_bits() + number);
        outside.ip(&format!("addr add {address}/24 dev c0"))?;
    }
    host.ip("link set h0 up")?;
    outside.ip("link set c0 up")?;
    Ok(outside)
}

/// The network namespace that the peer has made.
fn inner_of(group: &Group, host: &Net) -> io::Result<Net> {
    let of = |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let host = fs::read_link(host.path()).ok();
    until("a network namespace inside", || {
        let pids = group.processes();
        let inside = pids.iter().find(|pid| of(pid).is_some_and(|net| Some(net) != host));
        inside.map_or_else(|| Err(io::ErrorKind::NotFound.into()), |pid| Net::of(*pid))
    })
}

/// Source: slirp4netns(1), "API SOCKET".
fn forward_by_slirp(api: &Path) -> io::Result<()> {
    for forward in forwards() {
        let (address, port) = (forward.address, forward.port);
        let request = format!(
            r#"{{"execute":"add_hostfwd","arguments":{{"proto":"{}","host_addr":"{address}","host_port":{port},"guest_addr":"10.0.2.100","guest_port":{port}}}}}"#,
            protocol(&forward)
        );
        let mut socket = until("the API of slirp4netns", || UnixStream::connect(api))?;
        socket.set_read_timeout(Some(START))?;
        socket.write_all(request.as_bytes())?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        socket.take(4096).read_to_string(&mut answer)?;
        if !answer.contains("return") {
            return Err(io::Error::other(format!("add_hostfwd: {}", answer.trim_end())));
        }
    }
    Ok(())
}

fn until<T>(what: &str, mut look: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > START => {
                return Err(io::Error::other(format!("waited {START:?} for {what}: {error}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
