//! The names under which scripts of OpenWrt start this program: one file or folder an applet. They print what the
//! originals print and exit as they do; what that is, is not ours to improve.
//!
//! Scripts start them by the hundred, so those that need no daemon start no runtime.

mod jshn;
mod json;
mod jsonfilter;
mod lock;
#[cfg(test)]
mod properties;
pub(crate) mod reload_config;
pub(crate) mod service;
mod uci;
mod validate_data;
mod words;

use std::{ffi::OsString, process::ExitCode};

/// Runs an applet that asks no daemon; `None`: this is none of them, or it must ask one.
pub(crate) fn run(called: &str, args: &[OsString]) -> Option<ExitCode> {
    let applet = match called {
        "jshn" => jshn::run,
        "jsonfilter" => jsonfilter::run,
        "lock" => lock::run,
        "service" => return service::run(args),
        "uci" => uci::run,
        "validate_data" => validate_data::run,
        _ => return None,
    };
    Some(applet(args))
}

/// JSON that scripts write, as the standard wants it; `None`: not even they would understand it.
pub(crate) fn strict_json(text: &[u8]) -> Option<Vec<u8>> {
    json::document(text).ok().map(|value| json::spaced(&value))
}

/// A line on stderr. Nobody may be left to read it.
fn complain(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What C calls an error, without the number that Rust adds.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
