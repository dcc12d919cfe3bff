//! Listening TCP sockets of the host and who holds them.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use u7s_plan::facts::Listener;

use super::{proc_text, unit_of};
use crate::child::printable;

/// A listening socket as /proc/net shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    address: Ipv4Addr,
    port: u16,
    inode: u64,
}

/// Reads all of them; an owner that is gone meanwhile, or that we may not see, is left out.
pub(crate) fn listeners(unit: &str) -> Vec<Listener> {
    let mut rows = rows(&proc_text("/proc/net/tcp"), ipv4);
    rows.extend(self::rows(&proc_text("/proc/net/tcp6"), ipv6));
    let wanted = rows.iter().map(|row| row.inode).collect();
    let holders = holders(wanted, processes(), &mut { MOST_LOOKS });
    // One process may hold thousands of sockets.
    let mut known = BTreeMap::new();
    let mut about = |pid: i32| -> (String, bool) {
        known
            .entry(pid)
            .or_insert_with(|| (name(pid), unit_of(&proc_text(&format!("/proc/{pid}/cgroup")), unit)))
            .clone()
    };
    let listener = |row: Row| {
        let found = holders.get(&row.inode).map(|pid| (*pid, about(*pid)));
        let ours = found.as_ref().is_some_and(|(_, (_, ours))| *ours);
        let owner = found.map(|(pid, (name, _))| (pid, name));
        Listener { address: row.address, port: row.port, owner, ours }
    };
    rows.into_iter().map(listener).collect()
}

/// Source: proc_net_tcp(5): fields local address, state (0A is LISTEN) and inode.
fn rows(text: &str, address: fn(&str) -> Option<Ipv4Addr>) -> Vec<Row> {
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (host, port) = fields.nth(1)?.split_once(':')?;
        if fields.nth(1)? != "0A" {
            return None;
        }
        let inode = fields.nth(5)?.parse().ok()?;
        Some(Row { address: address(host)?, port: u16::from_str_radix(port, 16).ok()?, inode })
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// The kernel prints the address as a number in the machine's byte order.
fn ipv4(host: &str) -> Option<Ipv4Addr> {
    (host.len() == 8).then_some(())?;
    u32::from_str_radix(host, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()))
}

/// `[::]` also takes IPv4, and a mapped address is one; other addresses do not concern an IPv4 node.
fn ipv6(host: &str) -> Option<Ipv4Addr> {
    let mut bytes = [0; 16];
    (host.len() == 32).then_some(())?;
    for (number, word) in bytes.chunks_exact_mut(4).enumerate() {
        let digits = host.get(number * 8..number * 8 + 8)?;
        word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    let address = Ipv6Addr::from(bytes);
    if address.is_unspecified() { Some(Ipv4Addr::UNSPECIFIED) } else { address.to_ipv4_mapped() }
}

/// The most descriptors and processes that are looked at: seconds of work. Any user may open as many as his limits give
/// him; an owner that is not found by then stays unknown.
const MOST_LOOKS: usize = 1 << 20;

/// One process for each wanted socket, by inode: the first one that holds it.
///
/// Each look costs the same however many are wanted, and none is made once all are found; `looks` is what is left.
fn holders<F: IntoIterator<Item = Option<u64>>>(
    mut wanted: HashSet<u64>,
    processes: impl IntoIterator<Item = (i32, F)>,
    looks: &mut usize,
) -> BTreeMap<u64, i32> {
    let mut holders = BTreeMap::new();
    // By reference: a process whose turn does not come is not opened.
    let mut processes = processes.into_iter();
    while !wanted.is_empty()
        && spend(looks)
        && let Some((pid, sockets)) = processes.next()
    {
        let mut sockets = sockets.into_iter();
        while !wanted.is_empty()
            && spend(looks)
            && let Some(socket) = sockets.next()
        {
            if let Some(inode) = socket.filter(|inode| wanted.remove(inode)) {
                holders.insert(inode, pid);
            }
        }
    }
    holders
}

fn spend(looks: &mut usize) -> bool {
    let any = *looks > 0;
    *looks = looks.saturating_sub(1);
    any
}

/// The processes by pid, each with its descriptors: the inode of one that is a socket.
fn processes() -> impl Iterator<Item = (i32, impl Iterator<Item = Option<u64>>)> {
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter().map(|pid| {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        (pid, entries.map(|entry| socket(&entry.path())))
    })
}

fn socket(link: &Path) -> Option<u64> {
    let target = fs::read_link(link).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A process names itself: control characters are escaped.
fn name(pid: i32) -> String {
    printable(proc_text(&format!("/proc/{pid}/comm")).trim_end_matches('\n'))
}

/// Tables of listening sockets.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(text: &str) {
    let _ = (rows(text, ipv4), rows(text, ipv6));
    for word in text.split_ascii_whitespace() {
        assert!(ipv4(word).is_none() || ipv6(word).is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_tcp_and_of_tcp6_is_read() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let line = |host: String, state: &str| {
            format!(
                "   0: {host}:192B 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0 0 4711 1 ff 100 0\n"
            )
        };
        let text = format!("{head}{}{}", line(word([127, 0, 0, 1]), "0A"), line(word([127, 0, 0, 1]), "01"));
        assert_eq!(rows(&text, ipv4), [Row { address: Ipv4Addr::LOCALHOST, port: 6443, inode: 4711 }]);
        let mapped = format!("{0}{0}{1}{2}", word([0; 4]), word([0, 0, 255, 255]), word([192, 0, 2, 1]));
        let other = format!("{}{}", word([0xfe, 0x80, 0, 0]), word([0, 0, 0, 1]).repeat(3));
        let text = format!(
            "{head}{}{}{}",
            line(word([0; 4]).repeat(4), "0A"),
            line(mapped, "0A"),
            line(other, "0A")
        );
        let found: Vec<_> = rows(&text, ipv6).into_iter().map(|row| row.address.to_string()).collect();
        assert_eq!(found, ["0.0.0.0", "192.0.2.1"]);
    }

    #[test]
    fn garbage_is_no_row() {
        for line in ["", "0:", "0: 0100007F 0 0A", "0: xx:yy 0 0A 0 0 0 0 0 1", "0: 0:0 0 0A 0 0 0 0 0 1"] {
            assert!(rows(&format!("head\n{line}"), ipv4).is_empty(), "{line}");
        }
    }

    #[test]
    fn f13_the_work_grows_with_the_descriptors_not_with_the_listeners_times_them() {
        const MANY: u64 = 20_000;
        let looked = std::cell::Cell::new(0_u64);
        let process = |pid: i32, sockets: std::ops::Range<u64>| {
            let looked = &looked;
            (
                pid,
                sockets.map(move |inode| {
                    looked.set(looked.get() + 1);
                    Some(inode)
                }),
            )
        };
        let processes = || [process(1, 0..MANY), process(2, 0..MANY), process(3, MANY..2 * MANY)];
        let found = holders((0..MANY).collect(), processes(), &mut usize::MAX.clone());
        assert_eq!((found.len() as u64, looked.get()), (MANY, MANY), "the second process is not looked at");
        assert!(found.values().all(|pid| *pid == 1));
        looked.set(0);
        let found = holders([MANY, u64::MAX].into(), processes(), &mut 100);
        assert_eq!((found.len(), looked.get()), (0, 99), "a bound, for processes and descriptors together");
    }

    #[test]
    fn our_own_listener_is_found_with_our_pid_and_name() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let found = listeners("no-such.service").into_iter().find(|listener| listener.port == port).unwrap();
        let (pid, name) = found.owner.unwrap();
        assert_eq!(u32::try_from(pid).unwrap(), std::process::id());
        assert!(!name.is_empty());
        assert_eq!(found.address, Ipv4Addr::LOCALHOST);
        assert!(!found.ours);
    }
}
