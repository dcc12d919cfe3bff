//! One nested node: a tree, a network namespace, a cgroup, and a systemd that takes them for a machine.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_kit::{Kit, NODE_BINARIES};

use crate::cgroup::Cgroup;
use crate::command::run;
use crate::invocation::Invocation;
use crate::names::{self, member};
use crate::netns::Netns;
use crate::{Error, Lan, Output, Process, Running, Snapshot, keep, spawner, until};

const LAUNCH: &str = include_str!("launch.sh");
const BOOT: &str = include_str!("boot.sh");
/// "name:major:minor" of the character devices in a node's /dev; all have mode 0666.
/// Source: the kernel's admin-guide/devices.txt.
const DEVICES: [&str; 9] = [
    "null:1:3", "zero:1:5", "full:1:7", "random:1:8", "urandom:1:9", "kmsg:1:11", "tty:5:0", "fuse:10:229",
    "net/tun:10:200",
];
/// Where u7s looks for OCI layouts to load before kubeadm runs.
const LAYOUT: &str = "/var/lib/u7s/images/kit";

/// A nested node; dropped, it is killed and removed unless it was made to stay.
#[derive(Debug)]
pub struct Node {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) dir: PathBuf,
    pub(crate) netns: Netns,
    pub(crate) cgroup: Cgroup,
    pub(crate) pid1: Option<i32>,
    /// It outlives this value and this process.
    pub(crate) stays: bool,
    kit: Kit,
    binds: Vec<(PathBuf, String)>,
    devices: Vec<&'static str>,
    launcher: Option<Child>,
}

impl Node {
    pub(crate) fn create(lan: &Lan, name: &str) -> Result<Self, Error> {
        let others = keep::addresses(lan.name())?;
        let mut node = Self::named(lan, name, lan.free_address(&others))?;
        let root = node.root_dir();
        if root.exists() || node.netns.exists() {
            // Not ours: it must survive the drop of this value.
            node.stays = true;
            return Err(node.wrong("a node of this name exists"));
        }
        fs::create_dir_all(&root).map_err(Error::file("making", &root))?;
        let tree = format!("{}/.", lan.kit().tree().display());
        let target = root.display().to_string();
        run(&["cp", "-a", "--reflink=auto", &tree, &target], Duration::from_secs(120))?;
        node.write_identity()?;
        lan.attach(&node.netns, node.ip)?;
        Ok(node)
    }

    /// The value for a node of this name, whether it exists or not.
    pub(crate) fn named(lan: &Lan, name: &str, ip: Ipv4Addr) -> Result<Self, Error> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name == "lan" || !name.chars().all(is_plain) {
            return Err(Error::Answer { what: "a node's name (a-z, 0-9, -; not \"lan\")", text: name.into() });
        }
        let full = member(lan.name(), name);
        Ok(Self {
            name: name.into(),
            ip,
            dir: names::lan_dir(lan.name())?.join(name),
            netns: Netns::open(&full),
            cgroup: Cgroup::named(&full)?,
            pid1: None,
            stays: lan.name() == names::KEEP,
            kit: lan.kit().clone(),
            binds: Vec::new(),
            devices: DEVICES.to_vec(),
            launcher: None,
        })
    }

    /// What distinguishes one copy of the tree from another.
    fn write_identity(&self) -> Result<(), Error> {
        let uuid = Path::new("/proc/sys/kernel/random/uuid");
        let id = fs::read_to_string(uuid).map_err(Error::file("reading", uuid))?.replace('-', "");
        let (name, ip) = (&self.name, self.ip);
        self.write("/etc/hostname", format!("{name}\n"))?;
        self.write("/etc/hosts", format!("127.0.0.1 localhost\n::1 localhost\n{ip} {name}\n"))?;
        self.write("/etc/resolv.conf", "nameserver 10.77.0.1\n")?;
        self.write("/etc/machine-id", id)
    }

    /// Its name, which is also its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the lan, on `eth0`.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// The bridge's end of its link, for [`Lan::command`] with tc(8) or nft(8).
    #[must_use]
    pub fn port(&self) -> String {
        crate::lan::port_of(self.ip)
    }

    /// Its tree as this machine sees it; the node's tmpfs and bind mounts are not in it.
    #[must_use]
    pub fn root_dir(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The pid of its systemd on this machine.
    ///
    /// # Errors
    /// It is not booted.
    pub fn pid1(&self) -> Result<i32, Error> {
        self.pid1.ok_or_else(|| self.wrong("it is not booted"))
    }

    /// Puts kubeadm, kubelet, kubectl, crio, pinns, the CNI plugins and the OCI layout of all images into the node,
    /// as read-only bind mounts from the cache that come with the next boot.
    ///
    /// `without` names what shall be missing: one of the binaries, `cni` or `images`.
    ///
    /// # Errors
    /// It is booted already.
    pub fn install_kit(&mut self, without: &[&str]) -> Result<(), Error> {
        self.want_off()?;
        let mut binds = Vec::new();
        for name in NODE_BINARIES.into_iter().filter(|name| !without.contains(name)) {
            binds.extend(self.kit.binary(name).map(|path| (path.to_path_buf(), format!("/usr/bin/{name}"))));
        }
        if !without.contains(&"cni") {
            let dir = self.kit.cni_dir();
            for entry in fs::read_dir(dir).map_err(Error::file("listing", dir))?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                binds.push((entry.path(), format!("/opt/cni/bin/{name}")));
            }
        }
        if !without.contains(&"images") {
            binds.push((self.kit.layout().to_path_buf(), LAYOUT.into()));
        }
        self.binds.extend(binds);
        Ok(())
    }

    /// Installs u7s as a package would: `scripts/install` with the programs in `bin_dir`, then its `postinstall` inside.
    ///
    /// # Errors
    /// It is not booted; a program is not built; a script failed.
    pub fn install_u7s(&self, bin_dir: &Path) -> Result<(), Error> {
        self.pid1()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/install");
        let (script, bin, root) = (script.display().to_string(), bin_dir.display().to_string(), self.root_dir());
        run(&[&script, "--bin", &bin, &root.display().to_string()], Duration::from_secs(60))?;
        self.ok(&["/usr/libexec/u7s/postinstall"]).map(drop)
    }

    /// Leaves a device out of the next boot's /dev: "net/tun", "fuse", "kmsg".
    ///
    /// # Errors
    /// It is booted already (then remove the device inside instead).
    pub fn without_device(&mut self, name: &str) -> Result<(), Error> {
        self.want_off()?;
        self.devices.retain(|device| device.split(':').next() != Some(name));
        Ok(())
    }

    /// Shows a file or directory of this machine read-only at a path of the node, from the next boot on.
    ///
    /// # Errors
    /// It is booted already.
    pub fn bind(&mut self, source: &Path, target: &str) -> Result<(), Error> {
        self.want_off()?;
        self.binds.push((source.to_path_buf(), target.into()));
        Ok(())
    }

    /// Starts systemd and waits until it has started everything; gives its state, "running" or "degraded".
    ///
    /// # Errors
    /// [`Error::Deadline`] with the last state and the console's last lines; it is booted already.
    pub fn boot(&mut self, limit: Duration) -> Result<String, Error> {
        self.want_off()?;
        self.cgroup.create()?;
        let mut launcher = self.launch()?;
        let what = format!("pid 1 of node {}", self.name);
        let pid1 = until(limit, &what, || self.find_init(&mut launcher));
        self.launcher = Some(launcher);
        self.pid1 = pid1?;
        self.pid1.ok_or_else(|| self.did_not_start())?;
        if self.stays {
            keep::write_state(self)?;
        }
        let what = format!("node {} to have started its units", self.name);
        until(limit, &what, || self.system_state())
    }

    fn launch(&self) -> Result<Child, Error> {
        let console = self.dir.join("console.log");
        let open = || File::create(&console).and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = open().map_err(Error::file("writing", &console))?;
        // A session of its own if it shall stay; else it dies with us.
        let fate: &[&str] = if self.stays { &["setsid"] } else { &["setpriv", "--pdeathsig", "KILL", "--"] };
        let mut command = Command::new(fate[0]);
        command.args(&fate[1..]).args(self.netns.enter()).args(["sh", "-c", LAUNCH, "launch.sh"]);
        command.arg(self.cgroup.path()).arg(BOOT).arg(self.root_dir()).arg(&self.name).arg(&console);
        command.arg(self.devices.join(" "));
        for (source, target) in self.binds.iter().chain(&machine_binds()) {
            command.arg(source).arg(target);
        }
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let program = format!("node {}", self.name);
        spawner::spawn(command).map_err(|source| Error::Start { program, source })
    }

    /// The child of the launcher that is pid 1 inside and has become systemd; `None` if the launcher has ended.
    fn find_init(&self, launcher: &mut Child) -> Result<Option<i32>, String> {
        if !matches!(launcher.try_wait(), Ok(None)) {
            return Ok(None);
        }
        let parent = i32::try_from(launcher.id()).unwrap_or_default();
        let all = self.cgroup.processes();
        let is_init = |process: &&Process| {
            process.parent == parent && process.pids.get(1) == Some(&1) && process.comm == "systemd"
        };
        all.iter().find(is_init).map(|process| Some(process.pid)).ok_or_else(|| self.console_tail())
    }

    fn did_not_start(&self) -> Error {
        Error::Boot { node: self.name.clone(), console: self.console_tail() }
    }

    fn system_state(&self) -> Result<String, String> {
        let output = self.command(&["systemctl", "is-system-running"]).within(Duration::from_secs(20)).run();
        let state = output.map_err(|error| error.to_string())?.stdout.trim().to_string();
        match state.as_str() {
            "running" | "degraded" => Ok(state),
            _ => Err(format!("{state}\n{}", self.console_tail())),
        }
    }

    fn console_tail(&self) -> String {
        let bytes = fs::read(self.dir.join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Kills everything in it at once, as a power cut would; the tree stays and [`Node::boot`] starts it again.
    ///
    /// # Errors
    /// A process did not die within 30 s.
    pub fn power_cut(&mut self) -> Result<(), Error> {
        self.cgroup.destroy()?;
        if let Some(mut launcher) = self.launcher.take() {
            let _ = launcher.kill();
            let _ = launcher.wait();
        }
        // The launcher's own death leaves its child to this machine's pid 1.
        let Some(pid1) = self.pid1.take().and_then(|pid| u32::try_from(pid).ok()) else { return Ok(()) };
        until(Duration::from_secs(10), "pid 1 of the node to be reaped", || names::is_gone(pid1))
    }

    /// A command in the node, as root, in a cgroup of its own; see [`Invocation`] for users, input and deadlines.
    ///
    /// In a node that is not booted it fails when it runs.
    pub fn command<S: AsRef<str>>(&self, argv: &[S]) -> Invocation {
        // No process has pid 0, so nsenter says what is wrong.
        let pid = self.pid1.unwrap_or(0).to_string();
        let procs = self.cgroup.exec_leaf().join("cgroup.procs").display().to_string();
        let script = "echo $$ > \"$0\" && exec nsenter --target \"$@\"";
        let words = ["sh", "-c", script, &procs, &pid, "-m", "-u", "-i", "-n", "-p", "-C", "--"];
        Invocation::new(words.map(String::from).to_vec(), argv)
    }

    /// Runs a command to its end, at most 60 s, whatever its status.
    ///
    /// # Errors
    /// As [`Invocation::run`].
    pub fn exec<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output, Error> {
        self.command(argv).run()
    }

    /// Runs a command that must succeed, at most 60 s; gives what it printed.
    ///
    /// # Errors
    /// As [`Invocation::ok`].
    pub fn ok<S: AsRef<str>>(&self, argv: &[S]) -> Result<String, Error> {
        self.command(argv).ok()
    }

    /// Runs a script of sh that must succeed, at most 60 s; gives what it printed.
    ///
    /// # Errors
    /// As [`Invocation::ok`].
    pub fn sh(&self, script: &str) -> Result<String, Error> {
        self.ok(&["sh", "-euc", script])
    }

    /// Starts a command and does not wait for it.
    ///
    /// # Errors
    /// As [`Invocation::spawn`].
    pub fn spawn<S: AsRef<str>>(&self, argv: &[S]) -> Result<Running, Error> {
        self.command(argv).spawn()
    }

    /// Waits until `look` gives `Ok`; its `Err` is the state seen, shown when time runs out.
    ///
    /// # Errors
    /// [`Error::Deadline`].
    pub fn until<T>(&self, limit: Duration, what: &str, mut look: impl FnMut(&Self) -> Result<T, String>) -> Result<T, Error> {
        until(limit, &format!("{what} (node {})", self.name), || look(self))
    }

    /// All processes in the node, as this machine sees them.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        self.cgroup.processes()
    }

    /// Sends a signal to one process of the node.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, process: &Process, signal: Signal) -> Result<(), Error> {
        let sent = kill(Pid::from_raw(process.pid), signal);
        sent.map_err(|errno| Error::file("signalling", &process.comm)(errno.into()))
    }

    /// The content of a file; links are followed inside the node.
    ///
    /// # Errors
    /// It cannot be read, or the node is not booted and the path leads through a link.
    pub fn read(&self, path: &str) -> Result<String, Error> {
        if self.pid1.is_some() {
            let output = self.exec(&["cat", "--", path])?;
            return crate::command::wanted(&format!("cat {path}"), output).map(|output| output.stdout);
        }
        let place = self.root_dir().join(path.trim_start_matches('/'));
        fs::read_to_string(&place).map_err(Error::file("reading", place))
    }

    /// Writes a file (0644 if it is new) and makes its parents.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<(), Error> {
        if self.pid1.is_some() {
            let script = "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0\"";
            // An empty input would be /dev/null, which does as well.
            return self.command(&["sh", "-c", script, path]).input(content.as_ref()).ok().map(drop);
        }
        let place = self.root_dir().join(path.trim_start_matches('/'));
        let parent = place.parent().unwrap_or(&place);
        fs::create_dir_all(parent).map_err(Error::file("making", parent))?;
        fs::write(&place, content).map_err(Error::file("writing", place))
    }

    /// Makes a symbolic link in a node that is not booted.
    ///
    /// # Errors
    /// It is booted, or the path is taken.
    pub fn link(&self, target: &str, path: &str) -> Result<(), Error> {
        self.want_off()?;
        let place = self.root_dir().join(path.trim_start_matches('/'));
        symlink(target, &place).map_err(Error::file("linking", place))
    }

    /// What is there now: files, mounts, ports, units, cgroups, packet filter, sysctls.
    ///
    /// # Errors
    /// It is not booted, or a program inside failed.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        Snapshot::take(self)
    }

    /// Kills and removes it, and says what could not be removed.
    ///
    /// # Errors
    /// The first failure; the rest was tried all the same.
    pub fn remove(mut self) -> Result<(), Error> {
        self.stays = true; // drop has nothing left to do
        self.tear_down()
    }

    fn tear_down(&mut self) -> Result<(), Error> {
        let killed = self.power_cut();
        let netns = self.netns.delete();
        let tree = if self.dir.exists() { fs::remove_dir_all(&self.dir) } else { Ok(()) };
        killed.and(netns).and(tree.map_err(Error::file("removing", &self.dir)))
    }

    fn want_off(&self) -> Result<(), Error> {
        if self.pid1.is_some() { Err(self.wrong("it is booted")) } else { Ok(()) }
    }

    fn wrong(&self, what: &'static str) -> Error {
        Error::State { node: self.name.clone(), what }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.stays {
            // Nobody listens in a drop; the next run sweeps what is left.
            let _ = self.tear_down();
        }
    }
}

/// What a node sees of the running kernel's files, where the machine has them.
fn machine_binds() -> Vec<(PathBuf, String)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let config = format!("/boot/config-{}", release.trim());
    let paths = ["/lib/modules".to_string(), config];
    let is_there = |path: &String| Path::new(path).exists();
    paths.into_iter().filter(is_there).map(|path| (PathBuf::from(&path), path)).collect()
}
