//! The supervisors that are compared: how each is given its services, started and asked to stop.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testkit::Device;

use crate::processes::tree;

/// One way to keep services alive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    Floor,
    /// Ours; `keeps_output` is its default, the others throw away or inherit what services print.
    Vestal {
        keeps_output: bool,
    },
    S6,
    Runit,
}

impl Peer {
    pub(crate) const ALL: &[Self] = &[
        Self::Floor,
        Self::Vestal { keeps_output: false },
        Self::Vestal { keeps_output: true },
        Self::S6,
        Self::Runit,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Vestal { keeps_output: false } => "vestal",
            Self::Vestal { keeps_output: true } => "vestal+log",
            Self::S6 => "s6",
            Self::Runit => "runit",
        }
    }

    /// The program that has to be installed; ours is built beside us.
    pub(crate) fn program(self) -> Option<&'static str> {
        match self {
            Self::Floor | Self::Vestal { .. } => None,
            Self::S6 => Some("s6-svscan"),
            Self::Runit => Some("runsvdir"),
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Vestal { .. })
    }
}

/// A peer with its services, not yet started. Ends with its owner.
pub(crate) struct Session {
    peer: Peer,
    kind: Kind,
}

enum Kind {
    Ours(Device),
    /// The folder of service folders is removed at the end.
    Foreign {
        command: Command,
        root: Option<Child>,
        _folder: TempDir,
    },
}

impl Session {
    /// Writes what the peer needs for `count` services that all run `child`.
    pub(crate) fn prepare(
        peer: Peer,
        count: usize,
        child: &Path,
        fifo: &Path,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vb").tempdir_in("/tmp")?;
        let kind = match peer {
            Peer::Vestal { keeps_output } => {
                let device = Device::new();
                let text = definition(child, fifo, keeps_output);
                (0..count).for_each(|number| device.define(&format!("s{number:04}"), &text));
                Kind::Ours(device)
            }
            Peer::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("floor").arg(count.to_string()).arg(child);
                Kind::Foreign { command, root: None, _folder: folder }
            }
            Peer::S6 | Peer::Runit => {
                let services = folder.path().join("services");
                for number in 0..count {
                    let service = services.join(format!("s{number:04}"));
                    fs::create_dir_all(&service)?;
                    symlink(child, service.join("run"))?;
                    if peer == Peer::S6 {
                        // It answers a crash at once only where the service had said that it is ready.
                        fs::write(service.join("notification-fd"), "3\n")?;
                    }
                }
                let mut command = Command::new(peer.program().context("it has a program")?);
                if peer == Peer::S6 {
                    command.args(["-c", "1100"]).env("BENCH_READY", "/dev/fd/3");
                }
                command.arg(services);
                Kind::Foreign { command, root: None, _folder: folder }
            }
        };
        let mut session = Self { peer, kind };
        if let Kind::Foreign { command, .. } = &mut session.kind {
            command.env("BENCH_FIFO", fifo).stdin(Stdio::piped());
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        Ok(session)
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        match &mut self.kind {
            Kind::Ours(device) => device.spawn(),
            Kind::Foreign { command, root, .. } => *root = Some(command.spawn()?),
        }
        Ok(())
    }

    /// Takes note of the end of the peer's first process, so that it can be started again.
    pub(crate) fn reap(&mut self) -> anyhow::Result<()> {
        match &mut self.kind {
            Kind::Ours(device) => drop(device.wait()),
            Kind::Foreign { command, root, .. } => {
                if let Some(mut root) = root.take() {
                    root.wait()?;
                }
                command.stdin(Stdio::piped());
            }
        }
        Ok(())
    }

    /// The peer's first process.
    pub(crate) fn root(&self) -> anyhow::Result<i32> {
        match &self.kind {
            Kind::Ours(device) => Ok(device.keeper_pid()),
            Kind::Foreign { root, .. } => {
                let root = root.as_ref().context("it is started")?;
                i32::try_from(root.id()).context("pids fit")
            }
        }
    }

    /// Asks for the end of everything, each peer in its own way.
    pub(crate) fn ask_to_stop(&mut self) -> anyhow::Result<()> {
        let signal = match self.peer {
            Peer::Floor => {
                if let Kind::Foreign { root: Some(root), .. } = &mut self.kind {
                    drop(root.stdin.take());
                }
                return Ok(());
            }
            Peer::Runit => Signal::HUP,
            Peer::Vestal { .. } | Peer::S6 => Signal::TERM,
        };
        let root = Pid::from_raw(self.root()?).context("a pid is not 0")?;
        kill_process(root, signal).context("ask the peer to stop")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Kind::Foreign { root: Some(root), .. } = &mut self.kind
            && let Ok(pid) = i32::try_from(root.id())
        {
            // Top down, so that nobody is there to restart anything.
            for pid in tree(pid).into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = root.wait();
        }
    }
}

/// Every crash is answered, whatever its number.
fn definition(child: &Path, fifo: &Path, keeps_output: bool) -> String {
    let path = |path: &Path| serde_json::Value::from(path.to_string_lossy());
    format!(
        "command = [{}]\nrespawn = \"always\"\nstdout = {keeps_output}\nstderr = {keeps_output}\n\
         env = {{ BENCH_FIFO = {} }}\n",
        path(child),
        path(fifo)
    )
}

/// Where a program is, looked for in PATH and in the folders of system programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}
