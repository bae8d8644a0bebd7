//! How a chunk is stored. What comes out is never longer than what the index says, whatever goes in.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

use crate::{CHUNK_MAX, Code, Refusal};

/// Bit 4 of a zstd frame's descriptor: nothing reads it, so that it must be 0 for a chunk to have one form only.
const ZSTD_UNUSED: u8 = 1 << 4;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

static ZEROS: [u8; CHUNK_MAX] = [0; CHUNK_MAX];

/// Nothing but zeros, and no longer than a chunk.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    ZEROS.get(..bytes.len()).is_some_and(|zeros| zeros == bytes)
}

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Codec {
    /// As it is.
    Store,
    /// One zstd frame.
    Zstd,
    /// Nothing is stored: it is all zeros.
    Zero,
}

impl Codec {
    pub(crate) fn parse(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Store),
            1 => Ok(Self::Zstd),
            2 => Ok(Self::Zero),
            other => Err(format!(
                "a chunk of codec {other}: this program knows 0 (store), 1 (zstd) and 2 (zero); use a newer one"
            )),
        }
    }

    /// As an index says it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Store => 0,
            Self::Zstd => 1,
            Self::Zero => 2,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Zstd => "zstd",
            Self::Zero => "zero",
        }
    }
}

/// Decodes chunks, one after the other, with one working memory.
pub struct Decoder {
    zstd: Decompressor<'static>,
}

impl Decoder {
    /// # Errors
    /// No memory.
    pub fn new() -> io::Result<Self> {
        Decompressor::new().map(|zstd| Self { zstd })
    }

    /// The raw bytes of a chunk, in the beginning of `buffer`. What they hash to is for the caller to check.
    ///
    /// # Errors
    /// A length beyond the limit or the buffer, or stored bytes that don't decode to exactly `raw_len`.
    pub fn decode<'b>(
        &mut self,
        codec: Codec,
        stored: &[u8],
        raw_len: u32,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], Refusal> {
        let length = raw_len as usize;
        let room = buffer.len().min(CHUNK_MAX);
        if length > room || stored.len() > CHUNK_MAX {
            let text = format!(
                "a chunk of {length} bytes, stored as {}: at most {room} are allowed",
                stored.len()
            );
            return Err(Refusal::new(Code::TooLong, text));
        }
        let out = &mut buffer[..length];
        let fits = match codec {
            Codec::Store if stored.len() == length => {
                out.copy_from_slice(stored);
                true
            }
            Codec::Zero if stored.is_empty() => {
                out.fill(0);
                true
            }
            Codec::Zstd if plain_frame(stored) => {
                self.zstd.decompress_to_buffer(stored, out).is_ok_and(|count| count == length)
            }
            _ => false,
        };
        if fits {
            return Ok(out);
        }
        let text = format!(
            "a chunk stored as {} bytes by {} that are not the {length} bytes that the index says",
            stored.len(),
            codec.name()
        );
        Err(Refusal::new(Code::BadChunk, text))
    }
}

/// Begins with a data frame, and not with one that is skipped.
fn plain_frame(stored: &[u8]) -> bool {
    stored.len() > 4 && stored[..4] == ZSTD_MAGIC && stored[4] & ZSTD_UNUSED == 0
}

/// As [`Decoder::decode`], for who decodes but one.
///
/// # Errors
/// As there, and where there is no memory.
pub fn decode_chunk<'b>(
    codec: Codec,
    stored: &[u8],
    raw_len: u32,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], Refusal> {
    let decoder = Decoder::new();
    let mut decoder =
        decoder.map_err(|error| Refusal::new(Code::BadChunk, format!("zstd: {error}")))?;
    decoder.decode(codec, stored, raw_len, buffer)
}

/// How a chunk is stored best, and the bytes where they are not the raw ones.
///
/// # Errors
/// As zstd reports.
pub fn encode_chunk(raw: &[u8], zstd: &mut Compressor<'_>) -> io::Result<(Codec, Option<Vec<u8>>)> {
    if is_zero(raw) {
        return Ok((Codec::Zero, None));
    }
    let stored = zstd.compress(raw)?;
    Ok(if stored.len() < raw.len() { (Codec::Zstd, Some(stored)) } else { (Codec::Store, None) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(raw: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(raw, 9).expect("there is memory")
    }

    fn decoded(codec: Codec, stored: &[u8], raw_len: u32) -> Result<Vec<u8>, Code> {
        let mut buffer = vec![7; CHUNK_MAX];
        decode_chunk(codec, stored, raw_len, &mut buffer)
            .map(<[u8]>::to_vec)
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn what_is_stored_in_any_way_comes_out_again() {
        assert_eq!(decoded(Codec::Store, b"abc", 3), Ok(b"abc".to_vec()));
        assert_eq!(decoded(Codec::Zero, b"", 3), Ok(vec![0; 3]));
        assert_eq!(decoded(Codec::Zstd, &compressed(&[5; 9000]), 9000), Ok(vec![5; 9000]));
    }

    #[test]
    fn a_bomb_is_refused_at_the_length_that_was_signed() {
        let bomb = compressed(&vec![0; 64 << 20]);
        assert!(bomb.len() < 16 << 10);
        assert_eq!(decoded(Codec::Zstd, &bomb, 256 << 10), Err(Code::BadChunk));
        assert_eq!(decoded(Codec::Zstd, &bomb, 64 << 20), Err(Code::TooLong));
    }

    #[test]
    fn a_length_that_is_not_the_signed_one_is_refused() {
        assert_eq!(decoded(Codec::Store, b"abc", 4), Err(Code::BadChunk));
        assert_eq!(decoded(Codec::Zero, b"x", 4), Err(Code::BadChunk));
        let stored = compressed(&[5; 9000]);
        assert_eq!(decoded(Codec::Zstd, &stored, 8999), Err(Code::BadChunk));
        assert_eq!(decoded(Codec::Zstd, &stored, 9001), Err(Code::BadChunk));
        assert_eq!(
            decoded(Codec::Zstd, &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], 0),
            Err(Code::BadChunk)
        );
        let mut small = [0; 2];
        let refused = decode_chunk(Codec::Store, b"abc", 3, &mut small);
        assert_eq!(refused.unwrap_err().code, Code::TooLong);
    }
}
