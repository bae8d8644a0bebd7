//! `vestalctl autorun ...`, `hibernate` and `suspend`, as they are written.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum AutorunCommand {
    /// Prepare everything for an image; who writes it is another program
    Arm(Sleeping),
    /// Take the preparation back
    Disarm(Sleeping),
    /// How it stands, and how each target ended
    Status,
    /// Run targets now, as after a resume
    Run {
        /// All of them without a name
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        #[command(flatten)]
        sleeping: Sleeping,
    },
    /// Whether arming would work; changes nothing. Exits with 1 where it would not
    Check,
    /// The image must not be resumed any more
    Invalidate {
        /// Why, for the log
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Somebody else wrote the image, and this is the life after it
    NotifyPost { kind: Kind },
}

/// Something that takes as long as services, file systems and disks want.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Sleeping {
    /// Give up looking after this time, with exit code 5; the device goes on
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = units::parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Hibernate {
    /// What writes the image, where it isn't what the settings say
    #[arg(long, value_name = "NAME")]
    pub(crate) back_end: Option<String>,
    #[command(flatten)]
    pub(crate) sleeping: Sleeping,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Kind {
    Hibernate,
    Suspend,
}
