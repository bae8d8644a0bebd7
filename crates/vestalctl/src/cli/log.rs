//! `vestalctl log` and `log-level`, as they are written.

use clap::Args;

use crate::{logs::priority, stamp};

#[derive(Args, Debug, Default)]
pub(crate) struct Log {
    /// Only these services; without any all, the kernel and syslog too
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    /// Print what comes, too
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the newest so many lines; 10 with --follow, all without
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) lines: Option<u64>,
    /// Only from this time on: 10min, 2h (ago), 2026-11-22, '2026-11-22 04:05', 2026-11-22T04:05:20Z
    #[arg(long, value_name = "TIME", value_parser = stamp::parse)]
    pub(crate) since: Option<stamp::When>,
    /// Only up to this time
    #[arg(long, value_name = "TIME", value_parser = stamp::parse)]
    pub(crate) until: Option<stamp::When>,
    /// Only this urgent or more: err, or 3
    #[arg(short, long, value_name = "PRIORITY", value_parser = priority::parse)]
    pub(crate) priority: Option<u8>,
    /// Only lines that hold this regular expression
    #[arg(short, long, value_name = "EXPRESSION")]
    pub(crate) grep: Option<String>,
    /// Only this instance
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// Only what came this way
    #[arg(long, value_parser = ["stdout", "stderr", "kernel", "syslog", "call", "log"])]
    pub(crate) source: Option<String>,
    /// Print seconds since the start of the device instead of the time of day
    #[arg(long)]
    pub(crate) monotonic: bool,
}

#[derive(Args, Debug)]
pub(crate) struct LogLevel {
    /// supervisor, registry, log, ...
    pub(crate) daemon: String,
    /// error, warn, info, debug, trace, or a list such as `warn,vestal_log=debug`; without it only print it
    pub(crate) level: Option<String>,
}
