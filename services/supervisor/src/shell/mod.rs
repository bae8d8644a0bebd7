//! Performs what the machine wants and tells it what happened. Decides nothing, and never waits for a service: whatever can
//! block runs beside the loop and comes back as an [`Inbound`].

mod board;
mod booting;
mod calls;
mod cgroup;
mod channel;
mod conditions;
mod defining;
mod definitions;
mod deposits;
mod environment;
mod executable;
mod firmware;
mod freezing;
mod heartbeats;
mod identify;
mod interfaces;
mod journal;
mod kernel;
mod keys;
mod last_boot;
mod logs;
mod looking;
mod merge;
mod notifications;
mod notify;
mod objects;
mod own_places;
mod performing;
mod pipes;
mod prepare;
mod prepared;
mod pressure;
mod probe;
mod reexec;
mod registry;
mod reload;
mod reports;
mod ring;
mod scripts;
mod sockets;
mod special_files;
mod start;
mod trial;
mod validation;
mod watchdog;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use daemon::{Shutdown, clock};
use endpoint::{Bus, Incoming, Responder};
use protocol::{config::Invalid, failure::Failure, keeper::SlotState, name::Name, service, system};
use tokio::{signal::unix::Signal, sync::mpsc};

pub(crate) use self::{
    channel::Channel, definitions::check_files, reexec::check_state, start::start,
};
use self::{
    definitions::Definitions,
    firmware::Work,
    freezing::Watcher,
    heartbeats::Heartbeats,
    identify::{Identifier, Look, Place},
    journal::Journal,
    last_boot::LastBoot,
    merge::Message,
    notify::Notification,
    objects::Object,
    pipes::Pipes,
    prepare::Workshop,
    registry::{Awaited, Membership},
    ring::Parts,
    trial::Trial,
    watchdog::Watchdog,
};
use crate::machine::{Change, Ended, Event, Means, Request, ScriptProcess, Supervisor};

/// What arrives beside the keeper's reports; bounded, so that a flood of calls or notifications waits at its source.
const INBOX: usize = 256;

/// So many notifications may wait for the keeper; then nothing more is taken from the inbox, and who floods us waits.
const HELD_MAX: usize = 256;

/// How long running calls may take when the supervisor is replaced; longer ones are told to call again.
const DRAIN_TIME: Duration = Duration::from_millis(200);

/// Something from a task beside the loop.
pub(crate) enum Inbound {
    Notification {
        slot: u32,
        notification: Notification,
    },
    Call {
        object: Object,
        call: Incoming,
    },
    ReloadDone {
        slot: u32,
        generation: u32,
        ok: bool,
    },
    ScriptStarted {
        run: u64,
        process: ScriptProcess,
    },
    ScriptEnded {
        run: u64,
        ended: Ended,
    },
    Validated {
        run: u64,
        found: Vec<Invalid>,
    },
    /// Firmware was looked at, or refused; or an installation has ended.
    Firmware(Option<system::Ended>),
    /// A network interface changed.
    Seen(Change),
    /// Nothing of an instance runs any more, or that can't be.
    Frozen {
        slot: u32,
        generation: u32,
        result: Result<Means, String>,
    },
    /// The machine slept, and another life of it began.
    Resumed,
    /// Who drains what services print has to be looked at.
    Pipes(pipes::Event),
    /// There is no registry, and nobody tries any more.
    RegistryGivenUp,
    /// Somebody wants to know whose a process is.
    Look(Look),
    /// The supervisor's binary on disk was tried; `id` is the caller's.
    Tried {
        id: u64,
        result: Result<(), String>,
    },
}

/// What a request to the keeper was about, until it is acknowledged.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Spawn {
        slot: u32,
    },
    Define {
        slot: u32,
    },
    /// The keeper is told how to answer the end of what is going to be frozen.
    Freeze {
        slot: u32,
        generation: u32,
    },
    /// It is told to stop all processes of an instance.
    Suspend {
        slot: u32,
        generation: u32,
    },
    /// The instance named another process as its main one.
    Main {
        slot: u32,
    },
    /// Nothing was asked; a held notification goes on when the answer is there.
    Notification {
        slot: u32,
    },
    Leave,
    Reexec(u64),
    /// How often the keeper's program was started.
    Starts,
    Watchdog(u64),
    /// The hardware watchdog, opened because we begin.
    OwnWatchdog,
    /// A process was found in this slot, or nowhere.
    Look {
        place: Option<Place>,
    },
    Other(&'static str),
}

/// A caller that waits, and what a good answer consists of.
#[derive(Debug)]
struct Waiting {
    responder: Responder,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    /// procd answers most methods with nothing at all.
    Nothing,
    /// `service activate`.
    Activated(service::Activated),
    /// `service freeze`: by what it is frozen.
    Frozen { service: Name, instance: Option<Name> },
    /// `service watchdog`: what holds now.
    Watchdog { service: Name, instance: Name },
    /// A definition that is remembered already: what came and what was there before, should the machine refuse it.
    Defined { service: Name, message: Box<Message>, before: Option<Box<Message>> },
}

/// The supervisor at work.
pub(crate) struct Shell {
    machine: Supervisor,
    channel: Channel,
    pending: HashMap<u32, Pending>,
    /// Notifications that wait for the keeper's answer, by its number.
    held: HashMap<u32, Notification>,
    /// Who asks whose a process is, by the number of the question to the keeper. Bounded by the calls that may be open.
    looks: HashMap<u32, Look>,
    identifier: Identifier,
    bus: Bus,
    membership: Option<Membership>,
    /// Instances that are ready when an object of theirs is registered, by slot.
    awaited: BTreeMap<u32, Awaited>,
    workshop: Workshop,
    /// Who waits until nothing of an instance runs, by slot.
    freezing: BTreeMap<u32, Watcher>,
    pipes: Pipes,
    /// What the log service will ask for.
    parts: Parts,
    /// What the heartbeat broker is told.
    heartbeats: Heartbeats,
    journal: Journal,
    definitions: Definitions,
    watchdog: Watchdog,
    /// Firmware that is looked at or installed.
    firmware: Option<Work>,
    /// Says to the next boot why this one ended; PID 1 only.
    last_boot: Option<LastBoot>,
    /// The boot loader waits for this boot to be called good.
    trial: Option<Trial>,
    inbox: mpsc::Receiver<Inbound>,
    back: mpsc::Sender<Inbound>,
    /// The last report of every slot.
    states: BTreeMap<u32, SlotState>,
    /// Slots that could not be prepared, with the errno of it; the machine defines them again before it tries again.
    unprepared: BTreeMap<u32, i32>,
    /// Callers that wait for the machine's answer.
    waiting: HashMap<u64, Waiting>,
    next_id: u64,
    keeper_pid: i32,
    /// One more with each re-execution.
    keeper_starts: u32,
    pid_one: bool,
    supervisor_starts: u32,
    server: endpoint::Server,
    /// The keeper was told to leave.
    leaving: bool,
    /// The supervisor on disk is being tried.
    trying: bool,
    /// The next supervisor was asked for; the answer has to be written first.
    stopping_for_the_next: bool,
}

impl Shell {
    /// Runs until the keeper was told to leave, or somebody wants only us to end.
    pub(crate) async fn run(
        mut self,
        mut shutdown: Shutdown,
        mut reload: Signal,
    ) -> anyhow::Result<()> {
        let mut reports = Vec::new();
        let mut inbound = Vec::new();
        loop {
            self.carry_out();
            self.channel.flush()?;
            if self.leaving {
                return Ok(());
            }
            if self.stopping_for_the_next {
                self.flush_events().await;
                self.server.drain(DRAIN_TIME).await;
                tracing::info!("leaving; the keeper starts the supervisor that is on disk now");
                return Ok(());
            }
            let trial = self.trial.as_ref().map(Trial::due);
            let deadline = [self.machine.next_deadline(), self.watchdog.next_renewal(), trial];
            let deadline = deadline.into_iter().flatten().min().map(clock::instant);
            tokio::select! {
                biased;
                () = shutdown.requested() => {
                    // Only we were asked to end: the keeper starts the next one, and nothing supervised notices.
                    tracing::info!("stopping; the keeper starts the next supervisor");
                    return Ok(());
                }
                ready = self.channel.ready() => {
                    ready?;
                    self.channel.receive(&mut reports)?;
                    self.take_reports(&mut reports);
                }
                _ = self.inbox.recv_many(&mut inbound, INBOX), if self.held.len() < HELD_MAX => {
                    inbound.drain(..).for_each(|one| self.take(one));
                }
                _ = reload.recv() => self.read_definitions(),
                () = sleep_until(deadline), if deadline.is_some() => {
                    self.machine.handle_timeout(clock::now());
                    self.renew_watchdog();
                    self.look_at_trial(clock::now());
                }
            }
        }
    }

    fn take(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Notification { slot, notification } => self.notified(slot, notification),
            Inbound::Call { object, call } => self.called(object, call),
            Inbound::Tried { id, result } => self.tried(id, result),
            Inbound::Look(look) => self.look(look),
            Inbound::Pipes(event) => self.pipes_event(event),
            Inbound::Frozen { slot, generation, result } => self.froze(slot, generation, result),
            Inbound::Resumed => {
                tracing::info!("the machine was resumed; every watchdog begins anew");
                self.machine.handle_event(Event::Resumed, clock::now());
            }
            Inbound::RegistryGivenUp => self.registry_given_up(),
            Inbound::ScriptStarted { run, process } => {
                self.machine.handle_event(Event::ScriptStarted { run, process }, clock::now());
            }
            Inbound::ScriptEnded { run, ended } => {
                self.machine.handle_event(Event::ScriptEnded { run, ended }, clock::now());
            }
            Inbound::Validated { run, found } => {
                self.machine.handle_event(Event::Validated { run, found }, clock::now());
            }
            Inbound::Firmware(ended) => self.firmware_over(ended),
            Inbound::Seen(change) => {
                let (kind, data) = change.event();
                self.machine.handle_event(Event::Seen { kind, data }, clock::now());
            }
            Inbound::ReloadDone { slot, generation, ok } => {
                self.machine.handle_event(Event::ReloadDone { slot, generation, ok }, clock::now());
            }
        }
    }

    /// Whose slot this is, for a message.
    fn owner(&self, slot: u32) -> String {
        match self.machine.owner(slot) {
            Some((service, instance)) => format!("service {} instance {instance}", service.name),
            None => format!("slot {slot}"),
        }
    }

    /// Hands a request to the machine; the caller is answered when the machine answers.
    fn ask(&mut self, request: Request, responder: Responder, answer: Answer) {
        let id = self.wait(responder, answer);
        self.machine.handle_event(Event::Request { id, request }, clock::now());
    }

    /// Keeps a caller until somebody has an answer.
    fn wait(&mut self, responder: Responder, answer: Answer) -> u64 {
        self.next_id += 1;
        self.waiting.insert(self.next_id, Waiting { responder, answer });
        self.next_id
    }

    fn reply(&mut self, id: u64, result: Result<(), Failure>) {
        let Some(Waiting { responder, answer }) = self.waiting.remove(&id) else {
            if let Err(failure) = result {
                tracing::warn!("a remembered request can't be carried out any more: {failure}");
            }
            return;
        };
        match (result, answer) {
            (Err(failure), Answer::Defined { service, message, before }) => {
                // The journal says by itself that it can't be written.
                drop(self.journal.take_back(service, &message, before.map(|before| *before)));
                responder.fail(failure);
            }
            (Err(failure), _) => responder.fail(failure),
            (Ok(()), Answer::Nothing | Answer::Defined { .. }) => {
                responder.reply(&serde_json::Value::Null)
            }
            (Ok(()), Answer::Activated(activated)) => responder.reply(&activated),
            (Ok(()), Answer::Frozen { service, instance }) => {
                responder.reply(&self.frozen_of(&service, instance.as_ref()));
            }
            (Ok(()), Answer::Watchdog { service, instance }) => {
                responder.reply(&self.watchdog_of(&service, &instance));
            }
        }
    }
}

async fn sleep_until(deadline: Option<std::time::Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
