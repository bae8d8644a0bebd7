//! Feeds calls, clocks and results to the machine and carries out what it decides. Nothing in the loop waits for a disk, a
//! program or another process: [`works`] starts what takes time, beside it, and brings back what came of it.

pub(crate) mod backend;
mod clocks;
mod hands;
mod mounts;
mod notes;
mod object;
mod offline;
mod probe;
mod programs;
mod raw;
pub(crate) mod restore;
mod services;
mod snapshot;
mod works;
mod world;

use std::{
    collections::HashMap,
    fs,
    future::poll_fn,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use anyhow::Context as _;
use daemon::{Context, accounts::Accounts, clock, files::read_text, places::Places};
use endpoint::{Bus, CallOptions, Client, Incoming, Registration, Responder, RetryPolicy, Server};
use protocol::{
    autorun::{PREPARE, RESUMED, STATE},
    failure::Failure,
};
use serde::Serialize;
use tokio::sync::mpsc;

use self::{
    clocks::Watch, hands::Hands, notes::Notes, object::Forward, works::Works, world::World,
};
use crate::{
    machine::{Action, Answer, CallId, Engine, Event, Found, Notice},
    settings::{self, Settings},
};

/// Calls that may wait for the loop.
const CALLS: usize = 64;
/// How long callers and events may take when the engine stops.
const STOP: Duration = Duration::from_secs(2);
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// `/etc/passwd` and `/etc/group`.
const ACCOUNTS_MAX: u64 = 1 << 20;

/// The engine at work.
pub(crate) struct Shell {
    engine: Engine,
    hands: Hands,
    works: Works,
    watch: Watch,
    server: Server,
    bus: Bus,
    /// Held, so that we stay registered.
    _registration: Registration,
    calls: mpsc::Receiver<Incoming>,
    waiting: HashMap<CallId, Responder>,
    next_call: CallId,
    over: bool,
}

/// The settings of this process.
pub(crate) fn settings(places: &Places) -> Result<Settings, String> {
    let read = |path| read_text(Path::new(path), ACCOUNTS_MAX).unwrap_or_default();
    let accounts = Accounts::parse(&read("/etc/passwd"), &read("/etc/group"));
    settings::load(places.config.as_deref(), &accounts)
}

/// What a step of this process works with.
fn hands(places: &Places, settings: Settings) -> anyhow::Result<Hands> {
    let world = World::find();
    let boot = world.text(BOOT).unwrap_or_default();
    let notes = Notes::open(&places.run, &boot).map_err(anyhow::Error::msg)?;
    let pen = Arc::new(Mutex::new(()));
    Ok(Hands { world, settings: Arc::new(settings), notes, pen })
}

/// Invalidates the image without an engine. The caller holds the engine's lock.
pub(crate) fn invalidate(places: &Places, settings: Settings, reason: &str) -> anyhow::Result<()> {
    offline::invalidate(&hands(places, settings)?).map_err(anyhow::Error::msg)?;
    tracing::warn!("the image was invalidated without the engine: {reason}");
    Ok(())
}

impl Shell {
    /// Finds out where it is, and serves the object.
    pub(crate) fn open(daemon: &mut Context, settings: Settings) -> anyhow::Result<Self> {
        let run = daemon.places.run.clone();
        let hands = hands(&daemon.places, settings)?;
        let found = found(&hands);
        let bus = Bus::new(&run, endpoint::Options::default());
        let supervisor =
            Client::new(daemon.places.socket("supervisor"), endpoint::Options::default());
        let (inbox, calls) = mpsc::channel(CALLS);
        let server = serve(daemon, &bus, Forward { inbox })?;
        let registration = bus.register(&server, daemon.socket_path(), RetryPolicy::DEFAULT);
        let engine = Engine::new(hands.settings.as_ref().clone(), found, clock::now());
        Ok(Self {
            engine,
            works: Works::new(&hands.world, supervisor, bus.clone(), run),
            hands,
            watch: Watch::open().context("watch the clock")?,
            server,
            bus,
            _registration: registration,
            calls,
            waiting: HashMap::new(),
            next_call: 0,
            over: false,
        })
    }

    /// Runs until it is told to stop, or its part is done.
    pub(crate) async fn run(mut self, mut daemon: Context) -> anyhow::Result<()> {
        self.act();
        daemon.say("READY=1");
        let pet = std::env::var("WATCHDOG_USEC").ok().and_then(|period| period.parse().ok());
        // Twice as often as it must be; never without being asked to, because an idle engine does not wake up.
        let mut pet =
            pet.map(|us: u64| tokio::time::interval(Duration::from_micros(us.max(2) / 2)));
        while !self.over {
            let deadline = self.engine.next_deadline().map(clock::instant);
            tokio::select! {
                biased;
                () = daemon.shutdown.requested() => break,
                _ = daemon.reload.recv() => self.reload(&daemon.places),
                (work, result) = self.works.next() => {
                    self.tell(Event::Did { work, result });
                }
                Some(call) = self.calls.recv() => self.call(call),
                () = self.watch.changed() => {
                    let samples = self.hands.world.samples();
                    self.tell(Event::Clocks(samples));
                }
                () = sleep_until(deadline) => self.engine.handle_timeout(clock::now()),
                () = next(&mut pet) => daemon.say("WATCHDOG=1"),
            }
            self.act();
        }
        tracing::info!(state = ?self.engine.status().state, "stopping");
        self.waiting.clear();
        self.server.drain(STOP).await;
        self.bus.flush(STOP).await;
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle_event(event, clock::now());
    }

    fn call(&mut self, call: Incoming) {
        match object::request(&call, || self.hands.world.samples()) {
            Ok(request) => {
                self.next_call += 1;
                self.waiting.insert(self.next_call, call.responder);
                self.tell(Event::Call { call: self.next_call, request });
            }
            Err(failure) => call.responder.fail(failure),
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            // Its seed is a secret.
            if !matches!(action, Action::Reseed { .. }) {
                tracing::debug!(?action);
            }
            match action {
                Action::Plan(plan) => {
                    if let Err(why) = self.hands.notes.save_plan(plan.as_ref()) {
                        tracing::error!("{why}");
                    }
                }
                Action::Publish(notice) => self.publish(&notice),
                Action::Answer { call, result } => self.answer(call, result),
                Action::Sweep { targets } => self.works.sweep(&self.hands, &targets),
                Action::Stop { work, kill, .. } => self.works.stop(work, kill),
                Action::Abandon { work } => self.works.abandon(work),
                Action::RebootCold { reason } => self.reboot(&reason),
                Action::Exit => self.over = true,
                work => self.works.begin(&self.hands, work),
            }
        }
    }

    fn publish(&self, notice: &Notice) {
        match notice {
            Notice::Prepare(prepare) => self.send(PREPARE, prepare, false),
            Notice::Resumed(resumed) => {
                tracing::info!(ordinal = resumed.ordinal, run = resumed.run, "resumed");
                self.send(RESUMED, resumed, false);
            }
            Notice::State(status) => {
                tracing::info!(state = ?status.state, reason = status.reason, "autorun");
                self.send(STATE, status, true);
            }
        }
    }

    fn send<T: Serialize>(&self, topic: &str, data: &T, retain: bool) {
        if let Err(failure) = self.bus.publish(topic, data, retain) {
            tracing::error!("publish {topic}: {failure}");
        }
    }

    fn answer(&mut self, call: CallId, result: Result<Answer, Failure>) {
        let Some(responder) = self.waiting.remove(&call) else { return };
        match result {
            Ok(Answer::Nothing) => responder.reply(&serde_json::json!({})),
            Ok(Answer::Status(status)) => responder.reply(&*status),
            Ok(Answer::Check(check)) => responder.reply(&check),
            Ok(Answer::Slept(slept)) => responder.reply(&slept),
            Err(failure) => responder.fail(failure),
        }
    }

    /// At once and without a last write, where this machine is ours; else the supervisor does what it may.
    fn reboot(&self, reason: &str) {
        tracing::error!("cold reboot: {reason}");
        let restart = || Ok(rustix::system::reboot(rustix::system::RebootCommand::Restart)?);
        if self.hands.world.is_fake() || is_ours() {
            match self.hands.world.act("reboot", restart) {
                Ok(()) => return,
                Err(error) => tracing::error!("reboot: {error}; the supervisor is asked to"),
            }
        }
        let (supervisor, reason) = (self.works.supervisor().clone(), reason.to_owned());
        tokio::spawn(async move {
            let args = serde_json::json!({ "reason": reason });
            let answer = supervisor.call("system", "reboot", &args, CallOptions::default()).await;
            if let Err(error) = answer {
                tracing::error!("the supervisor does not reboot: {error}");
            }
        });
    }

    fn reload(&mut self, places: &Places) {
        match settings(places) {
            Err(problem) => tracing::error!("the settings from before hold:\n{problem}"),
            Ok(settings) => {
                self.tell(Event::Settings(Box::new(settings)));
                // The machine may have refused them.
                self.hands.settings = Arc::new(self.engine.settings().clone());
            }
        }
    }
}

/// What an engine before this one, or an earlier life, has left.
fn found(hands: &Hands) -> Found {
    fn or_none<T>(found: Result<Option<T>, String>) -> Option<T> {
        found.unwrap_or_else(|why| {
            tracing::error!("{why}; going on without it");
            None
        })
    }
    let journal = match hands.settings.journal {
        Some(_) => or_none(hands.with_journal(|journal| journal.read())),
        None => None,
    };
    Found {
        current: or_none(hands.notes.current()),
        plan: or_none(hands.notes.plan()),
        journal,
        verdict: restore::verdict(&hands.world, &hands.settings),
        clocks: hands.world.samples(),
    }
}

fn serve(daemon: &mut Context, bus: &Bus, object: Forward) -> anyhow::Result<Server> {
    let level = daemon.log_level.clone();
    let server = Server::new(endpoint::Settings {
        identify: Some(bus.identify()),
        log_level: Some(Arc::new(move |wanted: Option<&str>| {
            wanted.map_or(Ok(()), |wanted| level.set(wanted))?;
            Ok(level.get())
        })),
        ..endpoint::Settings::default()
    })
    .context("make the endpoint")?;
    server.add("autorun", object)?;
    let socket = daemon.socket_path();
    let listener = daemon.listener()?;
    server.listen(listener).with_context(|| format!("serve {}", socket.display()))?;
    Ok(server)
}

/// Whether PID 1 is our keeper: only then is the machine ours to reboot.
fn is_ours() -> bool {
    let exe: PathBuf = fs::read_link("/proc/1/exe").unwrap_or_default();
    exe.file_name().is_some_and(|name| name == "vestal-keeper" || name == "vestal-suite")
}

/// The next tick of a clock that may not be there.
async fn next(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// For ever, without a deadline.
async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => poll_fn(|_| Poll::<()>::Pending).await,
    }
}
