//! Which address has how many connections, and whose are closed when others wait.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::slots::Key;
use crate::forward::message::{Count, Opening};
use crate::forward::shares::{per_source, reserve};

/// How long after a relay looked for idle connections it looks again: each look passes all of them.
const AGAIN: Duration = Duration::from_millis(100);

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    /// The client's address.
    pub(super) source: Ipv4Addr,
    /// It came to one of the node's own ports.
    pub(super) own: bool,
}

impl From<&Opening> for Holder {
    fn from(opening: &Opening) -> Self {
        Self { source: *opening.peer.ip(), own: opening.own }
    }
}

/// An idle connection of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Idle {
    pub(super) key: Key,
    pub(super) holder: Holder,
    /// When it moved something last, in the relay's own time.
    pub(super) moved_at: u64,
}

/// Connections that a relay is asked to close, if they are idle.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// So many of anybody.
    pub(super) room: usize,
    /// Some of these addresses, which have all that an address may have.
    pub(super) crowded: HashSet<Ipv4Addr>,
}

impl Wish {
    pub(super) fn is_empty(&self) -> bool {
        self.room == 0 && self.crowded.is_empty()
    }
}

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admission {
    /// It counts from now on; else its address has too many, and it is to be reset.
    pub(super) admitted: bool,
    /// Idle connections of its address shall go.
    pub(super) crowded: bool,
}

/// The connections of an inner half by their clients' addresses.
#[derive(Debug)]
pub(super) struct Sources {
    capacity: u32,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by: HashMap<Ipv4Addr, u32>,
    all: Count,
    /// When relays were asked for connections of crowded addresses.
    asked_at: Option<Instant>,
}

impl Sources {
    pub(super) fn new(capacity: u32) -> Self {
        Self { capacity, held: Mutex::default() }
    }

    /// Counts a new connection, unless its address has too many.
    ///
    /// An address that has its part may go beyond it by a little, so that its next connections need not fail while its idle
    /// ones are looked for.
    pub(super) fn admit(&self, holder: Holder) -> Admission {
        let part = per_source(self.capacity);
        let mut held = self.held();
        let has = held.by.get(&holder.source).copied().unwrap_or_default();
        let admitted = has < part + spare(part);
        if admitted {
            held.by.insert(holder.source, has + 1);
            *held.all.of(holder.own) += 1;
        }
        Admission { admitted, crowded: has >= part && held.may_ask() }
    }

    /// A connection that was counted is no more.
    pub(super) fn leave(&self, holder: Holder) {
        let mut held = self.held();
        if let Some(has) = held.by.get_mut(&holder.source) {
            *has -= 1;
            if *has == 0 {
                held.by.remove(&holder.source);
            }
        }
        let all = held.all.of(holder.own);
        *all = all.saturating_sub(1);
    }

    /// Which of a relay's idle connections go: those of who has the most, of these the ones that were silent the longest.
    ///
    /// Connections to the node's own ports go only where these have more than is kept for them.
    pub(super) fn chosen(&self, mut idle: Vec<Idle>, wish: &Wish) -> Vec<Key> {
        let held = self.held();
        let mut own = held.all.own.saturating_sub(reserve(self.capacity));
        let has = |idle: &Idle| held.by.get(&idle.holder.source).copied().unwrap_or_default();
        idle.sort_by_cached_key(|idle| (Reverse(has(idle)), idle.holder.source, idle.moved_at));
        let mut room = wish.room;
        let mut taken: HashMap<Ipv4Addr, u32> = HashMap::new();
        let mut goes = |idle: &Idle| {
            let of_source = taken.entry(idle.holder.source).or_default();
            if wish.crowded.contains(&idle.holder.source) && *of_source < spare(per_source(self.capacity)) {
                *of_source += 1;
                return true;
            }
            let spared = idle.holder.own && own == 0;
            if room == 0 || spared {
                return false;
            }
            own -= u32::from(idle.holder.own);
            room -= 1;
            true
        };
        idle.into_iter().filter(|idle| goes(idle)).map(|idle| idle.key).collect()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn may_ask(&mut self) -> bool {
        let may = self.asked_at.is_none_or(|at| at.elapsed() >= AGAIN);
        if may {
            self.asked_at = Some(Instant::now());
        }
        may
    }
}

/// How far an address may go beyond its part, and how many of its idle connections go for that.
fn spare(part: u32) -> u32 {
    part / 16 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(last: u8, own: bool) -> Holder {
        Holder { source: Ipv4Addr::new(192, 0, 2, last), own }
    }

    fn admitted(sources: &Sources, holder: Holder, count: usize) -> usize {
        (0..count).filter(|_| sources.admit(holder).admitted).count()
    }

    fn idle(index: u32, holder: Holder, moved_at: u64) -> Idle {
        Idle { key: Key { index, life: 0 }, holder, moved_at }
    }

    fn chosen(sources: &Sources, idle: &[Idle], wish: &Wish) -> Vec<u32> {
        sources.chosen(idle.to_vec(), wish).into_iter().map(|key| key.index).collect()
    }

    #[test]
    fn one_address_has_its_part_and_a_little_more_and_others_have_theirs() {
        let sources = Sources::new(1600);
        assert_eq!(admitted(&sources, holder(1, false), 1000), 426);
        assert_eq!(admitted(&sources, holder(2, false), 1000), 426);
        sources.leave(holder(1, false));
        assert_eq!(admitted(&sources, holder(1, false), 9), 1);
        for _ in 0..426 {
            sources.leave(holder(1, false));
        }
        assert_eq!(sources.held().by.len(), 1, "who has none is forgotten");
    }

    #[test]
    fn an_address_that_has_its_part_is_told_and_not_for_each_connection() {
        let sources = Sources::new(1600);
        let told = (0..2000).filter(|_| sources.admit(holder(1, false)).crowded).count();
        // Ten times a second; a slow machine takes its time.
        assert!((1..100).contains(&told), "{told}");
        let wish = Wish { room: 0, crowded: HashSet::from([holder(1, false).source]) };
        let all: Vec<Idle> = (0..100).map(|index| idle(index, holder(1, false), 5)).collect();
        assert_eq!(chosen(&sources, &all, &wish).len(), 26);
        assert!(chosen(&sources, &[idle(1, holder(2, false), 5)], &wish).is_empty());
    }

    #[test]
    fn the_oldest_of_who_has_the_most_go_first_and_the_nodes_own_ports_keep_their_reserve() {
        let sources = Sources::new(1600);
        admitted(&sources, holder(1, false), 3);
        admitted(&sources, holder(2, false), 2);
        admitted(&sources, holder(3, true), 200);
        let all = [
            idle(0, holder(2, false), 1),
            idle(1, holder(1, false), 7),
            idle(2, holder(1, false), 3),
            idle(3, holder(3, true), 0),
        ];
        let room = |room| Wish { room, ..Wish::default() };
        assert_eq!(chosen(&sources, &all, &room(1)), [2]);
        assert_eq!(chosen(&sources, &all, &room(9)), [2, 1, 0]);
        admitted(&sources, holder(3, true), 1);
        assert_eq!(chosen(&sources, &all, &room(1)), [3], "they have more than is kept");
    }
}
