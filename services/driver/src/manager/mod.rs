//! The manager: decides who may change a driver's code and to what, keeps the record of it, and sees that each driver has its
//! host. It serves no call of a task, and no host needs it: killed at any moment, the next one brings everything together.
//!
//! Read [`machine`] for what is decided, [`shell`] for how it is done.

mod machine;
mod shell;

use std::process::ExitCode;

use daemon::{
    Context, Wrong,
    options::{Extra, Spec},
};

use crate::settings;

const SPEC: Spec = Spec {
    name: "driver",
    about: "Hosts user-space drivers and replaces their code while tasks keep calling. Started by vestal-supervisor.",
    extra: &[
        Extra { long: "host", value: Some("NAME"), help: "be the host of this driver" },
        Extra { long: "canary", value: None, help: "try the object behind descriptor 3 out" },
    ],
    free: None,
};

/// Runs the manager until it is told to stop.
pub(crate) fn main() -> ExitCode {
    daemon::main(&SPEC, run)
}

async fn run(mut daemon: Context) -> anyhow::Result<()> {
    let settings = settings::load(daemon.places.config.as_deref()).map_err(Wrong)?;
    // Before a record is read: two may never write it.
    let _lock = daemon.take_over().await?;
    let listener = daemon.listener()?;
    shell::Shell::open(&daemon, settings, listener)?.run(daemon).await
}
