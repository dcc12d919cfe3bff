//! Connections by number, where a number that was used again is told from its former life.

/// A connection's place and life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) index: u32,
    pub(super) life: u32,
}

/// A growing table with reuse of free places.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// The key of the next inserted value.
    pub(super) fn vacant(&self) -> Key {
        let end = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let index = self.free.last().copied().unwrap_or(end);
        let life = self.slots.get(index as usize).map_or(0, |(life, _)| *life);
        Key { index, life }
    }

    /// Puts a value at [`vacant`](Self::vacant).
    pub(super) fn insert(&mut self, value: T) {
        match self.free.pop() {
            Some(index) => self.slots[index as usize].1 = Some(value),
            None => self.slots.push((0, Some(value))),
        }
    }

    /// The value, unless its life is over.
    pub(super) fn find(&mut self, key: Key) -> Option<&mut T> {
        let (life, value) = self.slots.get_mut(key.index as usize)?;
        value.as_mut().filter(|_| *life == key.life)
    }

    /// Takes the value out and ends its life.
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let (life, value) = self.slots.get_mut(key.index as usize)?;
        if *life != key.life {
            return None;
        }
        let value = value.take()?;
        *life = life.wrapping_add(1) & LIVES;
        self.free.push(key.index);
        Some(value)
    }

    /// All values, each with its key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0..).zip(&self.slots).filter_map(|(index, (life, value))| {
            value.as_ref().map(|value| (Key { index, life: *life }, value))
        })
    }

    /// How many values are in it.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Lives are counted modulo 2^31: with an index of 32 bits one bit of an epoll token is left for the side.
const LIVES: u32 = u32::MAX >> 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_place_does_not_answer_to_its_former_key() {
        let mut slots = Slots::default();
        let first = slots.vacant();
        slots.insert('a');
        let second = slots.vacant();
        slots.insert('b');
        assert_eq!(slots.remove(first), Some('a'));
        let again = slots.vacant();
        slots.insert('c');
        assert_eq!((again.index, again.life), (first.index, 1));
        assert_eq!(slots.find(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.find(again), Some(&mut 'c'));
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(again, &'c'), (second, &'b')]);
        assert_eq!(slots.remove(second), Some('b'));
        assert!(!slots.is_empty());
        slots.remove(again);
        assert!(slots.is_empty());
    }
}
