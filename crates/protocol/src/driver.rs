//! The objects `driver` (the manager) and `driver/NAME` (the host of one driver).
//!
//! Tasks ask the manager where a driver is (`open`) and then talk to its host alone. Bulk data is raw: `read`, `write`,
//! `ioctl`, `poll` and `call` take a [`Head`] and bytes, and answer an [`Answer`]. The rest is JSON.

use serde::{Deserialize, Serialize};

use crate::objects::{ArgumentKind as Kind, Description, version};

/// Topic of a [`Report`]: other code serves now, on probation.
pub const UPGRADED: &str = "driver.upgraded";
/// Topic of a [`Settled`]: the probation is over, or the old code is back.
pub const SETTLED: &str = "driver.settled";
/// Topic of a [`Settled`] whose outcome is [`Outcome::RolledBack`].
pub const ROLLED_BACK: &str = "driver.rolledback";
/// Most bytes of a driver's object.
pub const OBJECT_MAX: u64 = 16 << 20;
/// Most handles of one driver.
pub const HANDLES_MAX: usize = 1024;
/// Bytes of a [`Head`].
pub const HEAD: usize = 24;
/// Bytes of the number before the data of an answer.
pub const RESULT: usize = 8;

/// What the manager offers.
#[must_use]
pub fn description() -> Description {
    const NAME: (&str, Kind, bool) = ("name", Kind::String, true);
    Description::new("vestal.driver", version(1, 0))
        .method("list", &[], "all drivers", "a list of Status")
        .method("load", &[NAME], "start the host of a driver that driver.toml names", "Status")
        .method("unload", &[NAME], "stop it; its handles are gone", "")
        .method("open", &[NAME], "where its host serves", "Place")
        .method(
            "upgrade",
            &[
                NAME,
                ("object", Kind::Descriptor, true),
                ("hash", Kind::String, true),
                ("version", Kind::String, true),
                ("rollback_index", Kind::Integer, true),
                ("mode", Kind::String, false),
                ("dev", Kind::Boolean, false),
                ("permitted", Kind::Boolean, false),
            ],
            "replace its code; for root with CAP_SYS_ADMIN",
            "Report",
        )
        .method(
            "rollback",
            &[NAME, ("reason", Kind::String, false)],
            "back to the version before",
            "Report",
        )
        .method("settled", &[NAME], "wait until no version is on probation", "Settled")
}

/// What a host offers.
#[must_use]
pub fn host_description() -> Description {
    const RAW: [(&str, Kind, bool); 1] = [("head", Kind::Raw, true)];
    Description::new("vestal.driver-host", version(1, 0))
        .method(
            "open",
            &[("flags", Kind::Integer, false)],
            "a handle; it ends with the caller's process",
            "Opened",
        )
        .method("close", &[("handle", Kind::Integer, true)], "", "{result}")
        .method("read", &RAW, "head: length", "raw: result i64, bytes")
        .method("write", &RAW, "head, bytes", "raw: result i64")
        .method(
            "ioctl",
            &RAW,
            "head: word = command, length = room; argument",
            "raw: result i64, bytes",
        )
        .method(
            "poll",
            &RAW,
            "head: word = events, length = milliseconds to wait",
            "raw: result i64, the events",
        )
        .method(
            "call",
            &RAW,
            "head: word = number of the own operation, length = room; argument",
            "raw: result i64, bytes",
        )
        .method("status", &[], "how it stands", "Status")
        .method("map", &[], "its functions", "a list of Function")
        .method("state", &[], "the driver's state, exported now", "a list of Field")
        .method(
            "probe",
            &[("functions", Kind::Array, true)],
            "the calls of these functions or operations, until the caller ends it",
            "chunks: lines of JSON, each a Hit",
        )
        .method(
            "replace",
            &[("object", Kind::Descriptor, true), ("replacement", Kind::Table, true)],
            "for the manager",
            "Report",
        )
        .method("rollback", &[("reason", Kind::String, false)], "for the manager", "Report")
        .method("settled", &[], "wait until no version is on probation", "Settled")
        .method(
            "trial",
            &[],
            "for the manager: what a canary begins with, the state of now and the last calls",
            "descriptor",
        )
        .method(
            "cuse",
            &[("device", Kind::Descriptor, false)],
            "for the manager: takes /dev/cuse, or gives a copy back",
            "descriptor",
        )
}

/// The numbers before the data of `read`, `write`, `ioctl`, `poll` and `call`: u64 handle, u64 sequence, u32 word, u32
/// length, little-endian.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    pub handle: u64,
    /// Counted by the caller for each handle, from 1; 0: a call that is never made again. After a host was started anew the same number is
    /// answered with what was answered before (without data, then -EIO), with -EIO where the driver was in it, and is carried out
    /// where it never began.
    pub sequence: u64,
    pub word: u32,
    pub length: u32,
}

impl Head {
    /// The head, and what follows it.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (handle, rest) = bytes.split_first_chunk::<8>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (word, rest) = rest.split_first_chunk::<4>()?;
        let (length, data) = rest.split_first_chunk::<4>()?;
        let head = Self {
            handle: u64::from_le_bytes(*handle),
            sequence: u64::from_le_bytes(*sequence),
            word: u32::from_le_bytes(*word),
            length: u32::from_le_bytes(*length),
        };
        Some((head, data))
    }

    #[must_use]
    pub fn encode(&self, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + data.len());
        bytes.extend(self.handle.to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.word.to_le_bytes());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(data);
        bytes
    }
}

/// The answer to a call with a [`Head`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer<'b> {
    /// 0 or more, or -errno.
    pub result: i64,
    pub data: &'b [u8],
}

impl<'b> Answer<'b> {
    #[must_use]
    pub fn parse(bytes: &'b [u8]) -> Option<Self> {
        let (result, data) = bytes.split_first_chunk::<RESULT>()?;
        Some(Self { result: i64::from_le_bytes(*result), data })
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&self.result.to_le_bytes(), self.data].concat()
    }
}

/// Which driver.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Named {
    pub name: String,
}

/// What `driver.open` answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Place {
    /// The object, `driver/NAME`.
    pub object: String,
    pub socket: String,
}

/// What `open` of a host takes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Open {
    pub flags: u32,
}

/// What it answers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Opened {
    /// Of the driver: 0 or more, or -errno; then there is no handle.
    pub result: i64,
    #[serde(default)]
    pub handle: u64,
}

/// How the new code comes in place of the old one.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The pointer to the table of operations changes.
    #[default]
    Table,
    /// A jump at the entry of each function that both versions have; the table stays. Falls back to the table, and says so.
    Jump,
}

/// What `driver.upgrade` takes, and `replace` as `replacement`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Upgrade {
    pub name: String,
    /// SHA-256 of the object in hexadecimal digits. The descriptor is a memfd that is sealed against every change.
    pub hash: String,
    pub version: String,
    pub rollback_index: u64,
    /// Absent: as driver.toml says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// No component of a signed bundle: only for drivers whose settings say `dev = true`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dev: bool,
    /// Its index may be lower than what was confirmed, and is what counts from then on: who asks has a signed permission for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permitted: bool,
}

/// What `driver.rollback` takes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rollback {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One version of a driver.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Version {
    pub version: String,
    pub hash: String,
    #[serde(default)]
    pub rollback_index: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Report {
    pub name: String,
    /// What served before; the same as `to` where nothing had to be done.
    pub from: Version,
    pub to: Version,
    pub mode: Mode,
    /// Why the mode is another one than was asked for, or what else should be known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How long the gate was closed, in microseconds.
    pub pause_us: u64,
    /// Of it: until no call was inside any more.
    pub drain_us: u64,
    /// Of it: exporting and importing state.
    pub state_us: u64,
    /// Calls that waited at the gate.
    pub held: u64,
    /// It has to prove itself for so long; 0 after a rollback.
    pub probation_ms: u64,
}

/// How a driver's host stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Its host does not run.
    #[default]
    Down,
    /// Its host starts.
    Starting,
    Serving,
    /// A new version serves and has to prove itself.
    Probation,
    #[serde(other)]
    Unknown,
}

/// What `list` and `status` answer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Status {
    pub name: String,
    pub standing: Standing,
    pub version: Version,
    /// What a rollback goes back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    pub handles: u64,
    pub calls: u64,
    /// Calls that the driver answered with -errno.
    pub errors: u64,
    pub upgrades: u64,
    pub rollbacks: u64,
    /// How the last version that was tried ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Settled>,
    /// The character device, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Names of the driver's own operations, in the order of their numbers; one without a name is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<String>,
    /// What falls short: no membarrier, no real-time priority, no /dev/cuse, a wrong definition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How a probation ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    #[default]
    Confirmed,
    RolledBack,
    #[serde(other)]
    Unknown,
}

/// What `settled` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Settled {
    pub name: String,
    pub outcome: Outcome,
    /// The version that was on probation.
    pub tried: Version,
    /// What serves now.
    pub serves: Version,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A function of a driver, as it is in memory.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Function {
    pub name: String,
    pub address: u64,
    pub size: u64,
    /// SHA-256 of its first 32 bytes as they are in the object's file.
    pub hash: String,
    /// Room for a jump: `nops`, `code` (enough of its own first bytes), or why there is none.
    pub entry: String,
    /// The operation that it is, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Where its entry jumps to now: a version's name and hash, or `probe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirected: Option<String>,
}

/// A field of a driver's state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Field {
    pub id: u16,
    /// Absent: the driver names it nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A number, a text, or bytes in hexadecimal digits.
    pub value: serde_json::Value,
}

/// What `probe` takes: names of functions or of operations (`write`, or an own operation by its name).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Probe {
    pub functions: Vec<String>,
}

/// A call that a probe saw.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hit {
    pub function: String,
    /// Of the thread.
    pub tid: i32,
    /// When it began, in microseconds of the monotonic clock.
    pub at_us: u64,
    pub arguments: [u64; 6],
    /// Absent: it had not returned when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ns: Option<u64>,
    /// Hits that were lost before this one because nobody took them in time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_24_bytes_and_the_rest_is_data() {
        let head = Head { handle: 3, sequence: 0x0102, word: 5, length: 4096 };
        let bytes = head.encode(b"data");
        assert_eq!(bytes.len(), HEAD + 4);
        assert_eq!(bytes[..10], [3, 0, 0, 0, 0, 0, 0, 0, 2, 1]);
        assert_eq!(Head::parse(&bytes), Some((head, &b"data"[..])));
        assert_eq!(Head::parse(&bytes[..HEAD - 1]), None);
    }

    #[test]
    fn an_answer_is_its_result_and_its_bytes() {
        let answer = Answer { result: -5, data: b"x" };
        assert_eq!(Answer::parse(&answer.encode()), Some(answer));
        assert_eq!(Answer::parse(&[0; 7]), None);
    }
}
