//! The registry: the well-known endpoint, handle 0.0. Who serves what, who may call it, who died; and broadcast.
//!
//! `main` only wires. Read [`machine`] for the decisions, [`settings`] for the policy files, [`shell`] for the system
//! calls, `docs/registry.md` for what users see and `docs/PROTOCOL.md` for the socket.

mod machine;
mod settings;
mod shell;

use std::process::ExitCode;

use daemon::{Context, options::Spec};

use crate::shell::Shell;

const SPEC: Spec = Spec {
    name: "registry",
    about: "Knows who serves which object, who may call it and who died; passes events on.",
    extra: &[],
    free: None,
};

/// Runs the daemon until it is told to stop.
pub fn main() -> ExitCode {
    daemon::main(&SPEC, run)
}

async fn run(mut daemon: Context) -> anyhow::Result<()> {
    // The state file and the socket's path belong to one registry at a time.
    let _lock = daemon.take_over().await?;
    let listener = daemon.listener()?;
    let shell = Shell::start(daemon, listener)?;
    shell.run().await
}
