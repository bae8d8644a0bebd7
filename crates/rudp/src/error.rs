//! Why a datagram is no segment, why a call was refused, and why a connection ended. No decisions.

use thiserror::Error;

/// Why octets are not a segment.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum PacketError {
    #[error("datagram of {length} octets is shorter than a header of 6")]
    Short { length: usize },
    #[error("header length {header} does not suit its flags or a datagram of {datagram} octets")]
    HeaderLength { header: u8, datagram: usize },
    #[error("flags {flags:#04x} belong to no segment")]
    Flags { flags: u8 },
    #[error("version {version} is not 1")]
    Version { version: u8 },
    #[error("{length} octets of user data in a segment that carries none")]
    Payload { length: usize },
    #[error("checksum {found:#06x} should be {expected:#06x}")]
    Checksum { found: u16, expected: u16 },
}

/// Why settings can't be used.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("{field} of {value} is outside {low} to {high}")]
pub struct ConfigError {
    pub field: &'static str,
    pub value: u32,
    pub low: u32,
    pub high: u32,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum SendError {
    #[error("the connection is not open: wait for Opened, or open a new one")]
    NotOpen,
    #[error("an empty message can't be told from an acknowledgement: send at least one octet")]
    Empty,
    #[error("message of {length} octets exceeds the limit of {limit} of this connection")]
    Long { length: usize, limit: usize },
    #[error("{limit} messages wait for their acknowledgement already: send again when fewer do")]
    Full { limit: usize },
}

/// Why an endpoint opens no connection.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ConnectError {
    #[error("there is a connection to this address already")]
    Exists,
    #[error("{limit} connections exist already, which is the limit")]
    Full { limit: usize },
}

/// Why a connection ended without being closed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    #[error("the peer did not answer")]
    Timeout,
    #[error("the peer refused the connection")]
    Reset,
    #[error("the peer proposed parameters outside the legal range")]
    Parameters,
    #[error("the connection broke and could not be reset")]
    Broken,
}
