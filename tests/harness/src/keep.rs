//! Nodes that outlive the process that made them, for `scripts/try`: all on one lan, found again by name.

use std::fs::{self, File};
use std::net::Ipv4Addr;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{Error, Lan, Node, names};

/// What must be known to find a kept node again.
#[derive(Serialize, Deserialize)]
struct State {
    pid1: i32,
    /// In clock ticks after boot: tells the node's pid from a later process with the same number.
    start: u64,
    ip: Ipv4Addr,
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
    let pid1 = u32::try_from(state.pid1).unwrap_or_default();
    if names::start_time(pid1) != Some(state.start) {
        return Err(gone("it does not run any more; remove it and make it again"));
    }
    let mut node = Node::named(&Lan::open(names::KEEP)?, name, state.ip)?;
    node.pid1 = Some(state.pid1);
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
    let lan = Lan::kept()?;
    remove_from(&lan, name)
}

/// As [`close_kept`], for one who holds the lan.
pub(crate) fn remove_from(lan: &Lan, name: &str) -> Result<(), Error> {
    let ip = read_state(names::KEEP, name).map_or(Ipv4Addr::UNSPECIFIED, |state| state.ip);
    Node::named(lan, name, ip)?.remove()?;
    if !kept()?.is_empty() {
        return Ok(());
    }
    let _ = fs::remove_dir(names::lan_dir(lan.name())?);
    lan.delete()
}

/// The addresses of the kept nodes of a lan.
pub(crate) fn addresses(lan: &str) -> Result<Vec<Ipv4Addr>, Error> {
    let names = names::members(lan)?;
    Ok(names.iter().filter_map(|name| read_state(lan, name)).map(|state| state.ip).collect())
}

pub(crate) fn write_state(node: &Node) -> Result<(), Error> {
    let pid1 = node.pid1()?;
    let start = names::start_time(u32::try_from(pid1).unwrap_or_default()).unwrap_or_default();
    let state = State { pid1, start, ip: node.ip };
    let path = node.dir.join("state.json");
    let text = serde_json::to_vec(&state).map_err(|error| Error::file("writing", &path)(error.into()))?;
    fs::write(&path, text).map_err(Error::file("writing", path))
}

fn read_state(lan: &str, name: &str) -> Option<State> {
    let path = names::lan_dir(lan).ok()?.join(name).join("state.json");
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
