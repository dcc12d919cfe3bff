//! Whether a client is the host itself.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// The host's addresses, read again when they are older than this and a client comes that is not among them.
const FRESH: Duration = Duration::from_secs(1);

/// The host's own IPv4 addresses, as of a moment ago.
#[derive(Debug, Default)]
pub(super) struct HostAddresses {
    known: HashSet<Ipv4Addr>,
    read_at: Option<Instant>,
}

impl HostAddresses {
    /// Whether `peer`, which reached us at `local`, is an address of this host.
    ///
    /// Asking the kernel by binding a socket to it would be shorter, and wrong with `ip_nonlocal_bind=1`.
    pub(super) fn contain(&mut self, peer: Ipv4Addr, local: Ipv4Addr) -> bool {
        if peer.is_loopback() || peer == local {
            return true;
        }
        if self.read_at.is_none_or(|at| at.elapsed() >= FRESH) {
            self.read();
        }
        self.known.contains(&peer)
    }

    /// On failure (no descriptor is left) the former set stays: a wrong source address is better than no connection.
    fn read(&mut self) {
        if let Ok(interfaces) = nix::ifaddrs::getifaddrs() {
            self.known = interfaces.filter_map(|it| Some(it.address?.as_sockaddr_in()?.ip())).collect();
            self.read_at = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_the_address_itself_are_local_and_others_are_not() {
        let node = Ipv4Addr::new(192, 0, 2, 10);
        let client = Ipv4Addr::new(192, 0, 2, 20);
        let mut host = HostAddresses::default();
        assert!(host.contain(Ipv4Addr::new(127, 0, 0, 9), node));
        assert!(host.contain(node, node));
        assert!(!host.contain(client, node));
        assert!(host.known.contains(&Ipv4Addr::LOCALHOST), "{host:?}");
    }
}
