//! A bridge in a network namespace of its own, and the machines on it.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::Flock;
use u7s_kit::Kit;

use crate::invocation::Invocation;
use crate::netns::Netns;
use crate::{Error, Node, Output, keep, names, sysctls};

/// The bridge's own address; nothing answers there, it is the nodes' default route and name server.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Programs of this machine that the harness calls, by the Debian package that has them.
const PACKAGES: [&str; 3] = ["iproute2", "util-linux", "ethtool"];
/// A network of nodes and clients: 10.77.0.0/24, without a way out.
#[derive(Debug)]
pub struct Lan {
    name: String,
    netns: Netns,
    kit: Kit,
    used: Mutex<Vec<u8>>,
    /// Of the kept lan: one process at a time makes and removes its members.
    pub(crate) lock: Option<Flock<File>>,
}

/// Another host on the lan: a network namespace with this machine's programs.
#[derive(Debug)]
pub struct Client {
    name: String,
    netns: Netns,
    ip: Ipv4Addr,
}

impl Lan {
    /// Sweeps what dead runs left, makes sure of the kit, and makes the bridge.
    ///
    /// Progress of a kit that must be built goes to standard error.
    ///
    /// # Errors
    /// The kit cannot be built; no root; a program of iproute2, util-linux or ethtool failed.
    pub fn new() -> Result<Self, Error> {
        names::sweep();
        Self::open(&names::new_lan())
    }

    /// The lan of this name, made if it is not there.
    pub(crate) fn open(name: &str) -> Result<Self, Error> {
        let say = progress;
        u7s_kit::require_packages(&PACKAGES, &say)?;
        let kit = u7s_kit::ensure(&say)?;
        let held = keep::lan_holder(name).and_then(Netns::of);
        let is_new = held.is_none();
        let netns = held.map_or_else(|| Netns::create(name == names::KEEP), Ok)?;
        let lan = Self { name: name.into(), netns, kit, used: Mutex::default(), lock: None };
        sysctls::hold();
        if is_new {
            lan.make_bridge()?;
            keep::write_lan(name, lan.netns.holder)?;
        }
        Ok(lan)
    }

    fn make_bridge(&self) -> Result<(), Error> {
        self.netns.ip(&["link", "add", "br0", "type", "bridge"])?;
        self.netns.ip(&["addr", "add", &format!("{GATEWAY}/24"), "dev", "br0"])?;
        self.netns.ip(&["link", "set", "br0", "up"])?;
        // Where the module is loaded, frames between nodes would pass this namespace's (empty) iptables.
        let off = "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done";
        self.command(&["sh", "-c", off]).ok().map(drop)
    }

    /// A new node with an address and a tree of its own; [`Node::boot`] starts it.
    ///
    /// # Errors
    /// The name is taken, the disk is full, or a program of iproute2 or ethtool failed.
    pub fn node(&self, name: &str) -> Result<Node, Error> {
        Node::create(self, name)
    }

    /// Another host on the lan.
    ///
    /// # Errors
    /// A program of iproute2 or ethtool failed.
    pub fn client(&self, name: &str) -> Result<Client, Error> {
        let ip = self.free_address(&[]);
        Ok(Client { name: name.into(), netns: self.attach(ip)?, ip })
    }

    /// The kit that nodes get.
    #[must_use]
    pub fn kit(&self) -> &Kit {
        &self.kit
    }

    /// A command on the bridge's side: netem, packet filters, captures. The port of a node is `v-<last byte of its address>`.
    pub fn command<S: AsRef<str>>(&self, argv: &[S]) -> Invocation {
        Invocation::new(self.netns.enter(), argv)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The lowest address that neither a member of this value nor one of `others` has.
    pub(crate) fn free_address(&self, others: &[Ipv4Addr]) -> Ipv4Addr {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = |byte: &u8| used.contains(byte) || others.iter().any(|ip| ip.octets()[3] == *byte);
        let byte = (2..=254).find(|byte| !taken(byte)).unwrap_or(254);
        used.push(byte);
        let [a, b, c, _] = GATEWAY.octets();
        Ipv4Addr::new(a, b, c, byte)
    }

    /// Makes a namespace with `eth0` on the bridge; the pair is made inside, the machine never sees it.
    pub(crate) fn attach(&self, ip: Ipv4Addr) -> Result<Netns, Error> {
        let made = Netns::create(self.name == names::KEEP)?;
        let (port, pid) = (port_of(ip), made.holder.pid.to_string());
        self.netns.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        self.netns.ip(&["link", "set", &port, "master", "br0", "up"])?;
        made.ip(&["addr", "add", &format!("{ip}/24"), "dev", "eth0"])?;
        made.ip(&["link", "set", "eth0", "up"])?;
        // A wire carries whole checksums and no packets of 64 KiB; a pair of veth would carry what a card has to finish, and
        // a socket that reads vxlan would get it unfinished.
        made.run("ethtool", &["-K", "eth0", "tx", "off", "gso", "off"])?;
        made.ip(&["route", "add", "default", "via", &GATEWAY.to_string()])?;
        Ok(made)
    }

    /// Ends a kept lan.
    pub(crate) fn delete(&mut self) {
        self.netns.delete();
        if let Ok(dir) = names::lan_dir(&self.name) {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if self.name != names::KEEP {
            self.netns.delete();
            if let Ok(dir) = names::lan_dir(&self.name) {
                let _ = fs::remove_dir(dir);
            }
        }
        sysctls::release();
    }
}

impl Client {
    /// The name it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// A command in its network namespace, with this machine's programs and files.
    pub fn command<S: AsRef<str>>(&self, argv: &[S]) -> Invocation {
        Invocation::new(self.netns.enter(), argv)
    }

    /// Runs a command to its end, at most 60 s.
    ///
    /// # Errors
    /// As [`Invocation::run`].
    pub fn exec<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output, Error> {
        self.command(argv).run()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.netns.delete();
    }
}

/// The bridge's end of a member's link.
pub(crate) fn port_of(ip: Ipv4Addr) -> String {
    format!("v-{}", ip.octets()[3])
}

#[expect(
    clippy::print_stderr,
    reason = "building the kit takes minutes, and tests have no other place to say so"
)]
pub(crate) fn progress(line: &str) {
    eprintln!("{line}");
}
