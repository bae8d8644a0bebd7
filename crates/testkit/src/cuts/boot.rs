//! Whether a disk still boots: what its loader would read and choose, and whether all that it may choose is whole.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::{checksum::crc32c, run::Cut};

const SECTOR: usize = 512;
const LETTERS: [char; 2] = ['A', 'B'];

/// Who chooses what is booted, and where it reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loader {
    /// A single environment of 0x200 bytes at the start of partition `env`.
    UBoot,
    /// An environment block, of which our variables are in the first sector, this far into partition `grubenv`.
    Grub { offset: u64 },
    /// The suite's own record of two sectors at the start of partition `record`.
    Own,
}

/// What belongs into a slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// As its partitions are named, without `-a` and `-b`.
    pub component: String,
    pub size: u64,
    pub sha256: [u8; 32],
}

/// Images that fit each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Release {
    pub name: String,
    pub images: Vec<Image>,
}

/// A device, as far as booting goes.
#[derive(Clone, Debug)]
pub struct Device {
    pub loader: Loader,
    /// All that may be in its slots: before and after what was recorded.
    pub releases: Vec<Release>,
    /// Components of which one slot must be whole, whatever the loader chooses: those that are mirrored.
    pub mirrors: Vec<String>,
}

/// What a loader goes by.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Choice {
    order: Vec<char>,
    left: [u32; 2],
}

impl Image {
    /// Of an image's bytes; what a slot has behind them does not matter.
    #[must_use]
    pub fn new(component: &str, bytes: &[u8]) -> Self {
        let sha256 = Sha256::digest(bytes).into();
        Self { component: component.to_owned(), size: bytes.len() as u64, sha256 }
    }
}

impl Device {
    /// The set that this disk boots next, and the release in it.
    ///
    /// # Errors
    /// The loader has nothing to go by, or may boot what is not whole.
    pub fn boots(&self, cut: &mut Cut<'_, '_>) -> Result<(char, &str)> {
        let choice = self.loader.choice(cut)?;
        let next = choice.next().context("the order of boot is empty")?;
        let mut found = None;
        for letter in &choice.order {
            let release = self.release(cut, *letter);
            let release =
                release.with_context(|| format!("{choice}: set {letter} may be booted"))?;
            found = found.or((*letter == next).then_some(release));
        }
        for component in &self.mirrors {
            let slots = LETTERS.map(|letter| self.is_whole(cut, component, letter));
            let [first, second] = slots;
            ensure!(first? || second?, "no copy of {component} is whole");
        }
        let release = found.context("the set to boot is not in the order")?;
        Ok((next, release))
    }

    /// Whose images all slots of a letter hold.
    fn release(&self, cut: &mut Cut<'_, '_>, letter: char) -> Result<&str> {
        let mut torn = String::new();
        for release in &self.releases {
            let mut other = None;
            for image in &release.images {
                if !self.mirrors.contains(&image.component) && !holds(cut, image, letter)? {
                    other = Some(&image.component);
                    break;
                }
            }
            let Some(component) = other else { return Ok(&release.name) };
            torn = format!("{torn}; its {component} is not that of {:?}", release.name);
        }
        bail!("its slots are of no release{torn}")
    }

    /// Whether a slot holds any release's image of the component, which is named as its partitions are.
    ///
    /// # Errors
    /// As [`Cut::hash`].
    pub fn is_whole(&self, cut: &mut Cut<'_, '_>, component: &str, letter: char) -> Result<bool> {
        let images = self.releases.iter().flat_map(|release| &release.images);
        for image in images.filter(|image| image.component == component) {
            if holds(cut, image, letter)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn holds(cut: &mut Cut<'_, '_>, image: &Image, letter: char) -> Result<bool> {
    let partition = format!("{}-{}", image.component, letter.to_ascii_lowercase());
    Ok(cut.hash(&partition, image.size)? == image.sha256)
}

impl Loader {
    fn choice(self, cut: &Cut<'_, '_>) -> Result<Choice> {
        let sector = |partition: &str, offset: u64| {
            let mut bytes = [0; SECTOR];
            cut.read(partition, offset, &mut bytes)?;
            anyhow::Ok(bytes)
        };
        match self {
            Self::UBoot => environment(&sector("env", 0)?).context("U-Boot's environment"),
            Self::Grub { offset } => {
                block(&sector("grubenv", offset)?).context("GRUB's environment block")
            }
            Self::Own => {
                let copies = [sector("record", 0)?, sector("record", SECTOR as u64)?];
                let newest = copies.iter().filter_map(record).max_by_key(|(sequence, _)| *sequence);
                let choice = newest.map(|(_, choice)| choice);
                choice.context("neither copy of the boot record is valid")
            }
        }
    }
}

impl Choice {
    /// The first of the order that has tries left, else the last, as the boot scripts have it.
    fn next(&self) -> Option<char> {
        let tried = |letter: &char| LETTERS.iter().position(|it| it == letter);
        let left = |letter: &&char| tried(letter).is_some_and(|number| self.left[number] > 0);
        self.order.iter().find(left).or(self.order.last()).copied()
    }

    fn of<'v>(variables: impl Iterator<Item = &'v str> + Clone) -> Result<Self> {
        let value = |name: &str| {
            let found = variables.clone().find_map(|variable| {
                variable.strip_prefix(name).and_then(|rest| rest.strip_prefix('='))
            });
            found.with_context(|| format!("there is no {name}"))
        };
        let order = value("BOOT_ORDER")?.split(' ').filter(|word| !word.is_empty());
        let letter = |word: &str| LETTERS.into_iter().find(|letter| word == letter.to_string());
        let order = order.map(|word| letter(word).with_context(|| format!("set {word:?} is none")));
        let tries = |name: &str| {
            let text = value(name)?;
            text.parse::<u32>().with_context(|| format!("{name} is {text:?}"))
        };
        Ok(Self {
            order: order.collect::<Result<_>>()?,
            left: [tries("BOOT_A_LEFT")?, tries("BOOT_B_LEFT")?],
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order: String = self.order.iter().collect();
        write!(into, "order {order:?}, tries left {} and {}", self.left[0], self.left[1])
    }
}

/// A CRC-32, then `name=value` with a zero octet each.
fn environment(bytes: &[u8; SECTOR]) -> Result<Choice> {
    let (sum, rest) = bytes.split_first_chunk::<4>().context("is empty")?;
    let sound = crc32fast::hash(rest) == u32::from_le_bytes(*sum);
    ensure!(sound, "its checksum is wrong");
    // What follows the empty variable means nothing: mkenvimage fills it with ones.
    let variables = rest.split(|octet| *octet == 0).take_while(|variable| !variable.is_empty());
    let texts: Result<Vec<&str>, _> = variables.map(std::str::from_utf8).collect();
    Choice::of(texts.context("is no text")?.into_iter())
}

/// Lines of `name=value`, then `#` to the end.
fn block(bytes: &[u8; SECTOR]) -> Result<Choice> {
    let text = std::str::from_utf8(bytes).context("is no text")?;
    let lines =
        text.strip_prefix("# GRUB Environment Block\n").context("its first line is wrong")?;
    Choice::of(lines.lines())
}

/// Sequence and choice of a valid copy; `docs/upgrade.md` has the bytes.
fn record(bytes: &[u8; SECTOR]) -> Option<(u32, Choice)> {
    let word = |at: usize| bytes[at..].first_chunk().copied().map(u32::from_le_bytes);
    let sound = bytes.starts_with(b"VESTBOOT")
        && word(8)? == 1
        && word(SECTOR - 4)? == crc32c(&bytes[..SECTOR - 4]);
    let order = bytes[16..18].iter().filter(|octet| **octet != 0).map(|octet| char::from(*octet));
    let left = [bytes[18].into(), bytes[19].into()];
    let choice = Choice { order: order.collect(), left };
    sound.then_some((word(12)?, choice))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(order: &[char], left: [u32; 2]) -> Choice {
        Choice { order: order.to_vec(), left }
    }

    fn environment_of(text: &str) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        bytes[4..4 + text.len()].copy_from_slice(text.as_bytes());
        let sum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn an_environment_is_read_and_each_flipped_bit_of_it_found() {
        let mut bytes = environment_of("x=1\0BOOT_ORDER=B A\0BOOT_A_LEFT=3\0BOOT_B_LEFT=0\0");
        let read = environment(&bytes).unwrap();
        assert_eq!((read.next(), &read), (Some('A'), &choice(&['B', 'A'], [3, 0])));
        for bit in 0..SECTOR * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(environment(&bytes).unwrap_err().to_string().contains("checksum"));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes[60..].fill(0xff);
        let sum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(environment(&bytes).unwrap(), read);
        let without = environment(&environment_of("BOOT_ORDER=A\0BOOT_A_LEFT=1\0"));
        assert!(without.unwrap_err().to_string().contains("BOOT_B_LEFT"));
        let foreign = environment(&environment_of("BOOT_ORDER=C\0"));
        assert!(foreign.unwrap_err().to_string().contains('C'));
    }

    #[test]
    fn a_block_of_grub_is_read() {
        let text = "# GRUB Environment Block\nBOOT_ORDER=A\nBOOT_A_LEFT=2\nBOOT_B_LEFT=0\n";
        let mut bytes = [b'#'; SECTOR];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        assert_eq!(block(&bytes).unwrap(), choice(&['A'], [2, 0]));
        assert!(block(&[0; SECTOR]).is_err());
    }

    #[test]
    fn a_copy_of_the_own_record_is_read() {
        let mut bytes = [0; SECTOR];
        bytes[..22].copy_from_slice(b"VESTBOOT\x01\0\0\0\x07\0\0\0BA\x03\x02\x01\0");
        let sum = crc32c(&bytes[..SECTOR - 4]);
        bytes[SECTOR - 4..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(record(&bytes), Some((7, choice(&['B', 'A'], [3, 2]))));
        bytes[300] = 1;
        assert_eq!(record(&bytes), None);
    }

    #[test]
    fn without_tries_left_the_last_of_the_order_is_booted() {
        assert_eq!(choice(&['B', 'A'], [0, 0]).next(), Some('A'));
        assert_eq!(choice(&['B', 'A'], [3, 1]).next(), Some('B'));
        assert_eq!(choice(&[], [3, 3]).next(), None);
    }
}
