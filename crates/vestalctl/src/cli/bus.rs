//! The commands that speak of the bus itself, as they are written.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Within;
use crate::units;

#[derive(Args, Debug, Default)]
pub(crate) struct Listen {
    /// Topics; `service.*` for all that begin so; without any all
    #[arg(value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,
    /// Only what the owner of this object publishes
    #[arg(long, value_name = "OBJECT")]
    pub(crate) sender: Option<String>,
    /// Print what was retained before, too; this is the default
    #[arg(long, overrides_with = "no_retained")]
    retained: bool,
    /// Print only what is published from now on
    #[arg(long)]
    no_retained: bool,
    /// Return after so many events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Give up after this time, with exit code 5 where --count was not reached
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

impl Listen {
    /// Of two options the last one counts.
    pub(crate) fn retained(&self) -> bool {
        self.retained || !self.no_retained
    }
}

#[derive(Args, Debug)]
pub(crate) struct WaitFor {
    #[arg(required = true, value_name = "OBJECT")]
    pub(crate) objects: Vec<String>,
    #[command(flatten)]
    pub(crate) within: Within,
}

#[derive(Args, Debug)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    /// What the event says
    #[arg(value_name = "JSON")]
    pub(crate) data: Option<String>,
    /// Stay, so that the registry keeps the event for those who listen later
    #[arg(long)]
    pub(crate) retain: bool,
    /// With --retain: end after this time
    #[arg(long = "for", value_name = "TIME", value_parser = units::parse_duration, requires = "retain")]
    pub(crate) stay: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Monitor {
    /// `OBJECT.METHOD` or a topic; `camera.*` for all that begin so; without any all
    #[arg(value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,
    /// Only calls
    #[arg(long, conflicts_with = "no_calls")]
    pub(crate) no_events: bool,
    /// Only events
    #[arg(long)]
    pub(crate) no_calls: bool,
    /// Return after so many lines
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// How much there is, and who is too slow for its events
    Status,
    /// The rules in force, where they stand, and what is wrong with their files
    Policy {
        /// Only rules that speak of this object or topic
        object: Option<String>,
    },
}
