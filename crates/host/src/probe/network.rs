//! Routes, addresses and the way out, as the kernel tells them by netlink.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use u7s_plan::facts::{Route, Uplink};

use crate::error::Error;

/// What the kernel says of the IPv4 network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// Interface and source address of the default route with the lowest metric.
    pub(crate) uplink: Option<Uplink>,
    /// Unicast routes of the main table, but the default ones.
    pub(crate) routes: Vec<Route>,
    /// Addresses with their prefix.
    pub(crate) addresses: Vec<Route>,
}

/// Asks the kernel three dumps: links, addresses, routes.
///
/// # Errors
/// `Netlink`.
pub(crate) fn network() -> Result<Network, Error> {
    let mut link = LinkMessage::default();
    link.header.interface_family = AddressFamily::Unspec;
    let links = links(&dump("interfaces", RouteNetlinkMessage::GetLink(link))?);
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    let addresses = addresses(&dump("addresses", RouteNetlinkMessage::GetAddress(address))?, &links);
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    let hops = hops(&dump("routes", RouteNetlinkMessage::GetRoute(route))?);
    Ok(assemble(&links, addresses, &hops))
}

/// An interface.
#[derive(Debug, Clone)]
struct Link {
    name: String,
    mtu: u32,
}

/// A unicast route of the main table.
#[derive(Debug, Clone)]
struct Hop {
    network: Ipv4Net,
    index: u32,
    gateway: Option<Ipv4Addr>,
    source: Option<Ipv4Addr>,
    metric: u32,
}

fn assemble(links: &BTreeMap<u32, Link>, addresses: Vec<Route>, hops: &[Hop]) -> Network {
    let default = hops.iter().filter(|hop| hop.network.prefix_len() == 0).min_by_key(|hop| hop.metric);
    let uplink = default.and_then(|hop| uplink(hop, links, &addresses));
    let routes = hops.iter().filter(|hop| hop.network.prefix_len() > 0).filter_map(|hop| {
        let interface = links.get(&hop.index)?.name.clone();
        Some(Route { network: hop.network, interface })
    });
    Network { uplink, routes: routes.collect(), addresses }
}

/// The kernel prefers the route's own source, then the address that shares a network with the next hop, then the
/// first of the interface.
///
/// Source: Linux, `fib_info_update_nhc_saddr` and `inet_select_addr`.
fn uplink(hop: &Hop, links: &BTreeMap<u32, Link>, addresses: &[Route]) -> Option<Uplink> {
    let link = links.get(&hop.index)?;
    let own = || addresses.iter().filter(|address| address.interface == link.name);
    let near = || hop.gateway.and_then(|gateway| own().find(|address| address.network.contains(&gateway)));
    let address =
        hop.source.or_else(|| near().or_else(|| own().next()).map(|address| address.network.addr()))?;
    Some(Uplink { interface: link.name.clone(), address, gateway: hop.gateway, mtu: link.mtu })
}

fn links(messages: &[RouteNetlinkMessage]) -> BTreeMap<u32, Link> {
    let mut links = BTreeMap::new();
    for message in messages {
        let RouteNetlinkMessage::NewLink(link) = message else { continue };
        let mut seen = Link { name: String::new(), mtu: 0 };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => seen.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => seen.mtu = *mtu,
                _ => {}
            }
        }
        links.insert(link.header.index, seen);
    }
    links
}

fn addresses(messages: &[RouteNetlinkMessage], links: &BTreeMap<u32, Link>) -> Vec<Route> {
    let mut addresses = Vec::new();
    for message in messages {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        // On a point-to-point link `Address` is the peer's: `Local` is ours.
        let own = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
        if let (Some(address), Some(link)) = (own, links.get(&message.header.index))
            && let Ok(network) = Ipv4Net::new(address, message.header.prefix_len)
        {
            addresses.push(Route { network, interface: link.name.clone() });
        }
    }
    addresses
}

fn hops(messages: &[RouteNetlinkMessage]) -> Vec<Hop> {
    let routes = messages.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    });
    routes.filter_map(hop).collect()
}

fn hop(route: &RouteMessage) -> Option<Hop> {
    let mut table = u32::from(route.header.table);
    let mut hop = Hop { network: Ipv4Net::default(), index: 0, gateway: None, source: None, metric: 0 };
    let mut destination = Ipv4Addr::UNSPECIFIED;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => hop.gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => hop.source = Some(*address),
            RouteAttribute::Oif(index) => hop.index = *index,
            RouteAttribute::Priority(metric) => hop.metric = *metric,
            RouteAttribute::MultiPath(paths) => {
                hop.index = paths.first().map_or(0, |path| path.interface_index);
            }
            _ => {}
        }
    }
    hop.network = Ipv4Net::new(destination, route.header.destination_prefix_length).ok()?;
    let main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    (main && route.header.kind == RouteType::Unicast && hop.index != 0).then_some(hop)
}

/// The largest dump that is read, messages: a full internet table is a tenth of this.
const MOST: usize = 10_000_000;

fn dump(what: &'static str, question: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
    ask(question).map_err(|source| Error::Netlink { what, source })
}

fn ask(question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    let mut message = NetlinkMessage::from(question);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut packet = vec![0; message.buffer_len()];
    message.serialize(&mut packet);
    socket.send_to(&packet, &SocketAddr::new(0, 0), 0)?;
    let mut answers = Vec::new();
    loop {
        let (packet, _) = socket.recv_from_full()?;
        if take(&packet, &mut answers)? {
            return Ok(answers);
        }
        if answers.len() > MOST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// Takes the messages of one packet; true at the end of the dump.
fn take(packet: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    let mut rest = packet;
    while !rest.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
        let length = usize::try_from(message.header.length).map_err(io::Error::other)?.next_multiple_of(4);
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                return Err(io::Error::from_raw_os_error(error.raw_code().saturating_abs()));
            }
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            _ => {}
        }
        // A message without a length would be read for ever.
        rest = rest.get(length.max(16)..).unwrap_or_default();
    }
    Ok(false)
}

/// A packet of a dump.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let mut answers = Vec::new();
    let _ = take(data, &mut answers);
    assert!(answers.len() <= data.len() / 16 + 1);
    let links = links(&answers);
    let addresses = addresses(&answers, &links);
    let _ = assemble(&links, addresses, &hops(&answers));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(network: &str, index: u32, gateway: Option<&str>, source: Option<&str>, metric: u32) -> Hop {
        let parse = |text: &str| text.parse().unwrap();
        Hop {
            network: parse_net(network),
            index,
            gateway: gateway.map(parse),
            source: source.map(parse),
            metric,
        }
    }

    fn parse_net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn address(network: &str, interface: &str) -> Route {
        Route { network: parse_net(network), interface: interface.into() }
    }

    fn links() -> BTreeMap<u32, Link> {
        let link = |name: &str, mtu| Link { name: name.into(), mtu };
        BTreeMap::from([(1, link("lo", 65536)), (2, link("eth0", 1500)), (3, link("wg0", 1420))])
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_is_the_uplink() {
        let hops = [
            hop("0.0.0.0/0", 2, Some("192.0.2.1"), None, 600),
            hop("0.0.0.0/0", 3, None, Some("198.51.100.9"), 50),
            hop("192.0.2.0/24", 2, None, None, 0),
        ];
        let network = assemble(&links(), vec![address("192.0.2.7/24", "eth0")], &hops);
        let uplink = network.uplink.unwrap();
        assert_eq!((uplink.interface.as_str(), uplink.mtu), ("wg0", 1420));
        assert_eq!(uplink.address.to_string(), "198.51.100.9");
        assert_eq!(network.routes, [address("192.0.2.0/24", "eth0")]);
    }

    #[test]
    fn of_several_addresses_the_one_near_the_gateway_is_the_source() {
        let addresses = vec![address("10.0.0.5/8", "eth0"), address("192.0.2.7/24", "eth0")];
        let near = [hop("0.0.0.0/0", 2, Some("192.0.2.1"), None, 0)];
        assert_eq!(
            assemble(&links(), addresses.clone(), &near).uplink.unwrap().address.to_string(),
            "192.0.2.7"
        );
        let far = [hop("0.0.0.0/0", 2, Some("203.0.113.1"), None, 0)];
        assert_eq!(assemble(&links(), addresses, &far).uplink.unwrap().address.to_string(), "10.0.0.5");
    }

    #[test]
    fn without_a_default_route_there_is_no_uplink() {
        let hops = [hop("10.0.0.0/8", 2, None, None, 0)];
        assert_eq!(assemble(&links(), Vec::new(), &hops).uplink, None);
    }

    #[test]
    fn the_kernel_answers_and_loopback_is_among_the_addresses() {
        let network = network().unwrap();
        assert!(network.addresses.contains(&address("127.0.0.1/8", "lo")), "{network:?}");
    }
}
