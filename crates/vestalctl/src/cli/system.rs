//! `vestalctl system ...`, as it is written.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::signal;

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Kernel, processor, model, release
    Board,
    /// Uptime, load, memory, file systems
    Info,
    /// Show or change how the hardware watchdog is fed
    Watchdog(Watchdog),
    /// Send a signal to any process
    Signal {
        pid: i32,
        /// TERM, SIGTERM or 15
        #[arg(value_parser = signal::parse, allow_hyphen_values = true)]
        signal: i32,
    },
    /// Stop all services and start the device anew
    Reboot(Ending),
    /// Stop all services and switch the device off
    Poweroff(Ending),
    /// Stop all services and stop the processor
    Halt(Ending),
    /// Whether the upgrade agent would take this bundle; writes nothing
    Validate { bundle: PathBuf },
    /// Let the supervisor install a bundle, as procd's sysupgrade does; returns when it is accepted
    Sysupgrade {
        bundle: PathBuf,
        /// Also where nobody whom the device believes has signed it; for root
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args, Debug, Default)]
pub(crate) struct Ending {
    /// Why: `boot blame` tells it after the next boot
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum BootCommand {
    /// Why there was a boot, and how long each service took until it was ready
    Blame,
    /// Who waited for whom, from the first service to the one that was ready last
    Chain,
}

#[derive(Args, Debug, Default)]
pub(crate) struct Watchdog {
    /// Seconds between two feeds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) frequency: Option<u32>,
    /// Seconds without a feed until the hardware resets the device
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// Whether closing the device disarms it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) magic_close: Option<bool>,
    /// Stop feeding it
    #[arg(long, conflicts_with = "start")]
    pub(crate) stop: bool,
    /// Feed it again
    #[arg(long)]
    pub(crate) start: bool,
}
