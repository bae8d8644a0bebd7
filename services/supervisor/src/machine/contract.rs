//! What goes into the machine and what comes out of it; the shell knows no other words.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use protocol::{
    config::Invalid,
    failure::Failure,
    heartbeat::Missed,
    keeper::{Disposition, ShutdownKind, SlotState},
    name::Name,
    system::Cause,
};
use serde_json::{Map, Value};

use super::{
    frozen::Means,
    record::Record,
    replace::Seat,
    triggers::{Ended, ScriptProcess},
};
use crate::settings::{ReadinessKind, Service};

/// Something that happened outside.
#[derive(Debug)]
pub(crate) enum Event {
    /// What the keeper says of a slot, at hand-over and after every change.
    Slot(SlotState),
    /// The keeper did not do a spawn that we asked for (a full table or system, a stale generation, an unprepared
    /// plan): not a crash, tried again with a back-off of its own.
    SpawnRefused { slot: u32, errno: i32 },
    /// A message of the instance's notify socket, readiness descriptor or probe.
    Notify { slot: u32, generation: u32, notice: Notice },
    /// The answer to [`Action::Check`]; the text of `Err` names the condition that does not hold.
    Checked { slot: u32, holds: Result<(), String> },
    /// The answer to [`Action::LookAtPressure`]: whether the machine has too little processor, memory or input and output.
    Pressure { slot: u32, starved: bool },
    /// The reload command ended.
    ReloadDone { slot: u32, generation: u32, ok: bool },
    /// The script of [`Action::RunScript`] with this number runs, as this process.
    ScriptStarted { run: u64, process: ScriptProcess },
    /// It ended, or could not be started.
    ScriptEnded { run: u64, ended: Ended },
    /// The answer to [`Action::Validate`]: every value that is not valid.
    Validated { run: u64, found: Vec<Invalid> },
    /// Something that triggers may be for, and that nobody called about.
    Seen { kind: String, data: Map<String, Value> },
    /// The heartbeat broker says that an application missed its deadline.
    Missed(Missed),
    /// The answer to [`Action::Freeze`]: nothing of the instance runs any more, or why that can't be.
    Frozen { slot: u32, generation: u32, result: Result<Means, String> },
    /// The machine slept, and another life of it began.
    Resumed,
    /// A caller asks; answered by [`Action::Reply`] with the same number.
    Request { id: u64, request: Request },
    /// The definition files were read (again): `services` replaces everything whose source isn't a message.
    Definitions { services: Vec<Arc<Service>> },
    /// The answer to [`Action::Rescue`]: these replace everything, messages' services too.
    Rescue { services: Vec<Arc<Service>> },
    /// Stop everything in order, then leave.
    Shutdown { kind: ShutdownKind, ending: Ending },
}

/// Why everything ends, for whoever asks after the next boot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ending {
    pub(crate) cause: Cause,
    /// Who wanted it, and why.
    pub(crate) reason: String,
}

/// What an instance says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Notice {
    Ready,
    Reloading,
    Stopping,
    /// Free text for `status`.
    Status(String),
    Errno(i32),
    Watchdog,
    /// `WATCHDOG=trigger`: treat as missed now.
    WatchdogTrigger,
    WatchdogPeriod(Duration),
    ExtendTimeout(Duration),
}

/// What a caller wants. `wait` answers when it is done, not when it is begun.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// `service set`: create or update; instances that aren't named are stopped.
    Set {
        service: Arc<Service>,
    },
    /// `service add`: as set, but keeps the instances that aren't named.
    Add {
        service: Arc<Service>,
    },
    Delete {
        name: Name,
        instance: Option<Name>,
        wait: bool,
    },
    Start {
        name: Name,
        instance: Option<Name>,
        wait: bool,
    },
    Stop {
        name: Name,
        instance: Option<Name>,
        wait: bool,
    },
    Restart {
        name: Name,
        instance: Option<Name>,
        wait: bool,
    },
    Reload {
        name: Name,
        instance: Option<Name>,
        wait: bool,
    },
    Signal {
        name: Option<Name>,
        instance: Option<Name>,
        signal: i32,
    },
    /// procd's `service watchdog`.
    Watchdog {
        name: Name,
        instance: Name,
        mode: Option<u32>,
        timeout_s: Option<u32>,
    },
    /// Start the program on disk beside the running one, and let it take its place when it is ready.
    Replace {
        name: Name,
        instance: Option<Name>,
        wait: bool,
    },
    /// Keep it from running, with all that it has in memory. Answered when nothing of it runs, or after the limit, when it runs
    /// again.
    Freeze {
        name: Name,
        instance: Option<Name>,
        limit: Option<Duration>,
    },
    /// Let it run again.
    Thaw {
        name: Name,
        instance: Option<Name>,
    },
    /// Somebody looks for an object that this service serves on demand.
    Activate {
        name: Name,
    },
    /// Nobody uses it any more: stop what was started on demand.
    Release {
        name: Name,
    },
    /// Something happened that triggers may be for.
    Event {
        kind: String,
        data: Map<String, Value>,
    },
    UpdateStart {
        name: Name,
    },
    UpdateComplete {
        name: Name,
    },
}

/// Something the shell must do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Prepare sockets, pipes, cgroup and plan, and tell the keeper. Comes before the first spawn, after every change
    /// and for every instance that runs at hand-over (whose sockets and pipes are taken as they are).
    Define {
        slot: u32,
        service: Arc<Service>,
        instance: Name,
        disposition: Disposition,
        seat: Seat,
    },
    Dispose {
        slot: u32,
        disposition: Disposition,
    },
    Spawn {
        slot: u32,
        expected: u32,
    },
    Signal {
        slot: u32,
        generation: u32,
        signal: i32,
        tree: bool,
    },
    /// Tell the keeper how to answer its end, and when it has heard that, freeze the instance; then report
    /// [`Event::Frozen`]. An [`Action::Thaw`] ends it at any time. It may be frozen already.
    Freeze {
        slot: u32,
        generation: u32,
        disposition: Disposition,
    },
    /// Let it run again; without means: it is not known how far the freezing came.
    Thaw {
        slot: u32,
        generation: u32,
        means: Option<Means>,
    },
    /// The terms of its heartbeats changed as it runs: tell the broker.
    Expect {
        slot: u32,
        service: Arc<Service>,
        instance: Name,
    },
    /// This generation and older ones won't report any more, and that is as it should be. Comes for every instance.
    Unexpect {
        slot: u32,
        generation: u32,
    },
    /// Close and unlink what the slot held (sockets, notify socket, pipes), and free it in the keeper.
    Forget {
        slot: u32,
    },
    /// The desired state is down, held or failed: drain and close the listening sockets; Define opens them again.
    Release {
        slot: u32,
    },
    /// Look at the service's conditions, then report [`Event::Checked`].
    Check {
        slot: u32,
        service: Arc<Service>,
    },
    /// The instance missed its watchdog: look how the machine is, then report [`Event::Pressure`].
    LookAtPressure {
        slot: u32,
    },
    /// Look until it is ready, then report `Notice::Ready`; ends with the generation.
    Probe {
        slot: u32,
        generation: u32,
        kind: ReadinessKind,
    },
    /// Report `Notice::Ready` when a process of this instance has registered that object; ends with the generation.
    AwaitObject {
        slot: u32,
        generation: u32,
        object: String,
    },
    /// Run the reload command, with a time limit.
    ReloadCommand {
        slot: u32,
        generation: u32,
        command: Vec<String>,
        timeout: Duration,
    },
    /// Run a service's script beside everything, after what the supervisor before this one may have left running, and report
    /// [`Event::ScriptStarted`] and [`Event::ScriptEnded`].
    RunScript {
        run: u64,
        service: Name,
        command: Vec<String>,
        timeout: Duration,
        after: Option<ScriptProcess>,
    },
    /// Check these packages by the service's rules, and report [`Event::Validated`].
    Validate {
        run: u64,
        service: Arc<Service>,
        packages: BTreeSet<String>,
    },
    /// Append to the journal, before anything that follows.
    Record(Record),
    Reply {
        id: u64,
        result: Result<(), Failure>,
    },
    /// Everything is being stopped from now on: remember why, and see that it ends whatever hangs.
    Ending {
        kind: ShutdownKind,
        ending: Ending,
        /// By then we have left.
        limit: Duration,
    },
    /// Only the rescue set may go on: read it, then report [`Event::Rescue`].
    Rescue {
        reason: String,
    },
    /// To the log, and to whoever subscribed.
    Publish(Happening),
    /// All is stopped: tell the keeper.
    Leave {
        kind: ShutdownKind,
        exit_code: u8,
    },
}

/// Something worth telling the log and the subscribers: `service.start` and its kind, and procd's `instance.start`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Happening {
    pub(crate) topic: &'static str,
    pub(crate) data: Value,
}
