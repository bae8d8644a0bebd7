//! The log: keeps what the services print, what the kernel and syslog say, and what is written by call.
//!
//! `main` only wires. Read [`machine`] for what is kept and what isn't, [`store`] for where, [`shell`] for the pipes and
//! sockets, and `docs/log.md` for its users.

mod machine;
mod settings;
mod shell;
mod store;

use std::process::ExitCode;

use daemon::{Context, Wrong, options::Spec};

use crate::{settings::Settings, shell::Shell};

const SPEC: Spec = Spec {
    name: "log",
    about: "Keeps what the services print. Started by vestal-supervisor.",
    extra: &[],
    free: None,
};

/// Runs the daemon until it is told to stop.
pub fn main() -> ExitCode {
    daemon::main(&SPEC, run)
}

async fn run(mut daemon: Context) -> anyhow::Result<()> {
    let settings = Settings::load(daemon.places.config.as_deref()).map_err(Wrong)?;
    // Before the store is opened: two may never write it.
    let _lock = daemon.take_over().await?;
    let listener = daemon.listener()?;
    Shell::open(&mut daemon, settings, listener).await?.run(daemon).await
}
