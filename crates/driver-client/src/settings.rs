//! Where the device's sockets are, and how long a call may take.

use std::{env, path::PathBuf, time::Duration};

/// How a driver is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the sockets are. By default `VESTAL_RUN_DIR`, which services are given, else `/run/vestal`.
    pub run_dir: PathBuf,
    /// How long one call may take, an upgrade or a restart of the host included; `None`: for ever. It begins when earlier calls
    /// of the handle have ended. By default 30 seconds.
    pub timeout: Option<Duration>,
    /// How long a host that is not there at all is waited for. By default 5 seconds.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let run_dir = env::var_os("VESTAL_RUN_DIR").filter(|value| !value.is_empty());
        Self {
            run_dir: run_dir.map_or_else(|| "/run/vestal".into(), PathBuf::from),
            timeout: Some(Duration::from_secs(30)),
            patience: Duration::from_secs(5),
        }
    }
}
