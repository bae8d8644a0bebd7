//! `vestalctl driver ...`, as it is written.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::Within;
use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum DriverCommand {
    /// All drivers of driver.toml, and how each stands
    List,
    /// Start the host of a driver
    Load { name: String },
    /// Stop it; whoever has it open has lost it
    Unload { name: String },
    /// Replace a driver's code while tasks go on calling it
    Upgrade(DriverUpgrade),
    /// Go back to the version before
    Rollback {
        name: String,
        /// Why, for the log
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Show the calls of functions or operations as they are made, or the driver's state again and again
    Probe(DriverProbe),
    /// The functions of a driver as they are in memory, and where their entries lead
    Map { name: String },
    /// Open a driver, make one call and close it
    Call(DriverCall),
    /// The driver's inner state, by name
    State { name: String },
}

#[derive(Args, Debug)]
pub(crate) struct DriverUpgrade {
    pub(crate) name: String,
    /// A bundle; with --dev a shared object
    pub(crate) file: PathBuf,
    /// Hand over a bare object, without bundle and signature; for root, where driver.toml says `dev = true`
    #[arg(long)]
    pub(crate) dev: bool,
    /// How the new code comes in place of the old one; else as driver.toml says
    #[arg(long, requires = "dev", value_enum)]
    pub(crate) mode: Option<Way>,
    /// The version that the object itself names; with --dev
    #[arg(long, requires = "dev", required_if_eq("dev", "true"), value_name = "TEXT")]
    pub(crate) version: Option<String>,
    /// Return when the new code serves, before it has proved itself
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Give up looking after this time, with exit code 5; the device goes on
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = units::parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Way {
    /// The table of operations
    Table,
    /// A jump at the entry of each function
    Jump,
}

#[derive(Args, Debug)]
pub(crate) struct DriverProbe {
    pub(crate) name: String,
    /// Functions (see `driver map`) or operations, such as write
    #[arg(value_name = "FUNCTION", required_unless_present = "state")]
    pub(crate) functions: Vec<String>,
    /// Show the driver's state instead
    #[arg(long, conflicts_with = "functions")]
    pub(crate) state: bool,
    /// How often the table or the state is shown
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::parse_duration)]
    pub(crate) every: Duration,
    /// Return after so many calls, or looks at the state
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct DriverCall {
    pub(crate) name: String,
    /// read, write, ioctl, poll, or an operation of the driver's own by name or number
    pub(crate) operation: String,
    /// The command of `ioctl`, decimal or 0x
    #[arg(long, value_name = "N", value_parser = units::parse_number)]
    pub(crate) ioctl: Option<u32>,
    /// What the call takes, as hexadecimal digits
    #[arg(long, value_name = "DIGITS", group = "argument")]
    pub(crate) hex: Option<String>,
    /// What the call takes, as a text
    #[arg(long, group = "argument")]
    pub(crate) text: Option<String>,
    /// What the call takes, from a file
    #[arg(long, value_name = "FILE", group = "argument")]
    pub(crate) file: Option<PathBuf>,
    /// Most bytes that are read or answered
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub(crate) room: u32,
    #[command(flatten)]
    pub(crate) within: Within,
}
