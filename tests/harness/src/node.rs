//! One nested node: a tree, a network namespace, a cgroup, and a systemd that takes them for a machine.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_kit::{Kit, NODE_BINARIES};

use crate::cgroup::Cgroup;
use crate::command::run;
use crate::invocation::Invocation;
use crate::names::{self, member};
use crate::netns::Netns;
use crate::{Error, Lan, Output, Process, Running, Snapshot, keep, until};

/// "name:major:minor" of the character devices in a node's /dev; all have mode 0666.
/// Source: the kernel's admin-guide/devices.txt.
const DEVICES: [&str; 9] = [
    "null:1:3",
    "zero:1:5",
    "full:1:7",
    "random:1:8",
    "urandom:1:9",
    "kmsg:1:11",
    "tty:5:0",
    "fuse:10:229",
    "net/tun:10:200",
];
/// What a node's kubelet is told on its command line, `/etc/default/kubelet`: the machine that runs the tests may have less of
/// its disk free than the kubelet asks for by default (a tenth, 15 % where images lie), and it would evict pods, or remove
/// images that nobody uses yet.
const KUBELET: &str = "\
KUBELET_EXTRA_ARGS=\"--image-gc-high-threshold=100 --image-gc-low-threshold=99 \
--eviction-hard=memory.available<100Mi,nodefs.available<1%,imagefs.available<1%\"
";
/// Where u7s looks for OCI layouts to load before kubeadm runs.
pub(crate) const LAYOUT: &str = "/var/lib/u7s/images/kit";

/// A nested node; dropped, it is killed and removed unless it was made to stay.
#[derive(Debug)]
pub struct Node {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) dir: PathBuf,
    pub(crate) netns: Option<Netns>,
    pub(crate) cgroup: Cgroup,
    pub(crate) pid1: Option<i32>,
    /// It outlives this value and this process.
    pub(crate) stays: bool,
    pub(crate) kit: Kit,
    pub(crate) binds: Vec<(PathBuf, String)>,
    pub(crate) devices: Vec<&'static str>,
    pub(crate) launcher: Option<Child>,
}

impl Node {
    pub(crate) fn create(lan: &Lan, name: &str) -> Result<Self, Error> {
        let others = keep::addresses(lan.name())?;
        let mut node = Self::named(lan, name, lan.free_address(&others))?;
        let root = node.root_dir();
        if root.exists() {
            // Not ours: it must survive the drop of this value.
            node.stays = true;
            return Err(node.wrong("a node of this name exists"));
        }
        let made = node.furnish(lan);
        if made.is_err() && node.stays {
            // The first error is the one to show.
            let _ = keep::remove_from(lan, name);
        }
        made.map(|()| node)
    }

    fn furnish(&mut self, lan: &Lan) -> Result<(), Error> {
        copy_tree(lan.kit().tree(), &self.dir)?;
        self.write_identity()?;
        self.netns = Some(lan.attach(self.ip)?);
        if self.stays { keep::write_state(self) } else { Ok(()) }
    }

    /// The value for a node of this name, whether it exists or not.
    pub(crate) fn named(lan: &Lan, name: &str, ip: Ipv4Addr) -> Result<Self, Error> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name == "lan" || !name.chars().all(is_plain) {
            return Err(Error::Answer {
                what: "a node's name (a-z, 0-9, -; not \"lan\")",
                text: name.into(),
            });
        }
        let full = member(lan.name(), name);
        Ok(Self {
            name: name.into(),
            ip,
            dir: names::lan_dir(lan.name())?.join(name),
            netns: None,
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
    ///
    /// Its `usr` holds only what this node has changed: it is the upper layer over the kit's.
    /// A booted node as it sees itself is `/proc/PID1/root`.
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
        let settings = self.root_dir().join("etc/default/kubelet");
        fs::write(&settings, KUBELET).map_err(Error::file("writing", settings))
    }

    /// Installs u7s as a package would: `scripts/install` with the programs in `bin_dir`, then its `postinstall` inside.
    ///
    /// # Errors
    /// It is not booted; a program is not built; a script failed.
    pub fn install_u7s(&self, bin_dir: &Path) -> Result<(), Error> {
        let root = format!("/proc/{}/root", self.pid1()?);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/install");
        let (script, bin) = (script.display().to_string(), bin_dir.display().to_string());
        run(&[&script, "--bin", &bin, &root], Duration::from_secs(60))?;
        self.ok(&["/usr/libexec/u7s/postinstall"]).map(drop)
    }

    /// Puts Debian unstable's slirp4netns, which takes a tap by descriptor, to /opt/unstable/bin; booted or not.
    ///
    /// # Errors
    /// It cannot be had, or not be copied.
    pub fn install_unstable_driver(&self) -> Result<(), Error> {
        let source = u7s_kit::unstable_driver(&crate::lan::progress)?.display().to_string();
        let root = self.pid1.map_or_else(|| self.root_dir(), |pid| format!("/proc/{pid}/root").into());
        let target = root.join("opt/unstable").display().to_string();
        run(&["mkdir", "-p", &target], Duration::from_secs(30))?;
        let parts = ["bin", "lib"].map(|part| format!("{source}/{part}"));
        run(&["cp", "-a", &parts[0], &parts[1], &target], Duration::from_secs(30)).map(drop)
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
    pub fn until<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<T, String>,
    ) -> Result<T, Error> {
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
        if let Some(netns) = &mut self.netns {
            netns.delete();
        }
        let tree = if self.dir.exists() { fs::remove_dir_all(&self.dir) } else { Ok(()) };
        let tree = tree.map_err(Error::file("removing", &self.dir));
        killed.and(tree)
    }

    pub(crate) fn want_off(&self) -> Result<(), Error> {
        if self.pid1.is_some() { Err(self.wrong("it is booted")) } else { Ok(()) }
    }

    pub(crate) fn wrong(&self, what: &'static str) -> Error {
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

/// A plain copy of the kit's tree but for `usr`, which is nine tenths of it: an empty layer stands for that.
///
/// `/var` must be plain: containers' overlays cannot lie on an overlay.
fn copy_tree(tree: &Path, dir: &Path) -> Result<(), Error> {
    let (root, work) = (dir.join("root"), dir.join("work"));
    for made in [root.join("usr"), work] {
        fs::create_dir_all(&made).map_err(Error::file("making", made))?;
    }
    let mut argv = vec!["cp".to_string(), "-a".into(), "--reflink=auto".into(), "--target-directory".into()];
    argv.push(root.display().to_string());
    for entry in fs::read_dir(tree).map_err(Error::file("listing", tree))?.flatten() {
        if entry.file_name() != "usr" {
            argv.push(entry.path().display().to_string());
        }
    }
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    run(&argv, Duration::from_secs(120)).map(drop)
}
