//! Links, addresses, routes and rules of this network namespace, changed in one batch.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use crate::Error;

/// Index of an interface of this network namespace.
///
/// # Errors
/// [`Error::Call`]: ENODEV, there is none of that name.
pub fn index_of(interface: &str) -> Result<u32, Error> {
    nix::net::if_::if_nametoindex(interface).map_err(Error::call("if_nametoindex"))
}

/// Changes that are sent together; refusals and the end are told by the kernel.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Vec<(&'static str, RouteNetlinkMessage)>,
}

impl Batch {
    /// Sets a link up, with a new MTU if one is given.
    pub fn link_up(&mut self, index: u32, mtu: Option<u32>) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.changes.push(("set a link up", RouteNetlinkMessage::SetLink(link)));
    }

    /// Gives a link an address as a network of its own (/32).
    pub fn address(&mut self, index: u32, address: Ipv4Addr) {
        self.scoped_address(index, address, AddressScope::Universe);
    }

    /// The same, for an address that no packet to elsewhere is ever given as its source.
    pub fn link_address(&mut self, index: u32, address: Ipv4Addr) {
        self.scoped_address(index, address, AddressScope::Link);
    }

    fn scoped_address(&mut self, index: u32, address: Ipv4Addr, scope: AddressScope) {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.scope = scope;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
        message.attributes.push(AddressAttribute::Address(IpAddr::V4(address)));
        self.changes.push(("add an address", RouteNetlinkMessage::NewAddress(message)));
    }

    /// A host that is reached directly over a link.
    pub fn neighbour_route(&mut self, index: u32, host: Ipv4Addr) {
        let mut route = unicast(RouteScope::Link);
        route.header.destination_prefix_length = 32;
        route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(host)));
        route.attributes.push(RouteAttribute::Oif(index));
        self.changes.push(("add a route", RouteNetlinkMessage::NewRoute(route)));
    }

    /// The default route.
    pub fn default_route(&mut self, index: u32, gateway: Ipv4Addr) {
        let mut route = unicast(RouteScope::Universe);
        route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        route.attributes.push(RouteAttribute::Oif(index));
        self.changes.push(("add the default route", RouteNetlinkMessage::NewRoute(route)));
    }

    /// `local default dev INDEX table TABLE`: every address is delivered here.
    pub fn local_default(&mut self, index: u32, table: u32) {
        let mut route = unicast(RouteScope::Host);
        route.header.kind = RouteType::Local;
        route.header.table = RouteHeader::RT_TABLE_UNSPEC;
        route.attributes.push(RouteAttribute::Table(table));
        route.attributes.push(RouteAttribute::Oif(index));
        self.changes.push(("add a local route", RouteNetlinkMessage::NewRoute(route)));
    }

    /// `default dev INDEX table TABLE`: everything goes out there, whatever its address.
    pub fn device_default(&mut self, index: u32, table: u32) {
        let mut route = unicast(RouteScope::Link);
        route.header.table = RouteHeader::RT_TABLE_UNSPEC;
        route.attributes.push(RouteAttribute::Table(table));
        route.attributes.push(RouteAttribute::Oif(index));
        self.changes.push(("add a default route", RouteNetlinkMessage::NewRoute(route)));
    }

    /// `rule fwmark MARK/MASK lookup TABLE` for IPv4.
    pub fn mark_rule(&mut self, mark: u32, mask: u32, table: u32) {
        self.rule([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)].into(), table);
    }

    /// `rule iif lo ipproto udp dport PORT lookup TABLE` for IPv4: for what this namespace sends itself.
    pub fn own_datagrams_rule(&mut self, port: u16, table: u32) {
        let attributes = vec![
            RuleAttribute::Iifname("lo".to_owned()),
            RuleAttribute::IpProtocol(IpProtocol::Udp),
            RuleAttribute::DestinationPortRange(RulePortRange { start: port, end: port }),
        ];
        self.rule(attributes, table);
    }

    fn rule(&mut self, attributes: Vec<RuleAttribute>, table: u32) {
        let mut rule = RuleMessage::default();
        rule.header.family = AddressFamily::Inet;
        rule.header.action = RuleAction::ToTable;
        rule.attributes = attributes;
        rule.attributes.push(RuleAttribute::Table(table));
        self.changes.push(("add a rule", RouteNetlinkMessage::NewRule(rule)));
    }

    /// Sends all changes and waits for the acknowledgement of the last, which the kernel has queued when the send returns.
    ///
    /// # Errors
    /// [`Error::Call`] names the first change that was refused; the ones after it were still tried.
    pub fn apply(self) -> Result<(), Error> {
        let failed =
            |error: &std::io::Error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        let socket =
            Socket::new(NETLINK_ROUTE).map_err(|error| Error::call("socket(AF_NETLINK)")(failed(&error)))?;
        let (names, packet) = self.serialize();
        socket
            .send_to(&packet, &SocketAddr::new(0, 0), 0)
            .map_err(|error| Error::call("send to rtnetlink")(failed(&error)))?;
        let mut answer = Vec::with_capacity(ANSWER);
        loop {
            answer.clear();
            socket
                .recv(&mut answer, 0)
                .map_err(|error| Error::call("receive from rtnetlink")(failed(&error)))?;
            if is_end(&answer, &names)? {
                return Ok(());
            }
        }
    }

    fn serialize(self) -> (Vec<&'static str>, Vec<u8>) {
        let last = self.changes.len();
        let mut names = Vec::new();
        let mut packet = Vec::new();
        for (number, (name, change)) in (1..).zip(self.changes) {
            let mut message = NetlinkMessage::from(change);
            message.header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
            if names.len() + 1 == last {
                message.header.flags |= NLM_F_ACK;
            }
            message.header.sequence_number = number;
            message.finalize();
            let start = packet.len();
            packet.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut packet[start..]);
            names.push(name);
        }
        (names, packet)
    }
}

fn unicast(scope: RouteScope) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = scope;
    route.header.kind = RouteType::Unicast;
    route
}

/// Room for one datagram of the kernel's, bytes. It says at most a few lines about a change.
const ANSWER: usize = 8192;

/// Whether one datagram acknowledges the last change; a refusal is an error, and comes before that.
///
/// Source: netlink(7): a refusal is always told, an acknowledgement with `NLM_F_ACK` only.
fn is_end(answer: &[u8], names: &[&'static str]) -> Result<bool, Error> {
    let malformed = || Error::Answer { call: "rtnetlink", expected: "an acknowledgement" };
    let mut rest = answer;
    let mut end = false;
    while !rest.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|_| malformed())?;
        let NetlinkPayload::Error(error) = &message.payload else { return Err(malformed()) };
        if let Some(code) = error.code {
            let index = usize::try_from(message.header.sequence_number).unwrap_or(0).saturating_sub(1);
            let call = names.get(index).copied().unwrap_or("rtnetlink");
            return Err(Error::Call { call, source: Errno::from_raw(code.get().saturating_abs()) });
        }
        end |= usize::try_from(message.header.sequence_number) == Ok(names.len());
        let length = usize::try_from(message.header.length).unwrap_or(rest.len()).max(1).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_batch_are_aligned_and_numbered() {
        let mut batch = Batch::default();
        batch.link_up(1, None);
        batch.mark_rule(0x75, 0x75, 75);
        let (names, packet) = batch.serialize();
        assert_eq!(names, ["set a link up", "add a rule"]);
        let first = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&packet).unwrap();
        let second = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&packet[32..]).unwrap();
        assert_eq!((first.header.sequence_number, second.header.sequence_number), (1, 2));
    }

    #[test]
    fn a_refusal_names_the_change_and_the_cause() {
        let mut batch = Batch::default();
        batch.neighbour_route(u32::MAX >> 1, Ipv4Addr::new(192, 0, 2, 1));
        let error = batch.apply().unwrap_err();
        assert_eq!(error.to_string(), "add a route");
        assert!(matches!(error.errno(), Some(Errno::EPERM | Errno::ENODEV)), "{error:?}");
    }
}
