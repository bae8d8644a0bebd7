//! `vestalctl`: the device's command-line program; under the names of OpenWrt's programs it is these.
//!
//! It decides nothing about services: it asks the daemons and shows what they answer. `main` only wires.

mod applets;
mod autorun;
mod boot;
mod bus;
mod cli;
mod completion;
mod config;
mod definition;
mod driver;
mod error;
mod events;
mod format;
mod heartbeat;
mod import;
mod lines;
mod logs;
mod monitor;
mod objects;
mod output;
mod process;
mod reexec;
mod registry;
mod replace;
mod service;
mod signal;
mod stamp;
mod status;
mod system;
mod table;
#[cfg(feature = "top")]
mod top;
mod ubus;
mod units;
mod upgrade;

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::Parser as _;

use crate::{
    bus::Bus,
    cli::{Cli, Command, DaemonCommand, HeartbeatCommand, Shell},
    error::Error,
    output::Output,
};

/// What errors begin with.
const NAME: &str = "vestalctl";

/// Does what the command line says, under whichever of its names it was called.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().and_then(|name| Path::new(name).file_name());
    let called = called.and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if let Some(ended) = applets::run(&called, args.get(1..).unwrap_or_default()) {
        return ended;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(NAME, &Error::failed(format!("start the runtime: {error}"))),
    };
    let words = || args.iter().skip(1).cloned().collect();
    let ended = match &*called {
        "ubus" => return runtime.block_on(ubus::run(words())),
        "logread" => runtime.block_on(logs::applets::logread(words())),
        "logger" => runtime.block_on(logs::applets::logger(words())),
        "service" => return runtime.block_on(applets::service::list()),
        "reload_config" => runtime.block_on(applets::reload_config::run()),
        _ => return vestalctl(&runtime, args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&called, &error),
    }
}

fn vestalctl(runtime: &tokio::runtime::Runtime, args: Vec<OsString>) -> ExitCode {
    // Prints help, version and mistakes by itself, and exits with 0 or 2.
    let cli = Cli::parse_from(args);
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(NAME, &error),
    }
}

async fn run(Cli { common, command }: Cli) -> Result<(), Error> {
    let out = Output::new(common.json);
    match command {
        Command::Service(command) => service::run(&common, out, command).await,
        Command::Completion { shell: Shell::Bash } => completion::bash(),
        Command::Status { name } => status::status(&Bus::new(&common)?, out, name.as_deref()).await,
        Command::Config(command) => config::run(&Bus::new(&common)?, out, command).await,
        Command::Event(given) => config::event(&Bus::new(&common)?, out, &given).await,
        Command::System(command) => system::run(&Bus::new(&common)?, out, command).await,
        Command::Boot(command) => boot::run(&Bus::new(&common)?, out, command).await,
        Command::Call { object, method, args, within } => {
            let bus = Bus::new(&common)?;
            objects::call(&bus, &object, &method, args.as_deref(), within.timeout).await
        }
        Command::List { verbose, pattern } => {
            objects::list(&Bus::new(&common)?, out, verbose, pattern.as_deref()).await
        }
        Command::Listen(given) => events::listen(&Bus::new(&common)?, out, &given).await,
        Command::WaitFor(given) => events::wait_for(&Bus::new(&common)?, out, &given).await,
        Command::Publish(given) => events::publish(&Bus::new(&common)?, out, &given).await,
        Command::Monitor(given) => monitor::monitor(&Bus::new(&common)?, out, &given).await,
        Command::Registry(command) => registry::run(&Bus::new(&common)?, out, command).await,
        Command::Heartbeat(HeartbeatCommand::List) => {
            heartbeat::list(&Bus::new(&common)?, out).await
        }
        Command::Autorun(command) => autorun::run(&Bus::new(&common)?, out, command).await,
        Command::Hibernate(given) => autorun::hibernate(&Bus::new(&common)?, out, &given).await,
        Command::Suspend(sleeping) => autorun::suspend(&Bus::new(&common)?, out, sleeping).await,
        Command::Upgrade(command) => upgrade::run(&Bus::new(&common)?, &common, out, command).await,
        Command::Driver(command) => driver::run(&Bus::new(&common)?, &common, out, command).await,
        Command::Log(given) => logs::log(&common, out, &given).await,
        Command::LogLevel(given) => logs::level(&Bus::new(&common)?, out, &given).await,
        #[cfg(feature = "top")]
        Command::Top => top::run(&Bus::new(&common)?).await,
        Command::Supervisor(DaemonCommand::Reexec(within)) => {
            reexec::reexec(&Bus::new(&common)?, out, "supervisor", within.timeout).await
        }
        Command::Keeper(DaemonCommand::Reexec(within)) => {
            reexec::reexec(&Bus::new(&common)?, out, "keeper", within.timeout).await
        }
    }
}

fn failed(name: &str, error: &Error) -> ExitCode {
    eprintln!("{name}: {}", table::clean(&error.text));
    ExitCode::from(error.exit as u8)
}
