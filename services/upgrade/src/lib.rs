//! The upgrade agent: takes signed bundles, writes slots, confirms or goes back.
//!
//! `main` only wires. Two processes: [`net`] is what callers and hosts speak to, and has no rights; [`shell`] is its child, which
//! writes, and believes only what is signed. Read [`engine`] for the decisions and [`settings`] for `upgrade.toml`.

mod boot;
mod channel;
mod disk;
mod engine;
mod net;
mod records;
mod settings;
mod shell;
#[cfg(test)]
mod sim;

use std::process::ExitCode;

use daemon::options::{Extra, Spec};

const SPEC: Spec = Spec {
    name: "upgrade",
    about: "Receives signed bundles and writes them to slots. Started by vestal-supervisor.\n\
            `vestal-upgrade boot-select` is the loader of an initramfs, `vestal-upgrade boot-init` writes the first boot record.",
    extra: &[
        Extra {
            long: "listen",
            value: Some("ADDRESS"),
            help: "where hosts push upgrades to (VESTAL_UPGRADE_LISTEN); without it only the Unix socket",
        },
        Extra {
            long: "writer",
            value: None,
            help: "the writing process; started by the other one",
        },
    ],
    free: None,
};

/// Runs the daemon until it is told to stop.
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = shell::command(&args) {
        return code;
    }
    daemon::main(&SPEC, async |daemon| match daemon.options.has("writer") {
        true => shell::run(daemon).await,
        false => net::run(daemon).await,
    })
}
