//! `vestalctl`: the device's command-line program; under the name `ubus` it is OpenWrt's.
//!
//! It decides nothing about services: it asks the daemons and shows what they answer. `main` only wires.

mod bus;
mod cli;
mod completion;
mod definition;
mod error;
mod format;
mod objects;
mod output;
mod process;
mod reexec;
mod service;
mod signal;
mod status;
mod system;
mod table;
mod ubus;
mod units;

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::Parser as _;

use crate::{
    bus::Bus,
    cli::{Cli, Command, DaemonCommand, Shell},
    error::Error,
    output::Output,
};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().and_then(|name| Path::new(name).file_name());
    let is_ubus = called.is_some_and(|name| name == "ubus");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Error::failed(format!("start the runtime: {error}"))),
    };
    if is_ubus {
        return runtime.block_on(ubus::run(args.into_iter().skip(1).collect()));
    }
    // Prints help, version and mistakes by itself, and exits with 0 or 2.
    let cli = Cli::parse_from(args);
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run(Cli { common, command }: Cli) -> Result<(), Error> {
    let out = Output::new(common.json);
    match command {
        Command::Service(command) => service::run(&common, out, command).await,
        Command::Completion { shell: Shell::Bash } => completion::bash(),
        Command::Status { name } => status::status(&Bus::new(&common)?, out, name.as_deref()).await,
        Command::System(command) => system::run(&Bus::new(&common)?, out, command).await,
        Command::Call { object, method, args, within } => {
            let bus = Bus::new(&common)?;
            objects::call(&bus, &object, &method, args.as_deref(), within.timeout).await
        }
        Command::List { verbose, pattern } => {
            objects::list(&Bus::new(&common)?, out, verbose, pattern.as_deref()).await
        }
        Command::Supervisor(DaemonCommand::Reexec(within)) => {
            reexec::reexec(&Bus::new(&common)?, out, "supervisor", within.timeout).await
        }
        Command::Keeper(DaemonCommand::Reexec(within)) => {
            reexec::reexec(&Bus::new(&common)?, out, "keeper", within.timeout).await
        }
    }
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("vestalctl: {}", table::clean(&error.text));
    ExitCode::from(error.exit as u8)
}
