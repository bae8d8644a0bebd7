//! What goes into the machine and what comes out of it; the shell knows no other words.

use core::net::SocketAddr;

use protocol::{
    failure::Failure,
    heartbeat::{Expect, Forget, MESSAGE_LENGTH, Missed, Reason},
    name::Name,
};
use serde::Serialize;

use crate::settings::Rules;

/// A transport connection, by the number that the shell gave it; never used again for another one.
pub(crate) type SessionId = u64;
/// A call that waits for its answer.
pub(crate) type CallId = u64;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A connection is open, or began anew: what was said on it before is void.
    Opened { session: SessionId, from: SocketAddr },
    /// The next message of a connection, in order.
    Message { session: SessionId, octets: &'a [u8] },
    /// A connection is gone; `retransmitted` segments had to be sent again on it.
    Ended { session: SessionId, retransmitted: u64 },
    /// The supervisor will start an instance that reports.
    Expect { call: CallId, expect: Expect },
    /// It will not report any more.
    Forget { call: CallId, forget: Forget },
    /// What became of an [`Action::Tell`]: whether the supervisor has taken it.
    Told { app_id: i32, generation: u32, heard: bool },
    /// The machine slept, or was moved in time: nobody could report.
    Resumed,
    /// Another life of an image of the machine began: every deadline begins anew.
    BornAgain,
    /// The settings were read again.
    Rules(Rules),
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action {
    Send {
        session: SessionId,
        octets: [u8; MESSAGE_LENGTH],
    },
    /// The peer is who it says: it may be sent more than it sent.
    Verify {
        session: SessionId,
    },
    /// End the connection after what was sent on it. No [`Event::Ended`] need follow.
    Close {
        session: SessionId,
    },
    Answer {
        call: CallId,
        result: Result<(), Failure>,
    },
    Publish {
        topic: &'static str,
        notice: Box<Notice>,
    },
    /// Call `service.missed`, after so many calls in vain; answered by [`Event::Told`].
    Tell {
        missed: Missed,
        attempt: u8,
    },
}

/// The data of the events `heartbeat.*`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Notice {
    pub(crate) app_id: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<Name>,
    pub(crate) generation: u32,
    pub(crate) authenticated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// Since the last accepted report, or since it was expected.
    pub(crate) age_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Reason>,
}

/// What happened since the broker started, above all what was ignored and why.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Counters {
    pub(crate) sessions: u64,
    /// Over the limit of an address.
    pub(crate) sessions_refused: u64,
    /// The oldest without a Register, to make room.
    pub(crate) sessions_evicted: u64,
    /// No Register within the time for it.
    pub(crate) sessions_timed_out: u64,
    /// No message of this version: length, version, type or code.
    pub(crate) malformed: u64,
    /// A message that only the broker sends.
    pub(crate) wrong_direction: u64,
    /// A Register without a challenge, a report without a Register.
    pub(crate) out_of_place: u64,
    pub(crate) unknown_application: u64,
    pub(crate) wrong_generation: u64,
    pub(crate) bad_tag: u64,
    /// A counter that did not rise.
    pub(crate) replayed: u64,
    /// A keyless application that somebody else speaks for already.
    pub(crate) busy: u64,
    /// More applications than the settings allow.
    pub(crate) limit: u64,
    pub(crate) registered: u64,
    pub(crate) reports: u64,
    pub(crate) byes: u64,
    pub(crate) missed: u64,
    pub(crate) recovered: u64,
    /// Times at which the broker itself was late, asleep or just started.
    pub(crate) stalls: u64,
    /// Deadlines that were put off because of one.
    pub(crate) excused: u64,
    pub(crate) told: u64,
    /// Given up: for so long the supervisor could not be told.
    pub(crate) untold: u64,
    /// Events of applications without a key that came too fast.
    pub(crate) notices_suppressed: u64,
}
