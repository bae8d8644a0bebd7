//! What is wrong with a definition: file, line, key, and a sentence with the value and the cure. And what was probably meant.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

/// At most this many problems of one file are told; after that a reader has enough to do.
pub(crate) const PROBLEMS_MAX: usize = 20;
/// Further away than this, a known key is not what was meant.
const TYPOS_MAX: usize = 2;

/// One thing that is wrong. Prints as `camera.toml:4: unknown key "respwan", did you mean "respawn"?`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    pub(crate) file: PathBuf,
    /// Counted from 1; `None` where the file as a whole is meant.
    pub(crate) line: Option<usize>,
    /// The whole key, `readiness.timeout`; empty where no key is meant.
    pub(crate) key: String,
    /// Names the key itself where there is one.
    pub(crate) text: String,
}

impl Problem {
    /// A problem of a whole file or folder.
    pub(crate) fn of_file(file: &Path, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, key: String::new(), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.text)
    }
}

/// The line, counted from 1, in which a span of the text begins.
pub(crate) fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().iter().take(span.start);
    before.filter(|byte| **byte == b'\n').count() + 1
}

/// The known word that was probably meant, if there is one within two typing errors.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // A word as short as the number of errors is near to everything.
    let allowed = TYPOS_MAX.min(word.chars().count() / 2);
    let distances = known.into_iter().map(|candidate| (distance(word, candidate), candidate));
    let (errors, candidate) = distances.min_by_key(|(errors, _)| *errors)?;
    (errors <= allowed).then_some(candidate)
}

/// How many letters must be added, dropped, replaced or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    if from.len().abs_diff(to.len()) > TYPOS_MAX {
        return usize::MAX;
    }
    let mut older = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let same = from[i - 1] == to[j - 1];
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + usize::from(!same));
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                let swapped: &Vec<usize> = &older;
                best = best.min(swapped[j - 2] + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: [&str; 4] = ["respawn", "reload", "user", "readiness"];

    #[test]
    fn a_typing_error_finds_the_key_that_was_meant() {
        for (typed, meant) in [
            ("respwan", Some("respawn")),
            ("reloads", Some("reload")),
            ("usr", Some("user")),
            ("rediness", Some("readiness")),
            ("wholly-other", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, KEYS), meant, "{typed}");
        }
    }

    #[test]
    fn a_problem_prints_as_file_line_and_sentence() {
        let problem = Problem {
            file: "camera.toml".into(),
            line: Some(4),
            key: "respwan".into(),
            text: "unknown key".into(),
        };
        assert_eq!(problem.to_string(), "camera.toml:4: unknown key");
        assert_eq!(Problem::of_file(Path::new("x"), "gone").to_string(), "x: gone");
        assert_eq!(line_of("a\nb\nc", &(4..5)), 3);
    }

    proptest! {
        #[test]
        fn a_word_is_nearest_to_itself(word in "[a-z-]{0,12}", other in "\\PC{0,12}") {
            prop_assert_eq!(distance(&word, &word), 0);
            let _ = nearest(&other, KEYS.into_iter().chain([word.as_str()]));
        }
    }
}
