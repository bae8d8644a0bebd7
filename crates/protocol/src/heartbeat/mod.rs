//! Heartbeats: `message` is what travels over UDP, `object` what is said over sockets about it.

mod message;
mod object;

pub use self::{
    message::{
        Body, Direction, KEY_BLOCK_LENGTH, Key, KeyBlock, MESSAGE_LENGTH, Message, MessageError,
        Nonce, ResultCode, is_authentic, is_keyless,
    },
    object::{Expect, Forget, Missed, Reason, Row, State, description},
};

/// The broker's UDP port.
pub const PORT: u16 = 7420;
