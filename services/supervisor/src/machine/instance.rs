//! One instance's life: its desired state, its actual state, and what the keeper said last. Transitions are decided in
//! [`super::drive`] (towards the desired state) and [`super::exits`] (what an end means).
//!
//! ```text
//!             goal up                may start             ready
//!  Stopped ------------> Waiting ----------------> Starting -----> Ready <---> Reloading
//!     ^                   |   ^                     |    |           |            |
//!     |        conditions |   | they hold     ended |    | time-out  | ended,     |
//!     |                   v   |                     |    |           | watchdog   |
//!     |                 Checking ---> Done          v    v           v            v
//!     |                               ^  ^       Pausing <------- Stopping <------+
//!     |                       exit 0  |  |          |   ended        |   goal down, restart, missed
//!     |                  -------------+  |          | respawn due    |
//!     |  ended                           |          v                |
//!     +------------------------------<---|------ Starting            |
//!     +------------------------------<---|---------------------------+
//!                                        Held, Failed: given up until told
//! ```
//!
//! Whether a process is there is not part of the state: [`Life::busy`] asks the keeper's last word. Nothing is ever
//! spawned while it says yes.

use std::sync::Arc;

use protocol::{
    keeper::{Disposition, Exit, Phase, SlotState},
    name::Name,
    time::Moment,
};

use super::{
    backoff::{Backoff, FORGIVE_AFTER},
    boot::First,
    critical::Crashes,
    frozen::Frozen,
    health::Health,
    identity::{fingerprint, identity, inputs},
    record::InstanceRecord,
    replace::Role,
};
use crate::settings::{self, ReadinessKind, Respawn, RespawnWhen, Service};

/// What is said of an instance whose processes don't end.
pub(crate) const UNKILLABLE: &str = "its processes don't end, not even by SIGKILL: they hang in the kernel or are frozen; it goes on as asked when they end";

/// The actual state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Stopped,
    /// Wanted; held back by an order number or a relation.
    Waiting,
    /// The shell looks at the conditions.
    Checking,
    /// Spawned again at `until`; a `delayed` respawn needs a token of the whole system's bucket.
    Pausing {
        until: Moment,
        delayed: bool,
    },
    /// Asked for or spawned, not ready. Passing the deadline is a crash.
    Starting {
        deadline: Option<Moment>,
    },
    Ready,
    /// Ready before, and said that it is reading its settings again.
    Reloading {
        deadline: Option<Moment>,
    },
    /// Told to end; everything of it is killed at `kill_at`, `None` after that was done ([`Life::hopeless_at`] is next).
    Stopping {
        why: Why,
        kill_at: Option<Moment>,
    },
    /// Ended well and not respawned; a `fulfilled` one (oneshot, condition unmet) counts as ready.
    Done {
        fulfilled: bool,
    },
    /// Given up after too many crashes.
    Held {
        reason: String,
    },
    /// Never worked and won't by trying again.
    Failed {
        reason: String,
    },
}

/// Why a process was told to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Why {
    /// Somebody wanted it.
    Order,
    Timeout,
    Watchdog,
    /// It missed its heartbeats.
    Heartbeat,
}

/// Moments of the present round, for boot analysis.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Times {
    pub(crate) wanted_at: Option<Moment>,
    pub(crate) spawned_at: Option<Moment>,
    pub(crate) ready_at: Option<Moment>,
}

#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) slot: u32,
    /// The definition that holds this instance; an instance that left keeps the last one that did.
    pub(crate) service: Arc<Service>,
    pub(crate) name: Name,
    /// The desired state: up.
    pub(crate) wanted: bool,
    /// Stop first, then start: a restart that has not reached the end of the old process.
    pub(crate) again: bool,
    /// Forgotten as soon as nothing of it runs.
    pub(crate) leaving: bool,
    /// Leaving, because another slot has taken its place.
    pub(crate) outgoing: bool,
    pub(crate) role: Role,
    /// The slot that is about to take its place.
    pub(crate) successor: Option<u32>,
    /// See [`super::Seat::second`].
    pub(crate) second: bool,
    /// When a candidate that can't say so counts as ready.
    pub(crate) proven_at: Option<Moment>,
    /// This generation may have said that it is ready to a supervisor that died before it had noted it.
    pub(crate) unheard: Option<u32>,
    /// Wanted by nobody but who looked for one of its objects.
    pub(crate) on_demand: bool,
    pub(crate) state: State,
    /// The keeper's last word.
    pub(crate) seen: SlotState,
    /// A spawn was asked for that the keeper has not answered: the generation it was to follow.
    pub(crate) asked: Option<u32>,
    /// The last generation whose end was dealt with.
    pub(crate) ended: u32,
    /// The keeper has the present plan; otherwise `Define` comes before the next spawn.
    pub(crate) defined: bool,
    /// Sockets and pipes are open.
    pub(crate) open: bool,
    /// The disposition that the keeper has.
    pub(crate) told: Option<Disposition>,
    /// Spawned at least once since the goal went up: what follows are respawns, and they wait only for what is required.
    pub(crate) attempted: bool,
    /// The conditions were looked at since the goal went up.
    pub(crate) checked: bool,
    /// A start failed since the goal went up and none has worked since: those that only come after it go on.
    pub(crate) stumbled: bool,
    /// When it counts as unkillable; set by its SIGKILL.
    pub(crate) hopeless_at: Option<Moment>,
    /// Neither SIGKILL nor waiting ended it. Until it ends after all, nothing can be done.
    pub(crate) unkillable: bool,
    /// It is kept from running.
    pub(crate) frozen: Option<Frozen>,
    pub(crate) ready_at: Option<Moment>,
    pub(crate) backoff: Backoff,
    pub(crate) crashes: Crashes,
    pub(crate) restarts: u32,
    /// How the last run ended, in words.
    pub(crate) reason: String,
    /// The definition that the process was made from.
    pub(crate) made_from: u64,
    /// The files and devices that the process was made with.
    pub(crate) made_with: u64,
    pub(crate) health: Health,
    /// How often it missed its watchdog or its heartbeats.
    pub(crate) misses: u32,
    /// It has given no sign of life since the last miss.
    pub(crate) missing: bool,
    /// procd's watchdog mode, once somebody set it.
    pub(crate) watchdog_mode: Option<u32>,
    pub(crate) status: String,
    pub(crate) errno: i32,
    pub(crate) times: Times,
    pub(crate) first: First,
    pub(crate) recorded: Option<InstanceRecord>,
    /// Under which moment the slot stands in the table of deadlines.
    pub(crate) timer: Option<Moment>,
    pub(crate) waiters: Vec<u64>,
}

impl Life {
    pub(crate) fn new(slot: u32, service: Arc<Service>, name: Name) -> Self {
        let seen = empty_slot(slot, identity(&service.name, &name));
        let mut life = Self {
            slot,
            service,
            name,
            wanted: false,
            again: false,
            leaving: false,
            outgoing: false,
            role: Role::Only,
            successor: None,
            second: false,
            proven_at: None,
            unheard: None,
            on_demand: false,
            state: State::Stopped,
            seen,
            asked: None,
            ended: 0,
            defined: false,
            open: false,
            told: None,
            attempted: false,
            checked: false,
            stumbled: false,
            hopeless_at: None,
            unkillable: false,
            frozen: None,
            ready_at: None,
            backoff: Backoff::default(),
            crashes: Crashes::default(),
            restarts: 0,
            reason: String::new(),
            made_from: 0,
            made_with: 0,
            health: Health::default(),
            misses: 0,
            missing: false,
            watchdog_mode: None,
            status: String::new(),
            errno: 0,
            times: Times::default(),
            first: First::default(),
            recorded: None,
            timer: None,
            waiters: Vec::new(),
        };
        life.note_origin();
        life
    }

    pub(crate) fn settings(&self) -> &settings::Instance {
        self.service
            .instances
            .get(&self.name)
            .expect("the service was stored because it holds this instance")
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        fingerprint(&self.settings().process)
    }

    /// Its process is, or is about to be, what the definition says now.
    pub(crate) fn note_origin(&mut self) {
        let process = &self.settings().process;
        (self.made_from, self.made_with) = (fingerprint(process), inputs(process));
    }

    /// Those that come after it need not wait for its next start: the last one failed, or can't be before long.
    pub(crate) fn start_failed(&self) -> bool {
        self.stumbled
            || self.unkillable
            || matches!(self.state, State::Pausing { delayed: true, .. })
    }

    /// Something of it runs, may run, or will be run by the keeper.
    pub(crate) fn busy(&self) -> bool {
        self.asked.is_some() || self.seen.phase != Phase::Idle
    }

    /// Its main process is there.
    pub(crate) fn running(&self) -> bool {
        matches!(self.seen.phase, Phase::Executing | Phase::Running)
            && self.ended != self.seen.generation
    }

    /// It may be spawned: nothing of it runs.
    pub(crate) fn spawnable(&self) -> bool {
        self.asked.is_none() && self.seen.phase == Phase::Idle
    }

    /// Counts as ready for those that wait for it.
    pub(crate) fn fulfilled(&self) -> bool {
        match self.state {
            State::Ready | State::Reloading { .. } => self.running(),
            State::Done { fulfilled } => fulfilled,
            _ => false,
        }
    }

    /// Has given up or is at its end: nobody can count on it any more.
    pub(crate) fn down_for_good(&self) -> bool {
        matches!(
            self.state,
            State::Held { .. } | State::Failed { .. } | State::Done { fulfilled: false }
        ) && !self.again
    }

    /// Somebody wants it afresh: the past is forgiven.
    pub(crate) fn forgive(&mut self) {
        self.backoff = Backoff::default();
        self.crashes.forget();
        self.checked = false;
        self.stumbled = false;
        if !self.busy() || self.down_for_good() {
            self.attempted = false;
        }
        if !self.busy() {
            self.state = State::Stopped;
        }
    }

    /// The earliest moment after `now` at which something is due.
    pub(crate) fn deadline(&self, now: Moment) -> Option<Moment> {
        if let Some(frozen) = &self.frozen {
            return frozen.limit().filter(|at| *at > now);
        }
        let of_state = match self.state {
            State::Pausing { until, .. } => Some(until),
            State::Starting { deadline } | State::Reloading { deadline } => deadline,
            State::Stopping { kill_at, .. } => kill_at,
            _ => None,
        };
        let of_kill = self.hopeless_at.filter(|_| !self.unkillable);
        let of_watchdog = self.fulfilled().then(|| self.health.deadline()).flatten();
        let of_arming =
            self.armed_from().filter(|_| self.told.is_some_and(|t| t.armed_after_ms.is_none()));
        [of_state, of_kill, of_watchdog, of_arming, self.proven_at]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    /// From when on the keeper may answer one crash alone (`decisions.md` 7).
    fn armed_from(&self) -> Option<Moment> {
        let settings = self.settings();
        let (process, policy) = (&settings.process, &settings.policy);
        let plain = process.app_id.is_none()
            && policy.critical.is_none()
            && !process.oneshot
            && self.health.period(process.watchdog).is_none()
            && self.service.conditions.is_empty()
            && self.service.conflicts.is_empty();
        let allowed =
            plain && self.state == State::Ready && self.backoff.allows_one(&policy.respawn);
        self.ready_at.filter(|_| allowed).map(|ready_at| ready_at + FORGIVE_AFTER)
    }

    /// How the keeper is to answer an exit.
    pub(crate) fn disposition(&self, goal_up: bool, now: Moment) -> Disposition {
        let policy = &self.settings().policy;
        let mut disposition = Disposition { main_only: policy.main_only, ..Disposition::default() };
        let to_end = self.again || matches!(self.state, State::Stopping { why: Why::Order, .. });
        let to_end = to_end || self.successor.is_some() || self.is_candidate();
        // Its next start needs a key, which only we can give it.
        let to_end = to_end || self.settings().process.app_id.is_some() || self.frozen.is_some();
        if !goal_up || to_end || self.down_for_good() || policy.respawn == Respawn::Never {
            return disposition;
        }
        let (answer_ms, alone_ms) = match policy.respawn {
            Respawn::Procd { timeout, .. } => {
                let ms = timeout.saturating_mul(1000);
                (ms, ms)
            }
            _ => (0, self.backoff.alone_ms()),
        };
        if self.armed_from().is_some_and(|from| from <= now) {
            disposition.armed_after_ms = Some(answer_ms);
        }
        disposition.alone_after_ms = Some(alone_ms);
        disposition.on_success = match policy.respawn {
            Respawn::Procd { .. } => !self.settings().process.oneshot,
            Respawn::Backoff { when, .. } => {
                when == RespawnWhen::Always && !self.settings().process.oneshot
            }
            Respawn::Never => false,
        };
        disposition
    }

    /// Ready as soon as exec succeeded.
    pub(crate) fn ready_by_exec(&self) -> bool {
        let process = &self.settings().process;
        process.readiness.kind == ReadinessKind::Exec && !process.oneshot
    }
}

/// What the keeper would say of a slot that it has never heard of.
pub(crate) fn empty_slot(slot: u32, identity: u64) -> SlotState {
    SlotState {
        slot,
        identity,
        generation: 0,
        phase: Phase::Idle,
        pid: 0,
        suspended: false,
        spawned_at: Moment(0),
        exit: Exit::None,
        exit_generation: 0,
        exited_at: Moment(0),
        answered_alone: false,
        oom: false,
    }
}
