//! What one match of a rule says of a packet.
//!
//! Source: libnftables-json(5), "EXPRESSIONS".

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::walk::Chain;

/// The first packet of a connection from outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    /// `tcp` or `udp`.
    pub(super) protocol: &'static str,
    /// Where it wants to.
    pub(super) port: u16,
    /// It comes in here.
    pub(super) interface: &'a str,
    /// The node's address.
    pub(super) address: Ipv4Addr,
}

/// Whether a packet is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hit {
    Yes,
    No,
    /// It depends on what is not known: the client, a mark, a rate.
    Maybe,
}

impl Hit {
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
        }
    }

    fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// Named sets and maps: their elements.
pub(super) struct Sets<'a>(pub(super) BTreeMap<Chain<'a>, &'a Value>);

impl<'a> Sets<'a> {
    /// Elements of an anonymous set, of a named one in the table of `chain`, of a list, or the value itself.
    pub(super) fn elements(&self, value: &'a Value, chain: Chain<'a>) -> &'a [Value] {
        let named = |text: &'a str| {
            let name = text.strip_prefix('@')?;
            self.0.get(&Chain { name, ..chain }).copied()
        };
        let held = value.as_str().and_then(named).or_else(|| value.get("set")).unwrap_or(value);
        held.as_array().map_or_else(|| std::slice::from_ref(held), Vec::as_slice)
    }
}

/// The left side of a match, as far as this packet has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left<'a> {
    /// A packet of this kind has no such field: neither `==` nor `!=` holds.
    Absent,
    Unknown,
    Port(u16),
    Word(&'a str),
    Interface(&'a str),
    Address(Ipv4Addr),
}

/// Whether a statement looks at the transport protocol or its ports.
pub(super) fn of_transport(statement: &Value) -> bool {
    let left = &statement["match"]["left"];
    let payload = &left["payload"];
    left["meta"]["key"] == "l4proto"
        || payload["field"] == "protocol"
        || ["tcp", "udp", "th"].iter().any(|name| payload["protocol"] == *name)
}

/// What this packet has where a match looks.
pub(super) fn left<'a>(expression: &Value, packet: &Packet<'a>) -> Left<'a> {
    let Some((kind, value)) = expression.as_object().and_then(|object| object.iter().next()) else {
        return Left::Unknown;
    };
    match kind.as_str() {
        "payload" => payload(value, packet),
        "meta" => meta(value["key"].as_str().unwrap_or_default(), packet),
        "ct" => match value["key"].as_str() {
            Some("state") => Left::Word("new"),
            // Neither translated nor expected nor seen before.
            Some("status") => Left::Absent,
            Some("direction") => Left::Word("original"),
            _ => Left::Unknown,
        },
        "fib" if value["result"] == "type" && value.to_string().contains("daddr") => Left::Word("local"),
        _ => Left::Unknown,
    }
}

fn payload<'a>(value: &Value, packet: &Packet<'a>) -> Left<'a> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    match (text("protocol"), text("field")) {
        ("th", "dport") => Left::Port(packet.port),
        (name @ ("tcp" | "udp"), _) if name != packet.protocol => Left::Absent,
        ("tcp" | "udp", "dport") => Left::Port(packet.port),
        ("ip", "protocol") => Left::Word(packet.protocol),
        ("ip", "daddr") => Left::Address(packet.address),
        ("tcp" | "udp" | "th" | "ip" | "ether" | "vlan", _) => Left::Unknown,
        // A field of another protocol; with none it is a place in the packet.
        ("", _) => Left::Unknown,
        _ => Left::Absent,
    }
}

fn meta<'a>(key: &str, packet: &Packet<'a>) -> Left<'a> {
    match key {
        "l4proto" => Left::Word(packet.protocol),
        "iifname" | "iif" => Left::Interface(packet.interface),
        "nfproto" => Left::Word("ipv4"),
        "protocol" => Left::Word("ip"),
        "pkttype" => Left::Word("unicast"),
        "oif" | "oifname" | "skuid" | "skgid" => Left::Absent,
        _ => Left::Unknown,
    }
}

impl Left<'_> {
    /// A whole match.
    pub(super) fn op<'a>(self, expression: &'a Value, chain: Chain<'a>, sets: &Sets<'a>) -> Hit {
        let hit = || self.hit(&expression["right"], chain, sets);
        match (self, expression["op"].as_str()) {
            (Self::Absent, _) => Hit::No,
            (_, Some("==" | "in") | None) => hit(),
            (_, Some("!=")) => hit().not(),
            _ => Hit::Maybe,
        }
    }

    /// Whether it is, or is one of, what stands on the right.
    pub(super) fn hit<'a>(self, right: &'a Value, chain: Chain<'a>, sets: &Sets<'a>) -> Hit {
        let hits = sets.elements(right, chain).iter().map(|element| self.is(element));
        hits.fold(Hit::No, |sum, hit| if sum == Hit::Yes || hit == Hit::No { sum } else { hit })
    }

    fn is(self, element: &Value) -> Hit {
        if let Some(value) = element.get("elem").and_then(|element| element.get("val")) {
            return self.is(value);
        }
        // A catch-all entry of a map.
        if element == "*" {
            return Hit::Yes;
        }
        match self {
            Self::Absent => Hit::No,
            Self::Unknown => Hit::Maybe,
            Self::Port(port) => number(u32::from(port), element, |value| value.as_u64()?.try_into().ok()),
            Self::Address(address) => number(address.into(), element, |value| {
                value.as_str()?.parse::<Ipv4Addr>().ok().map(u32::from)
            }),
            Self::Word(word) => same_word(word, element),
            Self::Interface(name) => match element.as_str() {
                Some(text) => {
                    Hit::of(text.strip_suffix('*').map_or(text == name, |start| name.starts_with(start)))
                }
                None => Hit::Maybe,
            },
        }
    }
}

/// A number against a number, a range or a prefix.
fn number(seen: u32, element: &Value, read: impl Fn(&Value) -> Option<u32>) -> Hit {
    let bounds = if let Some(range) = element.get("range") {
        read(&range[0]).zip(read(&range[1]))
    } else if let Some(prefix) = element.get("prefix") {
        let length = prefix["len"].as_u64().and_then(|length| u32::try_from(length).ok());
        read(&prefix["addr"]).zip(length).map(|(first, length)| {
            let rest = u32::MAX.checked_shr(length).unwrap_or(0);
            (first & !rest, first | rest)
        })
    } else {
        read(element).map(|one| (one, one))
    };
    bounds.map_or(Hit::Maybe, |(first, last)| Hit::of((first..=last).contains(&seen)))
}

/// Words may be listed by their numbers. Source: IANA's protocol numbers.
fn same_word(word: &str, element: &Value) -> Hit {
    let by_number = match (word, element.as_u64()) {
        (_, None) => None,
        ("tcp", Some(number)) => Some(number == 6),
        ("udp", Some(number)) => Some(number == 17),
        _ => return Hit::Maybe,
    };
    let also = word == "unicast" && element == "host";
    by_number.or_else(|| element.as_str().map(|text| text == word || also)).map_or(Hit::Maybe, Hit::of)
}
