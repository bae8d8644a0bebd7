//! The supervisor: decides what runs, and tells the keeper.
//!
//! `main` only wires. Read [`machine`] for the decisions, [`settings`] for what can be written in a definition, [`shell`]
//! for the system calls, and `docs/PROTOCOL.md` for the sockets.

mod listing;
mod machine;
mod settings;
mod shell;

use std::{path::PathBuf, process::ExitCode};

use daemon::{
    Context, Wrong,
    options::{Extra, Spec},
};

use crate::shell::Channel;

const SPEC: Spec = Spec {
    name: "supervisor",
    about: "Starts, watches and restarts what the definitions say. Started by vestal-keeper.",
    extra: &[
        Extra { long: "rescue", value: None, help: "start the rescue set only" },
        Extra {
            long: "check",
            value: None,
            help: "say what is wrong with the definition files FILE...; start nothing",
        },
        Extra {
            long: "check-state",
            value: None,
            help: "say whether this binary can take over; start nothing",
        },
    ],
    free: Some("FILE"),
};

/// Runs the daemon until it is told to stop.
pub fn main() -> ExitCode {
    daemon::main(&SPEC, run)
}

async fn run(daemon: Context) -> anyhow::Result<()> {
    if daemon.options.has("check-state") {
        return shell::check_state(&daemon.places);
    }
    let files: Vec<PathBuf> = daemon.options.free.iter().map(PathBuf::from).collect();
    if daemon.options.has("check") {
        return shell::check_files(&daemon.places, &files);
    }
    if let Some(file) = files.first() {
        anyhow::bail!(Wrong(format!(
            "unexpected argument {}; --check looks at files",
            file.display()
        )));
    }
    let channel = Channel::inherited().map_err(|error| Wrong(format!("{error:#}")))?;
    let _lock = daemon.lock()?;
    let shell = shell::start(&daemon, channel).await?;
    shell.run(daemon.shutdown, daemon.reload).await
}
