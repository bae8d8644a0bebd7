//! Versions as people write them, and ranges of them. Looser than semantic versions, because devices have `2024.1`,
//! `7` and `1.4.2.11` too: the order is by dotted parts, numbers by value, and what stands behind a `-` comes before.

use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Characters of a version.
const VERSION_MAX: usize = 64;
/// Comparisons of a range.
const COMPARISONS_MAX: usize = 8;

/// Is this a version?
///
/// # Errors
/// What is wrong with it.
pub fn check(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-+_~".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.len() <= VERSION_MAX && text.chars().all(allowed) {
        return Ok(());
    }
    Err(format!(
        "{text:.80?} is not a version; write 1 to {VERSION_MAX} letters, digits and . - + _ ~, as in \"2.4.1\""
    ))
}

/// Which of two versions is the newer one. What follows a `+` does not count; missing parts are 0.
#[must_use]
pub fn compare(left: &str, right: &str) -> Ordering {
    let halves = |text: &'_ str| {
        let text = text.split('+').next().unwrap_or("").to_owned();
        match text.split_once(['-', '~']) {
            Some((release, before)) => (release.to_owned(), Some(before.to_owned())),
            None => (text, None),
        }
    };
    let ((left, left_before), (right, right_before)) = (halves(left), halves(right));
    parts(&left, &right).then_with(|| match (left_before, right_before) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(left), Some(right)) => parts(&left, &right),
    })
}

fn parts(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.split('.'), right.split('.'));
    loop {
        let (one, other) = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (one, other) => (one.unwrap_or("0"), other.unwrap_or("0")),
        };
        let order = part(one, other);
        if order.is_ne() {
            return order;
        }
    }
}

/// Numbers by value however long they are, words by their letters, and numbers before words.
fn part(left: &str, right: &str) -> Ordering {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match (number(left), number(right)) {
        (true, true) => {
            let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
            left.len().cmp(&right.len()).then_with(|| left.cmp(right))
        }
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => left.cmp(right),
    }
}

/// Comparisons that must all hold: `>=2.0, <3`, `2.4.1`, or `*` for any.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Range {
    text: String,
    comparisons: Vec<(Comparison, String)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    AtLeast,
    AtMost,
    Above,
    Below,
    Equal,
}

impl Range {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self { text: text.to_owned(), comparisons: Vec::new() });
        }
        let pieces: Vec<_> = text.split(',').take(COMPARISONS_MAX + 1).map(str::trim).collect();
        if pieces.len() > COMPARISONS_MAX {
            return Err(format!("a range of more than {COMPARISONS_MAX} comparisons"));
        }
        let comparisons = pieces.into_iter().map(comparison).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), comparisons })
    }

    #[must_use]
    pub fn contains(&self, version: &str) -> bool {
        self.comparisons.iter().all(|(comparison, bound)| {
            let order = compare(version, bound);
            match comparison {
                Comparison::AtLeast => order.is_ge(),
                Comparison::AtMost => order.is_le(),
                Comparison::Above => order.is_gt(),
                Comparison::Below => order.is_lt(),
                Comparison::Equal => order.is_eq(),
            }
        })
    }
}

fn comparison(piece: &str) -> Result<(Comparison, String), String> {
    let operators = [
        (">=", Comparison::AtLeast),
        ("<=", Comparison::AtMost),
        (">", Comparison::Above),
        ("<", Comparison::Below),
        ("=", Comparison::Equal),
        ("", Comparison::Equal),
    ];
    let found = operators
        .into_iter()
        .find_map(|(sign, comparison)| Some((comparison, piece.strip_prefix(sign)?.trim())));
    let (comparison, version) = found.unwrap_or((Comparison::Equal, piece));
    check(version).map_err(|_| {
        format!(
            "{piece:.80?} is not a comparison of versions; write \">=2.0, <3\", \"2.4.1\" or \"*\""
        )
    })?;
    Ok((comparison, version.to_owned()))
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_the_order_that_people_expect() {
        let rising = [
            "1.0-rc.1",
            "1.0-rc.2",
            "1.0-rc.10",
            "1.0",
            "1.0.1",
            "1.2",
            "1.10",
            "2",
            "2.a",
            "2026.11.22",
        ];
        for pair in rising.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        for (left, right) in [("2", "2.0.0"), ("1.01", "1.1"), ("1.0+a", "1.0+b")] {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} {right}");
        }
        assert_eq!(compare("18446744073709551617", "18446744073709551616"), Ordering::Greater);
    }

    #[test]
    fn a_range_is_all_of_its_comparisons() {
        let range = Range::parse(">=2.0, <3").expect("it is one");
        assert!(range.contains("2.0") && range.contains("2.99.1"));
        assert!(!range.contains("1.9") && !range.contains("3") && !range.contains("2.0-rc1"));
        assert!(Range::parse("2.4").expect("it is one").contains("2.4.0"));
        assert!(!Range::parse("=2.4").expect("it is one").contains("2.4.1"));
        assert!(Range::parse("*").expect("it is one").contains("0"));
        for wrong in ["", ">=", ">= ,", "^2", "2 3", ">=2,,<3", "1,1,1,1,1,1,1,1,1"] {
            assert!(Range::parse(wrong).is_err(), "{wrong}");
        }
    }
}
