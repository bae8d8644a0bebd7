//! The `log` object: a record of what was printed, and how records are asked for.

use serde::{Deserialize, Serialize};

use crate::objects::{ArgumentKind as Kind, Description, version};

/// Longest text of one record, in bytes; a longer line becomes several records, all but the last with `more`.
pub const TEXT_MAX: usize = 16 << 10;

/// One line that somebody printed. Travels as JSON, one a line.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// Counts up without a gap over the life of the store; what `after` takes.
    pub sequence: u64,
    /// Microseconds since 1970, as the clock stood when it was read.
    pub realtime_us: u64,
    /// Microseconds of CLOCK_MONOTONIC.
    pub monotonic_us: u64,
    /// The first 8 hexadecimal digits of the boot id: monotonic times of different boots don't compare.
    pub boot: String,
    pub source: Source,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// syslog(3): 0 emergency to 7 debug.
    pub priority: u8,
    /// Bytes that are no UTF-8, and control characters but tab, are written `\xNN`.
    pub text: String,
    /// The line goes on in the next record of this source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// This many lines of this service were dropped here, by its rate limit or because the log was away.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Where a record comes from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Stdout,
    Stderr,
    Kernel,
    Syslog,
    /// The `write` method.
    Call,
    /// The log's own remarks.
    Log,
    #[serde(other)]
    Unknown,
}

/// `read` and `follow`: which records. The answer is a stream of [`Record`]s, one a line, oldest first.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Select {
    /// Only the newest so many (of those that were there, for `follow`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// Microseconds since 1970, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_us: Option<u64>,
    /// Microseconds since 1970, exclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_us: Option<u64>,
    /// Only behind this sequence number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only this urgent or more: 3 is errors and worse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// A regular expression the text must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grep: Option<String>,
    /// Any of these services; none is all, the kernel and syslog too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// `write`: a line from a program that has no pipe to the log; who says it comes from the kernel.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Write {
    pub text: String,
    /// Default 5, notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// What the text is about, such as a program's name; stands where a service's name would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// What `status` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Status {
    pub first_sequence: u64,
    pub next_sequence: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    /// Pipes that are drained.
    pub pipes: u64,
    /// Lines that rate limits dropped, by service.
    pub dropped: std::collections::BTreeMap<String, u64>,
    /// What is wrong, such as a store that can't be written.
    pub problems: Vec<String>,
}

/// What the object offers.
#[must_use]
pub fn description() -> Description {
    let select = [
        ("lines", Kind::Integer, false),
        ("since_us", Kind::Integer, false),
        ("until_us", Kind::Integer, false),
        ("after", Kind::Integer, false),
        ("priority", Kind::Integer, false),
        ("grep", Kind::String, false),
        ("services", Kind::Array, false),
        ("instance", Kind::String, false),
        ("source", Kind::String, false),
    ];
    let write = [
        ("text", Kind::String, true),
        ("priority", Kind::Integer, false),
        ("tag", Kind::String, false),
    ];
    Description::new("vestal.log", version(1, 0))
        .method("read", &select, "what was printed", "records, one a line")
        .method("follow", &select, "as read, then what comes", "records, one a line")
        .method("write", &write, "keep a line", "")
        .method("status", &[], "size, pipes, what was dropped", "first_sequence, bytes, ...")
}
