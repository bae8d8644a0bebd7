//! From nothing to a running supervisor: takes what the keeper hands over, remembers what was promised, reads what is wanted.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use daemon::{Context, clock};
use endpoint::Bus;
use protocol::{
    keeper::{Phase, Report, Request as Order, SlotState, VERSION},
    time::Moment,
};
use tokio::sync::mpsc;

use super::{
    Channel, INBOX, Inbound, Pending, Shell,
    booting::{self, Signs},
    cgroup::Cgroups,
    channel::Received,
    definitions::Definitions,
    heartbeats::Heartbeats,
    identify::Identifier,
    interfaces,
    journal::Journal,
    kernel::Words,
    objects::{Forward, Object},
    own_places,
    prepare::Workshop,
    trial::Trial,
    watchdog::Watchdog,
};
use crate::machine::{BootRecord, Event, Request, Supervisor};

/// A keeper that says nothing for so long is not one.
const HANDOVER_TIME: Duration = Duration::from_secs(10);

/// Notifications that a socket holds while nobody reads.
const DATAGRAMS: &str = "512";

/// What the keeper said first.
struct Handover {
    keeper_pid: i32,
    pid_one: bool,
    supervisor_starts: u32,
    slots: BTreeMap<u32, SlotState>,
    deposits: Vec<(protocol::keeper::DepositName, OwnedFd)>,
}

/// Takes over and returns a supervisor that has decided, but not yet done anything.
pub(crate) async fn start(daemon: &Context, channel: OwnedFd) -> anyhow::Result<Shell> {
    let began_at = clock::now();
    let mut channel = Channel::new(channel)?;
    let mut handover = tokio::time::timeout(HANDOVER_TIME, take_over(&mut channel))
        .await
        .context("the keeper handed nothing over in time")??;
    if handover.pid_one {
        allow_notifications();
    }
    let words = Words::read(handover.pid_one);
    obey_log_level(daemon, &words);
    if let Some(folder) = own_places::barred(&daemon.places.run) {
        tracing::warn!(
            "other users can't enter {}: the core daemons, which run as their own, will fail; chmod o+x it, or choose another --run-dir",
            folder.display()
        );
    }
    let (back, inbox) = mpsc::channel(INBOX);
    let places = daemon.places.clone();
    let mut journal = Journal::open(&places.run.join("supervisor"))
        .with_context(|| format!("open the journal in {}", places.run.display()))?;
    let rescue = needs_rescue(daemon, &words, &handover);
    let beginning = booting::begin(&places, &mut journal, handover.signs(began_at), rescue);
    let mut definitions =
        Definitions::new(&places, &programs()?, handover.pid_one, beginning.rescue);
    let cgroups = Cgroups::find(&places.run, handover.pid_one);
    let executor = programs()?.join("vestal-exec");
    let mut workshop = Workshop::open(places.clone(), cgroups, executor, back.clone())
        .with_context(|| format!("make folders in {}", places.run.display()))?;
    for (name, descriptor) in std::mem::take(&mut handover.deposits) {
        workshop.take_deposit(&name, descriptor);
    }

    let machine = remember(&journal, &mut definitions, &handover, beginning.fresh);
    let identifier = Identifier::new(back.clone());
    let server = serve(daemon, &mut workshop, &mut channel, &back, &identifier)?;
    let bus = Bus::new(&places.run, endpoint::Options::default());
    let heartbeats = Heartbeats::start(bus.clone());
    let mut shell = Shell {
        machine,
        channel,
        pending: Default::default(),
        held: Default::default(),
        looks: Default::default(),
        identifier,
        bus,
        membership: None,
        awaited: BTreeMap::new(),
        workshop,
        freezing: BTreeMap::new(),
        pipes: Default::default(),
        parts: Default::default(),
        heartbeats,
        journal,
        definitions,
        watchdog: Watchdog::new(handover.pid_one),
        firmware: None,
        last_boot: beginning.last_boot,
        trial: handover.pid_one.then(|| Trial::begin(&places, clock::now())).flatten(),
        inbox,
        back,
        states: handover.slots,
        unprepared: BTreeMap::new(),
        waiting: Default::default(),
        next_id: 0,
        keeper_pid: handover.keeper_pid,
        keeper_starts: 0,
        pid_one: handover.pid_one,
        supervisor_starts: handover.supervisor_starts,
        server,
        leaving: false,
        trying: false,
        stopping_for_the_next: false,
    };
    shell.order(&Order::Starts, Pending::Starts);
    shell.begin_watchdog(words.watchdog.as_deref());
    shell.begin_draining();
    shell.take_ring();
    shell.join_registry();
    interfaces::start(shell.back.clone());
    shell.forget_ended();
    shell.resume_firmware();
    Ok(shell)
}

impl Handover {
    fn something_runs(&self) -> bool {
        self.slots.values().any(|state| state.phase != Phase::Idle)
    }

    fn signs(&self, began_at: Moment) -> Signs {
        Signs {
            pid_one: self.pid_one,
            keeper_pid: self.keeper_pid,
            first_supervisor: self.supervisor_starts <= 1,
            something_runs: self.something_runs(),
            began_at,
        }
    }
}

/// Why only the rescue set is to run. The keeper's wish is for a machine on which nothing else is left: the definitions of what
/// runs would not be in it, so that it would be stopped.
fn needs_rescue(daemon: &Context, words: &Words, handover: &Handover) -> Option<String> {
    let wished = handover.pid_one && daemon.options.has("rescue") && !handover.something_runs();
    match (words.rescue, wished) {
        (true, _) => Some("vestal.rescue is on the kernel's command line".to_owned()),
        (false, true) => {
            Some("the supervisor failed again and again before it had taken over".to_owned())
        }
        (false, false) => None,
    }
}

fn obey_log_level(daemon: &Context, words: &Words) {
    if let Some(level) = &words.log_level
        && let Err(error) = daemon.log_level.set(level)
    {
        tracing::warn!("vestal.log-level={level} on the kernel's command line: {error}");
    }
}

/// Everything that a supervisor before us had decided, and everything that is wanted now.
fn remember(
    journal: &Journal,
    definitions: &mut Definitions,
    handover: &Handover,
    fresh: Option<BootRecord>,
) -> Supervisor {
    let now = clock::now();
    let mut machine = Supervisor::new(now);
    if handover.pid_one {
        machine.allow_rescue();
    }
    machine.look_for_folders_with(|path| Path::new(path).is_dir());
    let memory = journal.memory();
    let records = memory.slots.values().chain(memory.queues.values());
    machine.restore(records.chain(memory.taken.values()).chain(&memory.boot).cloned());
    if let Some(record) = fresh {
        machine.boot_began(record);
    }
    machine.handle_event(Event::Definitions { services: definitions.read() }, now);
    // The rescue set is all that is wanted of them.
    let messages = memory.messages.iter().filter(|_| definitions.rescue().is_none());
    for (name, message) in messages.collect::<Vec<_>>() {
        match message.read(name, definitions) {
            Ok(service) => {
                let request = Request::Set { service: Arc::new(service) };
                machine.handle_event(Event::Request { id: 0, request }, now);
            }
            // It was accepted once: by another version, or with a user that is gone now.
            Err(failure) => {
                tracing::error!(
                    "service {name}: its remembered definition is refused now, so what runs of it is left alone: {failure}"
                );
                machine.keep(name.clone());
            }
        }
    }
    for state in handover.slots.values() {
        machine.handle_event(Event::Slot(*state), now);
    }
    machine.handover_complete(now);
    machine
}

fn serve(
    daemon: &Context,
    workshop: &mut Workshop,
    channel: &mut Channel,
    back: &mpsc::Sender<Inbound>,
    identifier: &Identifier,
) -> anyhow::Result<endpoint::Server> {
    let (identifier, level) = (identifier.clone(), daemon.log_level.clone());
    let settings = endpoint::Settings {
        identify: Some(Arc::new(move |caller, pidfd| {
            Box::pin(identifier.clone().of(Some(caller.pid), pidfd))
        })),
        log_level: Some(Arc::new(move |wanted| {
            wanted.map_or(Ok(()), |wanted| level.set(wanted)).map(|()| level.get())
        })),
        ..endpoint::Settings::default()
    };
    let server = endpoint::Server::new(settings).context("make the endpoint")?;
    for (name, object) in [("service", Object::Service), ("system", Object::System)] {
        server.add(name, Forward { object, inbox: back.clone() })?;
    }
    let socket = workshop.own_socket(channel)?;
    server
        .listen(socket.into())
        .with_context(|| format!("serve {}", daemon.places.socket("supervisor").display()))?;
    Ok(server)
}

async fn take_over(channel: &mut Channel) -> anyhow::Result<Handover> {
    let mut handover = None;
    let mut ended = false;
    let mut reports = Vec::new();
    loop {
        channel.ready().await?;
        channel.receive(&mut reports)?;
        for Received { sequence, report, descriptor } in reports.drain(..) {
            channel.send(&Order::Seen { sequence }, Vec::new());
            match (report, &mut handover) {
                (Report::Welcome { version, keeper_pid, pid_one, supervisor_starts }, None) => {
                    ensure!(
                        version == VERSION,
                        "the keeper speaks version {version} of the channel, we speak {VERSION}: install both from one release"
                    );
                    handover = Some(Handover {
                        keeper_pid,
                        pid_one,
                        supervisor_starts,
                        slots: BTreeMap::new(),
                        deposits: Vec::new(),
                    });
                }
                (Report::Slot(state), Some(handover)) => {
                    handover.slots.insert(state.slot, state);
                }
                (Report::Deposit { name }, Some(handover)) => {
                    let descriptor = descriptor.context("a deposit came without its descriptor")?;
                    handover.deposits.push((name, descriptor));
                }
                (Report::HandoverEnd, Some(_)) => ended = true,
                (report, _) => bail!("{report:?} in the middle of the hand-over"),
            }
        }
        channel.flush()?;
        if ended && let Some(handover) = handover.take() {
            return Ok(handover);
        }
    }
}

/// The kernel queues 11 datagrams for a socket otherwise: a service that says more while no supervisor lives would wait for us.
/// Counts for sockets that are made later, so it comes before any of ours.
fn allow_notifications() {
    let path = "/proc/sys/net/unix/max_dgram_qlen";
    if let Err(error) = std::fs::write(path, DATAGRAMS) {
        tracing::warn!("{path} can't be set to {DATAGRAMS}: {error}");
    }
}

/// The folder of our own binary: the suite's other programs are beside it.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find our own binary")?;
    Ok(own.parent().context("our own binary is in no folder")?.to_owned())
}
