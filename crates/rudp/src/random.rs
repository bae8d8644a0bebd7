//! Numbers that look random, made from a seed the caller brings. Reads no randomness itself.

use std::hash::{BuildHasher, DefaultHasher, Hasher};

/// A seed, and the hash keyed by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed([u64; 2]);

impl Keyed {
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        Self(seed)
    }

    fn hash(self, value: u64) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write_u64(value);
        hasher.finish()
    }
}

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0[0]);
        hasher.write_u64(self.0[1]);
        hasher
    }
}

/// Numbers in an order that nobody without the seed can tell.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    key: Keyed,
    drawn: u64,
}

impl Random {
    pub(crate) fn new(key: Keyed) -> Self {
        Self { key, drawn: 0 }
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.key.hash(self.drawn)
    }
}

/// Connection identifiers: unpredictable, not 0, and none twice before 2^32 were given.
#[derive(Clone, Debug)]
pub(crate) struct Identifiers {
    key: Keyed,
    given: u32,
}

impl Identifiers {
    pub(crate) fn new(key: Keyed) -> Self {
        Self { key, given: 0 }
    }

    pub(crate) fn next(&mut self) -> u32 {
        loop {
            self.given = self.given.wrapping_add(1);
            let id = self.permute(self.given);
            if id != 0 {
                return id;
            }
        }
    }

    /// Four rounds of a Feistel network: different counts give different identifiers.
    fn permute(&self, count: u32) -> u32 {
        let [a, b, c, d] = count.to_be_bytes();
        let (mut left, mut right) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        for round in 0..4 {
            let [x, y, ..] = self.key.hash(round << 32 | u64::from(right)).to_be_bytes();
            (left, right) = (right, left ^ u16::from_be_bytes([x, y]));
        }
        u32::from(left) << 16 | u32::from(right)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn identifiers_are_unique_and_not_counted_up() {
        let mut ids = Identifiers::new(Keyed::new([1, 2]));
        let given: Vec<u32> = (0..20_000).map(|_| ids.next()).collect();
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), given.len());
        assert!(given.windows(2).filter(|pair| pair[1] == pair[0].wrapping_add(1)).count() < 3);
    }
}
