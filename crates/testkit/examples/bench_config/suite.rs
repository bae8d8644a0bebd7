//! A device with packages and the real daemons, and OpenWrt's programs in a folder as on a device.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use testkit::{Device, LIMIT, binary, processes_of, within};

use crate::ground::{Ground, run, settle, write_over};

/// Who runs beside keeper and supervisor.
const DAEMONS: [&str; 3] = ["config", "registry", "log"];
/// Names under which `vestalctl` is OpenWrt's program.
const APPLETS: [&str; 7] =
    ["ubus", "uci", "validate_data", "jshn", "jsonfilter", "reload_config", "lock"];
/// Sections of a package.
const SECTIONS: usize = 10;

/// Where the run directory of a device lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// As `/run` does on a device.
    Memory,
    Disk,
}

/// A device that runs.
pub(crate) struct Suite {
    pub(crate) device: Device,
    mounted: bool,
    pub(crate) daemons: Vec<i32>,
}

impl Suite {
    /// With so many packages; `settings` are the watcher's, and `definitions` further services.
    pub(crate) fn start(
        ground: &Ground,
        packages: usize,
        settings: &str,
        definitions: &[(&str, String)],
        environment: &[(&str, &str)],
        place: Place,
    ) -> anyhow::Result<Self> {
        let mut device = Device::with_core();
        for name in ["heartbeat", "upgrade", "driver", "autorun"] {
            device.define(name, "command = [\"off\"]\nenabled = false\n");
        }
        for (name, text) in definitions {
            device.define(name, text);
        }
        fs::write(device.folder().join("etc/config.toml"), settings)?;
        let folder = device.folder().join("config");
        fill(&folder, packages)?;
        device.set_env("VESTAL_UCI_DIR", &folder.display().to_string());
        for (name, value) in environment {
            device.set_env(name, value);
        }
        let mounted = place == Place::Memory && ground.is_inside();
        if mounted {
            run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(device.run_dir()))?;
        }
        let mut suite = Self { device, mounted, daemons: Vec::new() };
        suite.device.start();
        suite.device.ctl_ok(&[&["wait-for", "service", "system"], &DAEMONS[..]].concat());
        suite.daemons = daemons(&suite.device.run_dir())?;
        settle(&suite.daemons)?;
        Ok(suite)
    }

    /// A package's file.
    pub(crate) fn package(&self, number: usize) -> PathBuf {
        self.device.folder().join("config").join(name(number))
    }

    /// Gives a package another value; the moment before it is there.
    pub(crate) fn edit(&self, number: usize, value: usize) -> anyhow::Result<i64> {
        write_over(&self.package(number), &text(value))
    }

    /// The folder with OpenWrt's programs and busybox's, made on the first call.
    pub(crate) fn programs(&self) -> anyhow::Result<PathBuf> {
        let folder = self.device.folder().join("bin");
        if !folder.exists() {
            fill_programs(&folder)?;
        }
        Ok(folder)
    }

    /// One of these programs, that says nothing.
    pub(crate) fn program(&self, name: &str) -> anyhow::Result<Command> {
        let folder = self.programs()?;
        let program = folder.join(name).display().to_string();
        let mut command = self.device.in_environment(&program);
        command.env("PATH", folder).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }

    /// Whether all daemons that ran at the start still do.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let gone = self.daemons.iter().find(|pid| !testkit::alive(**pid));
        anyhow::ensure!(gone.is_none(), "daemon {gone:?} ended:\n{}", self.device.console());
        Ok(())
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        if self.mounted {
            // The processes that still use it end with the device.
            let _ = Command::new("umount").arg("-l").arg(self.device.run_dir()).status();
        }
    }
}

/// The pids of keeper, supervisor and daemons. A child that has not become another program yet looks like its parent.
fn daemons(run_dir: &Path) -> anyhow::Result<Vec<i32>> {
    let count = DAEMONS.len() + 2;
    let is_daemon = |command: &str| {
        let program = command.split(' ').next().unwrap_or_default();
        let mut names = ["keeper", "supervisor"].iter().chain(&DAEMONS);
        names.any(|name| program.ends_with(&format!("/vestal-{name}")))
    };
    let found = within(LIMIT, || {
        let all = processes_of(run_dir).into_iter();
        let daemons = all.filter(|process| is_daemon(&process.command));
        let pids: Vec<i32> = daemons.map(|process| process.pid).collect();
        (pids.len() == count).then_some(pids)
    });
    found.with_context(|| format!("there are not {count} daemons"))
}

/// A package's name. It is one that nobody on this machine has uncommitted changes of.
pub(crate) fn name(number: usize) -> String {
    format!("vestal_bench_{number:04}")
}

/// A package of ten sections, as OpenWrt's are; 1.5 KiB.
pub(crate) fn text(value: usize) -> String {
    let mut text = "# What this is for.\n\n".to_owned();
    for section in 0..SECTIONS {
        write!(
            text,
            "config rule 'section{section}'\n\toption enabled '1'\n\toption name 'Allow-{section}'\n\
             \toption value '{value}'\n\tlist proto 'tcp'\n\tlist proto 'udp'\n\
             \toption dest_port \"{}\"\n\n",
            1000 + section
        )
        .expect("writing to a String never fails");
    }
    text
}

/// Makes a folder with so many packages.
pub(crate) fn fill(folder: &Path, packages: usize) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    for number in 0..packages {
        fs::write(folder.join(name(number)), text(0))?;
    }
    Ok(())
}

fn fill_programs(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let link = |program: &Path, name: &str| {
        // Ours comes in the place of busybox's.
        let _ = fs::remove_file(folder.join(name));
        symlink(program, folder.join(name)).with_context(|| format!("link {name}"))
    };
    let busybox = Path::new("/bin/busybox");
    let names = Command::new(busybox).arg("--list").output();
    let names = names.context("list busybox's programs; the package busybox has it")?;
    for name in String::from_utf8_lossy(&names.stdout).lines() {
        link(busybox, name)?;
    }
    link(Path::new("/bin/dash"), "dash")?;
    // Debian's busybox has none.
    link(Path::new("/usr/bin/flock"), "flock")?;
    for name in APPLETS {
        link(&binary("vestalctl"), name)?;
    }
    Ok(())
}

/// Writes a program.
pub(crate) fn script(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
