//! Valid settings: which components the device has, where their slots are, and how they come into use. Made in [`file`].

pub(crate) mod file;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::engine::contract::{Activation, ComponentRules, Rules};

/// What `upgrade.toml` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Settings {
    pub(crate) product: String,
    pub(crate) revision: String,
    /// TLS; without it there is only the Unix socket.
    pub(crate) listen: Option<SocketAddr>,
    /// `finish` activates, unless its caller says otherwise.
    pub(crate) activate: bool,
    pub(crate) boot_control: BootControlSettings,
    pub(crate) health: Health,
    /// A set that is not confirmed so long after a boot is rebooted by the supervisor.
    pub(crate) trial_limit: Duration,
    pub(crate) components: Vec<Component>,
    /// What a person should know and may have meant: written to the log at the start.
    pub(crate) warnings: Vec<String>,
}

/// Which boot loader is talked to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BootControlSettings {
    pub(crate) kind: BootKind,
    /// Boots that a new set is given.
    pub(crate) tries: u32,
}

/// How it is talked to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum BootKind {
    /// Nothing of this device is upgraded by a reboot.
    None,
    /// Our own record, read by `vestal-upgrade boot-select`.
    File { path: PathBuf },
    /// U-Boot's environment, where `fw_env.config` says.
    Uboot { config: PathBuf },
    /// GRUB's environment block.
    Grub { device: PathBuf, offset: u64 },
}

/// When a new version counts as good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Health {
    pub(crate) timeout: Duration,
    pub(crate) stable: Duration,
    /// Program and arguments that must exit with 0; empty: none.
    pub(crate) command: Vec<String>,
}

/// One component.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Component {
    pub(crate) name: String,
    /// One or two: A, B.
    pub(crate) slots: Vec<Target>,
    pub(crate) activation: Activation,
    pub(crate) directory: bool,
    /// How what uses it finds the slot; only where it is restarted.
    pub(crate) method: Option<Method>,
    /// The driver that it is the code of; only of those.
    pub(crate) driver: Option<String>,
    /// Stopped before a switch, in this order, and started after it; where code is loaded into memory only watched.
    pub(crate) services: Vec<String>,
}

/// Where a slot is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    /// Where it begins, in bytes; whole blocks.
    pub(crate) offset: u64,
    /// How long it is; absent: to the end of the file or device.
    pub(crate) size: Option<u64>,
}

/// What points to the slot in use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    Symlink {
        link: PathBuf,
    },
    Bind {
        link: PathBuf,
    },
    /// A device-mapper name or loop device that shows the slot's image.
    Device {
        link: PathBuf,
    },
}

impl Settings {
    /// What the engine goes by.
    pub(crate) fn rules(&self) -> Rules {
        let components = self.components.iter().map(|component| ComponentRules {
            name: component.name.clone(),
            single: component.slots.len() == 1,
            activation: component.activation,
            directory: component.directory,
        });
        Rules {
            product: self.product.clone(),
            revision: self.revision.clone(),
            components: components.collect(),
            tries: self.boot_control.tries,
            activate: self.activate,
            health_timeout: self.health.timeout,
            stable: self.health.stable,
        }
    }
}
