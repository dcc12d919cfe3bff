//! Who has a port of this host: /proc/net/tcp and udp tell the user and the socket, /proc/PID/fd the process.
//!
//! `/proc/net` is the network namespace of the process' first thread; ours is asked for in its place.

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

/// The owner of the socket that keeps `address:port` from being bound.
pub(super) fn of(forward: &Forward) -> Owner {
    let (tables, state) = match forward.protocol {
        Protocol::Tcp => (["tcp", "tcp6"], LISTEN),
        Protocol::Udp => (["udp", "udp6"], UNCONNECTED),
    };
    let table = |name: &str| bounded_text(format!("/proc/thread-self/net/{name}"));
    let found = tables.iter().find_map(|name| find(&table(name), state, forward.address, forward.port));
    let Some(socket) = found else { return Owner::default() };
    Owner { uid: Some(socket.uid), process: holder(socket.inode) }
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    uid: u32,
    inode: u64,
}

/// State of a listening TCP socket in the tables.
const LISTEN: &str = "0A";

/// State of a UDP socket that takes packets from anybody.
const UNCONNECTED: &str = "07";

/// The first socket in `table` in this state that collides with `address:port`.
///
/// Source: Documentation/networking/proc_net_tcp.rst.
fn find(table: &str, state: &str, address: Ipv4Addr, port: u16) -> Option<Socket> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (bound, bound_port) = fields.get(1)?.split_once(':')?;
        let same_port = u16::from_str_radix(bound_port, 16).ok()? == port;
        if *fields.get(3)? != state || !same_port || !collides(ipv4(bound)?, address) {
            return None;
        }
        Some(Socket { uid: fields.get(7)?.parse().ok()?, inode: fields.get(9)?.parse().ok()? })
    })
}

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

/// The process with the lowest pid that has the socket open; processes that we may not look into are skipped.
fn holder(inode: u64) -> Option<(i32, String)> {
    let link = format!("socket:[{inode}]");
    let mut pids: Vec<i32> = std::fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let pid = pids.into_iter().find(|pid| holds(*pid, &link))?;
    let name = bounded_text(format!("/proc/{pid}/comm"));
    Some((pid, name.trim_end().escape_debug().to_string()))
}

fn holds(pid: i32, link: &str) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
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
            let expected = expected.map(|(uid, inode)| Socket { uid, inode });
            assert_eq!(find(table, LISTEN, address, port), expected, "{address}:{port}");
        }
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
