//! The index of a component: a table of hashes of pages, and pages of chunks. Every page but the last is full, so that
//! the place of each follows from the number of chunks alone.

use crate::{
    CHUNK_LEN_MAX, Code, Codec, Component, HASH, PAGE_ENTRIES, Refusal,
    header::{long, word},
    sha256,
};

/// Octets of a page before its entries.
const PAGE_HEAD: usize = 24;
/// Octets of an entry.
const ENTRY: usize = 48;

/// Octets of the index of so many chunks: its table and its pages.
#[must_use]
pub fn octets(chunks: u32) -> u64 {
    let pages = u64::from(chunks.div_ceil(PAGE_ENTRIES));
    pages * (HASH + PAGE_HEAD) as u64 + u64::from(chunks) * ENTRY as u64
}

/// Where a page begins in its component's index, and how many octets it has. Nothing beyond the last page.
#[must_use]
pub fn place(chunks: u32, page: u32) -> Option<(u64, usize)> {
    let pages = u64::from(chunks.div_ceil(PAGE_ENTRIES));
    let entries = entries(chunks, page)?;
    let full = PAGE_HEAD as u64 + u64::from(PAGE_ENTRIES) * ENTRY as u64;
    Some((pages * HASH as u64 + u64::from(page) * full, PAGE_HEAD + entries as usize * ENTRY))
}

/// Octets of the page table of so many chunks.
#[must_use]
pub fn table_len(chunks: u32) -> usize {
    chunks.div_ceil(PAGE_ENTRIES) as usize * HASH
}

/// The chunks of that page.
fn entries(chunks: u32, page: u32) -> Option<u32> {
    let before = page.checked_mul(PAGE_ENTRIES)?;
    let left = chunks.checked_sub(before).filter(|left| *left > 0)?;
    Some(left.min(PAGE_ENTRIES))
}

/// The hashes of a component's pages, as the manifest signed them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PageTable {
    hashes: Vec<[u8; HASH]>,
}

impl PageTable {
    /// # Errors
    /// Not the table that the component's manifest names.
    pub fn parse(bytes: &[u8], component: &Component) -> Result<Self, Refusal> {
        let wanted = table_len(component.chunks);
        if bytes.len() != wanted {
            let text =
                format!("{}: page table of {} bytes, not {wanted}", component.id, bytes.len());
            return Err(Refusal::new(Code::BadIndex, text));
        }
        if sha256(bytes) != component.index_root {
            let text = format!("{}: the page table is not the one that was signed", component.id);
            return Err(Refusal::new(Code::BadIndex, text));
        }
        Ok(Self { hashes: bytes.as_chunks().0.to_vec() })
    }

    #[must_use]
    pub fn of(pages: &[Vec<u8>]) -> Self {
        Self { hashes: pages.iter().map(|page| sha256(page)).collect() }
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.hashes.concat()
    }

    /// What a manifest names the index by.
    #[must_use]
    pub fn root(&self) -> [u8; HASH] {
        sha256(&self.encode())
    }

    /// Reads the page of that number.
    ///
    /// # Errors
    /// Not the page that was signed, or one whose numbers can't be.
    pub fn page(&self, number: u32, bytes: &[u8], component: &Component) -> Result<Page, Refusal> {
        let refuse = |text: String| {
            Refusal::new(Code::BadIndex, format!("{}: page {number}: {text}", component.id))
        };
        let hash = self.hashes.get(number as usize);
        let hash = hash.ok_or_else(|| refuse(format!("there are {} pages", self.hashes.len())))?;
        let wanted = place(component.chunks, number).map_or(0, |(_, length)| length);
        if bytes.len() != wanted {
            return Err(refuse(format!("{} bytes, not {wanted}", bytes.len())));
        }
        if sha256(bytes) != *hash {
            return Err(refuse("not the one that was signed".to_owned()));
        }
        let page = Page::parse(number, bytes).map_err(refuse)?;
        page.bounded(component).map_err(refuse)?;
        Ok(page)
    }
}

/// Up to [`PAGE_ENTRIES`] chunks that follow one another, in the image and in the bundle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    pub number: u32,
    /// Where its first chunk belongs in the image.
    pub first_target: u64,
    /// Where its first chunk is in the bundle, counted from the first chunk of the first component.
    pub first_stored: u64,
    pub chunks: Vec<Chunk>,
}

/// One chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chunk {
    /// SHA-256 of the raw bytes.
    pub hash: [u8; HASH],
    pub raw_len: u32,
    pub stored_len: u32,
    pub codec: Codec,
}

impl Page {
    /// Reads a page of which nothing is known but its bytes.
    ///
    /// # Errors
    /// What can't be.
    pub fn parse(number: u32, bytes: &[u8]) -> Result<Self, String> {
        let Some((head, rest)) = bytes.split_first_chunk::<PAGE_HEAD>() else {
            return Err(format!("{} bytes: the head has {PAGE_HEAD}", bytes.len()));
        };
        let (entries, zero) = (word(head, 16), word(head, 20));
        if entries == 0 || entries > PAGE_ENTRIES || zero != 0 {
            return Err(format!(
                "{entries} entries and {zero} after them; allowed are 1 to {PAGE_ENTRIES} and 0"
            ));
        }
        let (raw, over) = rest.as_chunks::<ENTRY>();
        if raw.len() != entries as usize || !over.is_empty() {
            return Err(format!(
                "{} bytes of entries, not {}",
                rest.len(),
                entries as usize * ENTRY
            ));
        }
        let chunks = raw.iter().map(Chunk::parse).collect::<Result<Vec<_>, _>>()?;
        let page =
            Self { number, first_target: long(head, 0), first_stored: long(head, 8), chunks };
        let (raw, stored) = page.lengths();
        if page.first_target.checked_add(raw).is_none()
            || page.first_stored.checked_add(stored).is_none()
        {
            return Err("offsets beyond all bounds".to_owned());
        }
        Ok(page)
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PAGE_HEAD + self.chunks.len() * ENTRY);
        bytes.extend(self.first_target.to_le_bytes());
        bytes.extend(self.first_stored.to_le_bytes());
        let entries = u32::try_from(self.chunks.len()).expect("a page has at most 512 entries");
        bytes.extend(u64::from(entries).to_le_bytes());
        for chunk in &self.chunks {
            bytes.extend(chunk.encode());
        }
        bytes
    }

    fn lengths(&self) -> (u64, u64) {
        self.chunks.iter().fold((0, 0), |(raw, stored), chunk| {
            (raw + u64::from(chunk.raw_len), stored + u64::from(chunk.stored_len))
        })
    }

    /// Where the next page's first chunk belongs in the image.
    #[must_use]
    pub fn end_target(&self) -> u64 {
        self.first_target + self.lengths().0
    }

    /// Where the next page's first chunk is in the bundle.
    #[must_use]
    pub fn end_stored(&self) -> u64 {
        self.first_stored + self.lengths().1
    }

    /// Each chunk with where it belongs in the image, and where it is in the bundle.
    pub fn placed(&self) -> impl Iterator<Item = (&Chunk, u64, u64)> {
        let (mut target, mut stored) = (self.first_target, self.first_stored);
        self.chunks.iter().map(move |chunk| {
            let placed = (chunk, target, stored);
            target += u64::from(chunk.raw_len);
            stored += u64::from(chunk.stored_len);
            placed
        })
    }

    /// The number, within the component, of its first chunk.
    #[must_use]
    pub fn first_chunk(&self) -> u32 {
        self.number.saturating_mul(PAGE_ENTRIES)
    }

    /// The image begins with the first page and ends with the last.
    fn bounded(&self, component: &Component) -> Result<(), String> {
        let end = self.end_target();
        let last = self.number + 1 == component.pages;
        if (self.number == 0) != (self.first_target == 0)
            || end > component.size
            || last != (end == component.size)
        {
            return Err(format!(
                "chunks from {} to {end} of an image of {}",
                self.first_target, component.size
            ));
        }
        Ok(())
    }

    /// Does this page go on where the one before it ended?
    ///
    /// # Errors
    /// It leaves something out, or overlaps.
    pub fn check_follows(&self, before: &Self) -> Result<(), Refusal> {
        if self.number == before.number + 1
            && self.first_target == before.end_target()
            && self.first_stored == before.end_stored()
        {
            return Ok(());
        }
        let text = format!(
            "page {} begins at {}, page {} ends at {}",
            self.number,
            self.first_target,
            before.number,
            before.end_target()
        );
        Err(Refusal::new(Code::BadIndex, text))
    }
}

impl Chunk {
    fn parse(bytes: &[u8; ENTRY]) -> Result<Self, String> {
        let mut hash = [0; HASH];
        hash.copy_from_slice(&bytes[..HASH]);
        let codec = Codec::parse(bytes[40])?;
        let chunk = Self { hash, raw_len: word(bytes, 32), stored_len: word(bytes, 36), codec };
        if bytes[41..] != [0; 7] {
            return Err("an entry whose reserved octets are not zero".to_owned());
        }
        let (raw, stored) = (chunk.raw_len, chunk.stored_len);
        let fits = match codec {
            Codec::Store => stored == raw,
            Codec::Zstd => (1..raw).contains(&stored),
            Codec::Zero => stored == 0,
        };
        if raw == 0 || raw > CHUNK_LEN_MAX || !fits {
            return Err(format!(
                "a chunk of {raw} bytes, stored as {stored} by {}; at most {CHUNK_LEN_MAX} are allowed",
                codec.name()
            ));
        }
        Ok(chunk)
    }

    fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..HASH].copy_from_slice(&self.hash);
        bytes[32..36].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.stored_len.to_le_bytes());
        bytes[40] = self.codec.number();
        bytes
    }

    /// Are these its raw bytes?
    ///
    /// # Errors
    /// They are not.
    pub fn check(&self, raw: &[u8]) -> Result<(), Refusal> {
        if raw.len() as u64 == u64::from(self.raw_len) && sha256(raw) == self.hash {
            return Ok(());
        }
        let text = format!("a chunk of {} bytes that is not the one that was signed", raw.len());
        Err(Refusal::new(Code::BadChunk, text))
    }
}

/// Which chunks of a page are wanted: bit `n % 8` of octet `n / 8`, as `pages` answers it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    bits: Vec<u8>,
    chunks: usize,
}

impl Wanted {
    /// None of so many chunks.
    #[must_use]
    pub fn none(chunks: usize) -> Self {
        Self { bits: vec![0; chunks.div_ceil(8)], chunks }
    }

    /// # Errors
    /// Another length than that of so many chunks, or a bit behind the last.
    pub fn parse(bytes: &[u8], chunks: usize) -> Result<Self, Refusal> {
        let wanted = Self { bits: bytes.to_vec(), chunks };
        let behind = (chunks..bytes.len() * 8).any(|at| wanted.bits[at / 8] & 1 << (at % 8) != 0);
        if bytes.len() == chunks.div_ceil(8) && !behind {
            return Ok(wanted);
        }
        let text = format!("a bitmap of {} bytes that does not fit {chunks} chunks", bytes.len());
        Err(Refusal::new(Code::BadIndex, text))
    }

    /// Wants this one; a chunk that isn't there is left out.
    pub fn want(&mut self, chunk: usize) {
        if chunk < self.chunks {
            self.bits[chunk / 8] |= 1 << (chunk % 8);
        }
    }

    #[must_use]
    pub fn wants(&self, chunk: usize) -> bool {
        chunk < self.chunks && self.bits[chunk / 8] & 1 << (chunk % 8) != 0
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bits
    }
}

#[cfg(test)]
mod tests;
