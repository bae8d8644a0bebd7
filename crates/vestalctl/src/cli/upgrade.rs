//! `vestalctl upgrade ...`, as it is written.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// Write a bundle to the slots that are not in use, verify it, and switch
    Install(Install),
    /// How the upgrade stands
    Status,
    /// What is in which slot
    Slots,
    /// Keep what is on trial, without waiting for its health
    Confirm,
    /// Go back to what ran before
    Rollback {
        /// Only this one
        component: Option<String>,
    },
    /// What was done, newest last
    History,
    /// Who this device is to a host: compare with what `vestal trust add` shows
    Identity,
    /// Give up what is being installed; what was written is used by the next one
    Abort,
    /// Let one bundle go below the rollback floor, once: `vestal permission create` makes FILE
    Permit {
        /// Its signatures, of recovery keys, are in FILE.sig
        file: PathBuf,
    },
    /// Whom this device believes
    #[command(subcommand)]
    Keyring(KeyringCommand),
}

#[derive(Args, Debug)]
pub(crate) struct Install {
    /// A file, or - for standard input
    pub(crate) bundle: PathBuf,
    /// Take it without a valid signature; for root, and written down in the history
    #[arg(long)]
    pub(crate) allow_unsigned: bool,
    /// Check everything, write nothing
    #[arg(long, conflicts_with_all = ["no_activate", "wait"])]
    pub(crate) dry_run: bool,
    /// Write and verify it, but go on with what runs
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_activate: bool,
    /// Return when it is confirmed (0) or went back (1)
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up looking after this time, with exit code 5; the device goes on
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = units::parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyringCommand {
    /// Believe these keys from now on; the root keys of the old keyring must have signed it too
    Install {
        /// Its signatures are in FILE.sig
        file: PathBuf,
    },
}
