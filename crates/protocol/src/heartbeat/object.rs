//! The `heartbeat` object: arguments and replies of its methods, and what the broker calls at the supervisor.

use serde::{Deserialize, Serialize};

use crate::{
    name::Name,
    objects::{ArgumentKind as Kind, Description, version},
};

/// `heartbeat.expect`: an instance is about to be started and will report. Replaces what was expected of the
/// application before; an older generation than the known one is ignored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Expect {
    pub service: Name,
    pub instance: Name,
    pub app_id: i32,
    pub generation: u32,
    /// 32 hexadecimal digits. Absent: such as speak sd_notify, which are listed but time themselves elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub period_ms: u32,
    pub misses: u32,
    /// From the spawn to the first Register.
    pub grace_ms: u32,
    /// A progress counter that stands still so long is a miss; 0 is never.
    #[serde(default)]
    pub progress_ms: u32,
    /// Decides by the arrival times seen before instead of a fixed deadline.
    #[serde(default)]
    pub adaptive: bool,
    /// It is kept from running and can't report: nothing is missed until it is expected again without this, from the beginning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
}

/// `heartbeat.forget`: the instance is stopped on purpose, or gone.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Forget {
    pub app_id: i32,
    /// Only this generation and older ones.
    pub generation: u32,
}

/// `service.missed`: an application of this generation has not reported in time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Missed {
    pub app_id: i32,
    pub generation: u32,
    /// Since the last accepted report, or since it was expected.
    pub age_ms: u64,
    pub reason: Reason,
}

/// Why an application counts as hung.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It registered, then said nothing for its period times its misses.
    Silent,
    /// It never registered within its grace.
    NeverRegistered,
    /// It reports, but its progress counter stands still.
    NoProgress,
    #[serde(other)]
    Unknown,
}

/// How an application stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has not registered yet.
    Expected,
    Registered,
    Alive,
    /// More than one period without a report.
    Late,
    /// The deadline passed; the supervisor was told.
    Missed,
    /// It reported again after it was missed.
    Recovered,
    /// It said goodbye.
    Gone,
    #[serde(other)]
    Unknown,
}

/// A row of `heartbeat.list`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Row {
    pub app_id: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Name>,
    pub generation: u32,
    pub state: State,
    /// By a tag. What isn't can raise events only.
    pub authenticated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub period_ms: u32,
    pub misses: u32,
    /// Since the last accepted report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    pub reports: u64,
    /// Its own status octet of the last report; 0 is fine.
    pub status: u8,
    pub progress: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Mean deviation of the time between reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_us: Option<u64>,
    /// Segments that had to be sent again, by both sides as far as this one sees it.
    pub retransmitted: u64,
    /// How unlikely so long a silence is: -log10 of it. Published, not acted on unless chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phi: Option<f64>,
}

/// What the object offers.
#[must_use]
pub fn description() -> Description {
    const APP: (&str, Kind, bool) = ("app_id", Kind::Integer, true);
    const GENERATION: (&str, Kind, bool) = ("generation", Kind::Integer, true);
    let expect = [
        ("service", Kind::String, true),
        ("instance", Kind::String, true),
        APP,
        GENERATION,
        ("key", Kind::String, false),
        ("period_ms", Kind::Integer, true),
        ("misses", Kind::Integer, true),
        ("grace_ms", Kind::Integer, true),
        ("progress_ms", Kind::Integer, false),
        ("adaptive", Kind::Boolean, false),
    ];
    Description::new("vestal.heartbeat", version(1, 0))
        .method("list", &[], "who reports, and how", "a list")
        .method("status", &[], "what was received, what was ignored and why", "counters")
        .method("expect", &expect, "an instance will report with this key", "")
        .method("forget", &[APP, GENERATION], "it will not any more", "")
        .event("heartbeat.registered")
        .event("heartbeat.missed")
        .event("heartbeat.recovered")
        .event("heartbeat.gone")
}
