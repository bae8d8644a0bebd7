//! The host of one driver: the process that its code lives in. It serves the tasks, keeps count of their calls, writes the
//! state down, and swaps the code when the manager says so. It needs no manager to go on.
//!
//! Read [`core`] for how a call comes in, [`machine`] for what is decided, [`shell`] for how it is done.

pub(crate) mod core;
pub(crate) mod machine;
pub(crate) mod shell;

use std::process::ExitCode;

use daemon::{
    Context, Wrong,
    lock::Lock,
    options::{Extra, Spec},
};

use self::shell::Shell;
use crate::settings::{self, Driver};

/// Runs the host of this driver until it is told to stop.
pub(crate) fn main(name: &str) -> ExitCode {
    let spec = Spec {
        // The name of its socket and its service; a process is the host of one driver.
        name: Box::leak(format!("driver.{name}").into_boxed_str()),
        about: "Hosts one driver. Started by vestal-supervisor, as vestal-driver says.",
        extra: &[Extra { long: "host", value: Some("NAME"), help: "be the host of this driver" }],
        free: None,
    };
    daemon::main(&spec, |daemon| run(daemon, name.to_owned()))
}

async fn run(mut daemon: Context, name: String) -> anyhow::Result<()> {
    let driver = settings(&daemon, &name).map_err(Wrong)?;
    let folder = daemon.places.run.join("driver").join(&name);
    shell::make_folder(&folder)?;
    // In the host's own folder: in the run directory it may not write. Two may never write the journal.
    let _lock = Lock::take(&folder, "host")?;
    let listener = daemon.listener()?;
    Shell::open(&daemon, &name, driver, listener)?.run(daemon).await
}

/// What driver.toml says of this driver.
fn settings(daemon: &Context, name: &str) -> Result<Driver, String> {
    let mut settings = settings::load(daemon.places.config.as_deref())?;
    settings.drivers.remove(name).ok_or_else(|| {
        let known: Vec<_> = settings.drivers.keys().map(String::as_str).collect();
        format!(
            "--host {name:?}: {} names no such driver, it names: {}",
            settings::FILE,
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )
    })
}
