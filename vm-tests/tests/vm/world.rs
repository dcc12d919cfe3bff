//! The machines that the tests share, and small words of every test.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use u7s_vm::{Image, Invocation, Output, Vm};

/// What a test gives.
pub(crate) type Check = Result<(), Box<dyn Error>>;

/// Where the shims are.
pub(crate) const SHIMS: &str = "/usr/libexec/u7s/bin";

/// Kubernetes on an ordinary machine does anything within this time.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// All machines; each comes up when the first test asks for it.
#[derive(Default)]
pub(crate) struct World {
    cluster: Mutex<Slot<Cluster>>,
}

/// Something that is made once; a failure to make it is told to every test that needs it.
#[derive(Default)]
pub(crate) enum Slot<T> {
    #[default]
    Empty,
    Made(Box<T>),
    Failed(String),
}

/// A machine with a finished `kubeadm init`.
pub(crate) struct Cluster {
    pub(crate) vm: Vm,
    /// What that init printed; `None` where the machine was made from a disk that was saved.
    pub(crate) init: Option<(Output, Duration)>,
}

/// A lock on a made thing.
pub(crate) struct Held<'a, T>(MutexGuard<'a, Slot<T>>);

impl<T> std::ops::Deref for Held<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &*self.0 {
            Slot::Made(made) => made,
            Slot::Empty | Slot::Failed(_) => unreachable!("only made things are held"),
        }
    }
}

impl<T> std::ops::DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut *self.0 {
            Slot::Made(made) => made,
            Slot::Empty | Slot::Failed(_) => unreachable!("only made things are held"),
        }
    }
}

impl World {
    /// The machine with a finished `kubeadm init`, and everything Ready.
    pub(crate) fn cluster(&self) -> Result<Held<'_, Cluster>, Box<dyn Error>> {
        hold(&self.cluster, Cluster::new)
    }

    /// Leaves what a failed test's machine knows where the next run of the same test replaces it, and says where.
    pub(crate) fn evidence(&self, test: &str) {
        let Ok(mut slot) = self.cluster.try_lock() else { return };
        if let Slot::Made(cluster) = &mut *slot {
            evidence(&mut cluster.vm, test);
        }
    }
}

/// Journal, console and QEMU's words of a machine, in a directory of the test's name.
pub(crate) fn evidence(vm: &mut Vm, test: &str) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test.replace("::", "."));
    let _ = fs::remove_dir_all(&dir);
    let _ = fs::create_dir_all(&dir);
    let _ = fs::copy(vm.console(), dir.join("console.log"));
    let _ = fs::copy(vm.dir().join("qemu.log"), dir.join("qemu.log"));
    let journal = vm.exec(&["journalctl", "--no-pager", "-o", "short-monotonic", "-b"]);
    let journal = journal.map_or_else(|error| error.to_string(), |output| output.stdout);
    let _ = fs::write(dir.join("journal.log"), journal);
    note(format!("journal and console: {}", dir.display()));
    if std::env::var("U7S_KEEP").is_ok_and(|when| when == "failure") {
        vm.keep();
        note(format!("the machine stays; {}", vm.exec_line("COMMAND...")));
    }
}

pub(crate) fn hold<T>(
    slot: &Mutex<Slot<T>>,
    make: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<Held<'_, T>, Box<dyn Error>> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*slot, Slot::Empty) {
        *slot = match make() {
            Ok(made) => Slot::Made(Box::new(made)),
            Err(error) => Slot::Failed(error.to_string()),
        };
    }
    match &*slot {
        Slot::Failed(why) => Err(format!("the machine of this test did not come up: {why}").into()),
        Slot::Empty | Slot::Made(_) => Ok(Held(slot)),
    }
}

/// The image with the programs that scripts/build made, or those of `U7S_VM_BIN`.
pub(crate) fn image() -> Result<Image, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = || root.join("target/release");
    let bin = std::env::var_os("U7S_VM_BIN").map_or_else(built, PathBuf::from);
    Ok(Image::ensure(&bin, &|line| note(line))?)
}

/// A new machine that is off, with the kernel that `U7S_VM_KERNEL` names.
pub(crate) fn machine(name: &str) -> Result<Vm, Box<dyn Error>> {
    let mut vm = Vm::new(&image()?, name)?;
    if let Ok(kernel) = std::env::var("U7S_VM_KERNEL") {
        vm.options.kernel = kernel;
    }
    Ok(vm)
}

/// Boots a new machine and makes it ready for an init: deadlines of its speed, a network.
pub(crate) fn prepared(mut vm: Vm) -> Result<Vm, Box<dyn Error>> {
    let took = vm.boot()?;
    let factor = vm.speed().factor();
    note(format!("boot: {:.1} s; {factor} times slower than ordinary", took.as_secs_f64()));
    let edit = format!("s/^#timeout_factor = 1/timeout_factor = {factor}/");
    vm.ok(&["sed", "-i", &edit, "/etc/u7s/config.toml"])?;
    note(format!("kernel {}", vm.ok(&["uname", "-r"])?));
    online(&vm)?;
    Ok(vm)
}

/// The agent answers before the network is up, and without u7s.service nothing waits for it.
pub(crate) fn online(vm: &Vm) -> Check {
    vm.command(&["systemctl", "start", "network-online.target"]).within(vm.speed().scale(SOON)).ok()?;
    Ok(())
}

impl Cluster {
    /// By `kubeadm init` on a new machine, or from the disk that `U7S_VM_SAVED` names; if there is none yet, one is
    /// saved there. For those who write tests: an emulated init takes minutes.
    fn new() -> Result<Self, Box<dyn Error>> {
        let saved = std::env::var_os("U7S_VM_SAVED").map(PathBuf::from);
        if let Some(saved) = saved.as_ref().filter(|path| path.exists()) {
            let mut vm = Vm::over(&image()?, "cluster", saved)?;
            note(format!("boot of {}: {:.1} s", saved.display(), vm.boot()?.as_secs_f64()));
            let mut cluster = Self { vm, init: None };
            cluster.or_evidence(Self::converge)?;
            // Who held them is gone, and an emulated machine's leases last minutes.
            let leases = ["kube-scheduler", "kube-controller-manager"];
            cluster.kubectl(&[&["delete", "lease", "-n", "kube-system"], &leases[..]].concat())?;
            return Ok(cluster);
        }
        let vm = prepared(machine("cluster")?)?;
        let begin = Instant::now();
        let output = kubeadm(&vm, &["init"]).within(vm.speed().scale(Duration::from_secs(120))).run()?;
        let mut cluster = Self { vm, init: Some((output, begin.elapsed())) };
        cluster.or_evidence(|cluster| {
            let (output, _) = cluster.init.as_ref().ok_or("no init")?;
            exits(output, 0)
        })?;
        cluster.or_evidence(Self::converge)?;
        if let Some(saved) = saved {
            let _ = cluster.vm.exec(&["systemctl", "poweroff"]);
            cluster.vm.wait_off(Duration::from_secs(600))?;
            cluster.vm.save(&saved)?;
            cluster.vm.boot()?;
            cluster.converge()?;
        }
        Ok(cluster)
    }

    fn or_evidence(&mut self, check: impl FnOnce(&Self) -> Check) -> Check {
        let result = check(self);
        if result.is_err() {
            evidence(&mut self.vm, "cluster");
        }
        result
    }

    /// kubectl as root on the host; gives what it prints.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
        Ok(self.kubectl_command(arguments).ok()?)
    }

    pub(crate) fn kubectl_command(&self, arguments: &[&str]) -> Invocation {
        let argv: Vec<&str> = std::iter::once("kubectl").chain(arguments.iter().copied()).collect();
        self.vm.command(&argv).within(self.vm.speed().scale(SOON))
    }

    /// A JSON answer of kubectl.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value, Box<dyn Error>> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        Ok(serde_json::from_str(&self.kubectl(&arguments)?)?)
    }

    /// Waits until the node and every pod that kubeadm makes, and flannel's, are Ready, by containers of this start of the
    /// unit: after a reboot or a restart the API server knows for a while only what was before it.
    pub(crate) fn converge(&self) -> Check {
        let begin = Instant::now();
        let words = ["get", "nodes,pods", "-A", "-o", "json"];
        self.vm.until(SOON, "a Ready node and all its pods", |_| {
            let text = self.kubectl(&words).map_err(|error| error.to_string())?;
            let all: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let waiting = unready(&all, &self.since().map_err(|error| error.to_string())?);
            if waiting.is_empty() { Ok(()) } else { Err(waiting.join(", ")) }
        })?;
        note(format!("node and pods were Ready after {:.1} s more", begin.elapsed().as_secs_f64()));
        Ok(())
    }

    /// When the unit's process was started, as Kubernetes writes times.
    fn since(&self) -> Result<String, Box<dyn Error>> {
        let show = "date -u -d $(systemctl show --timestamp=unix -P ExecMainStartTimestamp u7s) +%FT%TZ";
        Ok(self.vm.sh(show)?)
    }

    /// Applies a manifest from text.
    pub(crate) fn apply(&self, manifest: &str) -> Check {
        self.kubectl_command(&["apply", "-f", "-"]).input(manifest).ok()?;
        Ok(())
    }

    /// Deletes pods and waits until they are gone.
    pub(crate) fn delete(&self, pods: &[&str]) -> Check {
        let words = ["delete", "pod", "--ignore-not-found", "--wait"];
        self.kubectl(&words.into_iter().chain(pods.iter().copied()).collect::<Vec<_>>()).map(drop)
    }

    /// Runs a command in a pod.
    pub(crate) fn in_pod(&self, pod: &str, argv: &[&str]) -> Result<Output, Box<dyn Error>> {
        let arguments: Vec<&str> = ["exec", pod, "--"].into_iter().chain(argv.iter().copied()).collect();
        Ok(self.kubectl_command(&arguments).run()?)
    }
}

/// kubeadm's pods and flannel's by the start of their names.
const EXPECTED: &[(&str, usize)] = &[
    ("etcd-", 1),
    ("kube-apiserver-", 1),
    ("kube-controller-manager-", 1),
    ("kube-scheduler-", 1),
    ("kube-proxy-", 1),
    ("kube-flannel-ds-", 1),
    ("coredns-", 2),
];

/// What is not there or not Ready yet of a node and the pods of a new cluster.
fn unready(all: &Value, since: &str) -> Vec<String> {
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let of = |kind: &str, prefix: &str| {
        let named = |item: &&Value| {
            item["kind"] == kind
                && item["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(prefix))
        };
        all.iter().filter(named).filter(|item| is_ready(item) && started(item, since)).count()
    };
    let pods = EXPECTED.iter().map(|(prefix, count)| (*prefix, of("Pod", prefix), *count));
    let counts = std::iter::once(("node", of("Node", ""), 1)).chain(pods);
    counts
        .filter(|(_, seen, wanted)| seen != wanted)
        .map(|(name, seen, wanted)| format!("{name} {seen} of {wanted}"))
        .collect()
}

/// Whether all containers of a pod run since then or later.
fn started(object: &Value, since: &str) -> bool {
    let containers = object["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let at = |container: &Value| container["state"]["running"]["startedAt"].as_str().unwrap_or("").to_owned();
    containers.iter().all(|container| *at(container) >= *since)
}

/// Whether an object's condition Ready is true.
pub(crate) fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether the next note is the first of its test.
static FIRST: AtomicBool = AtomicBool::new(true);

/// A test begins.
pub(crate) fn new_notes() {
    FIRST.store(true, Ordering::Relaxed);
}

/// Prints a figure or a text that a test saw, below the test's name.
#[expect(clippy::print_stdout, reason = "what a test saw is part of its result")]
pub(crate) fn note(text: impl AsRef<str>) {
    if FIRST.swap(false, Ordering::Relaxed) {
        println!();
    }
    for line in text.as_ref().lines() {
        println!("      {line}");
    }
}

/// `PATH=/usr/libexec/u7s/bin:$PATH kubeadm …` as root.
pub(crate) fn kubeadm(vm: &Vm, arguments: &[&str]) -> Invocation {
    let argv: Vec<&str> = std::iter::once("kubeadm").chain(arguments.iter().copied()).collect();
    vm.command(&argv).first_in_path(SHIMS)
}

/// Wants a condition.
pub(crate) fn holds(condition: bool, what: impl Into<String>) -> Check {
    if condition { Ok(()) } else { Err(what.into().into()) }
}

/// Wants an exit status and shows the output otherwise.
pub(crate) fn exits(output: &Output, code: i32) -> Check {
    holds(output.code() == Some(code), format!("wanted exit status {code}: {output}"))
}
