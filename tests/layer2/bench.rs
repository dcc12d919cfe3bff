//! A host of its own for each test: user, subordinate ids, network, cgroup; and the supervisor that runs on it.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_plan::control::{Answer, Request, Status};
use u7s_plan::node::{
    Bind, Component, ComponentName, Driver, Extent, Network, NodeSpec, Programs, User, VERSION,
};

use crate::proc::wait_for;

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(20);

/// First subordinate id of the test's user on the bench.
pub(crate) const SUBIDS: u32 = 700_000;

/// The bench's host address, and the node's.
pub(crate) const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// Another address of the same host, where a test's server listens.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);

/// CAP_SETUID, CAP_SETGID and CAP_NET_BIND_SERVICE, as the unit gives them: ambient and bounding set.
const UNIT: &str = "--inh-caps=-all,+setuid,+setgid,+net_bind_service \
     --ambient-caps=-all,+setuid,+setgid,+net_bind_service \
     --bounding-set=-all,+setuid,+setgid,+net_bind_service";

/// Everything that one test may use up.
pub(crate) struct Bench {
    /// Host uid and gid of the test's user: nobody else's.
    pub(crate) uid: u32,
    /// What the supervisor is told; a test changes it before the start.
    pub(crate) spec: NodeSpec,
    /// Text of /etc/subuid and /etc/subgid.
    pub(crate) subids: String,
    /// Arguments of setpriv.
    pub(crate) privileges: &'static str,
    /// Shell lines that prepare the bench's host further.
    pub(crate) prelude: &'static str,
    /// Environment beside NOTIFY_SOCKET.
    pub(crate) env: Vec<(&'static str, &'static str)>,
    root: tempfile::TempDir,
    cgroup: PathBuf,
    notify: UnixDatagram,
}

/// Where benches lie: the node has a /tmp and a /var/tmp of its own over the host's.
const STAGE: &str = "/var/lib";

impl Bench {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let uid = 61_000 + std::process::id() % 1000 + number * 1000;
        let root = tempfile::Builder::new().prefix("u7s-layer2-").tempdir_in(STAGE).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for directory in ["home", "run", "target"] {
            fs::create_dir(root.path().join(directory)).unwrap();
            chown(root.path().join(directory), Some(uid), Some(uid)).unwrap();
        }
        fs::set_permissions(root.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let notify = UnixDatagram::bind(root.path().join("notify")).unwrap();
        notify.set_nonblocking(true).unwrap();
        fs::set_permissions(root.path().join("notify"), fs::Permissions::from_mode(0o777)).unwrap();
        let cgroup = make_cgroup(&format!("u7s-layer2-{}-{number}", std::process::id()), uid);
        let spec = specification(root.path(), uid);
        let subids = format!("bench:{SUBIDS}:65536\n");
        Self { uid, spec, subids, privileges: UNIT, prelude: "", env: Vec::new(), root, cgroup, notify }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The cgroup that stands for the unit's.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Starts the supervisor and waits for READY=1.
    pub(crate) fn start(self) -> Running {
        let child = self.spawn();
        let mut running = Running { child: Process(child), bench: self, said: Vec::new(), status: None };
        running.wait_until_said("READY=1");
        let init = running.ask(&Request::Status);
        let Answer::Status(status) = init else { panic!("{init:?}") };
        running.status = Some(*status);
        running
    }

    /// Runs the supervisor until it gives up; returns its status and what it printed.
    pub(crate) fn fail(&self) -> (ExitStatus, String) {
        let mut child = self.spawn();
        let status = wait_for("the supervisor to give up", START, || child.try_wait().unwrap());
        (status, fs::read_to_string(self.path("output")).unwrap())
    }

    /// Sends SIGTERM that long after the supervisor's first appearance and waits for its end.
    pub(crate) fn interrupt(&self, after: Duration) {
        let mut child = self.spawn();
        let pid = i32::try_from(child.id()).unwrap();
        wait_for("the supervisor's process", START, || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
            name.starts_with("u7s-super").then_some(())
        });
        std::thread::sleep(after);
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        wait_for("the supervisor to end", START, || child.try_wait().unwrap());
        // It may have become ready before; the next one shall not be taken for it.
        while self.notify.recv(&mut [0; 4096]).is_ok() {}
    }

    /// Runs the supervisor under strace until the log contains `text`; returns the log, everything is ended by the drop.
    pub(crate) fn traced(mut self, text: &str) -> String {
        self.env.push(("TRACE", "1"));
        let child = Process(self.spawn());
        let log = self.path("strace");
        let read = || fs::read_to_string(&log).ok().filter(|log| log.contains(text));
        let log = wait_for(&format!("{text} under strace"), START, read);
        drop(child);
        log
    }

    fn spawn(&self) -> Child {
        fs::write(self.path("node.json"), serde_json::to_vec(&self.spec).unwrap()).unwrap();
        fs::write(self.path("subids"), &self.subids).unwrap();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let home = self.path("home");
        let line = format!("bench:x:{0}:{0}::{1}:/bin/sh\n", self.uid, home.display());
        fs::write(self.path("passwd"), passwd + &line).unwrap();
        let output = fs::File::create(self.path("output")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--propagation", "private", "sh", "-ec", PRELUDE]);
        command.env("BENCH", self.root.path()).env("CGROUP", &self.cgroup).env("OWN", self.uid.to_string());
        command
            .env("PRIVILEGES", self.privileges)
            .env("PRELUDE", self.prelude)
            .env("SUPERVISOR", env!("CARGO_BIN_EXE_u7s-supervisor"));
        command.env("NOTIFY_SOCKET", self.path("notify")).envs(self.env.iter().copied());
        command.env_remove("WATCHDOG_PID");
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let until = Instant::now() + Duration::from_secs(5);
        while remove_cgroup(&self.cgroup).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The bench's host: ids, a readable tun device, two addresses, the cgroup; the shell becomes the supervisor.
const PRELUDE: &str = r#"
eval "$PRELUDE"
mount --bind "$BENCH/subids" /etc/subuid
mount --bind "$BENCH/subids" /etc/subgid
mount --bind "$BENCH/passwd" /etc/passwd
mknod -m 666 "$BENCH/tun" c 10 200 2>/dev/null || test -c "$BENCH/tun"
mount --bind "$BENCH/tun" /dev/net/tun
ip link set lo up
ip addr add 192.0.2.10/32 dev lo
ip addr add 192.0.2.20/32 dev lo
echo $$ > "$CGROUP/cgroup.procs"
exec ${TRACE:+strace -f -o "$BENCH/strace"} setpriv --reuid="$OWN" --regid="$OWN" --clear-groups $PRIVILEGES \
    "$SUPERVISOR" --spec "$BENCH/node.json" --runtime-dir "$BENCH/run"
"#;

/// A supervisor that said READY=1.
///
/// Shape: the process goes before the bench that it runs on.
pub(crate) struct Running {
    child: Process,
    pub(crate) bench: Bench,
    said: Vec<String>,
    status: Option<Status>,
}

impl Running {
    /// Its pid on the host.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.0.id()).unwrap()
    }

    /// What it told about itself when it became ready.
    pub(crate) fn status(&self) -> &Status {
        self.status.as_ref().unwrap()
    }

    /// Host pid of the node's pid 1.
    pub(crate) fn init(&self) -> i32 {
        self.status().init_pid
    }

    /// What it told systemd so far.
    pub(crate) fn said(&mut self) -> &[String] {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.bench.notify.recv(&mut buffer) {
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            self.said.extend(text.lines().map(str::to_owned));
        }
        &self.said
    }

    pub(crate) fn wait_until_said(&mut self, line: &str) {
        let until = Instant::now() + START;
        while !self.said().iter().any(|said| said == line) {
            let ended = self.child.0.try_wait().unwrap();
            let output = || fs::read_to_string(self.bench.path("output")).unwrap();
            assert!(ended.is_none(), "it ended before {line}: {ended:?}\n{}", output());
            assert!(Instant::now() < until, "it never said {line}\n{}", output());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.bench.path("output")).unwrap()
    }

    /// Says something to the control socket, however it is taken.
    pub(crate) fn shout(&self, request: &Request) {
        let mut stream = UnixStream::connect(self.bench.path("run/control.sock")).unwrap();
        stream.write_all(&[serde_json::to_vec(request).unwrap(), b"\n".to_vec()].concat()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }

    /// Asks over the control socket.
    pub(crate) fn ask(&self, request: &Request) -> Answer {
        let mut stream = UnixStream::connect(self.bench.path("run/control.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        stream.write_all(&line).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The state as it is now.
    pub(crate) fn now(&self) -> Status {
        match self.ask(&Request::Status) {
            Answer::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a shell as root of the node, in all its namespaces; returns what it printed.
    pub(crate) fn inside(&self, script: &str) -> String {
        run(&["--all", "--setuid=0", "--setgid=0"], self.init(), script)
    }

    /// Runs a shell on the bench's host; returns what it printed.
    pub(crate) fn outside(&self, script: &str) -> String {
        run(&["--net", "--mount"], self.pid(), script)
    }

    /// A python program on the bench's host that runs until it is dropped; ready when it has printed a line.
    pub(crate) fn serve(&self, program: &str) -> Server {
        let mut child = Command::new("nsenter")
            .args(["--net", &format!("--target={}", self.pid()), "/usr/bin/python3", "-u", "-c", program])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1];
        child.stdout.as_mut().unwrap().read_exact(&mut first).expect("the server starts");
        Server(child)
    }

    /// Sends a signal to the supervisor and waits for its end.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
        self.ended()
    }

    /// After its end: another supervisor on the same bench.
    pub(crate) fn restart(self) -> Self {
        let Self { child, bench, .. } = self;
        drop(child);
        bench.start()
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_for("the supervisor to end", Duration::from_secs(60), || self.child.0.try_wait().unwrap())
    }
}

/// The supervisor's process, killed when the test is over.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A program of the test on the bench's host.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(namespaces: &[&str], target: i32, script: &str) -> String {
    let output = Command::new("timeout")
        .args(["20", "nsenter", &format!("--target={target}")])
        .args(namespaces)
        .args(["sh", "-c", script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{script}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn specification(root: &Path, uid: u32) -> NodeSpec {
    let map = vec![
        Extent { inside: 0, outside: uid, count: 1 },
        Extent { inside: 1, outside: SUBIDS, count: 65_536 },
    ];
    NodeSpec {
        version: VERSION,
        user: User { name: "bench".into(), uid, gid: uid, home: root.join("home") },
        node_name: "n1".into(),
        uid_map: map.clone(),
        gid_map: map,
        network: Network {
            driver: Driver::Slirp4netns,
            node_ip: NODE_IP,
            mtu: 1400,
            range: "10.41.0.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 41, 0, 2),
            dns: Ipv4Addr::new(10, 41, 0, 3),
            service_cidr: Some("10.96.0.0/12".parse().unwrap()),
            pod_cidr: Some("10.244.0.0/16".parse().unwrap()),
            low_ports: Vec::new(),
        },
        forwards: Vec::new(),
        binds: vec![Bind {
            source: root.join("home/node/kubelet"),
            target: root.join("target"),
            mode: 0o700,
            shared: true,
        }],
        sysctls: [("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/rp_filter", "2")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        resolv_conf: "nameserver 10.41.0.3\n".into(),
        hosts: "127.0.0.1 localhost\n192.0.2.10 n1\n".into(),
        programs: Programs {
            slirp4netns: "/usr/bin/slirp4netns".into(),
            slirp4netns_tapfd: false,
            newuidmap: Some("/usr/bin/newuidmap".into()),
            newgidmap: Some("/usr/bin/newgidmap".into()),
            nft: Some("/usr/sbin/nft".into()),
        },
        components: Vec::new(),
        cri_socket: "/run/crio/crio.sock".into(),
        controllers: Vec::new(),
        degraded: Vec::new(),
        joined: false,
        services: u7s_plan::node::Services::default(),
        patience: 1,
    }
}

/// A plain program under a component's name: how processes are kept, not what they are, is the matter.
pub(crate) fn component(name: ComponentName, argv: &[&str]) -> Component {
    Component {
        name,
        description: "a program".into(),
        argv: argv.iter().map(ToString::to_string).collect(),
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        env_files: Vec::new(),
        arg_vars: Vec::new(),
        needs_file: None,
        always: true,
    }
}

/// A cgroup as systemd delegates it: the directory and the files that it names are the user's.
///
/// Source: cgroups(7), "Cgroups delegation".
fn make_cgroup(name: &str, uid: u32) -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    let path = Path::new(mount.expect("a cgroup2 mount")[1]).join(name);
    fs::create_dir(&path).unwrap();
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(path.join(file), Some(uid), Some(uid)).unwrap();
    }
    path
}

fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path())?;
    }
    fs::remove_dir(path)
}
