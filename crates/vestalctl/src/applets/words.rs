//! Options as getopt(3) of a small libc reads them: single letters, clusters, and the first word that is no option ends
//! them. Scripts rely on that.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

/// What stands next on the command line.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Word {
    /// An option, with its argument where it takes one.
    Option(u8, OsString),
    /// An option that is not known, or one whose argument is missing.
    Wrong(u8),
}

/// The words that are left to read.
pub(super) struct Words<'a> {
    args: &'a [OsString],
    /// What is left of a cluster such as `-qS`.
    cluster: &'a [u8],
    known: &'static [u8],
}

impl<'a> Words<'a> {
    /// `known` is in getopt's notation: letters, with a colon after those that take an argument.
    pub(super) fn new(args: &'a [OsString], known: &'static str) -> Self {
        Self { args, cluster: &[], known: known.as_bytes() }
    }

    /// The words after the options.
    pub(super) fn rest(self) -> &'a [OsString] {
        self.args
    }

    fn takes_argument(&self, letter: u8) -> Option<bool> {
        let place = self.known.iter().position(|known| *known == letter && letter != b':')?;
        Some(self.known.get(place + 1) == Some(&b':'))
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        if self.cluster.is_empty() {
            let (word, rest) = self.args.split_first()?;
            let word = word.as_bytes();
            if word == b"--" {
                self.args = rest;
                return None;
            }
            self.cluster = word.strip_prefix(b"-").filter(|letters| !letters.is_empty())?;
            self.args = rest;
        }
        let (letter, cluster) = self.cluster.split_first()?;
        self.cluster = cluster;
        let Some(takes_argument) = self.takes_argument(*letter) else {
            return Some(Word::Wrong(*letter));
        };
        if !takes_argument {
            return Some(Word::Option(*letter, OsString::new()));
        }
        if !cluster.is_empty() {
            self.cluster = &[];
            return Some(Word::Option(*letter, OsStr::from_bytes(cluster).to_owned()));
        }
        let Some((argument, rest)) = self.args.split_first() else {
            return Some(Word::Wrong(*letter));
        };
        self.args = rest;
        Some(Word::Option(*letter, OsString::from_vec(argument.as_bytes().to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> (Vec<Word>, Vec<String>) {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let mut words = Words::new(&args, "qc:n");
        let options = words.by_ref().collect();
        let rest = words.rest().iter().map(|word| word.to_str().unwrap().to_owned()).collect();
        (options, rest)
    }

    fn option(letter: u8, argument: &str) -> Word {
        Word::Option(letter, argument.into())
    }

    #[test]
    fn options_end_at_the_first_other_word() {
        let (options, rest) = read(&["-qn", "-c", "dir", "show", "-q"]);
        assert_eq!(options, [option(b'q', ""), option(b'n', ""), option(b'c', "dir")]);
        assert_eq!(rest, ["show", "-q"]);
        let (options, rest) = read(&["-qcdir", "--", "-n"]);
        assert_eq!(options, [option(b'q', ""), option(b'c', "dir")]);
        assert_eq!(rest, ["-n"]);
        assert_eq!(read(&["-", "x"]), (Vec::new(), vec!["-".to_owned(), "x".to_owned()]));
    }

    #[test]
    fn what_is_not_known_and_what_lacks_its_argument_is_told() {
        assert_eq!(read(&["-x"]).0, [Word::Wrong(b'x')]);
        assert_eq!(read(&["-c"]).0, [Word::Wrong(b'c')]);
        assert_eq!(read(&["-:"]).0, [Word::Wrong(b':')]);
    }
}
