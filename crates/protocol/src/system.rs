//! Arguments and replies of the `system` object's methods, in procd's shapes. A field that a device doesn't know is left out.

use serde::{Deserialize, Serialize};

use crate::{
    objects::{ArgumentKind as Kind, Description, version},
    service::lenient,
};

/// What the object offers.
#[must_use]
pub fn description() -> Description {
    Description::new("vestal.system", version(1, 0))
        .method("board", &[], "kernel, host, processor, release", "procd's table")
        .method("info", &[], "clock, load, memory", "procd's table")
        .method(
            "watchdog",
            &[
                ("frequency", Kind::Integer, false),
                ("timeout", Kind::Integer, false),
                ("magicclose", Kind::Boolean, false),
                ("stop", Kind::Boolean, false),
            ],
            "the hardware watchdog",
            "status, timeout, frequency, magicclose",
        )
        .method(
            "signal",
            &[("pid", Kind::Integer, true), ("signum", Kind::Integer, true)],
            "send a signal to a process",
            "",
        )
        .method(
            "reboot",
            &[],
            "stop everything, then reboot (where the keeper is PID 1)",
            "what will happen",
        )
        .method(
            "poweroff",
            &[],
            "stop everything, then power off (where the keeper is PID 1)",
            "what will happen",
        )
        .method(
            "halt",
            &[],
            "stop everything, then halt (where the keeper is PID 1)",
            "what will happen",
        )
        .method(
            "reexec",
            &[("what", Kind::String, true)],
            "replace `supervisor` or `keeper` by the binary on disk",
            "",
        )
        .event("system.shutdown")
}

/// What `board` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Board {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The processor, from /proc/cpuinfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
}

/// From os-release.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Release {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codename: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builddate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_url: Option<String>,
}

/// What `info` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Info {
    /// Seconds since 1970 plus the offset of the time zone.
    pub localtime: i64,
    /// Seconds.
    pub uptime: u64,
    /// Times 65536.
    pub load: [u64; 3],
    pub memory: Memory,
    pub root: Space,
    pub tmp: Space,
    pub swap: Swap,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub shared: u64,
    pub buffered: u64,
    pub available: u64,
    pub cached: u64,
}

/// A file system, in KiB.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Space {
    pub total: u64,
    pub free: u64,
    pub used: u64,
    pub avail: u64,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Swap {
    pub total: u64,
    pub free: u64,
}

/// `watchdog`: what is given is changed, what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Watchdog {
    /// Seconds.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub frequency: Option<u32>,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub magicclose: Option<bool>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub stop: Option<bool>,
}

/// What `watchdog` answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WatchdogReply {
    pub status: WatchdogStatus,
    pub timeout: u32,
    pub frequency: u32,
    pub magicclose: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogStatus {
    /// There is none, or it isn't open.
    Offline,
    /// Open, not fed.
    Stopped,
    Running,
}

/// `signal`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Signal {
    pub pid: i32,
    pub signum: i32,
}

/// `reexec`: what is replaced by the binary on disk.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reexec {
    pub what: Program,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    Supervisor,
    Keeper,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_facts_are_left_out_of_board() {
        let board = Board { hostname: Some("demo".to_owned()), ..Board::default() };
        assert_eq!(serde_json::to_string(&board).unwrap(), r#"{"hostname":"demo"}"#);
    }

    #[test]
    fn the_watchdog_speaks_procds_words() {
        let reply = WatchdogReply {
            status: WatchdogStatus::Offline,
            timeout: 30,
            frequency: 5,
            magicclose: false,
        };
        let json = r#"{"status":"offline","timeout":30,"frequency":5,"magicclose":false}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), json);
    }
}
