//! Hosts user-space drivers and replaces their code while tasks keep calling.
//!
//! One program with three roles. Without arguments it is the manager, which decides what may be loaded and keeps the
//! record of it. `--host NAME` is the process that one driver lives in: it serves the tasks, and swaps the code. `--canary`
//! tries a new version out before anybody depends on it. `docs/driver.md` is for its users.

mod canary;
mod cuse;
mod host;
mod manager;
mod record;
mod settings;

use std::{ffi::OsString, process::ExitCode};

/// What this process is.
#[derive(Debug, Eq, PartialEq)]
enum Role {
    Manager,
    /// Of the driver with this name; what is wrong with the command line is told by the host.
    Host(String),
    Canary,
}

/// Runs the process in the role that its arguments name.
pub fn main() -> ExitCode {
    match role(std::env::args_os().skip(1)) {
        Role::Manager => manager::main(),
        Role::Host(name) => host::main(&name),
        Role::Canary => canary::main(),
    }
}

fn role(arguments: impl Iterator<Item = OsString>) -> Role {
    let arguments: Vec<_> = arguments.collect();
    for (at, argument) in arguments.iter().enumerate() {
        let Some(text) = argument.to_str() else { continue };
        if text == "--canary" {
            return Role::Canary;
        }
        if let Some(name) = text.strip_prefix("--host=") {
            return Role::Host(name.to_owned());
        }
        if text == "--host" {
            let name = arguments.get(at + 1).map(|name| name.to_string_lossy().into_owned());
            return Role::Host(name.unwrap_or_default());
        }
    }
    Role::Manager
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_in_the_arguments_whatever_else_they_say() {
        let role = |words: &[&str]| role(words.iter().map(OsString::from));
        assert_eq!(role(&[]), Role::Manager);
        assert_eq!(role(&["--run-dir", "/r", "--host", "can0"]), Role::Host("can0".to_owned()));
        assert_eq!(role(&["--host=can0"]), Role::Host("can0".to_owned()));
        assert_eq!(role(&["--host"]), Role::Host(String::new()));
        assert_eq!(role(&["--canary"]), Role::Canary);
    }
}
