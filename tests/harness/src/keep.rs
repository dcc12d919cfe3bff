//! Nodes that outlive the process that made them, for `scripts/try`: all on one lan, found again by name.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::netns::{Netns, ProcessId};
use crate::{Error, Lan, Node, names};

/// What must be known to find a kept node again.
#[derive(Serialize, Deserialize)]
struct State {
    ip: Ipv4Addr,
    netns: Option<ProcessId>,
    /// `None` until it is booted.
    pid1: Option<ProcessId>,
}

impl Lan {
    /// The lan of nodes that stay when this process ends; it goes with the last of them.
    ///
    /// # Errors
    /// As [`Lan::new`].
    pub fn kept() -> Result<Self, Error> {
        let lock = lock()?;
        let mut lan = Self::open(names::KEEP)?;
        lan.lock = Some(lock);
        Ok(lan)
    }
}

/// Held as long as the value lives; a dead process holds none.
fn lock() -> Result<Flock<File>, Error> {
    let dir = u7s_kit::cache_dir()?;
    fs::create_dir_all(&dir).map_err(Error::file("making", &dir))?;
    let path = dir.join("keep.lock");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(Error::file("opening", &path))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::file("locking", &path)(errno.into()))
}

/// The names of all kept nodes, running or not.
///
/// # Errors
/// There is no cache directory.
pub fn kept() -> Result<Vec<String>, Error> {
    Ok(names::members(names::KEEP)?.into_iter().collect())
}

/// Finds a kept node by its name.
///
/// # Errors
/// There is none of that name, or it does not run any more.
pub fn open_kept(name: &str) -> Result<Node, Error> {
    let gone = |what| Error::State { node: name.into(), what };
    let state = read_state(names::KEEP, name).ok_or_else(|| gone("there is no such node"))?;
    let pid1 = state.pid1.filter(|pid1| pid1.is_alive());
    let pid1 = pid1.ok_or_else(|| gone("it does not run any more; remove it and make it again"))?;
    let mut node = Node::named(&Lan::open(names::KEEP)?, name, state.ip)?;
    node.pid1 = Some(pid1.pid);
    node.netns = state.netns.and_then(Netns::of);
    Ok(node)
}

/// Kills and removes a kept node, running or not, and the lan if it was the last.
///
/// # Errors
/// There is none of that name, or something could not be removed.
pub fn close_kept(name: &str) -> Result<(), Error> {
    if !kept()?.iter().any(|known| known == name) {
        return Err(Error::State { node: name.into(), what: "there is no such node" });
    }
    let mut lan = Lan::kept()?;
    remove_from(&lan, name)?;
    if kept()?.is_empty() {
        lan.delete();
    }
    Ok(())
}

/// As [`close_kept`], for one who holds the lan.
pub(crate) fn remove_from(lan: &Lan, name: &str) -> Result<(), Error> {
    let state = read_state(names::KEEP, name);
    let ip = state.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |state| state.ip);
    let mut node = Node::named(lan, name, ip)?;
    node.netns = state.and_then(|state| state.netns).and_then(Netns::of);
    node.remove()
}

/// The addresses of the kept nodes of a lan.
pub(crate) fn addresses(lan: &str) -> Result<Vec<Ipv4Addr>, Error> {
    let names = names::members(lan)?;
    Ok(names.iter().filter_map(|name| read_state(lan, name)).map(|state| state.ip).collect())
}

pub(crate) fn write_state(node: &Node) -> Result<(), Error> {
    let netns = node.netns.as_ref().map(|netns| netns.holder);
    let state = State { ip: node.ip, netns, pid1: node.pid1.and_then(ProcessId::of) };
    write(&node.dir.join("state.json"), &state)
}

/// Notes who holds the bridge of a kept lan; for others there is nothing to find again.
pub(crate) fn write_lan(name: &str, holder: ProcessId) -> Result<(), Error> {
    if name != names::KEEP {
        return Ok(());
    }
    let dir = names::lan_dir(name)?;
    fs::create_dir_all(&dir).map_err(Error::file("making", &dir))?;
    write(&dir.join("lan.json"), &holder)
}

/// The holder of a kept lan's bridge.
pub(crate) fn lan_holder(name: &str) -> Option<ProcessId> {
    let path = names::lan_dir(name).ok()?.join("lan.json");
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(|error| Error::file("writing", path)(error.into()))?;
    fs::write(path, text).map_err(Error::file("writing", path))
}

fn read_state(lan: &str, name: &str) -> Option<State> {
    let path = names::lan_dir(lan).ok()?.join(name).join("state.json");
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
