//! `vestal`: the engineer's command-line program. It makes keys, keyrings and bundles, and sends these to devices.
//! `main` only wires; each command has a file.

mod bundle_create;
mod bundle_inspect;
mod bundle_sign;
mod bundle_verify;
mod cli;
mod directory;
mod error;
mod files;
mod keygen;
mod keyring;
mod keys;
mod output;
mod permission;
mod progress;
mod recipe;
mod remote;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    cli::{BundleCommand, Cli, Command, KeyringCommand, PermissionCommand},
    error::Error,
    output::Output,
};

fn main() -> ExitCode {
    // Prints help, version and mistakes by itself, and exits with 0 or 2.
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vestal: {}", output::clean(&error.text));
            ExitCode::from(error.exit as u8)
        }
    }
}

fn run(Cli { json, command }: Cli) -> Result<(), Error> {
    let out = Output { json };
    match command {
        Command::Keygen(given) => keygen::run(out, &given),
        Command::Keyring(KeyringCommand::Create(given)) => keyring::create(out, &given),
        Command::Keyring(KeyringCommand::Sign(given)) => keyring::sign(out, &given),
        Command::Keyring(KeyringCommand::Show(given)) => keyring::show(out, &given.file),
        Command::Permission(PermissionCommand::Create(given)) => permission::create(out, &given),
        Command::Permission(PermissionCommand::Sign(given)) => permission::sign(out, &given),
        Command::Remote(command) => remote::run(out, command),
        Command::Bundle(BundleCommand::Create(given)) => bundle_create::run(out, &given),
        Command::Bundle(BundleCommand::Inspect(given)) => bundle_inspect::run(out, &given.file),
        Command::Bundle(BundleCommand::Sign(given)) => bundle_sign::run(out, &given),
        Command::Bundle(BundleCommand::Verify(given)) => bundle_verify::run(out, &given),
    }
}
