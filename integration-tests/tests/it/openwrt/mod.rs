//! OpenWrt's shell layer (`configs/openwrt`): what scripts send, what `rc.common` does, and the libraries they use.
//!
//! Each test runs under busybox's ash and under dash, in a scratch root folder, with programs of its own in front of the
//! real `ubus`, `uci`, `validate_data` and `jsonfilter`: they write down what they were called with. No daemon runs here.

mod actions;
mod boot;
mod json;
mod libraries;
mod locking;
mod messages;

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// The shells of OpenWrt and of Debian, each with the words that start it.
const SHELLS: [&[&str]; 2] = [&["/bin/busybox", "ash"], &["/bin/dash"]];

/// A root folder with scripts, and the shell that runs them.
pub(crate) struct Root {
    folder: tempfile::TempDir,
    shell: &'static [&'static str],
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) printed: String,
    pub(crate) errors: String,
}

/// Runs a test under each shell that is there.
pub(crate) fn each_shell(test: impl Fn(&Root)) {
    for shell in SHELLS {
        if Path::new(shell[0]).exists() {
            eprintln!("with {}", shell.join(" "));
            test(&Root::new(shell));
        } else {
            eprintln!("{} is not installed: not tested with it", shell[0]);
        }
    }
}

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/openwrt").join(name)
}

fn configs() -> PathBuf {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/openwrt");
    configs.canonicalize().expect("it is in the checkout")
}

impl Root {
    fn new(shell: &'static [&'static str]) -> Self {
        let root = Self { folder: tempfile::tempdir().expect("a scratch folder"), shell };
        for folder in ["etc/init.d", "etc/rc.d", "var/lock", "fakes", "bin"] {
            fs::create_dir_all(root.path(folder)).expect("the scratch folder is ours");
        }
        for library in ["lib", "usr"] {
            symlink(configs().join(library), root.path(library)).expect("it is ours");
        }
        for (from, to) in [("fakes", "bin"), ("inputs", "fakes")] {
            for file in fs::read_dir(here(from)).expect("it is in the checkout").flatten() {
                fs::copy(file.path(), root.path(to).join(file.file_name())).expect("it is ours");
            }
        }
        root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the scratch folder is ours");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Writes a program.
    pub(crate) fn program(&self, name: &str, text: &str) {
        self.write(name, text);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755))
            .expect("it is ours");
    }

    /// What a fake `ubus` answers to a call; `OBJECT.METHOD`.
    pub(crate) fn answer(&self, call: &str, text: &str) {
        self.write(&format!("fakes/{call}"), text);
    }

    /// Writes an init script with this text behind its first line.
    pub(crate) fn script(&self, name: &str, text: &str) {
        self.program(&format!("etc/init.d/{name}"), &format!("#!/bin/sh /etc/rc.common\n{text}"));
    }

    /// The shell with these arguments, in an environment of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.shell[0]);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("bin").display());
        command
            .args(&self.shell[1..])
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("IPKG_INSTROOT", self.folder.path())
            .env("UCI_CONFIG_DIR", "/etc/config")
            .env("FAKES", self.path("fakes"))
            .stdin(Stdio::null());
        command
    }

    /// `rc.common` on a script of `etc/init.d`; the rest are the action and its arguments.
    pub(crate) fn action(&self, script: &str, words: &[&str]) -> Command {
        let common = configs().join("etc/rc.common").display().to_string();
        let script = self.path("etc/init.d").join(script).display().to_string();
        self.command(&[&[common.as_str(), script.as_str()], words].concat())
    }

    pub(crate) fn run(&self, script: &str, words: &[&str]) -> Ran {
        self.ran(self.action(script, words))
    }

    /// Runs a shell text.
    pub(crate) fn shell(&self, text: &str) -> Ran {
        self.ran(self.command(&["-c", text]))
    }

    /// Runs it to its end. The scratch folder's name is left out of what it printed.
    pub(crate) fn ran(&self, mut command: Command) -> Ran {
        let Output { status, stdout, stderr } = command.output().expect("the shell starts");
        let text = |bytes: Vec<u8>| {
            String::from_utf8_lossy(&bytes).replace(&self.folder.path().display().to_string(), "")
        };
        Ran { code: status.code(), printed: text(stdout), errors: text(stderr) }
    }

    /// What `ubus` was called with since the last time: object, method and message.
    pub(crate) fn calls(&self) -> Vec<(String, Value)> {
        let text = self.read("fakes/calls").replace(&self.folder.path().display().to_string(), "");
        let _ = fs::remove_file(self.path("fakes/calls"));
        let call = |line: &str| {
            let (name, message) = line.split_once('\t').expect("the fake writes it so");
            let message = serde_json::from_str(message)
                .unwrap_or_else(|error| panic!("{name}: {error}: {message}"));
            (name.to_owned(), message)
        };
        text.lines().map(call).collect()
    }
}

/// The calls as they are written in the `.expected` files.
fn transcript(action: &str, calls: &[(String, Value)]) -> String {
    let mut text = format!("> {action}\n");
    for (name, message) in calls {
        writeln!(text, "{name} {message}").expect("a text takes everything");
    }
    text
}
