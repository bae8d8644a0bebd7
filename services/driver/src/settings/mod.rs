//! What `CONFIG_DIR/driver.toml` says: the drivers of this device. The manager reads all of it, a host its own driver's part.
//! A driver that isn't in the file does not exist.

mod file;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use protocol::driver::Mode;

pub(crate) use self::file::{is_name, load};

/// The file's name, below the configuration folder.
pub(crate) const FILE: &str = "driver.toml";

/// All drivers, by name. Without a file there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) drivers: BTreeMap<String, Driver>,
}

/// One driver.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Driver {
    /// The factory version: what serves until something is upgraded.
    pub(crate) object: PathBuf,
    /// Who its host runs as; nothing: `vestal-driver`.
    pub(crate) user: Option<String>,
    /// The name of its character device below `/dev`, where it has one.
    pub(crate) device: Option<String>,
    /// How long a new version has to prove itself.
    pub(crate) probation: Duration,
    /// How long callers may take to leave before an upgrade is given up.
    pub(crate) drain: Duration,
    /// Threads that carry out calls.
    pub(crate) threads: usize,
    /// How often the state is written down, if there were calls.
    pub(crate) checkpoint: Duration,
    /// By how much the share of failed calls may grow during the probation: 0.05 is five in a hundred.
    pub(crate) max_errors: f64,
    /// How many times as long as before the slowest hundredth of the calls may take during the probation.
    pub(crate) max_latency: f64,
    /// By how many bytes the host's memory may grow during the probation.
    pub(crate) max_memory: u64,
    /// A call that is inside the driver for longer, waiting for nothing, hangs.
    pub(crate) hang: Duration,
    /// Objects without a signed bundle are taken.
    pub(crate) dev: bool,
    /// How new code comes in place of the old one, where an upgrade doesn't say.
    pub(crate) mode: Mode,
}
