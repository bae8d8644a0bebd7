//! `vestalctl config ...`, as it is written.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Compare now, and announce what changed
    Reload(Selected),
    /// What is watched, and how it stands
    Status,
    /// What the files say, without how they are written
    Show(Selected),
    /// What changed since it was last announced
    Diff(Selected),
    /// Check against the rules of the services; exit code 1 where something is not allowed
    Validate(Selected),
    /// Reload, and go back unless `config confirm` comes in time
    Apply {
        /// Go back after this time
        #[arg(long, value_name = "SECONDS", value_parser = units::parse_duration)]
        confirm: Duration,
    },
    /// Keep what was applied
    Confirm,
    /// Put back what was last announced
    Revert { package: String },
}

#[derive(Args, Debug)]
pub(crate) struct Selected {
    /// Only this file of the configuration
    pub(crate) package: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Event {
    /// As in a trigger: config.change, interface.wan.up
    #[arg(value_name = "TYPE")]
    pub(crate) kind: String,
    /// What triggers may look at; an object
    #[arg(value_name = "JSON")]
    pub(crate) data: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// A script of /etc/init.d
    #[arg(value_name = "SCRIPT")]
    pub(crate) file: std::path::PathBuf,
    /// Print procd's message instead of TOML
    #[arg(long)]
    pub(crate) message: bool,
}
