//! The bytes of [`Request`] and [`Report`]: one fixed size, little-endian, no heap on either side.
//!
//! ```text
//! 0   u32  sequence, counted by the sender
//! 4   u8   kind
//! 5   3 x 0
//! 8   the kind's fields in the order of their declaration, then zeros up to MESSAGE_SIZE
//! ```
//! A bool is one byte, 0 or 1. An enum is one byte, its variants numbered from 0 in the order of their declaration.

use thiserror::Error;

use super::{
    DEPOSIT_NAME_MAX, DepositName, Disposition, Exit, Outcome, Phase, Report, Request,
    ShutdownKind, SlotState, Stage, Watchdog,
};
use crate::time::Moment;

/// Size of every message in both directions.
pub const MESSAGE_SIZE: usize = 96;
const HEAD_SIZE: usize = 8;
/// Highest signal number of Linux on every architecture that we build for.
const SIGNAL_MAX: i32 = 64;

/// A message that makes no sense. `sequence` is 0 where not even that could be read.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("message {sequence} of the keeper's channel: {reason}")]
pub struct Malformed {
    pub sequence: u32,
    pub reason: Reason,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Reason {
    #[error("{0} bytes instead of {MESSAGE_SIZE}")]
    Size(usize),
    #[error("unknown kind {0}")]
    Kind(u8),
    #[error("field {field} has the impossible value {value}")]
    Field { field: &'static str, value: i64 },
    #[error("bytes that should be zero are not")]
    Padding,
}

impl Request {
    /// The message with this sequence number.
    #[must_use]
    pub fn encode(&self, sequence: u32) -> [u8; MESSAGE_SIZE] {
        let mut out = Writer::new(sequence);
        match *self {
            Self::Seen { sequence } => out.kind(0).u32(sequence),
            Self::Define { slot, identity, disposition, cgroup } => {
                out.kind(1).u32(slot).u64(identity).disposition(disposition).bool(cgroup)
            }
            Self::Dispose { slot, disposition } => out.kind(2).u32(slot).disposition(disposition),
            Self::Spawn { slot, expected } => out.kind(3).u32(slot).u32(expected),
            Self::Signal { slot, generation, signal, tree } => {
                out.kind(4).u32(slot).u32(generation).i32(signal).bool(tree)
            }
            Self::Main { slot, generation, pid } => out.kind(5).u32(slot).u32(generation).i32(pid),
            Self::Forget { slot } => out.kind(6).u32(slot),
            Self::Deposit { ref name } => out.kind(7).name(name),
            Self::Withdraw { ref name } => out.kind(8).name(name),
            Self::Watchdog(watchdog) => out
                .kind(9)
                .bool(watchdog.run)
                .bool(watchdog.magic_close)
                .u16(watchdog.timeout_s)
                .u16(watchdog.frequency_s)
                .u16(watchdog.lease_s),
            Self::Reexec => out.kind(10),
            Self::Shutdown { kind, exit_code } => {
                out.kind(11).u8(shutdown_number(kind)).u8(exit_code)
            }
            Self::Starts => out.kind(12),
        };
        out.bytes
    }

    /// The sequence number and what is asked.
    ///
    /// # Errors
    /// Where the size, the kind or any field is not what [`Request::encode`] writes.
    pub fn decode(message: &[u8]) -> Result<(u32, Self), Malformed> {
        Reader::message(message, |r, kind| {
            Ok(match kind {
                0 => Self::Seen { sequence: r.u32() },
                1 => Self::Define {
                    slot: r.u32(),
                    identity: r.u64(),
                    disposition: r.disposition()?,
                    cgroup: r.bool("cgroup")?,
                },
                2 => Self::Dispose { slot: r.u32(), disposition: r.disposition()? },
                3 => Self::Spawn { slot: r.u32(), expected: r.u32() },
                4 => Self::Signal {
                    slot: r.u32(),
                    generation: r.u32(),
                    signal: r.ranged("signal", 0, SIGNAL_MAX)?,
                    tree: r.bool("tree")?,
                },
                5 => Self::Main {
                    slot: r.u32(),
                    generation: r.u32(),
                    pid: r.ranged("pid", 1, i32::MAX)?,
                },
                6 => Self::Forget { slot: r.u32() },
                7 => Self::Deposit { name: r.name()? },
                8 => Self::Withdraw { name: r.name()? },
                9 => Self::Watchdog(Watchdog {
                    run: r.bool("run")?,
                    magic_close: r.bool("magic_close")?,
                    timeout_s: r.u16(),
                    frequency_s: r.u16(),
                    lease_s: r.u16(),
                }),
                10 => Self::Reexec,
                11 => Self::Shutdown { kind: r.shutdown_kind()?, exit_code: r.u8() },
                12 => Self::Starts,
                unknown => return Err(Reason::Kind(unknown)),
            })
        })
    }
}

impl Report {
    /// The message with this sequence number.
    #[must_use]
    pub fn encode(&self, sequence: u32) -> [u8; MESSAGE_SIZE] {
        let mut out = Writer::new(sequence);
        match self {
            Self::Welcome { version, keeper_pid, pid_one, supervisor_starts } => {
                out.kind(0).u16(*version).i32(*keeper_pid).bool(*pid_one).u32(*supervisor_starts)
            }
            Self::Slot(state) => out.kind(1).slot_state(state),
            Self::Deposit { name } => out.kind(2).name(name),
            Self::HandoverEnd => out.kind(3),
            Self::Ack { request, outcome } => out.kind(4).u32(*request).outcome(*outcome),
            Self::ShutdownWanted { kind } => out.kind(5).u8(shutdown_number(*kind)),
        };
        out.bytes
    }

    /// The sequence number and what is told.
    ///
    /// # Errors
    /// Where the size, the kind or any field is not what [`Report::encode`] writes.
    pub fn decode(message: &[u8]) -> Result<(u32, Self), Malformed> {
        Reader::message(message, |r, kind| {
            Ok(match kind {
                0 => Self::Welcome {
                    version: r.u16(),
                    keeper_pid: r.ranged("keeper_pid", 1, i32::MAX)?,
                    pid_one: r.bool("pid_one")?,
                    supervisor_starts: r.u32(),
                },
                1 => Self::Slot(r.slot_state()?),
                2 => Self::Deposit { name: r.name()? },
                3 => Self::HandoverEnd,
                4 => Self::Ack { request: r.u32(), outcome: r.outcome()? },
                5 => Self::ShutdownWanted { kind: r.shutdown_kind()? },
                unknown => return Err(Reason::Kind(unknown)),
            })
        })
    }
}

const PHASES: [Phase; 6] = [
    Phase::Idle,
    Phase::Executing,
    Phase::Running,
    Phase::Emptying,
    Phase::Waiting,
    Phase::Unkillable,
];
const STAGES: [Stage; 12] = [
    Stage::Clone,
    Stage::Plan,
    Stage::Stdio,
    Stage::Lock,
    Stage::Directory,
    Stage::Sockets,
    Stage::Exec,
    Stage::Settings,
    Stage::Limits,
    Stage::User,
    Stage::Capabilities,
    Stage::Namespaces,
];
const SHUTDOWN_KINDS: [ShutdownKind; 4] =
    [ShutdownKind::Exit, ShutdownKind::Reboot, ShutdownKind::Poweroff, ShutdownKind::Halt];

impl Stage {
    /// The number that travels in a message and in the error pipe.
    #[must_use]
    pub fn number(self) -> u8 {
        number_in(&STAGES, self)
    }

    /// The stage with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        STAGES.get(usize::from(number)).copied()
    }
}

fn shutdown_number(kind: ShutdownKind) -> u8 {
    number_in(&SHUTDOWN_KINDS, kind)
}

fn number_in<T: PartialEq>(all: &[T], one: T) -> u8 {
    let at = all.iter().position(|it| *it == one).expect("the table lists every variant");
    u8::try_from(at).expect("the tables are short")
}

/// Fills a message from left to right. Every kind's fields are fewer than the message has bytes; the tests encode each.
struct Writer {
    bytes: [u8; MESSAGE_SIZE],
    at: usize,
}

impl Writer {
    fn new(sequence: u32) -> Self {
        let mut out = Self { bytes: [0; MESSAGE_SIZE], at: 0 };
        out.u32(sequence);
        out
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    fn kind(&mut self, kind: u8) -> &mut Self {
        self.put(&[kind, 0, 0, 0])
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn i32(&mut self, value: i32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    fn optional_u32(&mut self, value: Option<u32>) -> &mut Self {
        self.bool(value.is_some()).u32(value.unwrap_or(0))
    }

    fn disposition(&mut self, it: Disposition) -> &mut Self {
        self.optional_u32(it.armed_after_ms)
            .optional_u32(it.alone_after_ms)
            .bool(it.on_success)
            .bool(it.main_only)
    }

    fn name(&mut self, name: &DepositName) -> &mut Self {
        self.u8(name.length).put(&name.bytes)
    }

    fn outcome(&mut self, outcome: Outcome) -> &mut Self {
        let (number, detail) = match outcome {
            Outcome::Done => (0, 0),
            Outcome::Stale => (1, 0),
            Outcome::NoSuchSlot => (2, 0),
            Outcome::Malformed => (3, 0),
            Outcome::NotPidOne => (4, 0),
            Outcome::Full => (5, 0),
            Outcome::Errno(errno) => (6, errno),
            Outcome::Count(count) => (7, count.cast_signed()),
        };
        self.u8(number).i32(detail)
    }

    fn exit(&mut self, exit: Exit) -> &mut Self {
        let (number, detail, errno) = match exit {
            Exit::None => (0, 0, 0),
            Exit::Code(code) => (1, code, 0),
            Exit::Signal { signal, core } => (2, signal, i32::from(core)),
            Exit::Lost => (3, 0, 0),
            Exit::SpawnFailed { stage, errno } => (4, stage.number(), errno),
        };
        self.u8(number).u8(detail).i32(errno)
    }

    fn slot_state(&mut self, it: &SlotState) -> &mut Self {
        self.u32(it.slot)
            .u64(it.identity)
            .u32(it.generation)
            .u8(number_in(&PHASES, it.phase))
            .i32(it.pid)
            .bool(it.suspended)
            .u64(it.spawned_at.0)
            .exit(it.exit)
            .u32(it.exit_generation)
            .u64(it.exited_at.0)
            .bool(it.answered_alone)
            .bool(it.oom)
    }
}

/// Takes a message apart from left to right; the size was checked before.
struct Reader<'a> {
    bytes: &'a [u8; MESSAGE_SIZE],
    at: usize,
}

impl<'a> Reader<'a> {
    fn message<T>(
        message: &'a [u8],
        body: impl FnOnce(&mut Self, u8) -> Result<T, Reason>,
    ) -> Result<(u32, T), Malformed> {
        let Ok(bytes) = <&[u8; MESSAGE_SIZE]>::try_from(message) else {
            return Err(Malformed { sequence: 0, reason: Reason::Size(message.len()) });
        };
        let mut reader = Self { bytes, at: 0 };
        let sequence = reader.u32();
        let kind = reader.u8();
        let parsed = match reader.take::<3>() {
            [0, 0, 0] => body(&mut reader, kind),
            _ => Err(Reason::Padding),
        };
        debug_assert!(parsed.is_err() || reader.at >= HEAD_SIZE, "the head was read");
        let parsed = parsed.and_then(|value| {
            let clean = bytes[reader.at..].iter().all(|byte| *byte == 0);
            if clean { Ok(value) } else { Err(Reason::Padding) }
        });
        match parsed {
            Ok(value) => Ok((sequence, value)),
            Err(reason) => Err(Malformed { sequence, reason }),
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn i32(&mut self) -> i32 {
        i32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn bool(&mut self, field: &'static str) -> Result<bool, Reason> {
        match self.u8() {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Reason::Field { field, value: value.into() }),
        }
    }

    fn ranged(&mut self, field: &'static str, low: i32, high: i32) -> Result<i32, Reason> {
        let value = self.i32();
        if (low..=high).contains(&value) {
            Ok(value)
        } else {
            Err(Reason::Field { field, value: value.into() })
        }
    }

    fn one_of<T: Copy>(&mut self, field: &'static str, all: &[T]) -> Result<T, Reason> {
        let value = self.u8();
        all.get(usize::from(value)).copied().ok_or(Reason::Field { field, value: value.into() })
    }

    fn optional_u32(&mut self, field: &'static str) -> Result<Option<u32>, Reason> {
        match (self.bool(field)?, self.u32()) {
            (true, value) => Ok(Some(value)),
            (false, 0) => Ok(None),
            (false, value) => Err(Reason::Field { field, value: value.into() }),
        }
    }

    fn disposition(&mut self) -> Result<Disposition, Reason> {
        Ok(Disposition {
            armed_after_ms: self.optional_u32("armed_after_ms")?,
            alone_after_ms: self.optional_u32("alone_after_ms")?,
            on_success: self.bool("on_success")?,
            main_only: self.bool("main_only")?,
        })
    }

    fn name(&mut self) -> Result<DepositName, Reason> {
        let length = self.u8();
        let bytes = self.take::<DEPOSIT_NAME_MAX>();
        let bad = Reason::Field { field: "name", value: length.into() };
        let (text, rest) = bytes.split_at_checked(usize::from(length)).ok_or(bad)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(Reason::Padding);
        }
        let text = std::str::from_utf8(text).map_err(|_| bad)?;
        DepositName::new(text).map_err(|_| bad)
    }

    fn shutdown_kind(&mut self) -> Result<ShutdownKind, Reason> {
        self.one_of("kind", &SHUTDOWN_KINDS)
    }

    fn outcome(&mut self) -> Result<Outcome, Reason> {
        match (self.u8(), self.i32()) {
            (0, 0) => Ok(Outcome::Done),
            (1, 0) => Ok(Outcome::Stale),
            (2, 0) => Ok(Outcome::NoSuchSlot),
            (3, 0) => Ok(Outcome::Malformed),
            (4, 0) => Ok(Outcome::NotPidOne),
            (5, 0) => Ok(Outcome::Full),
            (6, errno) => Ok(Outcome::Errno(errno)),
            (7, count) => Ok(Outcome::Count(count.cast_unsigned())),
            (value, _) => Err(Reason::Field { field: "outcome", value: value.into() }),
        }
    }

    fn exit(&mut self) -> Result<Exit, Reason> {
        match (self.u8(), self.u8(), self.i32()) {
            (0, 0, 0) => Ok(Exit::None),
            (1, code, 0) => Ok(Exit::Code(code)),
            (2, signal, core @ (0 | 1)) => Ok(Exit::Signal { signal, core: core == 1 }),
            (3, 0, 0) => Ok(Exit::Lost),
            (4, stage, errno) => match Stage::from_number(stage) {
                Some(stage) => Ok(Exit::SpawnFailed { stage, errno }),
                None => Err(Reason::Field { field: "stage", value: stage.into() }),
            },
            (value, _, _) => Err(Reason::Field { field: "exit", value: value.into() }),
        }
    }

    fn slot_state(&mut self) -> Result<SlotState, Reason> {
        Ok(SlotState {
            slot: self.u32(),
            identity: self.u64(),
            generation: self.u32(),
            phase: self.one_of("phase", &PHASES)?,
            pid: self.ranged("pid", 0, i32::MAX)?,
            suspended: self.bool("suspended")?,
            spawned_at: Moment(self.u64()),
            exit: self.exit()?,
            exit_generation: self.u32(),
            exited_at: Moment(self.u64()),
            answered_alone: self.bool("answered_alone")?,
            oom: self.bool("oom")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot_state() -> SlotState {
        SlotState {
            slot: 7,
            identity: 0x0102_0304_0506_0708,
            generation: 9,
            phase: Phase::Waiting,
            pid: 4711,
            suspended: true,
            spawned_at: Moment(5_000_000_001),
            exit: Exit::SpawnFailed { stage: Stage::Namespaces, errno: 2 },
            exit_generation: 8,
            exited_at: Moment(5_000_000_000),
            answered_alone: true,
            oom: true,
        }
    }

    fn requests() -> Vec<Request> {
        let disposition = Disposition {
            armed_after_ms: Some(0),
            alone_after_ms: Some(30_000),
            on_success: true,
            main_only: false,
        };
        let name = DepositName::new(&"n".repeat(DEPOSIT_NAME_MAX)).unwrap();
        vec![
            Request::Seen { sequence: 3 },
            Request::Define { slot: 1, identity: u64::MAX, disposition, cgroup: true },
            Request::Dispose { slot: 1, disposition: Disposition::default() },
            Request::Spawn { slot: 2047, expected: 0 },
            Request::Signal { slot: 1, generation: 2, signal: 64, tree: true },
            Request::Main { slot: 1, generation: 2, pid: 77 },
            Request::Forget { slot: 1 },
            Request::Deposit { name },
            Request::Withdraw { name: DepositName::new("ü").unwrap() },
            Request::Watchdog(Watchdog {
                run: true,
                magic_close: false,
                timeout_s: 30,
                frequency_s: 5,
                lease_s: 60,
            }),
            Request::Reexec,
            Request::Shutdown { kind: ShutdownKind::Halt, exit_code: 1 },
            Request::Starts,
        ]
    }

    fn reports() -> Vec<Report> {
        let exits = [
            Exit::None,
            Exit::Code(255),
            Exit::Signal { signal: 11, core: true },
            Exit::Lost,
            Exit::SpawnFailed { stage: Stage::Clone, errno: 11 },
        ];
        let outcomes = [
            Outcome::Done,
            Outcome::Stale,
            Outcome::NoSuchSlot,
            Outcome::Malformed,
            Outcome::NotPidOne,
            Outcome::Full,
            Outcome::Errno(28),
            Outcome::Count(u32::MAX),
        ];
        let welcome =
            Report::Welcome { version: 1, keeper_pid: 1, pid_one: true, supervisor_starts: 2 };
        let name = DepositName::new("supervisor.sock").unwrap();
        let mut all = vec![
            welcome,
            Report::Slot(slot_state()),
            Report::Deposit { name },
            Report::HandoverEnd,
            Report::ShutdownWanted { kind: ShutdownKind::Exit },
        ];
        all.extend(exits.map(|exit| Report::Slot(SlotState { exit, ..slot_state() })));
        all.extend(PHASES.map(|phase| Report::Slot(SlotState { phase, ..slot_state() })));
        all.extend(outcomes.map(|outcome| Report::Ack { request: 12, outcome }));
        all
    }

    #[test]
    fn every_message_survives_its_bytes() {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode(17)), Ok((17, request)));
        }
        for report in reports() {
            assert_eq!(Report::decode(&report.encode(u32::MAX)), Ok((u32::MAX, report)));
        }
    }

    #[test]
    fn a_message_that_makes_no_sense_is_refused_with_its_sequence_and_reason() {
        let refused = |bytes: &[u8]| Request::decode(bytes).unwrap_err();
        assert_eq!(refused(b"short"), Malformed { sequence: 0, reason: Reason::Size(5) });

        let mut bytes = Request::Reexec.encode(5);
        bytes[4] = 99;
        assert_eq!(refused(&bytes), Malformed { sequence: 5, reason: Reason::Kind(99) });

        let mut bytes = Request::Forget { slot: 1 }.encode(6);
        bytes[MESSAGE_SIZE - 1] = 1;
        assert_eq!(refused(&bytes), Malformed { sequence: 6, reason: Reason::Padding });

        let kill = Request::Signal { slot: 0, generation: 0, signal: 65, tree: false };
        let reason = Reason::Field { field: "signal", value: 65 };
        assert_eq!(refused(&kill.encode(7)), Malformed { sequence: 7, reason });
    }

    #[test]
    fn a_deposit_name_is_checked_when_it_is_made() {
        assert_eq!(DepositName::new("web.80").unwrap().as_str(), "web.80");
        assert!(DepositName::new("").is_err());
        assert!(DepositName::new("a\0b").is_err());
        assert!(DepositName::new(&"n".repeat(DEPOSIT_NAME_MAX + 1)).is_err());
        assert!(DepositName::new(&"n".repeat(300)).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_accepts_only_what_encoding_writes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..=MESSAGE_SIZE + 1),
            kind in 0_u8..14,
            zeros_from in HEAD_SIZE..=MESSAGE_SIZE,
        ) {
            if bytes.len() >= MESSAGE_SIZE {
                bytes.truncate(MESSAGE_SIZE);
                bytes[4..HEAD_SIZE].copy_from_slice(&[kind, 0, 0, 0]);
                bytes[zeros_from..].fill(0);
            }
            if let Ok((sequence, request)) = Request::decode(&bytes) {
                prop_assert_eq!(&request.encode(sequence)[..], &bytes[..]);
            }
            if let Ok((sequence, report)) = Report::decode(&bytes) {
                prop_assert_eq!(&report.encode(sequence)[..], &bytes[..]);
            }
        }
    }
}
