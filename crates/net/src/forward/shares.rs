//! How the room of an inner half is shared: some of it belongs to the node's own ports, and no address has more than its part.
//!
//! One client that opened connections to a NodePort and said nothing kept everybody from the API server.

use super::message::Count;

/// One part in so many is kept for the node's own ports: the API server's, the kubelet's.
const RESERVE: u32 = 8;

/// One part in so many is the most that a single address has.
const SOURCE: u32 = 4;

/// So many connections each address may have, however little room there is.
const FEW: u32 = 64;

/// Connections that only the node's own ports get.
pub(super) fn reserve(capacity: u32) -> u32 {
    capacity / RESERVE
}

/// The most connections of one address.
pub(super) fn per_source(capacity: u32) -> u32 {
    (capacity / SOURCE).max(FEW)
}

/// How many connections may be accepted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credit {
    own: usize,
    other: usize,
}

impl Credit {
    /// What is left of `capacity` when so many connections are open.
    pub(super) fn left(capacity: u32, open: Count) -> Self {
        let own = capacity.saturating_sub(open.all());
        let other = own.min((capacity - reserve(capacity)).saturating_sub(open.other));
        let size = |count| usize::try_from(count).unwrap_or(usize::MAX);
        Self { own: size(own), other: size(other) }
    }

    /// Connections of one kind; there are never fewer for the node's own ports.
    pub(super) fn of(self, own: bool) -> usize {
        if own { self.own } else { self.other }
    }

    /// Some ports have no room.
    pub(super) fn is_short(self) -> bool {
        self.other == 0
    }

    /// Takes one away.
    pub(super) fn spend(&mut self, own: bool) {
        self.own = self.own.saturating_sub(1);
        self.other = self.other.saturating_sub(usize::from(!own)).min(self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_for_the_nodes_own_ports_and_they_may_have_all_of_it() {
        let cases = [
            ((0, 0), (16, 14)),
            ((0, 14), (2, 0)),
            ((2, 14), (0, 0)),
            ((2, 10), (4, 4)),
            ((15, 0), (1, 1)),
            ((16, 0), (0, 0)),
            ((9, 9), (0, 0)),
        ];
        for ((own, other), (left, others)) in cases {
            let credit = Credit::left(16, Count { own, other });
            assert_eq!((credit.of(true), credit.of(false)), (left, others), "{own} {other}");
        }
        let mut credit = Credit::left(16, Count { own: 0, other: 13 });
        credit.spend(false);
        assert!(credit.is_short() && credit.of(true) == 2);
        credit.spend(true);
        credit.spend(true);
        assert_eq!(credit, Credit { own: 0, other: 0 });
    }

    #[test]
    fn an_address_has_a_part_and_never_less_than_a_few() {
        assert_eq!([12, 1000, 524_000].map(per_source), [64, 250, 131_000]);
    }
}
