//! Listening TCP sockets of the host and who holds them.

use std::collections::BTreeMap;
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
    let holders = if rows.is_empty() { BTreeMap::new() } else { holders(&rows) };
    let listener = |row: Row| {
        let pid = holders.get(&row.inode).copied();
        let owner = pid.map(|pid| (pid, name(pid)));
        let ours = pid.is_some_and(|pid| unit_of(&proc_text(&format!("/proc/{pid}/cgroup")), unit));
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

/// One process for each socket, by inode: the one with the lowest pid.
fn holders(rows: &[Row]) -> BTreeMap<u64, i32> {
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut holders = BTreeMap::new();
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            if let Some(inode) = socket(&entry.path())
                && rows.iter().any(|row| row.inode == inode)
            {
                holders.entry(inode).or_insert(pid);
            }
        }
    }
    holders
}

fn socket(link: &Path) -> Option<u64> {
    let target = fs::read_link(link).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A process names itself: control characters are escaped.
fn name(pid: i32) -> String {
    printable(proc_text(&format!("/proc/{pid}/comm")).trim_end_matches('\n'))
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
