//! What the boot loader goes by, and the few ways in which it is changed. A format only reads and writes it.

use super::contract::Letter;

/// Which set is booted next, and how often each is still tried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Choice {
    /// First one first; a letter that is not in it is never booted.
    pub(crate) order: [Option<Letter>; 2],
    /// By letter. The loader takes one off at every boot, and passes over a letter that has none.
    pub(crate) tries: [u32; 2],
    /// By letter: it has been confirmed. A format that can't keep it says so of every letter that is in the order.
    pub(crate) good: [bool; 2],
}

impl Choice {
    /// What the loader boots next.
    pub(crate) fn primary(&self) -> Option<Letter> {
        self.order.into_iter().flatten().find(|letter| self.tries[letter.index()] > 0)
    }

    /// The loader does the same by both; not every format keeps which set is good.
    pub(crate) fn boots_as(&self, other: &Self) -> bool {
        (self.order, self.tries) == (other.order, other.tries)
    }

    pub(crate) fn contains(&self, letter: Letter) -> bool {
        self.order.contains(&Some(letter))
    }

    /// Never boots this letter: its slots are about to be written, or were no good.
    #[must_use]
    pub(crate) fn without(mut self, letter: Letter) -> Self {
        let other = letter.other();
        self.order = [self.contains(other).then_some(other), None];
        self.tries[letter.index()] = 0;
        self.good[letter.index()] = false;
        self
    }

    /// Boots this letter next, so many times at most; the other one after that.
    #[must_use]
    pub(crate) fn trying(mut self, letter: Letter, tries: u32) -> Self {
        let other = letter.other();
        self.order = [Some(letter), self.contains(other).then_some(other)];
        self.tries[letter.index()] = tries;
        self.good[letter.index()] = false;
        self
    }

    /// This letter booted and is healthy: its tries are given back.
    #[must_use]
    pub(crate) fn confirmed(mut self, letter: Letter, tries: u32) -> Self {
        if !self.contains(letter) {
            let other = letter.other();
            self.order = [Some(letter), self.contains(other).then_some(other)];
        }
        self.tries[letter.index()] = tries;
        self.good[letter.index()] = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Choice =
        Choice { order: [Some(Letter::A), Some(Letter::B)], tries: [3, 3], good: [true, true] };

    #[test]
    fn a_letter_that_is_taken_out_is_never_booted_until_it_is_tried() {
        let out = BOTH.without(Letter::B);
        assert_eq!((out.order, out.tries), ([Some(Letter::A), None], [3, 0]));
        let mut empty = out;
        empty.tries[0] = 0;
        assert_eq!(empty.primary(), None);
        let trial = out.trying(Letter::B, 2);
        assert_eq!(trial.order, [Some(Letter::B), Some(Letter::A)]);
        assert_eq!((trial.primary(), trial.good), (Some(Letter::B), [true, false]));
    }

    #[test]
    fn without_tries_the_other_letter_is_booted_and_a_confirmed_one_keeps_its_place() {
        let mut trial = BOTH.without(Letter::B).trying(Letter::B, 1);
        trial.tries[1] = 0;
        assert_eq!(trial.primary(), Some(Letter::A));
        let good = trial.confirmed(Letter::B, 3);
        assert_eq!(good.primary(), Some(Letter::B));
        assert_eq!(BOTH.confirmed(Letter::B, 5).order, BOTH.order);
        assert!(BOTH.without(Letter::B).confirmed(Letter::B, 3).contains(Letter::B));
    }
}
