//! The command line that all daemons share, and the few options one adds to it.
//!
//! A small parser instead of clap: clap costs every static daemon about 190 kB.

use std::{ffi::OsString, path::PathBuf};

use lexopt::{Arg, Parser, ValueExt as _};
use thiserror::Error;

/// What a daemon is called and what it understands beyond the common options.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// `vestal-NAME` without the prefix.
    pub name: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
    pub extra: &'static [Extra],
    /// What free arguments are called in `--help`; without it they are refused.
    pub free: Option<&'static str>,
}

/// One option of one daemon.
#[derive(Clone, Copy, Debug)]
pub struct Extra {
    /// Without the two dashes.
    pub long: &'static str,
    /// What its value is called; without it the option takes none.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

/// A command line, read.
#[derive(Debug, Default)]
pub struct Options {
    pub run_dir: Option<PathBuf>,
    pub config_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub uci_dir: Option<PathBuf>,
    pub log_level: Option<String>,
    pub log_json: bool,
    pub(crate) extra: Vec<(&'static str, Option<OsString>)>,
    pub free: Vec<OsString>,
}

/// Either options, or a text that was asked for.
#[derive(Debug)]
pub enum Parsed {
    Run(Options),
    /// `--help` or `--version`: print and exit with 0.
    Print(String),
}

/// The command line makes no sense; exit code 2.
#[derive(Debug, Error)]
#[error("{0}; try --help")]
pub struct UsageError(String);

impl Options {
    /// The value of an extra option; `Some(None)` where it was given and takes none.
    #[must_use]
    pub fn extra(&self, long: &str) -> Option<Option<&OsString>> {
        self.extra.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_ref())
    }

    /// Whether an extra option was given.
    #[must_use]
    pub fn has(&self, long: &str) -> bool {
        self.extra(long).is_some()
    }

    /// The common options as arguments, to pass them on to a child.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args = Vec::new();
        let dirs = [
            ("--run-dir", &self.run_dir),
            ("--config-dir", &self.config_dir),
            ("--state-dir", &self.state_dir),
            ("--uci-dir", &self.uci_dir),
        ];
        for (option, dir) in dirs {
            if let Some(dir) = dir {
                args.push(option.into());
                args.push(dir.into());
            }
        }
        if let Some(level) = &self.log_level {
            args.push("--log-level".into());
            args.push(level.into());
        }
        if self.log_json {
            args.push("--log-format".into());
            args.push("json".into());
        }
        args
    }
}

/// Reads a command line, without the program's name.
///
/// # Errors
/// Unknown options, missing values, free arguments where there are none.
pub fn parse(spec: &Spec, args: impl IntoIterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let usage = |error: lexopt::Error| UsageError(error.to_string());
    let mut parser = Parser::from_args(args);
    let mut options = Options::default();
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Parsed::Print(help(spec))),
            Arg::Long("version") => {
                let version = env!("CARGO_PKG_VERSION");
                return Ok(Parsed::Print(format!("vestal-{} {version}\n", spec.name)));
            }
            Arg::Long("run-dir") => options.run_dir = Some(dir(&mut parser)?),
            Arg::Long("config-dir") => options.config_dir = Some(dir(&mut parser)?),
            Arg::Long("state-dir") => options.state_dir = Some(dir(&mut parser)?),
            Arg::Long("uci-dir") => options.uci_dir = Some(dir(&mut parser)?),
            Arg::Long("log-level") => {
                let level = parser.value().map_err(usage)?.string().map_err(usage)?;
                options.log_level = Some(level);
            }
            Arg::Long("log-format") => {
                let format = parser.value().map_err(usage)?.string().map_err(usage)?;
                options.log_json = match format.as_str() {
                    "json" => true,
                    "text" => false,
                    other => {
                        let text = format!("--log-format {other}: only text and json are known");
                        return Err(UsageError(text));
                    }
                };
            }
            Arg::Long(long) => {
                let known = spec.extra.iter().find(|extra| extra.long == long);
                let Some(extra) = known else {
                    return Err(UsageError(format!("unknown option --{long}")));
                };
                let value = extra.value.map(|_| parser.value().map_err(usage)).transpose()?;
                options.extra.push((extra.long, value));
            }
            Arg::Short(short) => return Err(UsageError(format!("unknown option -{short}"))),
            Arg::Value(value) if spec.free.is_some() => options.free.push(value),
            Arg::Value(value) => {
                return Err(UsageError(format!("unexpected argument {value:?}")));
            }
        }
    }
    Ok(Parsed::Run(options))
}

fn dir(parser: &mut Parser) -> Result<PathBuf, UsageError> {
    let path = PathBuf::from(parser.value().map_err(|error| UsageError(error.to_string()))?);
    if path.is_absolute() {
        return Ok(path);
    }
    std::path::absolute(&path)
        .map_err(|error| UsageError(format!("folder {}: {error}", path.display())))
}

fn help(spec: &Spec) -> String {
    let mut text = format!("{}\n\nUsage: vestal-{} [OPTIONS]", spec.about, spec.name);
    if let Some(free) = spec.free {
        text.push_str(&format!(" [{free}...]"));
    }
    text.push_str("\n\nOptions:\n");
    let common = [
        ("run-dir", Some("DIR"), "sockets, pid and state files (VESTAL_RUN_DIR)"),
        (
            "config-dir",
            Some("DIR"),
            "definitions and settings (VESTAL_CONFIG_DIR); without it the built-in ones",
        ),
        ("state-dir", Some("DIR"), "what survives a reboot (VESTAL_STATE_DIR)"),
        ("uci-dir", Some("DIR"), "OpenWrt's configuration files (VESTAL_UCI_DIR)"),
        ("log-level", Some("LEVEL"), "error, warn, info, debug, trace, or a tracing filter"),
        ("log-format", Some("FORMAT"), "text or json"),
    ];
    let extra = spec.extra.iter().map(|extra| (extra.long, extra.value, extra.help));
    let last = [("version", None, "print the version"), ("help", None, "print this")];
    for (long, value, help) in common.into_iter().chain(extra).chain(last) {
        let option = match value {
            Some(value) => format!("--{long} {value}"),
            None => format!("--{long}"),
        };
        text.push_str(&format!("  {option:<24} {help}\n"));
    }
    text.push_str(
        "\nExit codes: 0 stopped as asked, 1 failed at run time, 2 wrong usage or configuration.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spec = Spec {
        name: "test",
        about: "A test.",
        extra: &[Extra { long: "rescue", value: None, help: "only the rescue set" }],
        free: None,
    };

    fn run(args: &[&str]) -> Result<Options, String> {
        match parse(&SPEC, args.iter().map(OsString::from)) {
            Ok(Parsed::Run(options)) => Ok(options),
            Ok(Parsed::Print(text)) => Err(text),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn common_and_own_options_are_read_and_passed_on() {
        let options = run(&["--run-dir", "/r", "--rescue", "--log-format=json"]).unwrap();
        assert!(options.has("rescue"));
        assert_eq!(options.to_args(), ["--run-dir", "/r", "--log-format", "json"]);
    }

    #[test]
    fn mistakes_name_the_argument_and_point_to_help() {
        assert_eq!(run(&["--rescu"]).unwrap_err(), "unknown option --rescu; try --help");
        assert_eq!(run(&["x"]).unwrap_err(), "unexpected argument \"x\"; try --help");
        assert!(run(&["--log-format", "xml"]).unwrap_err().contains("text and json"));
    }

    #[test]
    fn help_lists_the_own_options_too() {
        assert!(run(&["--help"]).unwrap_err().contains("--rescue"));
    }
}
