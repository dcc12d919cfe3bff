//! The node's link: tap0 with the node's address and the routes over it; what the transparent forwarder needs.

use std::os::fd::{AsFd, OwnedFd};

use u7s_net::forward;
use u7s_plan::node::{Driver, Network};
use u7s_sys::netlink::{Batch, index_of};
use u7s_sys::tap::{self, Kind};

use crate::Error;

/// The node's only interface to the world; flannel takes it by itself.
const TAP: &str = "tap0";

/// Index of `lo` in every network namespace. Source: include/net/flow.h, `LOOPBACK_IFINDEX`.
const LOOPBACK: u32 = 1;

/// The longest packet of IPv4, bytes.
const LONGEST: u32 = 65_535;

/// Makes tap0; a driver may be replaced without taking addresses and routes away.
pub(super) fn make_tap() -> Result<OwnedFd, Error> {
    let tap = tap::create(TAP, Kind::Tap).map_err(Error::system("make tap0"))?;
    tap::persist(tap.as_fd()).map_err(Error::system("make tap0"))?;
    Ok(tap)
}

/// Loopback and tap0 up, the node's address as /32, routes to gateway and name server.
pub(super) fn configure(network: &Network) -> Result<(), Error> {
    let mut batch = Batch::default();
    batch.link_up(LOOPBACK, None);
    match network.driver {
        Driver::Slirp4netns => {
            let tap = index_of(TAP).map_err(Error::system("find tap0"))?;
            batch.link_up(tap, Some(network.mtu));
            batch.address(tap, network.node_ip);
            batch.neighbour_route(tap, network.gateway);
            batch.neighbour_route(tap, network.dns);
            batch.default_route(tap, network.gateway);
        }
        Driver::None => batch.address(LOOPBACK, network.node_ip),
    }
    batch.apply().map_err(Error::system("configure the network inside"))
}

/// The forwarder's device, rules and tables: made by the first forwarder, found by the next ones.
///
/// Whole datagrams, however long, go by that device: the host's kernel cuts them where it must.
pub(super) fn furnish_forwarder(network: &Network) -> Result<(), Error> {
    if index_of(forward::TUN).is_ok() {
        return Ok(());
    }
    let device = tap::create(forward::TUN, Kind::Tun).map_err(Error::system("make u7s0"))?;
    let tun = index_of(forward::TUN).map_err(Error::system("find u7s0"))?;
    let mut batch = Batch::default();
    batch.local_default(LOOPBACK, forward::STREAM_TABLE);
    batch.mark_rule(forward::STREAM_MARK, forward::MARKS, forward::STREAM_TABLE);
    batch.link_up(tun, Some(LONGEST));
    batch.link_address(tun, tun_address(network));
    batch.device_default(tun, forward::DATAGRAM_TABLE);
    batch.mark_rule(forward::DATAGRAM_MARK, forward::MARKS, forward::DATAGRAM_TABLE);
    batch.own_datagrams_rule(forward::VXLAN, forward::DATAGRAM_TABLE);
    batch.apply().map_err(Error::system("configure the forwarder's network"))?;
    // Last: of a half-made one nothing is left.
    tap::persist(device.as_fd()).map_err(Error::system("make u7s0"))
}

/// An address of the driver's range that nobody has: the loose reverse path check refuses whatever comes in by a device
/// that has none.
///
/// Source: net/ipv4/fib_frontend.c, `__fib_validate_source`, `no_addr`.
fn tun_address(network: &Network) -> std::net::Ipv4Addr {
    let taken = [network.gateway, network.dns, network.node_ip];
    // A range of two addresses has two hosts, which is refused when the specification is checked.
    network.range.hosts().find(|host| !taken.contains(host)).unwrap_or(network.gateway)
}
