//! A choice as the variables of a loader's script: `BOOT_ORDER=A B`, `BOOT_A_LEFT=3`, `BOOT_B_LEFT=3`. The names are those that
//! RAUC's scripts for U-Boot use; numbers are hexadecimal, as U-Boot's `setexpr` writes them.

use crate::engine::{choice::Choice, contract::Letter};

/// How the variables are called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Names {
    pub(crate) order: String,
    /// By letter.
    pub(crate) left: [String; 2],
    /// What a set is called in the order, by letter.
    pub(crate) sets: [String; 2],
}

impl Default for Names {
    fn default() -> Self {
        Self {
            order: "BOOT_ORDER".to_owned(),
            left: ["BOOT_A_LEFT", "BOOT_B_LEFT"].map(str::to_owned),
            sets: ["A", "B"].map(str::to_owned),
        }
    }
}

impl Names {
    /// What the variables say. One that is missing or makes no sense says "never": a loader's script does the same.
    pub(super) fn read<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> Choice {
        let set = |word: &str| Letter::BOTH.into_iter().find(|set| self.sets[set.index()] == word);
        let mut choice = Choice::default();
        let words = value(&self.order).unwrap_or_default().split_ascii_whitespace();
        let mut order: Vec<Letter> = words.filter_map(set).collect();
        order.dedup();
        for (place, letter) in choice.order.iter_mut().zip(order) {
            *place = Some(letter);
        }
        for letter in Letter::BOTH {
            let left = value(&self.left[letter.index()]).unwrap_or_default().trim();
            choice.tries[letter.index()] = u32::from_str_radix(left, 16).unwrap_or(0);
            // The variables don't say more.
            choice.good[letter.index()] = choice.contains(letter);
        }
        choice
    }

    /// The variables that say it, with their values.
    pub(super) fn write(&self, choice: &Choice) -> [(String, String); 3] {
        let words = choice.order.iter().flatten().map(|letter| &*self.sets[letter.index()]);
        let order = words.collect::<Vec<_>>().join(" ");
        let [a, b] = [0, 1].map(|at| (self.left[at].clone(), format!("{:x}", choice.tries[at])));
        [(self.order.clone(), order), a, b]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_was_written() {
        let names = Names::default();
        for order in [[None, None], [Some(Letter::B), None], [Some(Letter::B), Some(Letter::A)]] {
            let good = Letter::BOTH.map(|letter| order.contains(&Some(letter)));
            let choice = Choice { order, tries: [0, 12], good };
            let written = names.write(&choice);
            let value = |name: &str| {
                written.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
            };
            assert_eq!(names.read(value), choice);
        }
    }

    #[test]
    fn what_makes_no_sense_is_never_booted() {
        let value = |name: &str| match name {
            "BOOT_ORDER" => Some("C A A"),
            "BOOT_A_LEFT" => Some("many"),
            _ => None,
        };
        let choice = Names::default().read(value);
        assert_eq!((choice.order, choice.tries), ([Some(Letter::A), None], [0, 0]));
        assert_eq!(choice.primary(), None);
    }
}
