//! Flows whose answers cannot be addressed by what stands in them: those of the host itself, and those that came to
//! another address of the host than the node's.
//!
//! All others need no state here: conntrack knows them, and the answer carries the client's address.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

/// A flow that is silent for so long is forgotten, at the latest after twice that.
const IDLE: Duration = Duration::from_secs(60);

/// Flows of one generation; there are two, and the older one goes whole.
const MOST: usize = 4096;

/// How many ports are tried for a client of the host until the flow is given up.
const TRIES: u16 = 64;

/// Where the answers of a flow belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    /// The client.
    pub(super) client: SocketAddrV4,
    /// Address and port of the host that it speaks to.
    pub(super) local: SocketAddrV4,
    /// What the socket is bound to, by which it came and its answers leave.
    pub(super) bound: SocketAddrV4,
}

/// The flow as it is seen inside: the client's stand-in, and the port of the service.
type Seen = (SocketAddrV4, u16);

/// Flows that were heard of lately.
#[derive(Debug)]
pub(super) struct Flows {
    young: Generation,
    old: Generation,
    since: Instant,
}

#[derive(Debug, Default)]
struct Generation {
    forth: HashMap<Flow, Seen>,
    back: HashMap<Seen, Flow>,
}

impl Flows {
    pub(super) fn new(now: Instant) -> Self {
        Self { young: Generation::default(), old: Generation::default(), since: now }
    }

    /// The address that stands for the flow's client inside: `stand_in`, with the client's port if that is free.
    ///
    /// `None`: too many others have ports around the client's.
    pub(super) fn enter(&mut self, flow: Flow, stand_in: Ipv4Addr, now: Instant) -> Option<SocketAddrV4> {
        self.age(now);
        if let Some((seen, _)) = self.young.forth.get(&flow) {
            return Some(*seen);
        }
        let seen = match self.old.forth.get(&flow) {
            Some(seen) => *seen,
            None => self.choose(&flow, stand_in)?,
        };
        self.keep(flow, seen);
        Some(seen.0)
    }

    /// The flow that an answer belongs to, from `port` of the node to `target`.
    pub(super) fn answered(&mut self, target: SocketAddrV4, port: u16, now: Instant) -> Option<Flow> {
        if self.young.back.is_empty() && self.old.back.is_empty() {
            return None;
        }
        self.age(now);
        let seen = (target, port);
        if let Some(flow) = self.young.back.get(&seen) {
            return Some(*flow);
        }
        let flow = *self.old.back.get(&seen)?;
        self.keep(flow, seen);
        Some(flow)
    }

    fn choose(&self, flow: &Flow, stand_in: Ipv4Addr) -> Option<Seen> {
        let first = flow.client.port();
        let seen = |offset: u16| {
            // Never 0, and no port that clients are seldom given.
            let port = if offset == 0 { first } else { first.wrapping_add(offset).max(1024) };
            (SocketAddrV4::new(stand_in, port), flow.local.port())
        };
        let free = |seen: &Seen| !self.young.back.contains_key(seen) && !self.old.back.contains_key(seen);
        (0..TRIES).map(seen).find(free)
    }

    fn keep(&mut self, flow: Flow, seen: Seen) {
        if self.young.back.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.forth.insert(flow, seen);
        self.young.back.insert(seen, flow);
    }

    fn age(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= IDLE {
            self.old = std::mem::take(&mut self.young);
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 41, 0, 2);

    fn flow(client: &str) -> Flow {
        let local = "192.0.2.10:53".parse().unwrap();
        Flow { client: client.parse().unwrap(), local, bound: local }
    }

    #[test]
    fn two_clients_of_the_host_with_the_same_port_are_told_apart() {
        let now = Instant::now();
        let mut flows = Flows::new(now);
        let one = flows.enter(flow("127.0.0.1:4000"), GATEWAY, now).unwrap();
        let two = flows.enter(flow("192.0.2.10:4000"), GATEWAY, now).unwrap();
        assert_eq!((one, two.ip()), (SocketAddrV4::new(GATEWAY, 4000), &GATEWAY));
        assert_ne!(one, two);
        assert_eq!(flows.answered(one, 53, now), Some(flow("127.0.0.1:4000")));
        assert_eq!(flows.answered(two, 53, now), Some(flow("192.0.2.10:4000")));
        assert_eq!(flows.answered(one, 54, now), None);
        assert_eq!(flows.enter(flow("192.0.2.10:4000"), GATEWAY, now), Some(two));
    }

    #[test]
    fn a_silent_flow_is_forgotten_and_one_that_speaks_is_not() {
        let start = Instant::now();
        let mut flows = Flows::new(start);
        let quiet = flows.enter(flow("127.0.0.1:4000"), GATEWAY, start).unwrap();
        let mut seen = None;
        for round in 0..5 {
            let now = start + IDLE * round;
            let again = flows.enter(flow("127.0.0.1:5000"), GATEWAY, now);
            assert!(seen.is_none() || seen == again);
            seen = again;
        }
        assert_eq!(flows.answered(quiet, 53, start + IDLE * 4), None);
        assert!(flows.answered(seen.unwrap(), 53, start + IDLE * 4).is_some());
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_go_first() {
        let now = Instant::now();
        let mut flows = Flows::new(now);
        let clients = (0..3 * MOST).map(|n| flow(&format!("127.0.{}.{}:4000", n / 250, n % 250)));
        let mut last = None;
        for (index, flow) in clients.enumerate() {
            let flow = Flow {
                local: SocketAddrV4::new(*flow.local.ip(), u16::try_from(1 + index % 60_000).unwrap()),
                ..flow
            };
            last = Some((flows.enter(flow, GATEWAY, now).unwrap(), flow));
        }
        assert!(flows.young.back.len() + flows.old.back.len() <= 2 * MOST);
        let (seen, flow) = last.unwrap();
        assert_eq!(flows.answered(seen, flow.local.port(), now), Some(flow));
    }
}
