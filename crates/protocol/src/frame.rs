//! The frame: a header of 12 bytes, then a body. Works on byte slices only; the caller owns every socket and buffer.
//!
//! Nothing here panics on any input, and nothing is allocated before its length was compared with [`BODY_MAX`].

use bincode::{
    config::{Configuration, Limit, LittleEndian, Varint},
    enc::write::Writer,
    error::EncodeError,
};
use thiserror::Error;

use crate::message::{Kind, Message};

/// First two bytes of every frame.
pub const MAGIC: [u8; 2] = *b"VE";
/// The major version of everything but Hello and Goodbye, which are frozen and always carry 0.
pub const MAJOR: u8 = 1;
/// Bytes of the header.
pub const HEADER: usize = 12;
/// Longest body.
pub const BODY_MAX: usize = 1 << 20;
/// Longest arguments, result or event data in one frame: what is left of [`BODY_MAX`] is for the fields around them.
pub const PAYLOAD_MAX: usize = BODY_MAX - 4096;
/// Longest data of one chunk.
pub const CHUNK_MAX: usize = 256 << 10;
/// Most descriptors beside one frame.
pub const FDS_MAX: usize = 16;

/// The encoding of every body: bincode's standard configuration, which refuses to read more than a body may hold.
pub(crate) const fn encoding() -> Configuration<LittleEndian, Varint, Limit<BODY_MAX>> {
    bincode::config::standard().with_limit::<BODY_MAX>()
}

/// Why bytes are not a frame, or a message doesn't fit into one.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum FrameError {
    /// Not our protocol.
    #[error("frame begins with {:02x} {:02x}, not with 56 45 (\"VE\")", .0[0], .0[1])]
    Magic([u8; 2]),
    /// A version that was not agreed on.
    #[error("frame of kind {kind} carries major version {major}, expected {expected}")]
    Major { kind: u8, major: u8, expected: u8 },
    /// A kind this version doesn't have.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// 0 where an answer is expected, or the other way round.
    #[error("{kind:?} carries id {id}: {}", if *.id == 0 { "an answer needs another id" } else { "it is never answered, its id is 0" })]
    Id { kind: Kind, id: u32 },
    /// Longer than any frame.
    #[error("body of {length} bytes exceeds the limit of {BODY_MAX}")]
    Length { length: usize },
    /// The body is not the message that the header promises.
    #[error("body of {kind:?} does not decode: {reason}")]
    Body { kind: Kind, reason: String },
    /// The message ended before its body.
    #[error("{left} bytes are left over after {kind:?}")]
    LeftOver { kind: Kind, left: usize },
    /// A field of the message is over its own limit.
    #[error("{field} of {length} exceeds the limit of {limit}")]
    Field { field: &'static str, length: usize, limit: usize },
}

/// A checked header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    pub kind: Kind,
    pub id: u32,
    /// Bytes of the body that follows; at most [`BODY_MAX`].
    pub length: usize,
}

impl Header {
    /// # Errors
    /// Where magic, version, kind, id or length are not what this version speaks.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, FrameError> {
        let [m0, m1, major, kind, i0, i1, i2, i3, l0, l1, l2, l3] = *bytes;
        if [m0, m1] != MAGIC {
            return Err(FrameError::Magic([m0, m1]));
        }
        let known = Kind::from_number(kind).ok_or(FrameError::Kind(kind))?;
        let expected = known.major();
        if major != expected {
            return Err(FrameError::Major { kind, major, expected });
        }
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        if (id != 0) != known.has_id() {
            return Err(FrameError::Id { kind: known, id });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > BODY_MAX {
            return Err(FrameError::Length { length });
        }
        Ok(Self { kind: known, id, length })
    }
}

/// Takes the first frame off `bytes`: its id, its message (which borrows from `bytes`) and its length in bytes.
/// `None` while the frame is not complete; a wrong header is refused before the body has come.
///
/// # Errors
/// Where the bytes are no frame; the connection can't be used any more then.
pub fn decode(bytes: &[u8]) -> Result<Option<(u32, Message<'_>, usize)>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        // Garbage is refused at its first byte, not when twelve have come.
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            let mut magic = [0; 2];
            magic[..seen].copy_from_slice(&bytes[..seen]);
            return Err(FrameError::Magic(magic));
        }
        return Ok(None);
    };
    let header = Header::decode(header)?;
    let Some(body) = rest.get(..header.length) else { return Ok(None) };
    let message = Message::decode(header.kind, body)?;
    Ok(Some((header.id, message, HEADER + header.length)))
}

/// Appends one frame to `out`. On an error `out` is as it was.
///
/// # Errors
/// Where the message is longer than a frame, or its id contradicts its kind.
pub fn encode(out: &mut Vec<u8>, id: u32, message: &Message<'_>) -> Result<(), FrameError> {
    let start = out.len();
    let written = append(out, id, message);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn append(out: &mut Vec<u8>, id: u32, message: &Message<'_>) -> Result<(), FrameError> {
    let kind = message.kind();
    if (id != 0) != kind.has_id() {
        return Err(FrameError::Id { kind, id });
    }
    message.check()?;
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[kind.major(), kind.number()]);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    message
        .encode_body(&mut Body(out))
        .map_err(|error| FrameError::Body { kind, reason: error.to_string() })?;
    let body = out.len() - start - HEADER;
    let length = u32::try_from(body).ok().filter(|_| body <= BODY_MAX);
    let length = length.ok_or(FrameError::Length { length: body })?;
    out[start + 8..start + HEADER].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Lets bincode write behind the header, without a buffer between.
pub(crate) struct Body<'a>(&'a mut Vec<u8>);

impl Writer for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Call, Goodbye};

    fn frame(message: &Message<'_>, id: u32) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, id, message).unwrap();
        out
    }

    #[test]
    fn a_frame_is_taken_only_when_it_is_complete() {
        let bytes =
            frame(&Message::Event(crate::message::Event { topic: "a", lost: 0, data: b"{}" }), 0);
        for short in 0..bytes.len() {
            assert_eq!(decode(&bytes[..short]), Ok(None), "{short} bytes");
        }
        let mut two = bytes.clone();
        two.extend_from_slice(&bytes);
        assert_eq!(decode(&two).unwrap().unwrap().2, bytes.len());
    }

    #[test]
    fn each_wrong_header_is_refused_by_its_own_error() {
        let good = frame(&Message::Cancel, 7);
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            decode(&bad).unwrap_err()
        };
        assert_eq!(with(0, b'X'), FrameError::Magic(*b"XE"));
        assert_eq!(with(2, 2), FrameError::Major { kind: 8, major: 2, expected: 1 });
        assert_eq!(with(3, 99), FrameError::Kind(99));
        assert_eq!(with(4, 0), FrameError::Id { kind: Kind::Cancel, id: 0 });
        assert_eq!(with(10, 0x11), FrameError::Length { length: 0x11_0000 });
        assert_eq!(decode(b"X"), Err(FrameError::Magic([b'X', 0])));
    }

    #[test]
    fn bytes_left_over_in_a_body_are_an_error() {
        let mut bytes = frame(&Message::Ping, 7);
        bytes[8] = 3;
        bytes.extend_from_slice(b"abc");
        assert_eq!(decode(&bytes), Err(FrameError::LeftOver { kind: Kind::Ping, left: 3 }));
    }

    #[test]
    fn the_largest_payload_fits_and_one_byte_more_does_not() {
        let data = vec![b'x'; PAYLOAD_MAX + 1];
        let call = |args| Message::Call(Call { method: "m", args, ..Call::default() });
        let mut out = b"before".to_vec();
        encode(&mut out, 1, &call(&data[1..])).unwrap();
        assert!(decode(&out[6..]).unwrap().is_some());
        let length = out.len();
        assert!(matches!(encode(&mut out, 1, &call(&data)), Err(FrameError::Field { .. })));
        assert_eq!(out.len(), length);
    }

    #[test]
    fn hello_and_goodbye_carry_major_zero() {
        let bytes = frame(&Message::Goodbye(Goodbye { code: "gone", text: "" }), 0);
        assert_eq!(bytes[2], 0);
    }
}
