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

/// Topic of the moment when everything that the boot wanted is ready or done; once a boot.
pub const READY: &str = "system.ready";

/// Longest reason for a shutdown that is kept, in bytes.
pub const REASON_MAX: usize = 256;

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
            &[("reason", Kind::String, false)],
            "stop everything, then reboot (where the keeper is PID 1)",
            "what will happen",
        )
        .method(
            "poweroff",
            &[("reason", Kind::String, false)],
            "stop everything, then power off (where the keeper is PID 1)",
            "what will happen",
        )
        .method(
            "halt",
            &[("reason", Kind::String, false)],
            "stop everything, then halt (where the keeper is PID 1)",
            "what will happen",
        )
        .method("boot", &[], "why this boot is there, and how long each service took", "Boot")
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
        .event(READY)
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

/// `reboot`, `poweroff` and `halt`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Shutdown {
    /// Why, for whoever asks after the next boot; at most [`REASON_MAX`] bytes.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `boot` answers. Milliseconds since the kernel started, where the device is ours; elsewhere since the keeper did.
/// What isn't known, or hasn't happened, is left out.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Boot {
    /// Why the boot before this one ended. Only where the keeper is PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
    /// Why only the rescue set runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<String>,
    /// How long kernel and initramfs took: when the keeper began. Only where the device is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper_ms: Option<u64>,
    /// When the first supervisor began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor_ms: Option<u64>,
    /// When the last service that the boot wanted became ready or done: set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_ready_ms: Option<u64>,
    /// The services that this waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// What was started until then, in the order of the first starts.
    #[serde(default)]
    pub services: Vec<Booted>,
}

/// One instance's first start since the boot.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Booted {
    /// The service.
    pub name: String,
    pub instance: String,
    pub spawned_ms: u64,
    /// When it was first ready, or done; restarts until then are part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<u64>,
    /// From the one to the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// A daemon of the suite, for which applications wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub core: bool,
    /// The services that it says it waits for, and that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
}

/// Why there was a boot.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reset {
    pub cause: Cause,
    /// Who asked, why, or what is known of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The boot that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_boot_id: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing is remembered of a boot before this one.
    First,
    /// Somebody asked for it.
    Ordered,
    /// A service that must not fail did.
    Critical,
    /// Nobody called the boot good in time.
    Trial,
    /// The hardware watchdog.
    Watchdog,
    /// No power any more, or a crash: nobody had asked, and no watchdog says that it was him.
    Power,
    /// What is remembered can't be read; or a newer version's word.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Cause {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Ordered => "ordered",
            Self::Critical => "critical",
            Self::Trial => "trial",
            Self::Watchdog => "watchdog",
            Self::Power => "power",
            Self::Unknown => "unknown",
        }
    }

    /// Worth a word where nobody asked: neither the first boot nor one that was wanted.
    #[must_use]
    pub fn is_bad(self) -> bool {
        !matches!(self, Self::First | Self::Ordered)
    }
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
    fn a_boot_leaves_out_what_is_not_known_and_takes_a_newer_versions_cause() {
        let empty = r#"{"services":[]}"#;
        assert_eq!(serde_json::to_string(&Boot::default()).unwrap(), empty);
        assert_eq!(serde_json::from_str::<Boot>("{}").unwrap(), Boot::default());
        let reset: Reset = serde_json::from_str(r#"{"cause":"meteorite"}"#).unwrap();
        assert_eq!(reset.cause, Cause::Unknown);
        for cause in [Cause::First, Cause::Ordered, Cause::Critical, Cause::Trial] {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.word());
        }
        for cause in [Cause::Watchdog, Cause::Power, Cause::Unknown] {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.word());
            assert!(cause.is_bad());
        }
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
