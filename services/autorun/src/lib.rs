//! The autorun engine: arms the device for a hibernation image, and runs targets once, in order, in each life of that image.
//!
//! `main` only wires. Read [`machine`] for the decisions, [`journal`] for what is known from one life to the next, [`image`] for
//! what is known of an image on a device of its own, [`settings`] for `autorun.toml` and the targets in `autorun.d`, [`shell`]
//! for what the decisions do to the machine.

#[expect(unsafe_code, reason = "clone3, and what a child does before it becomes a program")]
mod clone;
pub mod image;
pub mod journal;
mod machine;
mod settings;
mod shell;
#[expect(unsafe_code, reason = "ioctls, swap, and what a child does before it becomes a program")]
mod sys;

use std::process::ExitCode;

use daemon::{
    Context, Wrong,
    options::{Extra, Spec},
};

use crate::shell::{Shell, backend, restore};

const INVALIDATE: &str = "invalidate";
const SPEC: Spec = Spec {
    name: "autorun",
    about: "Arms the device for a hibernation image, and runs targets once in each life of it.",
    extra: &[Extra {
        long: INVALIDATE,
        value: Some("REASON"),
        help: "only invalidates the image, where no engine runs that could",
    }],
    free: None,
};

/// Runs the daemon until it is told to stop, or its part is done.
pub fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some(backend::WRITE) => backend::write(args),
        Some(restore::RESTORE) => restore::restore(),
        Some(restore::MAY_RESUME) => restore::may_resume(),
        _ => daemon::main(&SPEC, run),
    }
}

async fn run(mut daemon: Context) -> anyhow::Result<()> {
    let settings = shell::settings(&daemon.places).map_err(Wrong)?;
    // Two may never write the journal.
    let _lock = daemon.take_over().await?;
    if let Some(reason) = daemon.options.extra(INVALIDATE).flatten() {
        return shell::invalidate(&daemon.places, settings, &reason.to_string_lossy());
    }
    let shell = Shell::open(&mut daemon, settings)?;
    shell.run(daemon).await
}
