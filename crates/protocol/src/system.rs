//! Arguments and replies of the `system` object's methods, in procd's shapes. A field that a device doesn't know is left out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    objects::{ArgumentKind as Kind, Description, version},
    service::{lenient, or_default},
    upgrade,
};

/// Topic of an [`Ended`]: what became of an installation that was accepted.
pub const SYSUPGRADE: &str = "system.sysupgrade";

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
        .method(
            "validate_firmware_image",
            &[("path", Kind::String, true)],
            "whether the upgrade agent would take this bundle; writes nothing",
            "Validation",
        )
        .method(
            "sysupgrade",
            &[
                ("path", Kind::String, true),
                ("prefix", Kind::String, false),
                ("force", Kind::Boolean, false),
                ("backup", Kind::String, false),
                ("command", Kind::String, false),
                ("options", Kind::Table, false),
            ],
            "install a bundle that is valid; its end is told by the event",
            "Accepted",
        )
        .method(
            "nandupgrade",
            &[("path", Kind::String, true)],
            "procd's older name for it",
            "Accepted",
        )
        .method(
            "upgrade",
            &[("path", Kind::String, false)],
            "procd's oldest name for it; without a path nothing is done",
            "Accepted",
        )
        .event("system.shutdown")
        .event(SYSUPGRADE)
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

/// `validate_firmware_image` and `nandupgrade`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Image {
    /// From the root folder on.
    pub path: String,
}

/// `upgrade`. Without a path procd only noted that services were about to be updated.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Upgrade {
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// `sysupgrade`. What only means something to procd's way of doing it is taken and not used.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Sysupgrade {
    /// From the root folder on.
    pub path: String,
    /// Not used: nothing is unpacked to a RAM disk.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Also where nobody whom the device believes has signed it; for root.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Not used: what a device keeps is in no slot.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Not used: the upgrade agent does it.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Not used.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub options: Option<Map<String, Value>>,
}

/// What `validate_firmware_image` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Validation {
    pub tests: Tests,
    pub valid: bool,
    /// `force` would install it all the same.
    pub forceable: bool,
    /// What the device keeps survives.
    pub allow_backup: bool,
    /// Why not, as in `docs/upgrade.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Under procd's names; absent: not known, because something before it was not in order.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Tests {
    /// Enough of those whom the device believes have signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwtool_signature: Option<bool>,
    /// It is for this device, as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwtool_device_match: Option<bool>,
}

/// What `sysupgrade`, `nandupgrade` and `upgrade` answer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Accepted {
    /// What will happen.
    pub text: String,
    /// Arguments that were given and are not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// What became of an installation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ended {
    pub path: String,
    /// The method that was called.
    pub method: String,
    pub result: Installed,
    /// How the upgrade stands, where the agent said so. It may go on: `upgrade.state` tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<upgrade::State>,
    /// Why it failed, as in `docs/upgrade.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Installed {
    /// It is written and verified, and in use or next to be used.
    Done,
    /// All of it ran already.
    Current,
    Failed,
    #[serde(other)]
    Unknown,
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
    fn what_procds_scripts_say_is_understood_and_wrong_types_count_as_absent() {
        let json = r#"{"path":"/tmp/f","prefix":"/tmp/root","force":1,"backup":"/tmp/b.tgz",
            "command":"/lib/upgrade/do_stage2","options":{"save_partitions":1}}"#;
        let args: Sysupgrade = serde_json::from_str(json).unwrap();
        assert_eq!((&*args.path, args.force), ("/tmp/f", false));
        assert!(args.options.is_some() && args.prefix.is_some());
        assert!(serde_json::from_str::<Sysupgrade>(r#"{"force":true}"#).is_err());
    }

    #[test]
    fn a_validation_has_procds_shape() {
        let good = Validation {
            tests: Tests { fwtool_signature: Some(true), fwtool_device_match: Some(true) },
            valid: true,
            allow_backup: true,
            ..Validation::default()
        };
        let json = r#"{"tests":{"fwtool_signature":true,"fwtool_device_match":true},"valid":true,"forceable":false,"allow_backup":true}"#;
        assert_eq!(serde_json::to_string(&good).unwrap(), json);
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
