//! What a person or a script wrote, as valid settings: two readers (TOML files, procd's message), one result.
//!
//! Nothing here is half valid: a reader returns a whole [`Service`] or an error that names file, line, key and cure.

mod builtin;
pub(crate) mod context;
mod expand;
pub(crate) mod files;
pub(crate) mod problem;
pub(crate) mod procd;
mod rules;
mod set;
pub(crate) mod store;
pub(crate) mod toml;
pub(crate) mod units;
mod users;
mod watched;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use protocol::name::Name;
use serde_json::Value;

pub(crate) use self::rules::Rules;

/// One service, valid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) name: Name,
    pub(crate) source: Source,
    /// Started at boot and when defined; otherwise only on request.
    pub(crate) autostart: bool,
    /// Lower numbers are spawned first. Only services without explicit relations are ordered by it.
    pub(crate) start: u32,
    /// Lower numbers are stopped first; `None`: the reverse of the start order.
    pub(crate) stop: Option<u32>,
    /// Explicit relations; all wait for readiness, unknown names count only in `requires`.
    pub(crate) after: Vec<Name>,
    pub(crate) requires: Vec<Name>,
    pub(crate) wants: Vec<Name>,
    pub(crate) conflicts: Vec<Name>,
    /// All must hold at start, else the service is `done` without having run.
    pub(crate) conditions: Vec<Condition>,
    /// A daemon of the suite: applications have an implied `after` on it.
    pub(crate) core: bool,
    /// Not started at boot, but when somebody looks for one of its objects.
    pub(crate) on_demand: Option<OnDemand>,
    /// Boxed: a map of one entry has room for eleven, and a device has a thousand such maps.
    pub(crate) instances: BTreeMap<Name, Box<Instance>>,
    /// procd's free data and triggers, kept as given (`service list`, `get_data`).
    pub(crate) data: serde_json::Map<String, Value>,
    pub(crate) triggers: Vec<Value>,
    /// How its configuration has to be written.
    pub(crate) validate: Vec<Rules>,
    /// The same, of what its script checked by itself without registering it. Only by message.
    pub(crate) checked: Vec<Rules>,
    /// Keys of procd's message that were dropped, as `key: why`.
    pub(crate) ignored: Vec<String>,
}

impl Service {
    /// Everything that its configuration is checked by.
    pub(crate) fn rules(&self) -> impl DoubleEndedIterator<Item = &Rules> {
        self.validate.iter().chain(&self.checked)
    }

    /// The numbers under which instances report heartbeats.
    pub(crate) fn applications(&self) -> impl Iterator<Item = (i32, &Name)> {
        let instances = self.instances.iter();
        instances.filter_map(|(name, instance)| Some((instance.process.app_id?, name)))
    }
}

/// Where a definition comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// Built into the supervisor.
    BuiltIn,
    File(PathBuf),
    /// The last good copy of this file, because the file itself is bad now.
    LastGood(PathBuf),
    /// `service set` or `add`: kept in the journal until the reboot.
    Message,
}

/// Started when it is needed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OnDemand {
    /// What it serves.
    pub(crate) objects: Vec<String>,
    /// Stopped when nobody has used it so long; `None`: never.
    pub(crate) idle_timeout: Option<Duration>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Condition {
    PathExists {
        path: PathBuf,
        negate: bool,
    },
    KernelArgument {
        argument: String,
        negate: bool,
    },
    /// `vm`, `container`, or a name as `systemd-detect-virt` prints it.
    Virtualization {
        kind: String,
        negate: bool,
    },
}

/// One process of a service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instance {
    /// A change of any of this restarts a running instance.
    pub(crate) process: Process,
    /// Applied to a running instance as it is.
    pub(crate) policy: Policy,
    /// What procd's `service list` shows beyond the two, by procd's key (`jail`, `trace`, `netdev` ...).
    pub(crate) shown: serde_json::Map<String, Value>,
    /// Reasons why this instance is never started (procd's `error`, an unknown user ...).
    pub(crate) errors: Vec<String>,
}

/// What the process is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Process {
    pub(crate) command: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) env_files: Vec<EnvFile>,
    /// `/` by default.
    pub(crate) directory: PathBuf,
    pub(crate) user: Option<User>,
    pub(crate) capabilities: Option<u64>,
    pub(crate) no_new_privileges: bool,
    pub(crate) read_only_paths: Vec<PathBuf>,
    pub(crate) umask: Option<u32>,
    /// RLIMIT_* number to (soft, hard); `u64::MAX` is unlimited.
    pub(crate) limits: BTreeMap<u32, (u64, u64)>,
    pub(crate) nice: Option<i32>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) cgroup: CgroupLimits,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) readiness: Readiness,
    /// How many descriptors the service may deposit (FDSTORE); 0: none.
    pub(crate) fd_store: u32,
    pub(crate) oneshot: bool,
    /// Asked to pet us this often (sd_notify WATCHDOG=1).
    pub(crate) watchdog: Option<Duration>,
    /// The AppId of `GMI_DaemonInit`: it reports heartbeats under this number, and inherits a key for that.
    pub(crate) app_id: Option<i32>,
    /// Kept; otherwise /dev/null.
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Written after the spawn, removed at the stop.
    pub(crate) pidfile: Option<PathBuf>,
    /// The content's SHA-256 when the definition was read (zeros: not there), so that a change restarts.
    pub(crate) files: BTreeMap<PathBuf, [u8; 32]>,
    /// The devices' indices when the definition was read (0: not there).
    pub(crate) netdevs: BTreeMap<String, u32>,
}

/// An environment file; `optional` ones may be missing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct EnvFile {
    pub(crate) path: PathBuf,
    pub(crate) optional: bool,
}

/// Numbers, looked up in /etc/passwd and /etc/group when the definition was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct User {
    /// As written, for `list`.
    pub(crate) name: Option<String>,
    pub(crate) group_name: Option<String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// Written into the instance's cgroup where the controllers are there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct CgroupLimits {
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Processes and threads.
    pub(crate) pids: Option<u64>,
    /// Hundredths of one core.
    pub(crate) cpu_percent: Option<u32>,
}

/// A listening socket that the supervisor binds and the service inherits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Socket {
    /// `LISTEN_FDNAMES`.
    pub(crate) name: String,
    pub(crate) listen: Listen,
    /// Mode of a Unix socket's file.
    pub(crate) mode: u32,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Listen {
    /// `unix:PATH`, `unix-dgram:PATH`, `unix-seqpacket:PATH`; RUN_DIR-relative paths are allowed as `run:NAME.sock`.
    Unix {
        path: PathBuf,
        kind: UnixKind,
    },
    Tcp(std::net::SocketAddr),
    Udp(std::net::SocketAddr),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UnixKind {
    Stream,
    Datagram,
    SeqPacket,
}

/// How an instance says that it can serve.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Readiness {
    pub(crate) kind: ReadinessKind,
    /// `None` waits for ever. Passed: the instance counts as crashed (`timeout`).
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum ReadinessKind {
    /// Ready when exec succeeded; a oneshot when it ended with 0.
    #[default]
    Exec,
    /// sd_notify READY=1.
    Notify,
    /// A newline on this descriptor (s6).
    Fd(u32),
    /// Something accepts there.
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
    /// Exits with 0.
    Command(Vec<String>),
    /// A process of the instance has registered this object.
    Object(String),
}

/// How the supervisor treats the process.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) respawn: Respawn,
    pub(crate) critical: Option<Critical>,
    pub(crate) stop_signal: i32,
    /// From stop signal to SIGKILL of the tree.
    pub(crate) stop_timeout: Duration,
    pub(crate) reload: Reload,
    /// Only the main process is killed (`kill-mode = "main"`).
    pub(crate) main_only: bool,
    /// The terms of its heartbeats; they count with [`Process::app_id`].
    pub(crate) heartbeat: Heartbeat,
    /// What follows when it doesn't send `WATCHDOG=1` in time.
    pub(crate) watchdog_miss: OnMiss,
}

/// How heartbeats are watched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Heartbeat {
    pub(crate) period: Duration,
    /// So many periods in a row without a report are a miss.
    pub(crate) misses: u8,
    pub(crate) on_miss: OnMiss,
    /// From the spawn to the registration; `None` is for ever.
    pub(crate) grace: Option<Duration>,
    /// A progress counter that stands still so long is a miss; `None`: never.
    pub(crate) progress: Option<Duration>,
    /// Judged by its own regularity instead of a fixed deadline.
    pub(crate) adaptive: bool,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(1),
            misses: 3,
            on_miss: OnMiss::Restart,
            grace: Some(Duration::from_secs(30)),
            progress: None,
            adaptive: false,
        }
    }
}

/// What follows when an instance shows no sign of life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OnMiss {
    /// It is told, nothing else.
    Event,
    /// This signal, then SIGKILL for the whole tree; a failure.
    Signal(i32),
    /// SIGKILL for the whole tree; a failure.
    Restart,
    /// Everything is stopped, then the machine is rebooted.
    Reboot,
}

impl OnMiss {
    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Signal(_) => "signal",
            Self::Restart => "restart",
            Self::Reboot => "reboot",
        }
    }
}

impl Default for OnMiss {
    /// SIGABRT, which leaves a core dump.
    fn default() -> Self {
        Self::Signal(rustix::process::Signal::ABORT.as_raw())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Respawn {
    Never,
    /// Ours: at once, then 100 ms doubling to 30 s with jitter, reset after 60 s of readiness.
    Backoff {
        when: RespawnWhen,
        max_restarts: Option<u32>,
    },
    /// procd's: `timeout` after every exit, clean ones too; gives up after `retry` runs shorter than `threshold` (0: never).
    Procd {
        threshold: u32,
        timeout: u32,
        retry: u32,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RespawnWhen {
    OnFailure,
    Always,
}

/// Crashing more often than this escalates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Critical {
    pub(crate) restarts: u32,
    pub(crate) window: Duration,
    pub(crate) action: CriticalAction,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CriticalAction {
    /// Restart the service and all that require it, together.
    Restart,
    Reboot,
    /// Stop everything but the rescue set (PID 1 only; elsewhere as `Reboot`).
    Rescue,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Reload {
    /// Restart.
    #[default]
    None,
    Signal(i32),
    Command(Vec<String>),
}
