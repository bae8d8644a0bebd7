//! What one side brings to a connection: limits and times with their defaults, and what is made of a peer's proposal.

use crate::{
    error::ConfigError,
    packet::{Dialect, HEADER, Syn, Terms},
    sequence::REACH,
};

/// Shortest time the draft allows for retransmission and acknowledgement, in milliseconds.
pub const TIMEOUT_MIN_MS: u16 = 100;
/// Longest datagram that UDP over IPv4 carries.
pub const DATAGRAM_MAX: u16 = 65_507;
/// Longest queue of messages to be sent.
pub const SEND_QUEUE_MAX: u16 = 1_024;
/// A peer that takes shorter datagrams can't be sent any message.
const SEGMENT_MIN: u16 = 7;

/// One side's settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Config {
    /// How many segments the peer may send ahead of our acknowledgements, 1 to 127.
    pub max_outstanding: u8,
    /// Longest datagram we take and send, header included.
    pub max_segment: u16,
    /// Most messages that wait here to be sent or acknowledged.
    pub send_queue: u16,
    /// What we propose as a client.
    pub terms: Terms,
    /// Acknowledge each segment as it comes, whatever `max_cumulative_ack` was agreed on.
    pub acknowledge_at_once: bool,
    /// Tell of TCS segments instead of dropping them.
    pub transfer: bool,
}

impl Default for Config {
    /// The draft's values but for two, which a peer of the Java dialect reads at other places and then means the same:
    /// the octets of the transfer time are 3 and 3, and 3 retransmissions.
    fn default() -> Self {
        let mut config = Self::draft();
        config.terms.transfer_ms = 0x0303;
        config.terms.max_retransmissions = 3;
        config
    }
}

impl Config {
    /// The values that the draft recommends.
    pub const fn draft() -> Self {
        let terms = Terms {
            checksum_data: false,
            retransmission_ms: 600,
            cumulative_ack_ms: 300,
            null_ms: 2_000,
            transfer_ms: 1_000,
            max_retransmissions: 2,
            max_cumulative_ack: 3,
            max_out_of_sequence: 3,
            max_auto_reset: 3,
        };
        Self {
            max_outstanding: 32,
            max_segment: 1_400,
            send_queue: 64,
            terms,
            acknowledge_at_once: false,
            transfer: false,
        }
    }

    /// For heartbeats: quick and patient, each acknowledged as it comes, and read alike by a peer of the Java dialect.
    /// `null_ms` should be period times misses, and at least 2,000.
    pub const fn heartbeat(null_ms: u16) -> Self {
        let terms = Terms {
            checksum_data: false,
            retransmission_ms: 120,
            cumulative_ack_ms: 100,
            null_ms,
            transfer_ms: 0x0f03,
            max_retransmissions: 15,
            max_cumulative_ack: 3,
            max_out_of_sequence: 3,
            max_auto_reset: 3,
        };
        Self { terms, acknowledge_at_once: true, ..Self::draft() }
    }

    /// Longest message that fits into a datagram of ours.
    pub fn max_message(&self) -> usize {
        usize::from(self.max_segment) - HEADER
    }

    /// # Errors
    /// Where a value is outside what the draft, or the eight bits of its numbers, allow.
    pub fn checked(self) -> Result<Self, ConfigError> {
        let terms = &self.terms;
        let all = [
            ("max outstanding", u32::from(self.max_outstanding), 1, u32::from(REACH)),
            ("max segment", u32::from(self.max_segment), 28, u32::from(DATAGRAM_MAX)),
            ("send queue", u32::from(self.send_queue), 1, u32::from(SEND_QUEUE_MAX)),
            (
                "retransmission timeout in ms",
                u32::from(terms.retransmission_ms),
                u32::from(TIMEOUT_MIN_MS),
                u32::from(u16::MAX),
            ),
            (
                "cumulative ack timeout in ms",
                u32::from(terms.cumulative_ack_ms),
                u32::from(TIMEOUT_MIN_MS),
                u32::from(terms.retransmission_ms),
            ),
        ];
        for (field, value, low, high) in all {
            if !(low..=high).contains(&value) {
                return Err(ConfigError { field, value, low, high });
            }
        }
        Ok(self)
    }

    /// The SYN we open with.
    pub(crate) fn syn(&self, dialect: Dialect, terms: Terms, connection_id: u32) -> Syn {
        Syn {
            dialect,
            max_outstanding: self.max_outstanding,
            max_segment: self.max_segment,
            reuse: false,
            terms,
            connection_id,
        }
    }

    /// What a server makes of a client's proposal: each value is moved into its legal range, none is refused for it.
    pub(crate) fn answer(&self, mut proposed: Terms) -> Terms {
        proposed.checksum_data |= self.terms.checksum_data;
        proposed.retransmission_ms = proposed.retransmission_ms.max(TIMEOUT_MIN_MS);
        proposed.cumulative_ack_ms = proposed.cumulative_ack_ms.max(TIMEOUT_MIN_MS);
        if proposed.cumulative_ack_ms >= proposed.retransmission_ms {
            proposed.cumulative_ack_ms = (proposed.retransmission_ms / 2).max(TIMEOUT_MIN_MS);
        }
        proposed
    }
}

/// What the peer takes, which it alone decides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PeerLimits {
    pub(crate) max_outstanding: u8,
    pub(crate) max_segment: u16,
}

impl PeerLimits {
    /// `None` where no message could ever be sent to it. A window of 0 is read as 1, since it could never open;
    /// one of more than 127 as 127, since its numbers could not be told apart.
    pub(crate) fn of(syn: &Syn) -> Option<Self> {
        let max_outstanding = syn.max_outstanding.clamp(1, REACH);
        (syn.max_segment >= SEGMENT_MIN)
            .then_some(Self { max_outstanding, max_segment: syn.max_segment })
    }
}

/// Whether a client can live with the server's answer.
pub(crate) fn acceptable(terms: &Terms) -> bool {
    terms.retransmission_ms >= TIMEOUT_MIN_MS && terms.cumulative_ack_ms >= TIMEOUT_MIN_MS
}
