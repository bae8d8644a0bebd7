//! What people have without an engine: a hook of a shell that runs the same programs, and the floor below everything.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use tempfile::TempDir;
use testkit::binary;

use crate::{
    clocks::{between, now},
    numbers::float,
    stand::{begun, fifo},
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hook {
    /// One after another, by a shell.
    Sequence,
    /// All at once, by a shell that waits for them.
    Background,
    /// Debian's program for folders of hooks.
    RunParts,
    /// This very process, one after another; no shell at all.
    Spawn,
}

/// A folder with the programs, and a FIFO on which they tell when they began.
pub(crate) struct Hooks {
    folder: TempDir,
    begun: File,
    count: usize,
}

/// Since the hook was called.
pub(crate) struct Ran {
    pub(crate) first: Duration,
    pub(crate) last: Duration,
    pub(crate) done: Duration,
    /// CPU time of everything that ran.
    pub(crate) cpu_ms: f64,
}

impl Hooks {
    pub(crate) fn new(count: usize) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vb").tempdir_in("/dev/shm")?;
        let parts = folder.path().join("parts");
        fs::create_dir(&parts)?;
        for number in 0..count {
            symlink(binary("bench_autorun_child"), parts.join(format!("part-{number:02}")))?;
        }
        let shown = parts.display();
        for (name, line) in [
            ("sequence", format!("for part in {shown}/*; do \"$part\"; done")),
            ("background", format!("for part in {shown}/*; do \"$part\" & done; wait")),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{line}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let begun = fifo(&folder.path().join("begun"))?;
        Ok(Self { folder, begun, count })
    }

    pub(crate) fn run(&self, hook: Hook) -> anyhow::Result<Ran> {
        let at = |name: &str| self.folder.path().join(name);
        let (ran, before) = (children_ms()?, now());
        match hook {
            Hook::Sequence => self.command(&at("sequence"), &[])?,
            Hook::Background => self.command(&at("background"), &[])?,
            Hook::RunParts => self.command(Path::new("/usr/bin/run-parts"), &[at("parts")])?,
            Hook::Spawn => {
                for number in 0..self.count {
                    self.command(&at("parts").join(format!("part-{number:02}")), &[])?;
                }
            }
        }
        let done = now();
        let cpu_ms = children_ms()? - ran;
        let (first, last) = begun(&self.begun, self.count)?;
        let (first, last) = (between(before, first)?, between(before, last)?);
        Ok(Ran { first, last, done: between(before, done)?, cpu_ms })
    }

    fn command(&self, program: &Path, args: &[PathBuf]) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.args(args).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("BENCH_FIFO", self.folder.path().join("begun")).stdin(Stdio::null());
        let status = command.status().with_context(|| format!("start {command:?}"))?;
        anyhow::ensure!(status.success(), "{command:?} ended with {status}");
        Ok(())
    }
}

/// CPU time of all our children that ended, and of all that these waited for.
fn children_ms() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask what children cost")?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(float(usize::try_from(us).context("times only grow")?) / 1e3)
}
