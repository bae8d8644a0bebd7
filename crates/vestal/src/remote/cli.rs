//! The commands that speak with a device, as they are written.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum RemoteCommand {
    /// Upgrade a device: only what it does not have travels
    Push(Push),
    /// How the upgrade of a device stands
    Status(Target),
    /// What is in which slot of a device
    Slots(Target),
    /// Keep what is on trial, without waiting for its health
    Confirm(Target),
    /// Go back to what ran before
    Rollback(Back),
    /// Hand a permission to a device: the next push of its bundle may go below the rollback floor
    Permit(Permit),
    /// What was done on a device, newest last
    History(Target),
    /// The keys by which devices are known
    #[command(subcommand)]
    Trust(TrustCommand),
}

/// A device, and the key it is spoken to with.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// Name or address, and the port where it is not 7421
    #[arg(value_name = "DEVICE[:PORT]")]
    pub(crate) device: String,
    #[command(flatten)]
    pub(crate) operator: Operator,
}

#[derive(Args, Debug)]
pub(crate) struct Operator {
    /// A secret key of role operator (default: operator.key beside devices.json)
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Push {
    pub(crate) bundle: PathBuf,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Check everything on the device, write nothing
    #[arg(long, conflicts_with_all = ["no_activate", "wait"])]
    pub(crate) dry_run: bool,
    /// Write and verify it, but let the device go on with what runs
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_activate: bool,
    /// Return when it is confirmed (0) or went back (1)
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up looking after so many seconds, with exit code 5; the device goes on
    #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Permit {
    #[command(flatten)]
    pub(crate) target: Target,
    /// What vestal permission create wrote; its signatures are in FILE.sig
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Back {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only this one
    #[arg(long, value_name = "NAME")]
    pub(crate) component: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Ask a device for its key, and remember it
    Add(TrustAdd),
    /// The devices that are known
    List,
    /// Forget a device's key
    Remove {
        #[arg(value_name = "DEVICE[:PORT]")]
        device: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct TrustAdd {
    /// Name or address, and the port where it is not 7421
    #[arg(value_name = "DEVICE[:PORT]")]
    pub(crate) device: String,
    /// What `vestalctl upgrade identity` shows on the device; without it you are asked to compare
    #[arg(long, value_name = "HEX")]
    pub(crate) fingerprint: Option<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let count = text.parse().ok().filter(|count| (1..=86_400).contains(count));
    count.map(Duration::from_secs).ok_or_else(|| format!("{text:?}: write seconds, 1 to 86400"))
}
