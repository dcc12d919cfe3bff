//! Links, addresses, routes and rules of this network namespace, changed in one batch.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    DefaultNla, Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol};
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
    changes: Vec<Change>,
}

/// One message without its header; by kind and bytes, since the type of all messages would bring the code of all along.
#[derive(Debug)]
struct Change {
    name: &'static str,
    kind: u16,
    body: Vec<u8>,
}

impl Batch {
    /// Sets a link up, with a new MTU if one is given.
    pub fn link_up(&mut self, index: u32, mtu: Option<u32>) {
        let link =
            LinkHeader { index, flags: LinkFlags::Up, change_mask: LinkFlags::Up, ..LinkHeader::default() };
        self.push("set a link up", libc::RTM_SETLINK, &link);
        if let (Some(mtu), Some(change)) = (mtu, self.changes.last_mut()) {
            change.body.extend(emit(&DefaultNla::new(libc::IFLA_MTU, mtu.to_ne_bytes().into())));
        }
    }

    fn push(&mut self, name: &'static str, kind: u16, message: &impl Emitable) {
        self.changes.push(Change { name, kind, body: emit(message) });
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
        self.push("add an address", libc::RTM_NEWADDR, &message);
    }

    /// A host that is reached directly over a link.
    pub fn neighbour_route(&mut self, index: u32, host: Ipv4Addr) {
        let mut route = unicast(RouteScope::Link);
        route.header.destination_prefix_length = 32;
        route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(host)));
        route.attributes.push(RouteAttribute::Oif(index));
        self.push("add a route", libc::RTM_NEWROUTE, &route);
    }

    /// The default route.
    pub fn default_route(&mut self, index: u32, gateway: Ipv4Addr) {
        let mut route = unicast(RouteScope::Universe);
        route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        route.attributes.push(RouteAttribute::Oif(index));
        self.push("add the default route", libc::RTM_NEWROUTE, &route);
    }

    /// `local default dev INDEX table TABLE`: every address is delivered here.
    pub fn local_default(&mut self, index: u32, table: u32) {
        let mut route = unicast(RouteScope::Host);
        route.header.kind = RouteType::Local;
        route.header.table = RouteHeader::RT_TABLE_UNSPEC;
        route.attributes.push(RouteAttribute::Table(table));
        route.attributes.push(RouteAttribute::Oif(index));
        self.push("add a local route", libc::RTM_NEWROUTE, &route);
    }

    /// `default dev INDEX table TABLE`: everything goes out there, whatever its address.
    pub fn device_default(&mut self, index: u32, table: u32) {
        let mut route = unicast(RouteScope::Link);
        route.header.table = RouteHeader::RT_TABLE_UNSPEC;
        route.attributes.push(RouteAttribute::Table(table));
        route.attributes.push(RouteAttribute::Oif(index));
        self.push("add a default route", libc::RTM_NEWROUTE, &route);
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
        self.push("add a rule", libc::RTM_NEWRULE, &rule);
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
        for (number, change) in (1..).zip(self.changes) {
            let mut header = NetlinkHeader::default();
            let length = header.buffer_len() + change.body.len();
            header.length = u32::try_from(length).unwrap_or(u32::MAX);
            header.message_type = change.kind;
            header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
            header.sequence_number = number;
            if names.len() + 1 == last {
                header.flags |= NLM_F_ACK;
            }
            packet.extend(emit(&header));
            packet.extend(change.body);
            packet.resize(packet.len().next_multiple_of(4), 0);
            names.push(change.name);
        }
        (names, packet)
    }
}

fn emit(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
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
        let message = NetlinkBuffer::new_checked(rest).map_err(|_| malformed())?;
        if message.message_type() != NLMSG_ERROR {
            return Err(malformed());
        }
        let number = usize::try_from(message.sequence_number()).unwrap_or(0);
        if let Some(code) = ErrorBuffer::new_checked(message.payload()).map_err(|_| malformed())?.code() {
            let call = names.get(number.saturating_sub(1)).copied().unwrap_or("rtnetlink");
            return Err(Error::Call { call, source: Errno::from_raw(code.get().saturating_abs()) });
        }
        end |= number == names.len();
        let length = usize::try_from(message.length()).unwrap_or(rest.len()).max(1).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(end)
}

/// An answer to a batch of two changes.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let ended = is_end(data, &["add a route", "add a rule"]);
    assert!(!data.is_empty() || matches!(ended, Ok(false)));
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
        let second = NetlinkBuffer::new_checked(&packet[32..]).unwrap();
        assert_eq!((second.sequence_number(), second.message_type()), (2, libc::RTM_NEWRULE));
        assert_eq!(second.flags() & NLM_F_ACK, NLM_F_ACK, "only the last is acknowledged");
        let first = NetlinkBuffer::new_checked(&packet[..32]).unwrap();
        assert_eq!((first.sequence_number(), first.flags() & NLM_F_ACK), (1, 0));
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
