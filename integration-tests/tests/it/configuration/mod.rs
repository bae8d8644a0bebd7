//! Configuration from the file to the service: the real watcher, supervisor and registry. What each service's triggers did
//! stands in a file of its own, with what the package said at that moment.
//!
//! Nothing sleeps: that a change set off nothing is known from another change, made after it, that was seen to arrive.

mod bad_files;
mod killing;
mod meaning;
mod orders;
mod refusing;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use serde_json::{Value, json};
use testkit::{Device, until};

use crate::support::{demo, lines};

/// The package whose changes tell that what came before them was seen.
const MARK: &str = "mark";
/// Core daemons that have nothing to do with it.
const OFF: [&str; 5] = ["log", "heartbeat", "upgrade", "driver", "autorun"];
/// Short enough for a test, long enough for a burst to be one change.
const TIMES: &str = "quiet = \"10ms\"\nlongest = \"100ms\"\n";

/// A device that watches the folder `uci`, and whatever a test adds.
pub(crate) struct Watched {
    pub(crate) device: Device,
    marks: AtomicUsize,
}

impl Watched {
    /// Not started. It has one service, that counts the marks.
    pub(crate) fn new() -> Self {
        Self::of(Device::with_core())
    }

    /// The same for an ordinary user, who may not read everything.
    pub(crate) fn of_an_ordinary_user() -> Self {
        const NOBODY: u32 = 65534;
        let mut device = Device::with_core();
        if rustix::process::geteuid().is_root() {
            device.belong_to(NOBODY);
        }
        let watched = Self::of(device);
        if rustix::process::geteuid().is_root() {
            for name in ["uci", "seen"] {
                let path = watched.path(name);
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))
                    .expect("root may give a folder away");
            }
        }
        watched
    }

    fn of(mut device: Device) -> Self {
        for name in OFF {
            device.define(name, "command = [\"off\"]\nenabled = false\n");
        }
        for name in ["uci", "seen"] {
            fs::create_dir(device.folder().join(name)).expect("the scratch folder is ours");
        }
        let uci = device.folder().join("uci").display().to_string();
        device.set_env("VESTAL_UCI_DIR", &uci);
        let watched = Self { device, marks: AtomicUsize::new(0) };
        watched.configure("", &[]);
        watched.write(MARK, &uci_text("0"));
        watched.counted(MARK, &watched.uci(MARK));
        watched
    }

    /// Settings of the watcher (with short times unless they say `quiet`), and sources besides the folder `uci`: path and the rest of a table.
    pub(crate) fn configure(&self, settings: &str, sources: &[(&Path, &str)]) {
        let uci = self.path("uci");
        let times = if settings.contains("quiet") { "" } else { TIMES };
        let mut text =
            format!("{times}{settings}\n[[sources]]\npath = {uci:?}\nformat = \"uci\"\n");
        for (path, rest) in sources {
            text.push_str(&format!("[[sources]]\npath = {path:?}\n{rest}\n"));
        }
        fs::write(self.path("etc/config.toml"), text).expect("the scratch folder is ours");
    }

    /// Starts all of it, and waits until the watcher knows what is there.
    pub(crate) fn start(&mut self) {
        self.device.start();
        self.until_watched();
    }

    pub(crate) fn until_watched(&self) {
        self.device.ctl_ok(&["wait-for", "service", "config", "registry"]);
        self.device.until_state("config", "ready");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.device.folder().join(name)
    }

    /// A package's file.
    pub(crate) fn uci(&self, name: &str) -> PathBuf {
        self.path("uci").join(name)
    }

    pub(crate) fn write(&self, package: &str, text: &str) {
        fs::write(self.uci(package), text).expect("the scratch folder is ours");
    }

    /// As `uci commit` and good editors do.
    pub(crate) fn write_over(&self, package: &str, text: &str) {
        let fresh = self.uci(&format!(".{package}.new"));
        fs::write(&fresh, text).expect("the scratch folder is ours");
        fs::rename(fresh, self.uci(package)).expect("the scratch folder is ours");
    }

    /// Defines a service that notes what `file` says whenever it is told that it changed.
    pub(crate) fn counted(&self, service: &str, file: &Path) {
        let package = file.file_name().expect("a package has a name").to_string_lossy();
        let note = self.note(service, file);
        let text = format!(
            "{}[[triggers]]\nevent = \"config.change\"\npackage = {package:?}\nrun = [\"/bin/sh\", \"-c\", {note:?}]\n",
            demo(&[])
        );
        self.device.define(service, &text);
    }

    /// Words for a shell: a line with all that a file says, in one write.
    pub(crate) fn note(&self, name: &str, file: &Path) -> String {
        let seen = self.path("seen").join(name);
        format!("echo $(cat {}) >> {}", file.display(), seen.display())
    }

    /// What a service has noted, oldest first.
    pub(crate) fn seen(&self, service: &str) -> Vec<String> {
        lines(&self.path("seen").join(service))
    }

    /// Waits until a service has noted something with these words last.
    #[track_caller]
    pub(crate) fn until_seen(&self, service: &str, words: &str) {
        until(&format!("{service} has seen {words:?}"), || {
            self.seen(service).last().is_some_and(|line| line.contains(words)).then_some(())
        });
    }

    /// Whatever was done to a file before is seen, and what follows from it has begun.
    #[track_caller]
    pub(crate) fn settle(&self) {
        let mark = format!("mark-{}.", self.marks.fetch_add(1, Relaxed));
        self.write_over(MARK, &uci_text(&mark));
        self.until_seen(MARK, &mark);
    }

    /// Waits until the service's triggers have nothing left to do.
    #[track_caller]
    pub(crate) fn until_idle(&self, service: &str) {
        let args = json!({ "name": service, "verbose": true }).to_string();
        until(&format!("{service} has nothing to do"), || {
            let list = self.device.json(&["call", "service", "list", &args]);
            list[service]["queue"].is_null().then_some(())
        });
    }

    /// What `config status` says of a package; `Null` where it says nothing.
    #[track_caller]
    pub(crate) fn package(&self, name: &str) -> Value {
        let mut status = self.device.json(&["config", "status"]);
        let packages = status["packages"].as_array_mut().expect("it is a list");
        let found = packages.iter_mut().find(|it| it["package"] == name);
        found.map(Value::take).unwrap_or_default()
    }

    /// Waits until `config status` shows the package so.
    #[track_caller]
    pub(crate) fn until_package(&self, name: &str, state: &str) -> Value {
        until(&format!("{name} is {state}"), || {
            let package = self.package(name);
            (package["state"] == state).then_some(package)
        })
    }
}

/// A package with one value.
pub(crate) fn uci_text(value: &str) -> String {
    format!("config service 'main'\n\toption value '{value}'\n")
}
