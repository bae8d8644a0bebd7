//! Mounts what `/etc/fstab` names, once, before anything else of the device runs; with `--off` puts it away at the end.
//!
//! It never gives up the whole for one part: what can't be mounted is told, and the next line has its turn. Every wait ends.
//! Read [`fstab`] for what a line may say, [`on`] for what becomes of it, [`off`] for the end.

mod device;
mod fill;
mod fsck;
mod fstab;
mod mountinfo;
mod off;
mod on;
mod options;
mod superblock;
#[expect(unsafe_code, reason = "swapon, swapoff, loop devices and a child's death signal")]
mod sys;

use std::{ffi::OsString, fs::File, io, io::Read as _, path::Path, process::ExitCode};

use fstab::Fstab;
use on::Which;

/// A table is a page or two; more than this is none.
const TABLE_MAX: u64 = 256 * 1024;
const TABLE: &str = "/etc/fstab";
const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const HELP: &str = "\
Mounts what /etc/fstab names; what can't be mounted is told, and the rest goes on.

Usage: vestal-mounts [--fstab FILE]   mount everything that is not mounted yet
       vestal-mounts --fallback [FILE]
                                      after a run that was killed: mount what needs no device, and a tmpfs
                                      where x-vestal.fallback=tmpfs allows one
       vestal-mounts --off [FOLDER]   unmount what is below the folder and not the kernel's own; without it
                                      everything, which only PID 1 may ask for
       vestal-mounts --check FILE     say what is wrong with a table, and mount nothing

Exit codes: 0 done, 1 something could not be done, 2 wrong usage.
";

/// What the command line asks for.
#[derive(Debug, Eq, PartialEq)]
enum Order {
    On(OsString, Which),
    /// Everything, or what is below a folder.
    Off(Option<OsString>),
    Check(OsString),
    Print(String),
}

/// Does what the command line says; returns the exit code.
pub fn main() -> ExitCode {
    match order(std::env::args_os().skip(1)) {
        Ok(Order::On(table, which)) => mount(Path::new(&table), which),
        Ok(Order::Off(Some(folder))) => code(off::below(Path::new(&folder))),
        Ok(Order::Off(None)) if sys::is_asked_by_pid_one() => code(off::everything()),
        Ok(Order::Off(None)) => {
            say("--off: only PID 1 puts the whole machine away; give a folder");
            ExitCode::from(WRONG_USAGE)
        }
        Ok(Order::Check(table)) => check(Path::new(&table)),
        Ok(Order::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            say(&format!("{text}; try --help"));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

fn order(mut args: impl Iterator<Item = OsString>) -> Result<Order, String> {
    let Some(first) = args.next() else { return Ok(Order::On(TABLE.into(), Which::All)) };
    let mut file = || args.next().ok_or_else(|| format!("{} needs a file", first.display()));
    let order = match first.to_str() {
        Some("--fstab") => Order::On(file()?, Which::All),
        Some("--fallback") => Order::On(args.next().unwrap_or(TABLE.into()), Which::WithoutDevices),
        Some("--check") => Order::Check(file()?),
        Some("--off") => Order::Off(args.next()),
        Some("--help" | "-h") => Order::Print(HELP.to_owned()),
        Some("--version") => Order::Print(format!("vestal-mounts {}\n", env!("CARGO_PKG_VERSION"))),
        _ => return Err(format!("unexpected argument {}", first.display())),
    };
    match args.next() {
        None => Ok(order),
        Some(more) => Err(format!("unexpected argument {}", more.display())),
    }
}

fn mount(path: &Path, which: Which) -> ExitCode {
    let table = match read(path) {
        Ok(table) => table,
        // A device that mounts nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{}: {error}", path.display()));
            return ExitCode::from(FAILED);
        }
    };
    let mut done = true;
    for problem in &table.problems {
        say(&format!("{}: {problem}", path.display()));
        done = false;
    }
    code(on::everything(&table.entries, which) && done)
}

fn check(path: &Path) -> ExitCode {
    match read(path) {
        Ok(table) => {
            for problem in &table.problems {
                println!("{}: {problem}", path.display());
            }
            code(table.problems.is_empty())
        }
        Err(error) => {
            say(&format!("{}: {error}", path.display()));
            ExitCode::from(FAILED)
        }
    }
}

fn read(path: &Path) -> io::Result<Fstab> {
    let mut bytes = Vec::new();
    File::open(path)?.take(TABLE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > TABLE_MAX {
        let text = format!("longer than {TABLE_MAX} bytes: this is no fstab");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(fstab::parse(&bytes))
}

fn code(done: bool) -> ExitCode {
    if done { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

/// One line on the console. `eprintln!` would end the program where nobody can be told.
fn say(text: &str) {
    use io::Write as _;
    let _ = io::stderr().write_all(format!("mounts: {text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_asks_for_one_thing() {
        let asked = |words: &[&str]| order(words.iter().map(OsString::from));
        assert_eq!(asked(&[]), Ok(Order::On("/etc/fstab".into(), Which::All)));
        let fallback = |table: &str| Ok(Order::On(table.into(), Which::WithoutDevices));
        assert_eq!(asked(&["--fallback"]), fallback("/etc/fstab"));
        assert_eq!(asked(&["--fallback", "t"]), fallback("t"));
        assert_eq!(asked(&["--off"]), Ok(Order::Off(None)));
        assert_eq!(asked(&["--off", "/mnt"]), Ok(Order::Off(Some("/mnt".into()))));
        assert_eq!(asked(&["--check", "f"]), Ok(Order::Check("f".into())));
        assert_eq!(asked(&["--check"]), Err("--check needs a file".to_owned()));
        assert_eq!(asked(&["--off", "/mnt", "x"]), Err("unexpected argument x".to_owned()));
        assert_eq!(asked(&["off"]), Err("unexpected argument off".to_owned()));
    }
}
