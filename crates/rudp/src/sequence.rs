//! Arithmetic on sequence numbers of eight bits. Nothing else may add to or compare them.

/// The ring that numbers live on: the draft's has 256 of them, the Java dialect's 255.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ring {
    /// 0 to 255.
    Full,
    /// 0 to 254; 255 is never sent.
    Short,
}

/// How far two numbers may be apart and still be told to be before or after one another.
pub(crate) const REACH: u8 = 127;

impl Ring {
    const fn size(self) -> u16 {
        match self {
            Self::Full => 256,
            Self::Short => 255,
        }
    }

    pub(crate) fn contains(self, number: u8) -> bool {
        u16::from(number) < self.size()
    }

    /// The number `steps` after `number`.
    pub(crate) fn forward(self, number: u8, steps: u8) -> u8 {
        let sum = (u16::from(number) + u16::from(steps)) % self.size();
        u8::try_from(sum).expect("a remainder of 256 or less fits into eight bits")
    }

    pub(crate) fn next(self, number: u8) -> u8 {
        self.forward(number, 1)
    }

    pub(crate) fn previous(self, number: u8) -> u8 {
        let steps = self.size() - 1;
        self.forward(number, u8::try_from(steps).expect("255 or 254"))
    }

    /// How many steps lead forward from one number to the other. Both must be on the ring.
    pub(crate) fn steps(self, from: u8, to: u8) -> u8 {
        let steps = (self.size() + u16::from(to) - u16::from(from)) % self.size();
        u8::try_from(steps).expect("a remainder of 256 or less fits into eight bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_ring_wraps_after_255_and_the_short_one_after_254() {
        assert_eq!(Ring::Full.next(254), 255);
        assert_eq!(Ring::Full.next(255), 0);
        assert_eq!(Ring::Short.next(254), 0);
        assert_eq!(Ring::Full.previous(0), 255);
        assert_eq!(Ring::Short.previous(0), 254);
        assert!(!Ring::Short.contains(255));
    }

    #[test]
    fn steps_undo_forward_everywhere() {
        for ring in [Ring::Full, Ring::Short] {
            for from in (0..=255).filter(|number| ring.contains(*number)) {
                for steps in 0..=REACH {
                    assert_eq!(ring.steps(from, ring.forward(from, steps)), steps);
                }
            }
        }
    }
}
