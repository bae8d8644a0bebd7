//! Reliable UDP, as in draft-ietf-sigtran-reliable-udp-00: messages arrive once and in order over datagrams that don't.
//!
//! This crate only decides. It opens no socket, reads no clock, draws no random number and starts no thread: datagrams,
//! times and seeds come in as arguments, datagrams and events are polled out.
//!
//! # Guaranteed
//! - Each message that was taken arrives once, whole, and in the order it was sent, or the user is told that the connection failed.
//! - Whatever arrives in a datagram, nothing panics, and memory stays within the configured windows, queues and tables.
//! - A steady flow allocates nothing, an idle connection takes less than 1 KiB, and costs no time until a timer is due.
//! - Every retry ends, unless `max_retransmissions` is 0, which the draft defines as for ever.
//!
//! # Not guaranteed
//! - Secrecy and authenticity: numbers have eight bits. Whoever can send from a peer's address can guess them; blind RSTs,
//!   SYNs and acknowledgements are challenged at a limited rate instead of believed, and that is all.
//!   Only messages that prove who wrote them may move a decision.
//! - Messages across a reset: `AutoReset` and `PeerRestarted` say that what was not acknowledged is lost.
//! - Congestion control: the draft has none. Its window and its fixed retransmission time are all that holds a sender back.
//! - State transfer (TCS): the draft gives its octets and no rules. It is read and written, told of if wanted, and not acted on.
//!
//! # How to drive it
//! One peer is a [`Connection`], many on one socket are an [`Endpoint`]; both work alike:
//!
//! 1. feed every datagram that has come to `handle_datagram`,
//! 2. call `handle_timeout` if `next_deadline` has passed (after the datagrams, so that a stalled process doesn't blame its peers),
//! 3. poll `poll_event` until it is empty, answer with `send`, `close` or `verify`,
//! 4. poll `poll_transmit` until it is empty, and send what it wrote,
//! 5. sleep until the socket is readable or `next_deadline`.
//!
//! A connection that a peer opened sends at most three times the octets it received until the user calls `verify`.
//!
//! # Dialects
//! The default client's SYN means the same to a peer of the draft and to one of the Java implementations that read its
//! fields at other places; the length of the answer tells which it is. See [`packet`] and `docs/PROTOCOL.md`.

mod budget;
mod config;
mod connection;
mod endpoint;
mod error;
pub mod packet;
mod pool;
mod random;
mod receive_window;
mod rtt;
mod schedule;
mod send_window;
mod sequence;
mod timer;

#[cfg(test)]
mod tests;

pub use crate::{
    config::{Config, DATAGRAM_MAX, SEND_QUEUE_MAX, TIMEOUT_MIN_MS},
    connection::{Connection, Event, State, Statistics},
    endpoint::{Endpoint, EndpointStatistics, Handle, Limits},
    error::{ConfigError, ConnectError, PacketError, Refusal, SendError},
    packet::{Dialect, Terms},
};
