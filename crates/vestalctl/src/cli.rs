//! The command line: what can be written, and what it is called in `--help`. Does nothing.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{signal, units};

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
    /// The device itself
    #[command(subcommand)]
    System(SystemCommand),
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
        /// Print methods and their arguments too
        #[arg(short, long)]
        verbose: bool,
        /// Only this object; `net*` for all that begin with `net`
        #[arg(value_name = "OBJECT")]
        pattern: Option<String>,
    },
    /// The supervisor itself
    #[command(subcommand)]
    Supervisor(DaemonCommand),
    /// The keeper itself
    #[command(subcommand)]
    Keeper(DaemonCommand),
    /// Print a completion script for the shell
    Completion { shell: Shell },
}

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

impl Order {
    /// Whether to return only when it is done; of two options the last one counts.
    pub(crate) fn waits(&self) -> bool {
        self.wait || !self.no_wait
    }
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Within {
    /// Give up after this time, with exit code 5
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
    pub(crate) timeout: Duration,
}

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
    Reboot,
    /// Stop all services and switch the device off
    Poweroff,
    /// Stop all services and stop the processor
    Halt,
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

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Replace itself by the binary on disk; nothing supervised notices
    Reexec(Within),
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
