//! The network side of the agent: the process that callers and hosts speak to. It starts the writer, gives up its rights,
//! parses what comes, unpacks chunks and relays. It never opens a slot, and nothing it says is believed by the writer that
//! is not signed or hashed, so that whoever takes it over can write nothing.
//!
//! [`desk`] has the methods, [`hold`] who installs, [`listener`] the network, [`link`] the conversation with the writer.

mod child;
mod decode;
mod desk;
mod hold;
mod key;
mod link;
mod listener;
mod object;
mod progress;
mod rights;
#[cfg(test)]
mod tests;

use std::{env, ffi::OsStr, net::SocketAddr, process::Child, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use daemon::{Context, Wrong, clock, lock::Lock};
use endpoint::{Bus, Registration, RetryPolicy, Server, tls::KeyPair};
use protocol::upgrade::{PROGRESS, STATE};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Interval, interval, sleep, sleep_until},
};

use self::{
    child::Starter,
    desk::Desk,
    link::{Link, Request},
    listener::Limits,
    object::{Callers, UpgradeObject},
    progress::Progresses,
};
use crate::{channel::Word, settings};

/// Words of the writer that may wait for the loop.
const WORDS: usize = 64;
/// First pause before a writer is started again; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// How long callers may take when the agent stops.
const STOP: Duration = Duration::from_secs(2);

/// What is wrong with the end of a writer.
enum Happening {
    Said(Word),
    /// A writer was started, or started again.
    Started,
    /// It ended; the text says how.
    Ended(String),
}

/// Runs the network side until it is told to stop.
///
/// # Errors
/// What can't be done without: the lock, the writer, the Unix socket, fewer rights.
pub(crate) async fn run(mut daemon: Context) -> anyhow::Result<()> {
    let listen = listen(&daemon)?;
    let _lock = lock(&daemon).await?;
    let socket = daemon.listener()?;
    let seed = key::load(&daemon.places.state.join("upgrade")).context("the device's key")?;
    let network = network(&daemon, listen);
    let starter = starter(&daemon)?;
    let first = starter.start().context("start the writing process")?;
    let dropped = rights::give_up().context("give up rights")?;

    let (link, requests) = Link::new();
    let (happenings, happening) = mpsc::channel(WORDS);
    let again = (!dropped).then_some(starter);
    let keeping = tokio::spawn(keep(first, again, requests, happenings));
    let pair = KeyPair::from_seed(&seed)?;
    let public = bundle::PublicKey::new(pair.public()).context("the device's key is weak")?;
    let desk = Desk::new(link, &public).context("start to unpack")?;
    let bus = Bus::new(&daemon.places.run, endpoint::Options::default());
    let server = serve(&daemon, &desk, &bus, socket)?;
    let registration = bus.register(&server, daemon.socket_path(), RetryPolicy::DEFAULT);
    let hosts = network.map(|network| {
        let desk = Arc::clone(&desk);
        tokio::spawn(async move { listener::run(network, &pair, desk, Limits::default()).await })
    });
    let shell = Shell { desk, bus, happening, keeping, progress: Progresses::default() };
    let ended = shell.run(&mut daemon).await;
    if let Some(hosts) = hosts {
        hosts.abort();
    }
    stop(server, registration).await;
    ended
}

async fn stop(server: Server, registration: Registration) {
    drop(registration);
    server.drain(STOP).await;
}

/// Where to listen: by option, environment, `upgrade.toml`.
fn listen(daemon: &Context) -> anyhow::Result<Option<SocketAddr>> {
    let option = daemon.options.extra("listen").flatten().cloned();
    let variable = || env::var_os("VESTAL_UPGRADE_LISTEN").filter(|value| !value.is_empty());
    if let Some(given) = option.or_else(variable) {
        return Ok(Some(address(&given).map_err(Wrong)?));
    }
    match settings::file::load(daemon.places.config.as_deref()) {
        Ok(settings) => Ok(settings.and_then(|settings| settings.listen)),
        // The writer says what that means for upgrades. A device must not reboot again and again for a mistyped file.
        Err(error) => {
            tracing::error!("{error}; only the Unix socket is served");
            Ok(None)
        }
    }
}

fn address(given: &OsStr) -> Result<SocketAddr, String> {
    let parsed = given.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| {
        format!(
            "--listen {}: write an address and a port, [::]:7421 or 10.0.0.7:7421",
            given.display()
        )
    })
}

/// As [`Context::take_over`], but on a thread that has ended when this returns: rights are given up for one thread.
async fn lock(daemon: &Context) -> anyhow::Result<Lock> {
    if env::var_os("VESTAL_REPLACES").is_none() {
        return Ok(daemon.lock()?);
    }
    daemon.say("READY=1");
    let (done, is_done) = oneshot::channel();
    let run = daemon.places.run.clone();
    let waiting = std::thread::Builder::new().name("lock".to_owned()).spawn(move || {
        let lock = Lock::wait(&run, "upgrade");
        let _ = done.send(());
        lock
    })?;
    let _ = is_done.await;
    match waiting.join() {
        Ok(lock) => Ok(lock?),
        Err(_) => bail!("waiting for the lock failed"),
    }
}

/// The network's socket, where one is wanted and can be had. A port that somebody else has is told, and costs only itself.
fn network(daemon: &Context, listen: Option<SocketAddr>) -> Option<std::net::TcpListener> {
    let bound = listen.and_then(|address| match listener::bind(address) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::error!("listen on tcp {address}: {error}; only the Unix socket is served until the next start");
            None
        }
    });
    let address = bound.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(address) = address {
        tracing::info!("upgrades are received on {address}");
    }
    let folder = daemon.places.run.join("upgrade");
    if let Err(error) = listener::publish(&folder, address) {
        tracing::warn!("write {}: {error}", folder.join("addr").display());
    }
    bound
}

fn starter(daemon: &Context) -> anyhow::Result<Starter> {
    // By its own name: the file may hold other programs as well.
    let program =
        env::current_exe().context("find the own program")?.with_file_name("vestal-upgrade");
    let mut args = vec!["--writer".into()];
    args.extend(daemon.options.to_args());
    Ok(Starter { program, args })
}

fn serve(
    daemon: &Context,
    desk: &Arc<Desk>,
    bus: &Bus,
    socket: std::os::unix::net::UnixListener,
) -> anyhow::Result<Server> {
    let level = daemon.log_level.clone();
    let server = Server::new(endpoint::Settings {
        identify: Some(bus.identify()),
        log_level: Some(Arc::new(move |wanted: Option<&str>| {
            wanted.map_or(Ok(()), |wanted| level.set(wanted))?;
            Ok(level.get())
        })),
        queue: 2 * desk::WINDOW,
        ..endpoint::Settings::default()
    })
    .context("make the endpoint")?;
    let root = rustix::process::geteuid().as_raw();
    let object =
        UpgradeObject { desk: Arc::clone(desk), callers: Callers::Local { root }, server: 0 };
    server.add("upgrade", object)?;
    server.listen(socket).with_context(|| format!("serve {}", daemon.socket_path().display()))?;
    Ok(server)
}

/// Speaks with the writer, and starts it again where that is still possible. Ends where it isn't.
async fn keep(
    first: (Child, std::os::unix::net::UnixStream),
    again: Option<Starter>,
    mut requests: mpsc::Receiver<Request>,
    happenings: mpsc::Sender<Happening>,
) {
    let mut next = Ok(first);
    let mut pause = FIRST_PAUSE;
    loop {
        let text = match next {
            Ok((child, stream)) => {
                let begun = clock::now();
                let _ = happenings.send(Happening::Started).await;
                let text = accompany(child, stream, &mut requests, &happenings).await;
                if clock::now().since(begun) > LAST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                text
            }
            Err(error) => format!("start the writing process: {error}"),
        };
        if happenings.send(Happening::Ended(text)).await.is_err() {
            return;
        }
        let Some(starter) = &again else { return };
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
        next = starter.start();
    }
}

/// Until this writer ends; how it did.
async fn accompany(
    mut child: Child,
    stream: std::os::unix::net::UnixStream,
    requests: &mut mpsc::Receiver<Request>,
    happenings: &mpsc::Sender<Happening>,
) -> String {
    let (words, mut said) = mpsc::channel(WORDS);
    let stream = match stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)) {
        Ok(stream) => stream,
        Err(error) => return format!("speak with the writing process: {error}"),
    };
    let passing = async {
        while let Some(word) = said.recv().await {
            if happenings.send(Happening::Said(word)).await.is_err() {
                break;
            }
        }
        std::future::pending().await
    };
    let error = tokio::select! {
        error = link::converse(stream, requests, &words) => error,
        error = passing => error,
    };
    // It has closed its socket, or says what makes no sense. Where we have no rights over it any more, it ends by itself.
    let _ = child.kill();
    match tokio::task::spawn_blocking(move || child.wait()).await {
        Ok(Ok(status)) => format!("the writing process ended ({status}): {error}"),
        _ => format!("the writing process is gone: {error}"),
    }
}

struct Shell {
    desk: Arc<Desk>,
    bus: Bus,
    happening: mpsc::Receiver<Happening>,
    keeping: JoinHandle<()>,
    progress: Progresses,
}

impl Shell {
    async fn run(mut self, daemon: &mut Context) -> anyhow::Result<()> {
        let mut pet = watchdog();
        let mut lost = None;
        loop {
            let due = self.progress.due().map(clock::instant);
            tokio::select! {
                biased;
                () = daemon.shutdown.requested() => break,
                _ = daemon.reload.recv() => {
                    let text = "another listen in upgrade.toml holds after a restart of the service";
                    tracing::info!("{text}; the writing process reads its own part when it starts");
                }
                () = tick(&mut pet) => daemon.say("WATCHDOG=1"),
                happening = self.happening.recv() => match happening {
                    Some(Happening::Ended(text)) => {
                        tracing::error!("{text}");
                        self.desk.forget();
                        lost = Some(text);
                    }
                    Some(happening) => self.take(happening, daemon),
                    // It can't be started again without rights: the supervisor starts us both.
                    None => bail!(lost.unwrap_or_else(|| "the writing process is lost".to_owned())),
                },
                () = until(due), if due.is_some() => self.tell_progress(),
            }
        }
        self.keeping.abort();
        Ok(())
    }

    fn take(&mut self, happening: Happening, daemon: &Context) {
        match happening {
            Happening::Started => {
                let desk = Arc::clone(&self.desk);
                tokio::spawn(async move {
                    if let Err(failure) = desk.learn().await {
                        tracing::error!("ask the writing process for the device: {failure}");
                    }
                });
            }
            Happening::Said(Word::Ready) => daemon.say("READY=1"),
            Happening::Said(Word::Device(device)) => self.desk.know(device),
            Happening::Said(Word::Status(status)) => self.publish(STATE, &status),
            Happening::Said(Word::Progress(progress)) => {
                self.progress.reached(progress, clock::now());
                self.tell_progress();
            }
            Happening::Said(Word::Answer { .. }) | Happening::Ended(_) => {}
        }
    }

    fn tell_progress(&mut self) {
        if let Some(progress) = self.progress.take(clock::now()) {
            self.publish(PROGRESS, &progress);
        }
    }

    fn publish<T: serde::Serialize>(&self, topic: &str, data: &T) {
        if let Err(failure) = self.bus.publish(topic, data, false) {
            tracing::error!("publish {topic}: {failure}");
        }
    }
}

/// Twice as often as it must be; never without being asked to.
fn watchdog() -> Option<Interval> {
    let period = env::var("WATCHDOG_USEC").ok().and_then(|period| period.parse::<u64>().ok());
    period.map(|us| interval(Duration::from_micros(us.max(2) / 2)))
}

async fn tick(pet: &mut Option<Interval>) {
    match pet {
        Some(pet) => drop(pet.tick().await),
        None => std::future::pending().await,
    }
}

async fn until(due: Option<std::time::Instant>) {
    if let Some(due) = due {
        sleep_until(due.into()).await;
    }
}
