//! Who has a port of this host: /proc/net/tcp and udp tell the user and the socket, /proc/PID/fd the process.
//!
//! `/proc/net` is the network namespace of the process' first thread; ours is asked for in its place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;

use u7s_plan::node::{Forward, Protocol};

/// The longest table that is read, bytes: some 400 000 sockets.
const MAX_TABLE_BYTES: u64 = 64 << 20;

/// Who holds a port, as far as this process may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// Uid of the socket; `None`: no listening socket was found, it may be bound without listening.
    pub uid: Option<u32>,
    /// Pid and name of a process that holds it; `None`: no process whose descriptors we may list.
    pub process: Option<(i32, String)>,
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.process, self.uid) {
            (Some((pid, name)), Some(uid)) => write!(out, "pid {pid} ({name}) of uid {uid}"),
            (_, Some(uid)) => write!(out, "a process of uid {uid}"),
            (_, None) => out.write_str("an unknown process"),
        }
    }
}

/// The owners of the sockets that keep these ports from being bound, in the same order.
///
/// One look at the tables and at all processes, however many ports there are.
pub(super) fn of(forwards: &[Forward]) -> Vec<Owner> {
    let all = listening();
    let sockets: Vec<Option<&Socket>> = forwards.iter().map(|forward| all.find(forward)).collect();
    let holders = holders(sockets.iter().flatten().map(|socket| socket.inode).collect());
    let owner = |socket: Option<&Socket>| {
        let process = socket.and_then(|socket| holders.get(&socket.inode).copied()).map(named);
        Owner { uid: socket.map(|socket| socket.uid), process }
    };
    sockets.into_iter().map(owner).collect()
}

/// Ports of this host that programs listen on, as of some moment.
#[derive(Debug, Clone, Default)]
pub struct Listening {
    /// By protocol and port.
    sockets: BTreeMap<(Protocol, u16), Vec<Socket>>,
}

/// What programs of this network namespace listen on now; for datagrams: what takes them from anybody.
#[must_use]
pub fn listening() -> Listening {
    let mut listening = Listening::default();
    for (protocol, tables, state) in
        [(Protocol::Tcp, ["tcp", "tcp6"], LISTEN), (Protocol::Udp, ["udp", "udp6"], UNCONNECTED)]
    {
        for table in tables {
            listening.read(protocol, state, &bounded_text(format!("/proc/thread-self/net/{table}")));
        }
    }
    listening
}

impl Listening {
    /// The same without what `ours` has open.
    #[must_use]
    pub fn without(mut self, ours: &BTreeSet<Forward>) -> Self {
        for forward in ours {
            if let Some(sockets) = self.sockets.get_mut(&(forward.protocol, forward.port)) {
                sockets.retain(|socket| socket.bound != forward.address);
            }
        }
        self
    }

    /// The uid of a listener that would keep this port from being bound.
    #[must_use]
    pub fn holder(&self, forward: &Forward) -> Option<u32> {
        self.find(forward).map(|socket| socket.uid)
    }

    /// Forgets who has this port.
    pub fn forget(&mut self, forward: &Forward) {
        self.sockets.remove(&(forward.protocol, forward.port));
    }

    fn find(&self, forward: &Forward) -> Option<&Socket> {
        let sockets = self.sockets.get(&(forward.protocol, forward.port))?;
        sockets.iter().find(|socket| collides(socket.bound, forward.address))
    }

    /// Takes the sockets of a table that are in this state.
    ///
    /// Source: Documentation/networking/proc_net_tcp.rst.
    fn read(&mut self, protocol: Protocol, state: &str, table: &str) {
        let socket = |line: &str| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (bound, port) = fields.get(1)?.split_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            let (uid, inode) = (fields.get(7)?.parse().ok()?, fields.get(9)?.parse().ok()?);
            (*fields.get(3)? == state).then_some((port, Socket { bound: ipv4(bound)?, uid, inode }))
        };
        for (port, socket) in table.lines().skip(1).filter_map(socket) {
            self.sockets.entry((protocol, port)).or_default().push(socket);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Socket {
    bound: Ipv4Addr,
    uid: u32,
    inode: u64,
}

/// State of a listening TCP socket in the tables.
const LISTEN: &str = "0A";

/// State of a UDP socket that takes packets from anybody.
const UNCONNECTED: &str = "07";

fn collides(bound: Ipv4Addr, wanted: Ipv4Addr) -> bool {
    bound == wanted || bound.is_unspecified() || wanted.is_unspecified()
}

/// Reads an address of /proc/net/tcp or tcp6: 32-bit words in hexadecimal, in the byte order of the machine.
///
/// `[::]` is 0.0.0.0, a mapped address its IPv4 form; any other IPv6 address takes no IPv4 port: `None`.
fn ipv4(hexadecimal: &str) -> Option<Ipv4Addr> {
    let mapped = format!("0000000000000000{:08X}", u32::from_ne_bytes([0, 0, 0xff, 0xff]));
    let word = match hexadecimal.len() {
        8 => hexadecimal,
        32 if hexadecimal.bytes().all(|digit| digit == b'0') => return Some(Ipv4Addr::UNSPECIFIED),
        32 => hexadecimal.strip_prefix(&mapped)?,
        _ => return None,
    };
    Some(Ipv4Addr::from(u32::from_str_radix(word, 16).ok()?.to_ne_bytes()))
}

/// For each of these sockets the process with the lowest pid that has it open; processes that we may not look into are
/// skipped.
fn holders(mut wanted: HashSet<u64>) -> HashMap<u64, i32> {
    let mut found = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return found };
    let mut pids: Vec<i32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        if wanted.is_empty() {
            break;
        }
        for inode in sockets_of(pid) {
            if wanted.remove(&inode) {
                found.insert(inode, pid);
            }
        }
    }
    found
}

fn sockets_of(pid: i32) -> impl Iterator<Item = u64> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

fn named(pid: i32) -> (i32, String) {
    let name = bounded_text(format!("/proc/{pid}/comm"));
    (pid, name.trim_end().escape_debug().to_string())
}

/// The text of a file of /proc, cut at [`MAX_TABLE_BYTES`]; empty if it cannot be read: the owner is then unknown,
/// which is no reason to hide that the port is taken.
fn bounded_text(path: impl AsRef<Path>) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_TABLE_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A table of sockets.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let table = String::from_utf8_lossy(data);
    let mut listening = Listening::default();
    for (protocol, state) in [(Protocol::Tcp, LISTEN), (Protocol::Udp, UNCONNECTED)] {
        listening.read(protocol, state, &table);
    }
    assert!(listening.sockets.values().map(Vec::len).sum::<usize>() <= 2 * table.lines().count());
    table
        .split_ascii_whitespace()
        .for_each(|word| assert!(ipv4(word).is_none() || matches!(word.len(), 8 | 32)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0
   1: 0100007F:192B 0200007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 00000000:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 4713 1 0 100 0 0 10 0
";

    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 900 1 0 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:0017 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     7        0 901 1 0 100 0 0 10 0
   2: 00000000000000000000000001000000:0018 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     7        0 902 1 0 100 0 0 10 0
";

    #[test]
    fn a_listening_socket_is_found_by_address_or_wildcard() {
        let lo = Ipv4Addr::LOCALHOST;
        let cases = [
            (TCP, lo, 6443, Some((1000, 4711))),
            (TCP, Ipv4Addr::UNSPECIFIED, 6443, Some((1000, 4711))),
            (TCP, Ipv4Addr::new(192, 0, 2, 1), 6443, None),
            (TCP, Ipv4Addr::new(192, 0, 2, 1), 10250, Some((33, 4713))),
            (TCP, lo, 0xC001, None),
            (TCP6, lo, 22, Some((0, 900))),
            (TCP6, lo, 23, Some((7, 901))),
            (TCP6, lo, 24, None),
            ("garbage\n: : :\n", lo, 1, None),
        ];
        for (table, address, port, expected) in cases {
            let mut listening = Listening::default();
            listening.read(Protocol::Tcp, LISTEN, table);
            let found = listening.find(&Forward { protocol: Protocol::Tcp, address, port });
            assert_eq!(found.map(|socket| (socket.uid, socket.inode)), expected, "{address}:{port}");
        }
    }

    #[test]
    fn one_look_names_the_owners_of_many_ports() {
        let bind = |_| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken: Vec<_> = (0..50).map(bind).collect();
        let forward = |listener: &std::net::TcpListener| Forward {
            protocol: Protocol::Tcp,
            address: Ipv4Addr::LOCALHOST,
            port: listener.local_addr().unwrap().port(),
        };
        let owners = of(&taken.iter().map(forward).collect::<Vec<_>>());
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(owners.iter().all(|owner| owner.process.as_ref().is_some_and(|(pid, _)| *pid == me)));
        assert_eq!(owners.len(), taken.len());
    }

    #[test]
    fn what_is_not_known_is_said() {
        let cases = [
            (Owner { uid: Some(0), process: Some((7, "nginx".into())) }, "pid 7 (nginx) of uid 0"),
            (Owner { uid: Some(33), process: None }, "a process of uid 33"),
            (Owner::default(), "an unknown process"),
        ];
        for (owner, text) in cases {
            assert_eq!(owner.to_string(), text);
        }
    }
}
