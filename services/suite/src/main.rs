//! Every program of a device in one file: it is the one by whose name it is called. For small images, where a link costs nothing
//! and a second copy of the run-time costs a megabyte; the separate programs stay the default.
//!
//! `vestal-suite --list` prints the names, for the script that makes the links.

use std::{ffi::OsString, path::Path, process::ExitCode};

/// A program's name and its `main`.
type Program = (&'static str, fn() -> ExitCode);

const PROGRAMS: [Program; 10] = [
    ("vestal-autorun", vestal_autorun::main),
    ("vestal-config", vestal_config::main),
    ("vestal-exec", vestal_exec::main),
    ("vestal-heartbeat", vestal_heartbeat::main),
    ("vestal-keeper", vestal_keeper::main),
    ("vestal-log", vestal_log::main),
    ("vestal-mounts", vestal_mounts::main),
    ("vestal-registry", vestal_registry::main),
    ("vestal-supervisor", vestal_supervisor::main),
    ("vestal-upgrade", vestal_upgrade::main),
];
/// Also `ubus`, `uci` and the other names of OpenWrt's programs; it tells them apart itself.
const CONTROL: &str = "vestalctl";
const OWN: &str = "vestal-suite";
/// The kernel calls its first process by the link that it found, `/sbin/init`.
const FIRST_PROCESS: &str = "init";
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let called: OsString = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    if let Some((_, program)) = PROGRAMS.iter().find(|(known, _)| name == *known) {
        return program();
    }
    if name == FIRST_PROCESS {
        return vestal_keeper::main();
    }
    if name != OWN {
        return vestalctl::main();
    }
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "--list") {
        for known in PROGRAMS.iter().map(|(known, _)| known).chain([&CONTROL]) {
            println!("{known}");
        }
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "{OWN}: call it by the name of one of its programs, by a link; `{OWN} --list` prints them"
    );
    ExitCode::from(WRONG_USAGE)
}
