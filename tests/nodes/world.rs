//! The machines that the tests share, and small words of every test.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use u7s_harness::{Client, Invocation, Lan, Node, Output, Snapshot};

use crate::cluster::Cluster;
use crate::firewall::Walled;
use crate::ha::Trio;
use crate::package::Packaged;
use crate::pair::Pair;
use crate::upgrade::Upgraded;

/// What a test gives.
pub(crate) type Check = Result<(), Box<dyn Error>>;

/// kubeadm's needs that a nested node on a machine with cgroup v1 controllers cannot meet, ignored by name.
pub(crate) const IGNORED: &str = "--ignore-preflight-errors=CgroupControllers,OomScore,SystemVerification";

/// Where the shims are.
pub(crate) const SHIMS: &str = "/usr/libexec/u7s/bin";

/// All machines; each comes up when the first test asks for it.
#[derive(Default)]
pub(crate) struct World {
    lan: Mutex<Option<Arc<Lan>>>,
    bare: Mutex<Slot<Bare>>,
    cluster: Mutex<Slot<Cluster>>,
    pair: Mutex<Slot<Pair>>,
    stranger: Mutex<Slot<Bare>>,
    trio: Mutex<Slot<Trio>>,
    walled: Mutex<Slot<Walled>>,
    hostile: Mutex<Slot<Cluster>>,
    packaged: Mutex<Slot<Packaged>>,
    troubled: Mutex<Slot<Cluster>>,
    upgraded: Mutex<Slot<Upgraded>>,
}

/// Something that is made once; a failure to make it is told to every test that needs it.
#[derive(Default)]
pub(crate) enum Slot<T> {
    #[default]
    Empty,
    Made(Box<T>),
    Failed(String),
}

/// A node with the kit and u7s installed and nothing done yet.
pub(crate) struct Bare {
    pub(crate) node: Node,
    pub(crate) client: Client,
    /// Its state before the first command of u7s.
    pub(crate) before: Snapshot,
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
    /// The bridge; it is left to the sweep of the next run only if this process is killed.
    pub(crate) fn lan(&self) -> Result<Arc<Lan>, Box<dyn Error>> {
        let mut slot = self.lan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lan) = &*slot {
            return Ok(Arc::clone(lan));
        }
        let lan = Arc::new(Lan::new()?);
        *slot = Some(Arc::clone(&lan));
        Ok(lan)
    }

    /// The node on which nothing has been done.
    pub(crate) fn bare(&self) -> Result<Held<'_, Bare>, Box<dyn Error>> {
        hold(&self.bare, || Bare::new(&*self.lan()?, "bare"))
    }

    /// The node with a finished `kubeadm init`.
    pub(crate) fn cluster(&self) -> Result<Held<'_, Cluster>, Box<dyn Error>> {
        hold(&self.cluster, || Cluster::new(&*self.lan()?))
    }

    /// The node on a host with packet filter rules of its own.
    pub(crate) fn walled(&self) -> Result<Held<'_, Walled>, Box<dyn Error>> {
        hold(&self.walled, || Walled::new(&*self.lan()?))
    }

    /// The node whose supervisor is an attacker's.
    pub(crate) fn hostile(&self) -> Result<Held<'_, Cluster>, Box<dyn Error>> {
        hold(&self.hostile, || crate::hostile_stop::make(self))
    }

    /// The node that has u7s from its package.
    pub(crate) fn packaged(&self) -> Result<Held<'_, Packaged>, Box<dyn Error>> {
        hold(&self.packaged, || Packaged::new(&*self.lan()?))
    }

    /// The node whose disk is its own, and which is broken in many ways.
    pub(crate) fn troubled(&self) -> Result<Held<'_, Cluster>, Box<dyn Error>> {
        hold(&self.troubled, || crate::troubles::make(&*self.lan()?))
    }

    /// Two nodes of one cluster; the machines of the tests before go, for they would only take time from these.
    pub(crate) fn pair(&self) -> Result<Held<'_, Pair>, Box<dyn Error>> {
        self.retire();
        hold(&self.pair, || Pair::new(&*self.lan()?))
    }

    /// A node beside the pair that is in no cluster.
    pub(crate) fn stranger(&self) -> Result<Held<'_, Bare>, Box<dyn Error>> {
        hold(&self.stranger, || Bare::new(&*self.lan()?, "x"))
    }

    /// Three control planes; the machines of the tests before go.
    pub(crate) fn trio(&self) -> Result<Held<'_, Trio>, Box<dyn Error>> {
        self.retire();
        self.part();
        hold(&self.trio, || Trio::new(&*self.lan()?))
    }

    /// Two nodes of a cluster that was upgraded; the machines of the tests before go.
    pub(crate) fn upgraded(&self) -> Result<Held<'_, Upgraded>, Box<dyn Error>> {
        self.retire();
        self.part();
        *self.trio.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        hold(&self.upgraded, || Upgraded::new(&*self.lan()?))
    }

    fn part(&self) {
        *self.stranger.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        *self.pair.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
    }

    /// Machines of one node go.
    pub(crate) fn retire(&self) {
        *self.bare.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        *self.walled.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        *self.hostile.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        *self.packaged.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        *self.troubled.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.retire();
        self.part();
        *self.trio.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        *self.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        *self.lan.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn hold<T>(
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

impl Bare {
    pub(crate) fn new(lan: &Lan, name: &str) -> Result<Self, Box<dyn Error>> {
        let mut node = lan.node(name)?;
        node.install_kit(&[])?;
        node.boot(Duration::from_secs(90))?;
        node.install_u7s(&programs())?;
        let before = node.snapshot()?;
        let client = lan.client(&format!("{name}-c"))?;
        Ok(Self { node, client, before })
    }
}

/// Whether the next note is the first of its test.
static FIRST: AtomicBool = AtomicBool::new(true);

/// A test begins.
pub(crate) fn new_notes() {
    FIRST.store(true, Ordering::Relaxed);
}

/// Prints a line that is no test's.
#[expect(clippy::print_stdout, reason = "names for scripts/nodes.sh")]
pub(crate) fn say(text: impl AsRef<str>) {
    println!("{}", text.as_ref());
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

/// Where cargo put the programs under test.
pub(crate) fn programs() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_kubeadm")).parent().map(PathBuf::from).unwrap_or_default()
}

/// `PATH=/usr/libexec/u7s/bin:$PATH kubeadm …` as root.
pub(crate) fn kubeadm(node: &Node, arguments: &[&str]) -> Invocation {
    let argv: Vec<&str> = std::iter::once("kubeadm").chain(arguments.iter().copied()).collect();
    node.command(&argv).first_in_path(SHIMS).within(Duration::from_secs(300))
}

/// Wants a text in an output and shows all of it otherwise.
pub(crate) fn wants(output: &Output, text: &str) -> Check {
    if output.stdout.contains(text) || output.stderr.contains(text) {
        return Ok(());
    }
    Err(format!("`{text}` is not in the output: {output}").into())
}

/// Wants a condition.
pub(crate) fn holds(condition: bool, what: impl Into<String>) -> Check {
    if condition { Ok(()) } else { Err(what.into().into()) }
}

/// Wants an exit status and shows the output otherwise.
pub(crate) fn exits(output: &Output, code: i32) -> Check {
    holds(output.code() == Some(code), format!("wanted exit status {code}: {output}"))
}
