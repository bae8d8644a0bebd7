//! Runs a daemon on one thread and turns its result into an exit code.

use std::{future::Future, process::ExitCode};

use anyhow::Context as _;
use rustix::fs::Mode;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    lock::{Lock, LockError},
    options::{self, Options, Parsed, Spec},
    places::Places,
    trace,
};

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
    trace::start(options.log_level.as_deref(), options.log_json).map_err(Wrong)?;
    let places = Places::find(&options).map_err(|error| Wrong(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let context = Context {
            options,
            places,
            shutdown: Shutdown {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            reload: signal(SignalKind::hangup())?,
            name: spec.name,
        };
        run(context).await
    })
}

impl Context {
    /// Refuses to be the second copy on this run directory.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn lock(&self) -> Result<Lock, LockError> {
        Lock::take(&self.places.run, self.name)
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
