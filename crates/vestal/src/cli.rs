//! The command line: what can be written, and what it is called in `--help`. Does nothing.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::remote::RemoteCommand;

/// A recipe that shows every key.
const RECIPE: &str = r#"A recipe:
  product = "demo-board"
  revisions = ["a1", "a2"]               # ["*"]: all of them
  version = "2.4.1"
  build = "ci 4711"                      # optional
  activate = "reboot"                    # optional: even where the device would do less
  health = { stable = "1m" }             # optional: counts where it is longer than the device's

  [components.application]
  image = "build/app.img"                # a path from the recipe's folder on
  rollback-index = 7
  version = "2.4.1"                      # default: the version above
  requires = [{ component = "rootfs", version = ">=2.0, <3" }]
                                         # also rollback-index, image-hash
  [components.files]
  directory = "build/root"               # packed: sorted, owner 0, time SOURCE_DATE_EPOCH or 0
  rollback-index = 1
  allow-special = false                  # devices and setuid programs in it"#;

/// Makes keys, keyrings and bundles for Vestal devices, and upgrades these.
#[derive(Debug, Parser)]
#[command(
    name = "vestal",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no such file, \
                  4 cannot reach the device, 5 timed out."
)]
pub(crate) struct Cli {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key, or a whole set for development
    Keygen(Keygen),
    /// Say which keys a device believes
    #[command(subcommand)]
    Keyring(KeyringCommand),
    /// Let one device take one bundle below its rollback floor, once
    #[command(subcommand)]
    Permission(PermissionCommand),
    /// Build, sign and look at bundles
    #[command(subcommand)]
    Bundle(BundleCommand),
    #[command(flatten)]
    Remote(RemoteCommand),
}

#[derive(Args, Debug)]
pub(crate) struct Keygen {
    /// The secret key; the public one is FILE.pub
    #[arg(required_unless_present = "dev", conflicts_with = "dev")]
    pub(crate) file: Option<PathBuf>,
    /// Make a key of each role and a signed keyring in this folder, for development only
    #[arg(long, value_name = "DIR")]
    pub(crate) dev: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyringCommand {
    /// Write a keyring of public keys; sign it afterwards
    Create(KeyringCreate),
    /// Add a root key's signature to FILE.sig
    Sign(KeyringSign),
    /// Show the keys, and who signed
    Show(File),
}

#[derive(Args, Debug)]
pub(crate) struct File {
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct KeyringCreate {
    /// Where to write it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Devices take a keyring only where this is higher than their own's
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) keyring_version: u64,
    /// Keys that sign keyrings
    #[arg(long, value_name = "PUB", required = true, num_args = 1..)]
    pub(crate) root: Vec<PathBuf>,
    /// So many root keys must sign
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) root_threshold: u32,
    /// Keys that sign bundles
    #[arg(long, value_name = "PUB", num_args = 1..)]
    pub(crate) bundle: Vec<PathBuf>,
    /// So many bundle keys must sign
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) bundle_threshold: u32,
    /// Keys that may connect to a device
    #[arg(long, value_name = "PUB", num_args = 1..)]
    pub(crate) operator: Vec<PathBuf>,
    /// Keys that permit a downgrade
    #[arg(long, value_name = "PUB", num_args = 1..)]
    pub(crate) recovery: Vec<PathBuf>,
    /// So many recovery keys must sign
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) recovery_threshold: u32,
}

#[derive(Args, Debug)]
pub(crate) struct KeyringSign {
    pub(crate) file: PathBuf,
    /// A secret root key of this keyring, or of the one before it
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) key: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PermissionCommand {
    /// Write a permission, and its signatures to FILE.sig; `vestal permit` hands it to the device
    Create(PermissionCreate),
    /// Add a recovery key's signature to FILE.sig
    Sign(PermissionSign),
}

#[derive(Args, Debug)]
pub(crate) struct PermissionCreate {
    /// The bundle that may be installed
    pub(crate) bundle: PathBuf,
    /// What vestalctl upgrade identity shows on the device, or the name by which vestal trust knows it
    #[arg(long, value_name = "FINGERPRINT|DEVICE")]
    pub(crate) device: String,
    /// What may go down (default: the bundle's only component)
    #[arg(long, value_name = "NAME")]
    pub(crate) component: Option<String>,
    /// A secret key of role recovery
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) key: Vec<PathBuf>,
    /// Where to write it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct PermissionSign {
    pub(crate) file: PathBuf,
    /// A secret key of role recovery
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) key: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Build a bundle from a recipe
    #[command(after_help = RECIPE)]
    Create(BundleCreate),
    /// Show what a bundle carries and who signed it; believes nothing
    Inspect(File),
    /// Add a signature to a bundle
    Sign(BundleSign),
    /// Check signatures, every chunk and every image
    Verify(BundleVerify),
}

#[derive(Args, Debug)]
pub(crate) struct BundleCreate {
    /// What goes into it, as below
    #[arg(value_name = "RECIPE")]
    pub(crate) recipe: PathBuf,
    /// A secret key that signs it; without one it is left unsigned
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) key: Vec<PathBuf>,
    /// Where to write it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// How hard zstd tries
    #[arg(long, value_name = "1-22", default_value_t = bundle::build::LEVEL,
        value_parser = clap::value_parser!(i32).range(1..=22))]
    pub(crate) level: i32,
    /// So many processors compress (default: all); the bundle's bytes don't depend on it
    #[arg(long, value_name = "COUNT")]
    pub(crate) threads: Option<NonZeroUsize>,
}

#[derive(Args, Debug)]
pub(crate) struct BundleSign {
    pub(crate) file: PathBuf,
    /// A secret key of role bundle
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) key: Vec<PathBuf>,
    /// Where to write it (default: in place)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BundleVerify {
    pub(crate) file: PathBuf,
    /// The keyring of the devices it is for
    #[arg(long, value_name = "FILE", required_unless_present = "any_key")]
    pub(crate) keyring: Option<PathBuf>,
    /// Check only that it is whole, whoever signed it
    #[arg(long, conflicts_with = "keyring")]
    pub(crate) any_key: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_recipe_in_the_help_is_one() {
        let (_, recipe) = RECIPE.split_once('\n').expect("it has a title");
        crate::recipe::parse(std::path::Path::new("help"), recipe).expect("it is in order");
    }

    #[test]
    fn a_bundle_is_verified_by_a_keyring_or_not_at_all() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("vestal bundle verify x.vestal").is_err());
        assert!(parse("vestal bundle verify x.vestal --keyring k --any-key").is_err());
        assert!(parse("vestal bundle verify x.vestal --any-key --json").is_ok());
        assert!(parse("vestal keygen").is_err());
        assert!(parse("vestal keygen a --dev b").is_err());
    }
}
