//! The heartbeat broker: receives heartbeats over Reliable UDP and says who is alive, late or gone.
//!
//! `main` only wires. Read [`machine`] for the decisions, [`settings`] for `heartbeat.toml`, [`shell`] for the sockets, and
//! `README.md` beside this folder for its users.

mod machine;
mod settings;
mod shell;

use std::process::ExitCode;

use daemon::{
    Context, Wrong,
    options::{Extra, Spec},
};

use crate::shell::Shell;

const SPEC: Spec = Spec {
    name: "heartbeat",
    about: "Receives heartbeats over Reliable UDP and says who is alive, late or gone.",
    extra: &[Extra {
        long: "listen",
        value: Some("ADDR"),
        help: "UDP addresses with commas (VESTAL_HEARTBEAT_LISTEN); port 0 takes a free one",
    }],
    free: None,
};

/// Runs the daemon until it is told to stop.
pub fn main() -> ExitCode {
    daemon::main(&SPEC, run)
}

async fn run(mut daemon: Context) -> anyhow::Result<()> {
    let settings = shell::settings(&daemon).map_err(Wrong)?;
    // Two may never read the same UDP socket.
    let _lock = daemon.take_over().await?;
    let shell = Shell::open(&mut daemon, settings)?;
    shell.run(daemon).await
}
