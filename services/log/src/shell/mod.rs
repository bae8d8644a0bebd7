//! Opens what can be opened, feeds the machine and the store, and says what is missing. Nothing here is worth dying for but
//! the socket: without rights, without a supervisor and without a disk the log still serves what it can.

mod feed;
mod fifo;
mod kernel;
mod object;
mod peek;
mod syslog;

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use daemon::{Context, clock, places::Places};
use endpoint::{Bus, Registration, RetryPolicy};
use protocol::log::Status;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use self::{feed::Feed, object::LogObject, peek::Peek};
use crate::{
    machine::{Intake, Now},
    settings::{Settings, SyslogPath},
    store::{Place, Store, boot},
};

/// How long what runs may take when the log is told to stop.
const STOP_TIME: Duration = Duration::from_secs(2);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What all sources and callers share.
#[derive(Debug)]
pub(crate) struct Desk {
    intake: Mutex<Intake>,
    pub(crate) store: Store,
    peek: Mutex<Peek>,
    /// Pipes that are drained.
    pipes: AtomicU64,
    /// What is wrong, by what it is about.
    problems: Mutex<BTreeMap<&'static str, String>>,
    /// A sender was silenced: somebody has to wake up for it.
    silenced: Notify,
}

/// The log at work.
pub(crate) struct Shell {
    desk: Arc<Desk>,
    settings: Settings,
    server: endpoint::Server,
    /// Others find us by it, as long as it lives.
    registration: Registration,
    feed: Feed,
    /// The kernel's and the syslog socket's, where they are wanted.
    sources: Vec<JoinHandle<()>>,
    /// Tells readers that the log is stopping.
    stopping: watch::Sender<bool>,
}

/// Both clocks.
pub(crate) fn now() -> Now {
    let realtime_us = u64::try_from(clock::wall().as_micros()).unwrap_or(u64::MAX);
    Now { monotonic: clock::now(), realtime_us }
}

impl Desk {
    pub(crate) fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().expect("nothing panics while it holds the intake")
    }

    fn peek(&self) -> MutexGuard<'_, Peek> {
        self.peek.lock().expect("nothing panics while it holds the pipe")
    }

    fn problems(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.problems.lock().expect("nothing panics while it holds the problems")
    }

    /// Keeps entries, and wakes up whoever has to tell what was dropped.
    async fn keep(&self, entries: Vec<crate::store::record::Entry>, position: Option<u64>) {
        if self.intake().next_deadline().is_some() {
            self.silenced.notify_one();
        }
        self.store.append(entries, position).await;
    }

    /// Notes what is missing, for `status`, and says it once in the log itself.
    async fn missing(&self, what: &'static str, text: String) {
        if self.problems().insert(what, text.clone()).as_ref() != Some(&text) {
            tracing::warn!("{text}");
            self.keep(vec![now().remark(text)], None).await;
        }
    }

    /// It is no longer missing.
    fn there(&self, what: &'static str) {
        self.problems().remove(what);
    }

    pub(crate) fn status(&self) -> Status {
        let (first_sequence, next_sequence, bytes) = {
            let index = self.store.shared().index();
            (index.first_sequence(), index.next_sequence, index.bytes())
        };
        let mut problems = self.store.shared().problems();
        if self.store.is_stuck() {
            problems.push("the store hangs; records are dropped".to_owned());
        }
        problems.extend(self.problems().values().cloned());
        Status {
            first_sequence,
            next_sequence,
            bytes,
            bytes_max: self.store.place().size,
            pipes: self.pipes.load(Relaxed),
            dropped: self.intake().dropped(),
            problems,
        }
    }
}

impl Shell {
    /// Opens the store, serves the object and begins to drain.
    pub(crate) async fn open(
        daemon: &mut Context,
        settings: Settings,
        listener: UnixListener,
    ) -> anyhow::Result<Self> {
        raise_limit();
        let boot = boot(Path::new(BOOT_ID));
        let place = place(&settings, &daemon.places);
        let (store, position) = Store::open(place, boot).await.context("start the store")?;
        let desk = Arc::new(Desk {
            intake: Mutex::new(Intake::new(settings.choices.clone())),
            store,
            peek: Mutex::new(Peek::new().context("make a pipe")?),
            pipes: AtomicU64::new(0),
            problems: Mutex::default(),
            silenced: Notify::new(),
        });
        let stopping = watch::Sender::new(false);
        let bus = Bus::new(&daemon.places.run, endpoint::Options::default());
        let server = serve(daemon, &desk, &stopping, &bus, listener)?;
        let registration = bus.register(&server, daemon.socket_path(), RetryPolicy::DEFAULT);
        let mut sources = Vec::new();
        if settings.kernel {
            sources.push(tokio::spawn(kernel::read(Arc::clone(&desk), position)));
        }
        let inherited = daemon.sockets.iter().position(|(name, _)| name == "syslog");
        let inherited = inherited.map(|at| daemon.sockets.swap_remove(at).1);
        let path = settings.syslog.as_ref().map(|path| match path {
            SyslogPath::Absolute(path) => PathBuf::from(path),
            SyslogPath::InRunDir(name) => daemon.places.run.join(name),
        });
        if path.is_some() || inherited.is_some() {
            sources.push(tokio::spawn(syslog::receive(Arc::clone(&desk), inherited, path)));
        }
        let feed = Feed::start(Arc::clone(&desk), daemon.places.socket("supervisor"));
        Ok(Self { desk, settings, server, registration, feed, sources, stopping })
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self, mut daemon: Context) -> anyhow::Result<()> {
        let mut told = false;
        let pet = std::env::var("WATCHDOG_USEC").ok().and_then(|period| period.parse().ok());
        // Twice as often as it must be; never without being asked to, because an idle log does not wake up.
        let mut pet =
            pet.map(|us: u64| tokio::time::interval(Duration::from_micros(us.max(2) / 2)));
        loop {
            let deadline = self.desk.intake().next_deadline().map(clock::instant);
            tokio::select! {
                biased;
                () = daemon.shutdown.requested() => break,
                () = self.feed.ready(), if !told => {
                    told = true;
                    daemon.say("READY=1");
                }
                _ = daemon.reload.recv() => self.reload(&daemon.places).await,
                () = self.desk.silenced.notified() => {}
                () = next(&mut pet) => daemon.say("WATCHDOG=1"),
                () = sleep_until(deadline), if deadline.is_some() => {
                    let now = now();
                    let entries = self.desk.intake().handle_timeout(now);
                    self.desk.keep(entries, None).await;
                }
            }
        }
        self.stop().await;
        Ok(())
    }

    /// What is stored is taken from the pipes, and what is taken is stored; the rest is left for the next log.
    async fn stop(self) {
        self.feed.stop(STOP_TIME).await;
        self.sources.iter().for_each(JoinHandle::abort);
        drop(self.registration);
        self.stopping.send_replace(true);
        self.server.drain(STOP_TIME).await;
        self.desk.store.close(STOP_TIME).await;
    }

    /// SIGHUP: what can be changed at once is; what can't is told.
    async fn reload(&mut self, places: &Places) {
        let read = match Settings::load(places.config.as_deref()) {
            Ok(read) => read,
            Err(error) => {
                let text = format!("{error}; the configuration from before holds");
                return self.desk.missing("configuration", text).await;
            }
        };
        self.desk.there("configuration");
        self.desk.intake().set(read.choices.clone());
        let rest =
            |settings: &Settings| Settings { choices: read.choices.clone(), ..settings.clone() };
        if rest(&read) != rest(&self.settings) {
            let text = "another store, size, kernel or syslog in log.toml holds after a restart of the log";
            self.desk.missing("configuration", text.to_owned()).await;
        }
    }
}

fn place(settings: &Settings, places: &Places) -> Place {
    let folder = if settings.on_disk { &places.state } else { &places.run };
    Place { folder: folder.join("log"), size: settings.size, on_disk: settings.on_disk }
}

fn serve(
    daemon: &Context,
    desk: &Arc<Desk>,
    stopping: &watch::Sender<bool>,
    bus: &Bus,
    listener: UnixListener,
) -> anyhow::Result<endpoint::Server> {
    let level = daemon.log_level.clone();
    let settings = endpoint::Settings {
        identify: Some(bus.identify()),
        log_level: Some(Arc::new(move |wanted| {
            wanted.map_or(Ok(()), |wanted| level.set(wanted))?;
            Ok(level.get())
        })),
        ..endpoint::Settings::default()
    };
    let server = endpoint::Server::new(settings).context("make the endpoint")?;
    server.add("log", LogObject::new(Arc::clone(desk), stopping.subscribe()))?;
    server.listen(listener).with_context(|| format!("serve {}", daemon.socket_path().display()))?;
    Ok(server)
}

/// Two pipes a service: as many files as the system lets us have.
fn raise_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit of open files can't be raised: {error}");
    }
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
