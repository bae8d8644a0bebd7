//! `vestalctl service ...`, as it is written.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::{Import, Within};
use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// What the `service` object lists; procd's shape with --json
    List {
        name: Option<String>,
        /// Print everything, triggers and validation rules too
        #[arg(short, long)]
        verbose: bool,
    },
    /// Define a service, or replace its definition
    Set(Define),
    /// Add instances to a service, or define it
    Add(Define),
    /// Start what is stopped
    Start(Order),
    /// Stop it, with a grace period
    Stop(Order),
    /// Stop and start
    Restart(Order),
    /// Let it read its configuration again
    Reload(Order),
    /// Keep it from running, with all that it has in memory
    Freeze(Freeze),
    /// Let it run again
    Thaw {
        name: String,
        /// Only this instance
        instance: Option<String>,
    },
    /// Stop and forget a service, or one instance of it
    Delete(Order),
    /// Send a signal to a service, or to one instance of it
    #[command(override_usage = "vestalctl service signal [OPTIONS] <NAME> [INSTANCE] <SIGNAL>")]
    Signal {
        name: String,
        /// TERM, SIGTERM or 15
        #[arg(num_args = 1..=2, required = true, value_names = ["INSTANCE", "SIGNAL"])]
        target: Vec<String>,
    },
    /// Read definition files and say what is wrong with them; starts nothing
    Check {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Show the definition that a script of /etc/init.d makes; starts nothing of it
    Import(Import),
    /// Start the program on disk beside the old one, then switch; callers see a pause
    Replace {
        name: String,
        /// Only this instance
        instance: Option<String>,
        /// Give up after this time, with exit code 5
        #[arg(long, value_name = "TIME", default_value = "2m", value_parser = units::parse_duration)]
        timeout: Duration,
    },
    /// Switch a service on or off without forgetting it
    State {
        name: String,
        #[arg(action = clap::ArgAction::Set)]
        spawn: bool,
    },
    /// Print the free data of services and instances
    GetData { name: Option<String> },
    /// Read the definition files again
    Reread,
    /// Mark all instances; what `service add` does not renew is stopped by update-complete
    UpdateStart { name: String },
    /// Stop what was marked by update-start and not added since
    UpdateComplete { name: String },
}

#[derive(Args, Debug)]
pub(crate) struct Define {
    /// TOML or procd's JSON message; `-` is standard input
    pub(crate) file: PathBuf,
    /// Name of the service; without it the name of the TOML file, or what the JSON says
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Order {
    pub(crate) name: String,
    /// Only this instance
    pub(crate) instance: Option<String>,
    /// Return when it is done; this is the default
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return when it is accepted
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    pub(crate) within: Within,
}

#[derive(Args, Debug)]
pub(crate) struct Freeze {
    pub(crate) name: String,
    /// Only this instance
    pub(crate) instance: Option<String>,
    /// What still runs after this time lets all of it run again; at most 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::parse_duration)]
    pub(crate) timeout: Duration,
}

impl Order {
    /// Whether to return only when it is done; of two options the last one counts.
    pub(crate) fn waits(&self) -> bool {
        self.wait || !self.no_wait
    }
}
