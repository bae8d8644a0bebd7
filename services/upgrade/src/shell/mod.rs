//! The writing process: `vestal-upgrade --writer`, started by the network side with descriptor 3 as the only way to it. It has
//! the slots, the state and the boot loader's record, speaks with the supervisor, and with no network.
//!
//! [`worker`] has the engine; here orders are read, words are written, and everything that takes time beside the storage is
//! begun: switching services, watching health, rebooting.

mod approvals;
mod devices;
mod facts;
mod health;
mod images;
mod limit;
mod links;
pub(crate) mod loaded;
mod loader;
mod platform;
mod program;
mod services;
mod store;
mod tree;
mod worker;

use std::{
    io,
    os::{
        fd::{BorrowedFd, FromRawFd as _, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    sync::{Arc, mpsc as channels},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use daemon::{Context, Shutdown, clock, places::Places};
use endpoint::{Bus, CallOptions};
use protocol::system;
use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::SocketType,
};
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, Semaphore, mpsc},
    task::{AbortHandle, JoinHandle},
};

pub(crate) use self::loader::command;
use self::{
    health::Observer,
    images::Images,
    limit::Limit,
    loaded::{Linux, Loaded},
    services::Switcher,
    store::Folder,
    worker::{Input, Output, Worker},
};
use crate::{
    channel::{self, Order, Word},
    engine::contract::{Action, Observe, Switch, Switched, Use},
    settings::{self, BootKind, Settings},
};

/// Which descriptor the network side is at.
const DESCRIPTOR: i32 = 3;
/// Orders that are read and not yet carried out; each has at most a chunk with it.
const ORDERS: usize = 10;
const OUTPUTS: usize = 16;
/// Between two looks at the health of a new version.
const LOOK: Duration = Duration::from_secs(1);
/// How long what is under way may take when we are to end.
const END: Duration = Duration::from_secs(4);
/// Shortest time that a service is given to become ready.
const READY: Duration = Duration::from_secs(30);
/// A reboot that is refused is asked for again so often.
const REBOOTS: u32 = 30;
const REBOOT_AGAIN: Duration = Duration::from_secs(10);

/// What the writer is run with.
struct Setup {
    settings: Result<Settings, String>,
    places: Places,
}

/// Runs the writing process until the network side is gone.
///
/// # Errors
/// Where it was not started by the network side, or can't keep its state.
pub(crate) async fn run(daemon: Context) -> anyhow::Result<()> {
    let stream = inherited()?;
    let config = daemon.places.config.as_deref();
    let settings = settings::file::load(config).and_then(|settings| {
        settings.ok_or_else(|| {
            "there is no upgrade.toml, which names the device and its slots".to_owned()
        })
    });
    if let Ok(settings) = &settings {
        settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    let setup = Setup { settings, places: daemon.places.clone() };
    serve(setup, stream, daemon.shutdown).await
}

#[expect(unsafe_code, reason = "the network side hands its socket over as a number")]
fn inherited() -> anyhow::Result<StdStream> {
    // SAFETY: only borrowed, to ask the kernel what it is; a closed descriptor answers EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(DESCRIPTOR) };
    ensure!(
        rustix::net::sockopt::socket_type(borrowed) == Ok(SocketType::STREAM),
        "descriptor {DESCRIPTOR} is no socket: start vestal-upgrade, which starts its writer"
    );
    // SAFETY: it is open, it is the socket, and by contract with who started us it is ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(DESCRIPTOR) };
    fcntl_setfd(&socket, FdFlags::CLOEXEC).context("keep the socket from children")?;
    Ok(socket.into())
}

/// Serves the other end of `stream` until it is closed.
async fn serve(setup: Setup, stream: StdStream, mut shutdown: Shutdown) -> anyhow::Result<()> {
    stream.set_nonblocking(true)?;
    let (reader, writer) = UnixStream::from_std(stream)?.into_split();
    let folder = Folder::open(&setup.places.state.join("upgrade"))?;
    let (inputs, received) = channels::channel();
    let (outputs, mut output) = mpsc::channel(OUTPUTS);
    let (settings, state) = (setup.settings.clone(), folder.clone());
    let bus = Bus::new(&setup.places.run, endpoint::Options::default());
    let ended = if has_loader(&setup.settings) { facts::last_end(&bus).await } else { None };
    let images = Arc::new(Images::new(bus.clone(), &setup.places));
    let work = move || Worker::new(settings, state, ended, images, outputs).run(&received);
    std::thread::Builder::new().name("writer".to_owned()).spawn(work)?;
    let mut reading = tokio::spawn(read(reader, inputs.clone()));
    let mut lives = bus.lives();
    let mut shell = Shell::new(setup, folder, writer, inputs, bus);
    loop {
        let limit = shell.limit.as_ref().map(|limit| clock::instant(limit.due));
        tokio::select! {
            biased;
            () = shutdown.requested() => break,
            ended = &mut reading => {
                if let Ok(Err(error)) = ended {
                    tracing::error!("the network side: {error}");
                }
                break;
            }
            said = output.recv() => match said {
                Some(said) => if shell.take(said).await.is_err() { break },
                None => anyhow::bail!("the thread that writes has ended"),
            },
            () = lives.next() => shell.born_again(),
            () = until(limit), if limit.is_some() => shell.over_limit(),
        }
    }
    reading.abort();
    shell.end().await;
    // What the thread still says is for nobody; that it ends is waited for.
    let rest = async { while output.recv().await.is_some() {} };
    let _ = tokio::time::timeout(END, rest).await;
    Ok(())
}

fn has_loader(settings: &Result<Settings, String>) -> bool {
    settings.as_ref().is_ok_and(|settings| settings.boot_control.kind != BootKind::None)
}

async fn until(limit: Option<std::time::Instant>) {
    if let Some(limit) = limit {
        tokio::time::sleep_until(limit.into()).await;
    }
}

/// Hands orders to the thread, no faster than it carries them out.
async fn read(mut reader: OwnedReadHalf, inputs: channels::Sender<Input>) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(ORDERS));
    loop {
        let read = match channel::read::<Order>(&mut reader).await {
            // It ended with answers unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            read => read?,
        };
        let Some((order, data)) = read else { return Ok(()) };
        let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
        if inputs.send(Input::Order(order, data, permit)).is_err() {
            return Ok(());
        }
    }
}

/// What is loaded and not what lies in its slot is told, and costs nothing else.
fn note(inputs: &channels::Sender<Input>, notes: Vec<String>) {
    notes.iter().for_each(|note| tracing::error!("{note}"));
    if !notes.is_empty() {
        let _ = inputs.send(Input::Notes(notes));
    }
}

struct Shell {
    writer: OwnedWriteHalf,
    inputs: channels::Sender<Input>,
    switcher: Arc<Switcher>,
    observer: Observer,
    loaded: Arc<Loaded>,
    /// Held while drivers are brought in line with their slots.
    aligned: Arc<Mutex<()>>,
    bus: Bus,
    switching: Option<JoinHandle<()>>,
    observing: Option<AbortHandle>,
    /// When the device is rebooted unless it was found healthy before.
    limit: Option<Limit>,
    ready: bool,
}

impl Shell {
    fn new(
        setup: Setup,
        folder: Folder,
        writer: OwnedWriteHalf,
        inputs: channels::Sender<Input>,
        bus: Bus,
    ) -> Self {
        let settings = setup.settings.as_ref().ok();
        let components = settings.map(|settings| settings.components.clone()).unwrap_or_default();
        let (kernel, boot) = (Arc::new(Linux::default()), facts::start(&mut Vec::new()).boot_id);
        let loaded = Loaded::new(bus.clone(), components.clone(), folder.clone(), boot, kernel);
        let loaded = Arc::new(loaded);
        let observer = Observer {
            bus: bus.clone(),
            loaded: Arc::clone(&loaded),
            services: components.iter().map(|component| component.services.clone()).collect(),
            command: settings.map(|settings| settings.health.command.clone()).unwrap_or_default(),
            every: LOOK,
        };
        let switcher = Switcher {
            bus: bus.clone(),
            components,
            folder,
            loaded: Arc::clone(&loaded),
            ready: settings.map_or(READY, |settings| settings.health.timeout.max(READY)),
            gate: Mutex::new(()),
        };
        let limit = settings.filter(|_| has_loader(&setup.settings)).and_then(|settings| {
            Limit::open(&setup.places.run.join("upgrade"), settings.trial_limit, clock::now())
        });
        Self {
            writer,
            inputs,
            switcher: Arc::new(switcher),
            observer,
            loaded,
            aligned: Arc::default(),
            bus,
            switching: None,
            observing: None,
            limit,
            ready: false,
        }
    }

    /// # Errors
    /// The network side is gone.
    async fn take(&mut self, output: Output) -> io::Result<()> {
        match output {
            Output::Word(word, data) => channel::write(&mut self.writer, &word, &data).await?,
            Output::Opened(slots, loaded) => {
                // Each for itself: one that can't be changed must not keep the others.
                for slot in slots {
                    if let Err(error) = self.switcher.point(&[slot]) {
                        tracing::error!("{error}");
                    }
                }
                note(&self.inputs, self.loaded.patch(&loaded).await);
                self.align(loaded);
                self.resume();
                self.say_ready().await?;
            }
            Output::Broken => self.say_ready().await?,
            Output::Healthy => self.found_healthy(),
            Output::Act(Action::Changed) => {}
            Output::Act(Action::Switch(switch)) => self.switch(switch),
            Output::Act(Action::Observe(what)) => self.observe(what),
            Output::Act(Action::Reboot { reason }) => self.reboot(reason),
        }
        Ok(())
    }

    fn born_again(&self) {
        // Nobody hears it where the thread has ended, which is noticed elsewhere.
        let _ = self.inputs.send(Input::BornAgain);
    }

    async fn say_ready(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.ready, true) {
            channel::write(&mut self.writer, &Word::Ready, &[]).await?;
        }
        Ok(())
    }

    fn resume(&mut self) {
        let switcher = Arc::clone(&self.switcher);
        self.switching = Some(tokio::spawn(async move {
            if let Err(error) = switcher.resume().await {
                tracing::error!("start again what was stopped: {error}");
            }
        }));
    }

    /// Lets drivers serve what lies in their slots. Their manager may start after us.
    fn align(&self, uses: Vec<Use>) {
        let (loaded, inputs) = (Arc::clone(&self.loaded), self.inputs.clone());
        // Taken here, so that nothing is observed before.
        let aligned = Arc::clone(&self.aligned);
        let guard = Arc::clone(&aligned).try_lock_owned();
        tokio::spawn(async move {
            let _guard = match guard {
                Ok(guard) => guard,
                Err(_) => aligned.lock_owned().await,
            };
            note(&inputs, loaded.align(&uses).await);
        });
    }

    fn switch(&mut self, switch: Switch) {
        self.stop_observing();
        let (switcher, inputs) = (Arc::clone(&self.switcher), self.inputs.clone());
        self.switching = Some(tokio::spawn(async move {
            let switched = switcher.switch(&switch).await;
            match &switched {
                Ok(Switched { outage_ms, remarks }) => {
                    tracing::info!("switched; services were away for {outage_ms} ms");
                    remarks.iter().for_each(|remark| tracing::info!("{remark}"));
                }
                Err(error) => tracing::error!("switch: {error}"),
            }
            let _ = inputs.send(Input::Switched(switched));
        }));
    }

    fn observe(&mut self, what: Observe) {
        self.stop_observing();
        let (observer, switcher) = (self.observer.clone(), Arc::clone(&self.switcher));
        let (inputs, aligned) = (self.inputs.clone(), Arc::clone(&self.aligned));
        let observing = tokio::spawn(async move {
            drop(aligned.lock().await);
            // Services that are being started are not observed yet.
            drop(switcher.gate.lock().await);
            let verdict = observer.observe(&what).await;
            if let Err(why) = &verdict {
                tracing::warn!("{why}");
            }
            let _ = inputs.send(Input::Verdict(what.number, verdict));
        });
        self.observing = Some(observing.abort_handle());
    }

    fn stop_observing(&mut self) {
        if let Some(observing) = self.observing.take() {
            observing.abort();
        }
    }

    fn found_healthy(&mut self) {
        if let Some(limit) = self.limit.take() {
            limit.found_healthy();
        }
    }

    /// Nothing said in time that this boot is good.
    fn over_limit(&mut self) {
        self.limit = None;
        self.reboot("the device was not found healthy in time after the boot".to_owned());
    }

    fn reboot(&self, mut reason: String) {
        let bus = self.bus.clone();
        tracing::warn!("reboot: {reason}");
        tokio::spawn(async move {
            reason.truncate(reason.floor_char_boundary(system::REASON_MAX));
            let why = system::Shutdown { reason: Some(reason) };
            for _ in 0..REBOOTS {
                match bus.call("system", "reboot", &why, CallOptions::default()).await {
                    Ok(_) => return,
                    Err(error) => tracing::error!("ask for the reboot: {error}"),
                }
                tokio::time::sleep(REBOOT_AGAIN).await;
            }
            tracing::error!("the reboot was refused {REBOOTS} times; reboot the device");
        });
    }

    /// Lets a switch end, so that no service stays down longer than it must; tells the thread to end.
    async fn end(&mut self) {
        self.stop_observing();
        if let Some(switching) = &mut self.switching {
            let _ = tokio::time::timeout(END, switching).await;
        }
        let _ = self.inputs.send(Input::End);
    }
}
