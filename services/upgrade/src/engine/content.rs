//! Which chunk of a slot is where: written when the slot is, so that the next upgrade copies what did not change. Only a hint:
//! whatever it names is hashed before it is used.
//!
//! A file: 32 octets of the image's SHA-256, then 36 a chunk in the image's order: SHA-256, u32 length, little-endian.

use std::io;

use super::contract::{Letter, Platform};
use crate::disk::{Disk, read_exact};

/// Chunks of which a note is kept: images up to 4 GiB; 2.3 MiB of file, 1.5 MiB of memory.
const CHUNKS_MAX: usize = 1 << 16;
const ENTRY: usize = 36;
const HEAD: usize = 32;

/// A note in the making.
#[derive(Debug, Default)]
pub(crate) struct Content {
    bytes: Vec<u8>,
    /// There are more chunks than a note is kept of.
    over: bool,
}

/// Where chunks are in the slot that is in use.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// Beginning of the hash, length, place; sorted.
    entries: Vec<(u64, u32, u64)>,
}

fn name(component: &str, letter: Letter) -> String {
    format!("content-{component}-{}", letter.as_char())
}

impl Content {
    pub(crate) fn push(&mut self, hash: &[u8; 32], length: u32) {
        if self.over || self.bytes.len() >= CHUNKS_MAX * ENTRY {
            *self = Self { bytes: Vec::new(), over: true };
            return;
        }
        self.bytes.extend(hash);
        self.bytes.extend(length.to_le_bytes());
    }

    pub(crate) fn save<P: Platform>(
        &self,
        platform: &mut P,
        component: &str,
        letter: Letter,
        image: &[u8; 32],
    ) -> io::Result<()> {
        let name = name(component, letter);
        match self.over {
            true => platform.store().remove(&name),
            false => platform.store().replace(&name, &[&image[..], &self.bytes].concat()),
        }
    }
}

/// Forgets what is where.
pub(crate) fn forget<P: Platform>(
    platform: &mut P,
    component: &str,
    letter: Letter,
) -> io::Result<()> {
    platform.store().remove(&name(component, letter))
}

/// What was noted of that slot goes for the other one too: it was copied.
pub(crate) fn copy<P: Platform>(
    platform: &mut P,
    component: &str,
    from: Letter,
    to: Letter,
) -> io::Result<()> {
    let limit = HEAD + CHUNKS_MAX * ENTRY;
    match platform.store().read(&name(component, from), limit)? {
        Some(bytes) => platform.store().replace(&name(component, to), &bytes),
        None => forget(platform, component, to),
    }
}

impl Lookup {
    /// What is noted of a slot; nothing where the note is not of that image, is damaged, or is not there.
    pub(crate) fn load<P: Platform>(
        platform: &mut P,
        component: &str,
        letter: Letter,
        image: &str,
    ) -> Self {
        let bytes = platform.store().read(&name(component, letter), HEAD + CHUNKS_MAX * ENTRY);
        let Ok(Some(bytes)) = bytes else { return Self::default() };
        let Some((head, entries)) = bytes.split_first_chunk::<HEAD>() else {
            return Self::default();
        };
        let (entries, rest) = entries.as_chunks::<ENTRY>();
        if !rest.is_empty() || bundle::hex::encode(head) != image {
            return Self::default();
        }
        let mut at = 0_u64;
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries {
            let length = entry.last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            found.push((key(entry), length, at));
            at = at.saturating_add(u64::from(length));
        }
        found.sort_unstable();
        Self { entries: found }
    }

    /// Reads a chunk from the slot, if it is there.
    pub(crate) fn read(
        &self,
        disk: &mut dyn Disk,
        chunk: &bundle::index::Chunk,
        buffer: &mut [u8],
    ) -> bool {
        let from =
            self.entries.partition_point(|entry| *entry < (key(&chunk.hash), chunk.raw_len, 0));
        let Some((found, length, at)) = self.entries.get(from) else { return false };
        let fits = (*found, *length) == (key(&chunk.hash), chunk.raw_len);
        fits && buffer.len() == chunk.raw_len as usize
            && at.checked_add(u64::from(*length)).is_some_and(|end| end <= disk.len())
            && read_exact(disk, *at, buffer).is_ok()
            && chunk.check(buffer).is_ok()
    }
}

fn key(hash: &[u8]) -> u64 {
    hash.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
