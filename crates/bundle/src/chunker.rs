//! Where an image is cut: by its content (FastCDC), so that what stays the same between two versions stays the same
//! chunk even where it moved. The cuts decide how much of an update is sent again, so none of these numbers may change.

use std::{
    io::{self, Read},
    sync::OnceLock,
};

use sha2::{Digest as _, Sha256};

use crate::{CHUNK_MAX, codec::is_zero};

/// Nothing is cut shorter, but the end.
pub const CUT_MIN: usize = 16 << 10;
/// What a cut aims at.
pub const CUT_AVERAGE: usize = 64 << 10;
/// An image shorter than this is cut every [`CUT_AVERAGE`] bytes.
pub const FIXED_BELOW: u64 = 1 << 20;
/// Before the average a cut is 4 times rarer than 1 in 64 Ki places, after it 4 times more frequent: the upper 18 or
/// 14 bits of the hash are zero.
const RARE: u32 = 64 - 18;
const FREQUENT: u32 = 64 - 14;
/// What the table of the rolling hash is made of.
const DOMAIN: &[u8] = b"VESTAL-GEAR-1\0";

/// Cuts a stream into chunks, with one buffer.
pub struct Chunker<R> {
    input: R,
    fixed: bool,
    buffer: Vec<u8>,
    /// Of the buffer: what was read and not yet given out.
    begin: usize,
    end: usize,
}

impl<R: Read> Chunker<R> {
    /// `size` is the whole image's.
    pub fn new(input: R, size: u64) -> Self {
        Self { input, fixed: size < FIXED_BELOW, buffer: vec![0; CHUNK_MAX * 4], begin: 0, end: 0 }
    }

    /// The next chunk; nothing at the end.
    ///
    /// # Errors
    /// As the image is read.
    pub fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        if self.end - self.begin < CHUNK_MAX {
            self.fill()?;
        }
        if self.begin == self.end {
            return Ok(None);
        }
        let ready = &self.buffer[self.begin..self.end];
        let length = if self.fixed { ready.len().min(CUT_AVERAGE) } else { cut(ready) };
        let chunk = &self.buffer[self.begin..self.begin + length];
        self.begin += length;
        Ok(Some(chunk))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.begin..self.end, 0);
        self.end -= self.begin;
        self.begin = 0;
        while self.end < self.buffer.len() {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How long the chunk is that these bytes begin with; they are all that is left, or at least the longest chunk.
#[must_use]
pub fn cut(bytes: &[u8]) -> usize {
    let bytes = &bytes[..bytes.len().min(CHUNK_MAX)];
    // Holes are most of a sparse image. In zeros the hash never has a cut; a test holds it.
    if bytes.len() <= CUT_MIN || is_zero(bytes) {
        return bytes.len();
    }
    let gear = gear();
    let average = bytes.len().min(CUT_AVERAGE);
    let mut hash = 0_u64;
    for (range, shift) in [(CUT_MIN..average, RARE), (average..bytes.len(), FREQUENT)] {
        let begin = range.start;
        for (at, byte) in bytes[range].iter().enumerate() {
            hash = (hash << 1).wrapping_add(gear[usize::from(*byte)]);
            if hash >> shift == 0 {
                return begin + at + 1;
            }
        }
    }
    bytes.len()
}

/// For each byte the first 8 octets, little-endian, of SHA-256 of the domain and that byte.
fn gear() -> &'static [u64; 256] {
    static GEAR: OnceLock<[u64; 256]> = OnceLock::new();
    GEAR.get_or_init(|| {
        let mut gear = [0; 256];
        for (value, byte) in gear.iter_mut().zip(0_u8..=255) {
            let hash = Sha256::new().chain_update(DOMAIN).chain_update([byte]).finalize();
            let mut octets = [0; 8];
            octets.copy_from_slice(&hash[..8]);
            *value = u64::from_le_bytes(octets);
        }
        gear
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Bytes without a pattern, the same every time.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    fn chunks(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::new(bytes, bytes.len() as u64);
        let mut chunks = Vec::new();
        while let Some(chunk) = chunker.next_chunk().expect("memory can be read") {
            chunks.push(chunk.to_vec());
        }
        assert_eq!(chunks.concat(), bytes);
        chunks
    }

    #[test]
    fn the_cuts_of_a_given_image_never_change() {
        let lengths: Vec<_> = chunks(&noise(1, 4 << 20)).iter().map(Vec::len).collect();
        assert_eq!(lengths, PINNED);
    }

    #[test]
    fn what_moved_is_still_the_same_chunk() {
        let old = noise(2, 4 << 20);
        let mut new = old.clone();
        new.splice(100_000..100_000, *b"seventeen octets.");
        let known: HashSet<_> = chunks(&old).into_iter().collect();
        let unknown = chunks(&new).into_iter().filter(|chunk| !known.contains(chunk)).count();
        assert!(unknown <= 2, "{unknown} chunks are new");
    }

    #[test]
    fn chunks_keep_to_their_limits() {
        let all = chunks(&noise(3, 8 << 20));
        let (last, others) = all.split_last().expect("there are some");
        assert!(last.len() <= CHUNK_MAX);
        assert!(others.iter().all(|chunk| (CUT_MIN..=CHUNK_MAX).contains(&chunk.len())));
        let average = (8 << 20) / all.len();
        assert!((48 << 10..112 << 10).contains(&average), "{average} bytes on average");
    }

    #[test]
    fn a_hole_is_cut_as_its_hash_would_have_it() {
        let mut hash = 0_u64;
        for _ in 0..200 {
            hash = (hash << 1).wrapping_add(gear()[0]);
            assert_ne!(hash >> FREQUENT, 0);
            assert_ne!(hash >> RARE, 0);
        }
        assert_eq!(cut(&[0; CHUNK_MAX + 1]), CHUNK_MAX);
    }

    #[test]
    fn a_small_image_is_cut_at_fixed_places_and_a_slow_reader_changes_nothing() {
        let image = noise(4, (1 << 20) - 1);
        assert!(chunks(&image)[..15].iter().all(|chunk| chunk.len() == CUT_AVERAGE));
        let image = noise(4, 1 << 20);
        let mut slow = Chunker::new(Slow(&image), 1 << 20);
        for chunk in chunks(&image) {
            assert_eq!(slow.next_chunk().expect("memory can be read"), Some(&chunk[..]));
        }
    }

    struct Slow<'i>(&'i [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(1013);
            self.0.read(&mut buffer[..count])
        }
    }

    const PINNED: &[usize] = &[
        36887, 91032, 73102, 67635, 38531, 22468, 77844, 67803, 74336, 72116, 33808, 75503, 79668,
        104950, 88799, 40533, 67255, 78663, 95225, 81475, 89240, 66219, 66775, 103943, 69751,
        67049, 25447, 116348, 102920, 69776, 73747, 87787, 78173, 89283, 30698, 74247, 68298,
        68225, 70711, 23942, 72917, 80505, 85499, 62167, 68462, 72328, 60120, 85833, 74386, 74679,
        101455, 44162, 79942, 98829, 77500, 67851, 23137, 77498, 65616, 11206,
    ];
}
