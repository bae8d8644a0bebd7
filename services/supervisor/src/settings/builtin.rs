//! The definitions that are compiled in, so that a device is never left with nothing: the texts of `configs/`, read by the
//! same reader as everybody's.

/// The suite's own daemons. `services.d/NAME.toml` overrides one.
pub(super) const CORE: [(&str, &str); 7] = [
    ("registry", include_str!("../../../../configs/core/registry.toml")),
    ("heartbeat", include_str!("../../../../configs/core/heartbeat.toml")),
    ("config", include_str!("../../../../configs/core/config.toml")),
    ("upgrade", include_str!("../../../../configs/core/upgrade.toml")),
    ("driver", include_str!("../../../../configs/core/driver.toml")),
    ("autorun", include_str!("../../../../configs/core/autorun.toml")),
    ("log", include_str!("../../../../configs/core/log.toml")),
];

/// What a device runs that has no `services.d`.
pub(super) const APPLICATIONS: [(&str, &str); 2] = [
    ("console", include_str!("../../../../configs/device/services.d/console.toml")),
    ("welcome", include_str!("../../../../configs/device/services.d/welcome.toml")),
];

/// What is left when nothing else works, beside the log.
pub(super) const RESCUE: [(&str, &str); 1] =
    [("shell", include_str!("../../../../configs/rescue/shell.toml"))];
