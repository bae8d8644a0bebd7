//! The watcher: sees changes of configuration files that mean something, and tells the supervisor.
//!
//! `main` only wires. Read [`machine`] for what is announced and when, [`shell`] for inotify, files and sockets, and
//! `docs/config.md` for its users.

mod machine;
mod settings;
mod shell;

use std::process::ExitCode;

use daemon::{Context, Wrong, options::Spec};

use crate::{settings::Settings, shell::Shell};

const SPEC: Spec = Spec {
    name: "config",
    about: "Sees changes of configuration files that mean something. Started by vestal-supervisor.",
    extra: &[],
    free: None,
};

/// Runs the daemon until it is told to stop.
pub fn main() -> ExitCode {
    daemon::main(&SPEC, run)
}

async fn run(mut daemon: Context) -> anyhow::Result<()> {
    let settings = Settings::load(&daemon.places).map_err(Wrong)?;
    // Before the record is read: two may never write it.
    let _lock = daemon.take_over().await?;
    let listener = daemon.listener()?;
    Shell::open(&daemon, settings, listener)?.run(daemon).await
}
