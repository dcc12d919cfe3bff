//! The node's link: tap0 with the node's address, and the routes over it and to the transparent forwarder.

use u7s_net::forward;
use u7s_plan::node::Network;
use u7s_sys::netlink::{Batch, index_of};
use u7s_sys::tap::{self, Kind};

use crate::Error;

/// The node's only interface to the world; flannel takes it by itself.
const TAP: &str = "tap0";

/// The longest packet of IPv4, bytes.
const LONGEST: u32 = 65_535;

/// Makes tap0; the driver attaches to it later and may be replaced without taking addresses and routes away.
pub(super) fn make_tap() -> Result<(), Error> {
    tap::create_persistent(TAP, Kind::Tap).map_err(Error::system("make tap0"))
}

/// Loopback and tap0 up, the node's address as /32, routes to gateway and name server; the forwarder's device, rules and
/// tables.
///
/// Whole datagrams, however long, go by the forwarder's device: the host's kernel cuts them where it must.
pub(super) fn configure(network: &Network) -> Result<(), Error> {
    let failed = Error::system;
    let lo = index_of("lo").map_err(failed("find lo"))?;
    let tap = index_of(TAP).map_err(failed("find tap0"))?;
    tap::create_persistent(forward::TUN, Kind::Tun).map_err(failed("make u7s0"))?;
    let tun = index_of(forward::TUN).map_err(failed("find u7s0"))?;
    let mut batch = Batch::default();
    batch.link_up(lo, None);
    batch.link_up(tap, Some(network.mtu));
    batch.address(tap, network.node_ip);
    batch.neighbour_route(tap, network.gateway);
    batch.neighbour_route(tap, network.dns);
    batch.default_route(tap, network.gateway);
    batch.local_default(lo, forward::STREAM_TABLE);
    batch.mark_rule(forward::STREAM_MARK, forward::MARKS, forward::STREAM_TABLE);
    batch.link_up(tun, Some(LONGEST));
    batch.link_address(tun, tun_address(network));
    batch.device_default(tun, forward::DATAGRAM_TABLE);
    batch.mark_rule(forward::DATAGRAM_MARK, forward::MARKS, forward::DATAGRAM_TABLE);
    batch.own_datagrams_rule(forward::VXLAN, forward::DATAGRAM_TABLE);
    batch.apply().map_err(failed("configure the network inside"))
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
