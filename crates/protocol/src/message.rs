//! The messages inside frames. They borrow their texts and bytes, so that neither reading nor writing one copies anything.
//!
//! A released message never changes: what is needed later gets a new kind. Arguments and results travel as JSON bytes
//! or, where a method says so, as raw bytes; this file never looks into them.

use bincode::{BorrowDecode, Encode, error::EncodeError};

use crate::frame::{self, Body, CHUNK_MAX, FDS_MAX, FrameError, MAJOR, PAYLOAD_MAX};
pub use crate::hello::{Goodbye, Hello, Object, Welcome};

/// Longest method name, in bytes.
pub const METHOD_MAX: usize = 128;
/// Longest topic of an event, in bytes.
pub const TOPIC_MAX: usize = 256;

/// What a frame holds; the number is the header's fourth byte and never changes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Goodbye = 2,
    Welcome = 3,
    Call = 4,
    Reply = 5,
    Chunk = 6,
    Credit = 7,
    Cancel = 8,
    Event = 9,
    Ping = 10,
    Pong = 11,
}

impl Kind {
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Goodbye,
            3 => Self::Welcome,
            4 => Self::Call,
            5 => Self::Reply,
            6 => Self::Chunk,
            7 => Self::Credit,
            8 => Self::Cancel,
            9 => Self::Event,
            10 => Self::Ping,
            11 => Self::Pong,
            _ => return None,
        })
    }

    /// The header's fourth byte.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The header's third byte: Hello and Goodbye must be readable before a version is agreed on.
    #[must_use]
    pub fn major(self) -> u8 {
        if matches!(self, Self::Hello | Self::Goodbye) { 0 } else { MAJOR }
    }

    /// Whether the message belongs to a call (or a ping) and carries its id; all others carry 0.
    #[must_use]
    pub fn has_id(self) -> bool {
        !matches!(self, Self::Hello | Self::Goodbye | Self::Welcome | Self::Event)
    }
}

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message<'a> {
    /// First message of who connects.
    Hello(Hello),
    /// The connection ends, and why. Nothing follows.
    Goodbye(Goodbye<'a>),
    /// The answer to Hello.
    Welcome(Welcome<'a>),
    /// Asks an object. Answered by exactly one Reply with the same id, cancelled or not.
    Call(Call<'a>),
    Reply(Reply<'a>),
    /// A piece of an answer, before its Reply; spends the call's credit.
    Chunk(&'a [u8]),
    /// The caller takes this many more bytes of chunks.
    Credit(u32),
    /// The caller no longer wants the answer. It still gets a Reply, so that the id is free.
    Cancel,
    Event(Event<'a>),
    /// Answered by Pong with the same id.
    Ping,
    Pong,
}

/// A question to an object.
#[derive(BorrowDecode, Clone, Copy, Debug, Default, Encode, Eq, PartialEq)]
pub struct Call<'a> {
    /// The object's place in the endpoint's table, as Welcome told; [`crate::objects::ENDPOINT`] is the endpoint itself.
    pub token: u32,
    /// Which object of that place is meant; another one is answered `gone`.
    pub generation: u32,
    /// A permission the registry gave; 0 is none.
    pub grant: u64,
    pub method: &'a str,
    /// From its arrival; 0 is 30 seconds.
    pub deadline_ms: u32,
    /// How many bytes of chunks the caller takes before it says more.
    pub credit: u32,
    /// How many descriptors travel beside this frame.
    pub fds: u8,
    pub args: &'a [u8],
}

/// The answer to a call.
#[derive(BorrowDecode, Clone, Copy, Debug, Encode, Eq, PartialEq)]
pub enum Reply<'a> {
    /// It was done; this is the result.
    Done { fds: u8, result: &'a [u8] },
    /// It was done; the result is the bytes of all chunks one after the other.
    Joined { fds: u8 },
    /// It was not done; the bytes are a [`crate::failure::Failure`] as JSON.
    Failed { failure: &'a [u8] },
}

/// Something happened.
#[derive(BorrowDecode, Clone, Copy, Debug, Encode, Eq, PartialEq)]
pub struct Event<'a> {
    pub topic: &'a str,
    /// How many events this reader was too slow for, since the last one it got.
    pub lost: u32,
    pub data: &'a [u8],
}

impl<'a> Message<'a> {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Goodbye(_) => Kind::Goodbye,
            Self::Welcome(_) => Kind::Welcome,
            Self::Call(_) => Kind::Call,
            Self::Reply(_) => Kind::Reply,
            Self::Chunk(_) => Kind::Chunk,
            Self::Credit(_) => Kind::Credit,
            Self::Cancel => Kind::Cancel,
            Self::Event(_) => Kind::Event,
            Self::Ping => Kind::Ping,
            Self::Pong => Kind::Pong,
        }
    }

    /// How many descriptors travel beside the frame.
    #[must_use]
    pub fn fds(&self) -> usize {
        let count = match self {
            Self::Call(call) => call.fds,
            Self::Reply(Reply::Done { fds, .. } | Reply::Joined { fds }) => *fds,
            _ => 0,
        };
        usize::from(count)
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// Where the body is not exactly one message of this kind within its limits.
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Self, FrameError> {
        let message = match kind {
            Kind::Hello => Self::Hello(whole(kind, body)?),
            Kind::Goodbye => Self::Goodbye(whole(kind, body)?),
            Kind::Welcome => Self::Welcome(whole(kind, body)?),
            Kind::Call => Self::Call(whole(kind, body)?),
            Kind::Reply => Self::Reply(whole(kind, body)?),
            Kind::Chunk => Self::Chunk(body),
            Kind::Credit => Self::Credit(whole(kind, body)?),
            Kind::Event => Self::Event(whole(kind, body)?),
            Kind::Cancel => whole(kind, body).map(|()| Self::Cancel)?,
            Kind::Ping => whole(kind, body).map(|()| Self::Ping)?,
            Kind::Pong => whole(kind, body).map(|()| Self::Pong)?,
        };
        message.check()?;
        Ok(message)
    }

    pub(crate) fn encode_body(&self, body: &mut Body<'_>) -> Result<(), EncodeError> {
        use bincode::enc::write::Writer as _;

        match self {
            Self::Hello(hello) => bincode::encode_into_writer(hello, body, frame::encoding()),
            Self::Goodbye(goodbye) => bincode::encode_into_writer(goodbye, body, frame::encoding()),
            Self::Welcome(welcome) => bincode::encode_into_writer(welcome, body, frame::encoding()),
            Self::Call(call) => bincode::encode_into_writer(call, body, frame::encoding()),
            Self::Reply(reply) => bincode::encode_into_writer(reply, body, frame::encoding()),
            Self::Chunk(data) => body.write(data),
            Self::Credit(bytes) => bincode::encode_into_writer(bytes, body, frame::encoding()),
            Self::Event(event) => bincode::encode_into_writer(event, body, frame::encoding()),
            Self::Cancel | Self::Ping | Self::Pong => Ok(()),
        }
    }

    /// The limits of single fields, the same for who writes and who reads.
    pub(crate) fn check(&self) -> Result<(), FrameError> {
        let limit = |field, length, limit| {
            if length > limit { Err(FrameError::Field { field, length, limit }) } else { Ok(()) }
        };
        limit("the number of descriptors", self.fds(), FDS_MAX)?;
        match self {
            Self::Call(call) => {
                limit("the method's name", call.method.len(), METHOD_MAX)?;
                limit("the length of the arguments", call.args.len(), PAYLOAD_MAX)
            }
            Self::Reply(Reply::Done { result, .. }) => {
                limit("the length of the result", result.len(), PAYLOAD_MAX)
            }
            Self::Reply(Reply::Failed { failure }) => {
                limit("the length of the failure", failure.len(), PAYLOAD_MAX)
            }
            Self::Chunk(data) => limit("the length of the chunk", data.len(), CHUNK_MAX),
            Self::Event(event) => {
                limit("the topic's length", event.topic.len(), TOPIC_MAX)?;
                limit("the length of the event's data", event.data.len(), PAYLOAD_MAX)
            }
            Self::Welcome(welcome) => welcome.check(),
            _ => Ok(()),
        }
    }
}

/// Decodes all of `body`, or says why not.
fn whole<'a, T: BorrowDecode<'a, ()>>(kind: Kind, body: &'a [u8]) -> Result<T, FrameError> {
    match bincode::borrow_decode_from_slice(body, frame::encoding()) {
        Ok((message, used)) if used == body.len() => Ok(message),
        Ok((_, used)) => Err(FrameError::LeftOver { kind, left: body.len() - used }),
        Err(error) => Err(FrameError::Body { kind, reason: error.to_string() }),
    }
}
