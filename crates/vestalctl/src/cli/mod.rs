//! The command line: what can be written, and what it is called in `--help`. Does nothing.

mod autorun;
mod bus;
mod config;
mod driver;
mod log;
mod service;
mod system;
mod upgrade;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::{
    autorun::{AutorunCommand, Hibernate, Kind, Sleeping},
    bus::{Listen, Monitor, Publish, RegistryCommand, WaitFor},
    config::{ConfigCommand, Event, Import, Selected},
    driver::{DriverCall, DriverCommand, DriverProbe, DriverUpgrade, Way},
    log::{Log, LogLevel},
    service::{Define, Freeze, Order, ServiceCommand},
    system::{BootCommand, Ending, SystemCommand, Watchdog},
    upgrade::{Install, KeyringCommand, UpgradeCommand},
};
use crate::units;

/// Looks after a Vestal device: what runs, why it doesn't, and what to do about it.
#[derive(Debug, Parser)]
#[command(
    name = "vestalctl",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no such thing, \
                  4 cannot reach the daemon, 5 timed out."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Where the sockets are (VESTAL_RUN_DIR)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Definitions and settings (VESTAL_CONFIG_DIR)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// What survives a reboot (VESTAL_STATE_DIR)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// OpenWrt's configuration files (VESTAL_UCI_DIR)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) uci_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One line an instance, and what is wrong with the device's definitions
    Status {
        /// Only this service
        name: Option<String>,
    },
    /// Define, start, stop and signal services
    #[command(subcommand)]
    Service(ServiceCommand),
    /// The configuration: what changed, who is told, what is valid
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Let the services' triggers see an event
    Event(Event),
    /// The device itself
    #[command(subcommand)]
    System(SystemCommand),
    /// How the device booted, and why
    #[command(subcommand)]
    Boot(BootCommand),
    /// Call a method of an object and print what it answers
    Call {
        object: String,
        method: String,
        /// Arguments
        #[arg(value_name = "JSON")]
        args: Option<String>,
        #[command(flatten)]
        within: Within,
    },
    /// List the objects on the bus
    List {
        /// Print who serves it, its methods and their arguments too
        #[arg(short, long)]
        verbose: bool,
        /// Only this object; `net*` for all that begin with `net`
        #[arg(value_name = "OBJECT|PATTERN")]
        pattern: Option<String>,
    },
    /// Print events as they happen
    Listen(Listen),
    /// Return when all of these objects are served
    WaitFor(WaitFor),
    /// Send an event to all who listen
    Publish(Publish),
    /// Print every call and every event on the bus; for root
    Monitor(Monitor),
    /// The registry: who serves what, and who may do what
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Who says that he is alive, and how regularly
    #[command(subcommand)]
    Heartbeat(HeartbeatCommand),
    /// The image from which the device resumes, and what runs after that
    #[command(subcommand)]
    Autorun(AutorunCommand),
    /// Prepare everything and write an image of the device; returns in its next life
    Hibernate(Hibernate),
    /// Prepare everything and let the device sleep, with its memory on
    Suspend(Sleeping),
    /// Install bundles; what is in which slot, and how an upgrade stands
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// Drivers that are replaced while they are used: what serves, and what it does
    #[command(subcommand)]
    Driver(DriverCommand),
    /// Print what services, the kernel and syslog said
    Log(Log),
    /// Print or change how much a daemon says
    LogLevel(LogLevel),
    /// A live full-screen view of all services
    #[cfg(feature = "top")]
    Top,
    /// The supervisor itself
    #[command(subcommand)]
    Supervisor(DaemonCommand),
    /// The keeper itself
    #[command(subcommand)]
    Keeper(DaemonCommand),
    /// Print a completion script for the shell
    Completion { shell: Shell },
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Within {
    /// Give up after this time, with exit code 5
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Replace itself by the binary on disk; nothing supervised notices
    Reexec(Within),
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum HeartbeatCommand {
    /// All that report heartbeats to the broker, and all that send WATCHDOG=1 to the supervisor
    List,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn order(args: &[&str]) -> Order {
        let line = ["vestalctl", "service", "start", "web"].iter().chain(args);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Service(ServiceCommand::Start(order)) => order,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn orders_wait_unless_told_otherwise_and_the_last_word_counts() {
        assert!(order(&[]).waits());
        assert!(order(&["--wait"]).waits());
        assert!(!order(&["--no-wait"]).waits());
        assert!(order(&["--no-wait", "--wait"]).waits());
        assert!(!order(&["--wait", "--no-wait"]).waits());
        assert_eq!(order(&["--timeout", "500ms"]).within.timeout, Duration::from_millis(500));
    }

    #[test]
    fn common_options_may_stand_anywhere() {
        for line in
            [["--json", "status", "web"], ["status", "--json", "web"], ["status", "web", "--json"]]
        {
            let cli = Cli::try_parse_from(["vestalctl"].iter().chain(&line)).unwrap();
            assert!(cli.common.json);
        }
    }

    #[test]
    fn a_signal_that_does_not_exist_is_wrong_usage() {
        let line = ["vestalctl", "system", "signal", "1", "TRM"];
        let error = Cli::try_parse_from(line).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("did you mean TERM?"), "{error}");
    }

    #[test]
    fn the_watchdog_is_not_stopped_and_started_at_once() {
        let line = ["vestalctl", "system", "watchdog", "--stop", "--start"];
        assert!(Cli::try_parse_from(line).is_err());
    }
}
