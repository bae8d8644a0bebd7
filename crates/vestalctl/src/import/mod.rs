//! `vestalctl service import`: the definition that a script of `/etc/init.d` makes, without starting anything of it.
//!
//! The script runs as for a `start`, but finds this program as its `ubus`, which writes down what it would send. What
//! else the script does in `start_service` (making folders, writing configuration files) it does here too.

mod toml;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    cli::Import,
    error::{Error, Exit},
    output::Output,
};

/// Names the file in which `ubus` writes down what it would send.
const RECORD: &str = "VESTAL_IMPORT";
/// What the script finds under these names is this program.
const NAMES: [&str; 6] = ["ubus", "uci", "validate_data", "jshn", "jsonfilter", "lock"];
/// A script is no larger.
const SCRIPT_MAX: u64 = 1 << 20;
/// All that a script may send.
const RECORD_MAX: u64 = 16 << 20;
/// Folders that are tried.
const FOLDERS_MAX: u32 = 100;

/// Prints what the script would send, and the file that says the same.
pub(crate) fn import(out: Output, given: &Import) -> Result<(), Error> {
    let file = script(&given.file)?;
    let scratch = Scratch::new()?;
    let code = run(&file, &scratch)?;
    let sent = recorded(&scratch.record())?;
    if sent.is_empty() {
        let text = format!(
            "{} ended with exit code {code} and defined nothing; see above, or run it with `sh -x`",
            file.display()
        );
        return Err(Error::failed(text));
    }
    let definitions: Vec<_> =
        sent.iter().map(|sent| (sent, toml::definition(&sent["message"], &file))).collect();
    if out.json {
        let all: Vec<_> = definitions
            .iter()
            .map(|(sent, toml)| {
                json!({ "method": sent["method"], "message": sent["message"], "toml": toml })
            })
            .collect();
        return Output::json(&all);
    }
    for (sent, toml) in &definitions {
        if given.message {
            Output::json(&sent["message"])?;
        } else {
            Output::text(toml)?;
        }
    }
    Ok(())
}

/// A script that describes its service; another one would start it.
fn script(given: &Path) -> Result<PathBuf, Error> {
    let shown = given.display();
    let failed = |error: io::Error| {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Error::new(exit, format!("read {shown}: {error}"))
    };
    let text = daemon::files::read_text(given, SCRIPT_MAX).map_err(failed)?;
    let describes = text.lines().any(|line| {
        line.trim_start().strip_prefix("USE_PROCD=").is_some_and(|value| !value.trim().is_empty())
    });
    if !describes {
        return Err(Error::failed(format!(
            "{shown} sets no USE_PROCD: it starts its programs itself and describes no service; write its definition by hand"
        )));
    }
    // A name in rc.d says S20web: the service is called as the script itself.
    fs::canonicalize(given).map_err(failed)
}

/// Runs the script; what it prints goes to stderr.
fn run(file: &Path, scratch: &Scratch) -> Result<i32, Error> {
    let root = env::var_os("IPKG_INSTROOT").unwrap_or_default();
    let common = PathBuf::from(root).join("etc/rc.common");
    let common = if common.is_absolute() { common } else { Path::new("/").join(common) };
    if !common.is_file() {
        return Err(Error::new(
            Exit::NotFound,
            format!(
                "there is no {}; install the OpenWrt profile, or set IPKG_INSTROOT to where it is",
                common.display()
            ),
        ));
    }
    let failed = |what: &str, error: io::Error| Error::failed(format!("{what}: {error}"));
    let said = io::stderr().as_fd().try_clone_to_owned();
    let said = said.map_err(|error| failed("use standard error", error))?;
    let mut path = scratch.folder.clone().into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    let mut command = Command::new("sh");
    command.arg(common).arg(file).arg("start").env("PATH", path).env(RECORD, scratch.record());
    command.stdin(Stdio::null()).stdout(said);
    let ended = command.status().map_err(|error| failed("run sh", error))?;
    Ok(ended.code().unwrap_or(-1))
}

fn recorded(file: &Path) -> Result<Vec<Value>, Error> {
    match daemon::files::read_text(file, RECORD_MAX) {
        Ok(text) => {
            let sent: Result<Vec<_>, _> = text.lines().map(serde_json::from_str).collect();
            sent.map_err(|error| Error::failed(format!("what the script sent is no JSON: {error}")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::failed(format!("read what the script sent: {error}"))),
    }
}

/// As `ubus` of a script that is imported: writes a definition down and answers all else with nothing. `None`: this is
/// no import.
pub(crate) fn record(
    words: &[String],
    message: impl FnOnce(&str) -> Value,
) -> Option<io::Result<()>> {
    let file = env::var_os(RECORD)?;
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    Some(match &*words {
        ["call", "service", method @ ("set" | "add"), text] => {
            note(&file, &json!({ "method": method, "message": message(text) }))
        }
        ["call", ..] => Output::text("{ }\n").map_err(|error| io::Error::other(error.text)),
        _ => Ok(()),
    })
}

fn note(file: &OsStr, sent: &Value) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).open(file)?;
    file.write_all(format!("{sent}\n").as_bytes())
}

/// A folder of our own with the names that the script is to find; it goes with this value.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self, Error> {
        let failed = |error: io::Error| {
            Error::failed(format!("make a folder in {}: {error}", env::temp_dir().display()))
        };
        let own: OsString = env::current_exe().map_err(failed)?.into();
        for number in 0..FOLDERS_MAX {
            let folder =
                env::temp_dir().join(format!("vestal-import-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made.map_err(failed)?;
                    let scratch = Self { folder };
                    for name in NAMES {
                        symlink(&own, scratch.folder.join(name)).map_err(failed)?;
                    }
                    return Ok(scratch);
                }
            }
        }
        Err(failed(io::ErrorKind::AlreadyExists.into()))
    }

    fn record(&self) -> PathBuf {
        self.folder.join("record")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in the folder for what may be lost.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
