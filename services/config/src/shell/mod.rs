//! Feeds the machine and carries out what it decides: inotify, the worker's thread, the calls of others and those to the
//! supervisor. Nothing in the loop waits for a disk or for another process.

mod content;
mod object;
mod record;
mod store;
mod validate;
mod watches;
mod worker;

use std::{
    collections::HashMap,
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::{Arc, mpsc as jobs},
    time::Duration,
};

use anyhow::Context as _;
use daemon::{Context, clock, places::Places};
use endpoint::{
    Bus, CallError, CallOptions, Client, Code, Failure, Registration, Responder, RetryPolicy,
    Server,
};
use protocol::config::{CHANGE, Change, ERROR};
use rustix::fs::inotify::{self, CreateFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};

use self::{
    object::{Call, ConfigObject, Wanted},
    store::Store,
    watches::Map,
    worker::{Job, Report},
};
use crate::{
    machine::{Action, Answer, Event, FilePath, NotTaken, Watcher, package},
    settings::Settings,
};

/// How long what runs may take when the watcher is told to stop.
const STOP_TIME: Duration = Duration::from_secs(2);
/// How long the supervisor may take to write down what a change sets off.
const TAKE_TIME: Duration = Duration::from_secs(10);
/// Calls of `show` and `validate` at one time.
const READING_MAX: usize = 16;

pub(crate) struct Shell {
    settings: Arc<Settings>,
    watcher: Watcher,
    jobs: jobs::Sender<Job>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// Outcomes of announcements.
    taken: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    inotify: AsyncFd<Arc<OwnedFd>>,
    map: Map,
    calls: mpsc::Receiver<Call>,
    /// Who waits for an answer of the machine or the worker.
    callers: HashMap<u64, Responder>,
    /// What `show` holds of [`Shell::reading`].
    showing: HashMap<u64, OwnedSemaphorePermit>,
    reading: Arc<Semaphore>,
    next_id: u64,
    supervisor: Client,
    bus: Bus,
    server: Server,
    /// Others find us by it, as long as it lives.
    registration: Registration,
}

impl Shell {
    /// Reads what the watcher before has written down, serves the object and begins to look.
    pub(crate) fn open(
        daemon: &Context,
        settings: Settings,
        listener: UnixListener,
    ) -> anyhow::Result<Self> {
        let folder = worker::folder(&daemon.places.run);
        let store = Store::open(&folder).with_context(|| format!("make {}", folder.display()))?;
        let record = store.load().unwrap_or_else(|why| {
            tracing::error!("{why}");
            None
        });
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .context("begin to watch (fs.inotify.max_user_instances may be too small)")?;
        let inotify = Arc::new(inotify);
        let (reporter, reports) = mpsc::unbounded_channel();
        let jobs =
            worker::start(store, Arc::clone(&inotify), reporter).context("start the worker")?;
        #[expect(
            deprecated,
            reason = "the function in its place is unsafe for types whose descriptor may change; an OwnedFd's can't"
        )]
        let inotify =
            AsyncFd::with_interest(inotify, Interest::READABLE).context("watch for events")?;
        let bus = Bus::new(&daemon.places.run, endpoint::Options::default());
        let (object, calls) = ConfigObject::new();
        let server = serve(daemon, object, &bus, listener)?;
        let registration = bus.register(&server, daemon.socket_path(), RetryPolicy::DEFAULT);
        let settings = Arc::new(settings);
        let mut shell = Self {
            watcher: Watcher::new(Arc::clone(&settings), record, clock::now()),
            settings,
            jobs,
            reports,
            taken: mpsc::channel(1),
            inotify,
            map: Map::default(),
            calls,
            callers: HashMap::new(),
            showing: HashMap::new(),
            reading: Arc::new(Semaphore::new(READING_MAX)),
            next_id: 0,
            supervisor: supervisor(&daemon.places),
            bus,
            server,
            registration,
        };
        shell.carry_out(daemon);
        Ok(shell)
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self, mut daemon: Context) -> anyhow::Result<()> {
        let pet = std::env::var("WATCHDOG_USEC").ok().and_then(|period| period.parse().ok());
        // Twice as often as it must be; never without being asked to, because an idle watcher does not wake up.
        let mut pet =
            pet.map(|us: u64| tokio::time::interval(Duration::from_micros(us.max(2) / 2)));
        loop {
            let deadline = self.watcher.next_deadline().map(clock::instant);
            tokio::select! {
                biased;
                () = daemon.shutdown.requested() => break,
                _ = daemon.reload.recv() => self.reload(&daemon.places),
                Some(event) = self.taken.1.recv() => self.watcher.handle_event(event, clock::now()),
                report = self.reports.recv() => match report {
                    Some(report) => self.reported(report),
                    None => anyhow::bail!("the worker's thread has ended; see what it printed"),
                },
                ready = self.inotify.readable() => {
                    // Before it is read: what comes meanwhile makes it ready again.
                    ready.context("wait for events")?.clear_ready();
                    self.watch();
                }
                Some(call) = self.calls.recv() => self.called(call),
                () = next(&mut pet) => daemon.say("WATCHDOG=1"),
                () = sleep_until(deadline), if deadline.is_some() => {
                    self.watcher.handle_timeout(clock::now());
                }
            }
            self.carry_out(&daemon);
        }
        self.stop(&daemon).await;
        Ok(())
    }

    /// What was taken is written down; the rest is for the next watcher.
    async fn stop(mut self, daemon: &Context) {
        let finish = async {
            while !self.watcher.is_saved() {
                tokio::select! {
                    Some(event) = self.taken.1.recv() => {
                        self.watcher.handle_event(event, clock::now());
                    }
                    report = self.reports.recv() => match report {
                        Some(report) => self.reported(report),
                        None => return,
                    },
                }
                self.carry_out(daemon);
            }
        };
        if tokio::time::timeout(STOP_TIME, finish).await.is_err() {
            tracing::warn!("stopped before everything was written down; the next watcher compares");
        }
        drop(self.registration);
        self.callers.clear();
        self.server.drain(STOP_TIME).await;
        self.bus.flush(STOP_TIME).await;
    }

    /// Reads what the kernel has told.
    fn watch(&mut self) {
        for event in self.map.read(self.inotify.get_ref()) {
            let ignored = match &event {
                Event::Touched(path) | Event::Attributes(path) => {
                    !self.watcher.knows(path) && self.settings.ignores(package(path))
                }
                _ => false,
            };
            if !ignored {
                self.watcher.handle_event(event, clock::now());
            }
        }
    }

    fn reported(&mut self, report: Report) {
        match report {
            Report::Event(event) => self.watcher.handle_event(event, clock::now()),
            Report::Watches(map) => self.map = map,
            Report::Shown(id, shown) => {
                self.showing.remove(&id);
                if let Some(caller) = self.callers.remove(&id) {
                    caller.finish(shown);
                }
            }
        }
    }

    fn called(&mut self, (wanted, responder): Call) {
        self.next_id += 1;
        let id = self.next_id;
        let (package, validates) = match wanted {
            Wanted::Ask(ask) => {
                self.callers.insert(id, responder);
                return self.watcher.handle_event(Event::Asked(id, ask), clock::now());
            }
            Wanted::Show(package) => (package, false),
            Wanted::Validate(package) => (package, true),
        };
        let files = match self.watcher.files_of(package.as_deref()) {
            Ok(files) => files,
            Err(failure) => return responder.fail(failure),
        };
        let Ok(permit) = Arc::clone(&self.reading).try_acquire_owned() else {
            let text = format!("{READING_MAX} calls read packages already; try again later");
            let details = serde_json::json!({ "retry_after_ms": 100, "not_started": true });
            return responder.fail(Failure::new(Code::Busy, text).with_details(details));
        };
        let settings = Arc::clone(&self.settings);
        if !validates {
            self.callers.insert(id, responder);
            self.showing.insert(id, permit);
            return self.give(Job::Show(id, files, settings));
        }
        let is_uci = |at: &usize| settings.sources[*at].format == uci::canonical::Format::Uci;
        let files = files.into_iter().filter(|(_, at)| is_uci(at)).map(|(path, _)| path).collect();
        let found = validate::validate(self.supervisor.clone(), files, settings.limits.file);
        tokio::spawn(async move {
            responder.finish(found.await);
            drop(permit);
        });
    }

    fn give(&self, job: Job) {
        // Without its thread the next report is the end of this process.
        let _ = self.jobs.send(job);
    }

    fn carry_out(&mut self, daemon: &Context) {
        while let Some(action) = self.watcher.poll_action() {
            match action {
                Action::Look(look, settings) => self.give(Job::Look(look, settings)),
                Action::Save(record) => self.give(Job::Save(record, Arc::clone(&self.settings))),
                Action::Restore(contents) => self.give(Job::Restore(contents)),
                Action::Announce(changes) => {
                    let taken = self.taken.0.clone();
                    tokio::spawn(announce(self.supervisor.clone(), changes, taken));
                }
                Action::Publish(change) => {
                    tracing::info!(digest = change.digest, "{} changed", change.package);
                    self.publish(CHANGE, &change);
                }
                Action::PublishError(error) => {
                    let line = error.line.map(|line| format!(":{line}")).unwrap_or_default();
                    tracing::warn!("{}{line}: {}", error.file, error.text);
                    self.publish(ERROR, &error);
                }
                Action::Answer(id, answer) => self.answer(id, answer),
                Action::Ready => daemon.say("READY=1"),
            }
        }
    }

    fn publish<T: serde::Serialize>(&self, topic: &str, data: &T) {
        if let Err(failure) = self.bus.publish(topic, data, false) {
            tracing::warn!("publish {topic}: {failure}");
        }
    }

    fn answer(&mut self, id: u64, answer: Answer) {
        let Some(caller) = self.callers.remove(&id) else { return };
        match answer {
            Answer::Reloaded(reloaded) => caller.reply(&reloaded),
            Answer::Status(status) => caller.reply(&status),
            Answer::Differences(changes) => caller.reply(&changes),
            Answer::Done => caller.reply(&serde_json::json!({})),
            Answer::Failed(failure) => caller.fail(failure),
        }
    }

    /// SIGHUP: the settings are read again, and everything is compared.
    fn reload(&mut self, places: &Places) {
        match Settings::load(places) {
            Ok(settings) => {
                self.settings = Arc::new(settings);
                let settings = Arc::clone(&self.settings);
                self.watcher.handle_event(Event::Settings(settings), clock::now());
            }
            Err(why) => tracing::error!("{why}; the settings from before hold"),
        }
    }
}

fn serve(
    daemon: &Context,
    object: ConfigObject,
    bus: &Bus,
    listener: UnixListener,
) -> anyhow::Result<Server> {
    let level = daemon.log_level.clone();
    let settings = endpoint::Settings {
        identify: Some(bus.identify()),
        log_level: Some(Arc::new(move |wanted| {
            wanted.map_or(Ok(()), |wanted| level.set(wanted))?;
            Ok(level.get())
        })),
        ..endpoint::Settings::default()
    };
    let server = Server::new(settings).context("make the endpoint")?;
    server.add("config", object)?;
    server.listen(listener).with_context(|| format!("serve {}", daemon.socket_path().display()))?;
    Ok(server)
}

fn supervisor(places: &Places) -> Client {
    Client::new(places.socket("supervisor"), endpoint::Options::default())
}

/// Tells the supervisor of changes, all at once, and waits until it has written down what they set off. The supervisor
/// knows a change that it has taken by its digest, so that telling it twice does no harm.
async fn announce(
    supervisor: Client,
    changes: Vec<(FilePath, Change)>,
    taken: mpsc::Sender<Event>,
) {
    let mut calls = JoinSet::new();
    for (path, change) in changes {
        let supervisor = supervisor.clone();
        calls.spawn(async move {
            let event = serde_json::json!({ "type": CHANGE, "data": change });
            // Not repeated by the client: what may have been taken already is told again as that.
            let options = CallOptions { deadline: TAKE_TIME, ..CallOptions::default() };
            let outcome = supervisor.call("service", "event", &event, options).await;
            (path, outcome.map(drop).map_err(|error| not_taken(&error)))
        });
    }
    let outcomes = calls.join_all().await;
    // Nobody waits for it when the watcher ends.
    let _ = taken.send(Event::Taken(outcomes)).await;
}

fn not_taken(error: &CallError) -> NotTaken {
    let surely = matches!(error, CallError::Unreachable { .. } | CallError::Invalid { .. })
        || matches!(error, CallError::Refused(failure) if failure.code != Code::Timeout);
    NotTaken { why: error.to_string(), perhaps: !surely }
}

/// The next tick of a clock that may not be there.
async fn next(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<std::time::Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
