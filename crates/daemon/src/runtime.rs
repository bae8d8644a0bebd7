//! Runs a daemon on one thread and turns its result into an exit code.

use std::{
    future::Future,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use rustix::fs::Mode;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    lock::{Lock, LockError},
    options::{self, Options, Parsed, Spec},
    places::Places,
    readiness,
    trace::{self, LogLevel},
};

/// Set by the supervisor for a process that takes the place of a running one (`service replace`).
const REPLACES: &str = "VESTAL_REPLACES";

/// What files and folders are made without.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// Wrong usage or configuration: exit code 2 instead of 1.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Wrong(pub String);

/// Everything a daemon receives from its surroundings.
#[derive(Debug)]
pub struct Context {
    pub options: Options,
    pub places: Places,
    pub shutdown: Shutdown,
    /// SIGHUP: read the configuration again.
    pub reload: Signal,
    pub log_level: LogLevel,
    /// Sockets that the supervisor bound, with their names.
    pub sockets: Vec<(String, OwnedFd)>,
    name: &'static str,
}

/// Resolves when the daemon is asked to stop.
#[derive(Debug)]
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

/// Runs `run` to its end. One thread: the suite's daemons wait far more than they compute.
pub fn main<F>(spec: &Spec, run: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    // Whatever we were started with: folders are not for everybody to write in, and sockets are not hidden.
    rustix::process::umask(UMASK);
    let options = match options::parse(spec, std::env::args_os().skip(1)) {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("vestal-{}: {error}", spec.name);
            return ExitCode::from(2);
        }
    };
    match start(spec, options, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vestal-{}: {error:#}", spec.name);
            ExitCode::from(if error.is::<Wrong>() || error.is::<LockError>() { 2 } else { 1 })
        }
    }
}

fn start<F>(spec: &Spec, options: Options, run: impl FnOnce(Context) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let sockets = readiness::inherited_sockets();
    let log_level = trace::start(options.log_level.as_deref(), options.log_json).map_err(Wrong)?;
    let places = Places::find(&options).map_err(|error| Wrong(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        let context = Context {
            options,
            places,
            shutdown: Shutdown {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            reload: signal(SignalKind::hangup())?,
            log_level,
            sockets,
            name: spec.name,
        };
        run(context).await
    });
    // Something may still block on a thread of its own, such as a lock that is waited for.
    runtime.shutdown_background();
    result
}

impl Context {
    /// Refuses to be the second copy on this run directory.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn lock(&self) -> Result<Lock, LockError> {
        Lock::take(&self.places.run, self.name)
    }

    /// Takes the lock; a process that was started to take another one's place says that it is ready to, and waits
    /// until that one has left. Nothing that both would write may be touched before.
    ///
    /// # Errors
    /// See [`LockError`].
    pub async fn take_over(&self) -> Result<Lock, LockError> {
        if std::env::var_os(REPLACES).is_none() {
            return self.lock();
        }
        self.say("READY=1");
        let (run, name) = (self.places.run.clone(), self.name);
        // The supervisor ends us if the other one doesn't leave.
        match tokio::task::spawn_blocking(move || Lock::wait(&run, name)).await {
            Ok(lock) => lock,
            Err(_) => self.lock(),
        }
    }

    /// The socket that callers know: the supervisor's where it bound one for us, else our own at [`Context::socket_path`].
    ///
    /// # Errors
    /// Where the path can't be bound.
    pub fn listener(&mut self) -> anyhow::Result<UnixListener> {
        if let Some(at) = self.sockets.iter().position(|(name, _)| name == "control") {
            return Ok(UnixListener::from(self.sockets.swap_remove(at).1));
        }
        let path = self.socket_path();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove the old {}", path.display()));
            }
            _ => {}
        }
        UnixListener::bind(&path).with_context(|| format!("bind {}", path.display()))
    }

    /// `RUN_DIR/NAME.sock`.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.places.run.join(format!("{}.sock", self.name))
    }

    /// Gives the supervisor, if there is one, a descriptor to keep: the next start of this daemon finds it in
    /// [`Context::sockets`] under this name (FDSTORE of sd_notify(3)).
    pub fn store(&self, name: &str, descriptor: BorrowedFd<'_>) {
        if let Err(error) = readiness::store(name, descriptor) {
            tracing::warn!("leave the descriptor {name} with the supervisor: {error}");
        }
    }

    /// Tells the supervisor, if there is one, in the words of sd_notify(3): `READY=1`, `STATUS=...`.
    pub fn say(&self, state: &str) {
        if let Err(error) = readiness::notify(state) {
            tracing::warn!("tell the supervisor {state}: {error}");
        }
    }
}

impl Shutdown {
    /// Waits for SIGTERM or SIGINT.
    pub async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
