//! Starts the host: what is to serve, the state that it begins with, the handles that callers still have; then the object
//! and the device. And ends it in order.

pub(super) mod desk;

mod body;
mod control;
mod files;
mod journal;
mod keeper;
mod memory;
mod object;
mod owners;
mod probes;
mod replace;
mod services;
mod start;
mod waiting;
mod worker;
mod workshop;

#[cfg(test)]
mod tests;

use std::{os::unix::net::UnixListener, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::Context as _;
use daemon::Context;
use endpoint::{Bus, Registration, RetryPolicy};

pub(super) use self::files::make_folder;
use self::{keeper::Keeper, object::HostObject, start::Started};
use crate::settings::Driver;

/// How long the connections may take when the host is told to stop.
const STOP_TIME: Duration = Duration::from_secs(2);

/// A host at work.
pub(super) struct Shell {
    started: Started,
    server: endpoint::Server,
    /// Others find us by it, as long as it lives.
    registration: Registration,
    keeper: JoinHandle<()>,
}

impl Shell {
    /// Loads the driver, gives it its state and its handles, and serves it.
    pub(super) fn open(
        daemon: &Context,
        name: &str,
        driver: Driver,
        listener: UnixListener,
    ) -> anyhow::Result<Self> {
        let places = &daemon.places;
        let started = start::start(name, driver, places).map_err(anyhow::Error::msg)?;
        for _ in 0..started.shop.settings.threads {
            worker::hire(&started.shop.desk).context("start the workers")?;
        }
        let keeper = Keeper::start(&started.shop).context("start the keeper")?;
        let bus = Bus::new(&places.run, endpoint::Options::default());
        let server = serve(daemon, &bus)?;
        let object = HostObject::new(&started, &places.run);
        server.add(&format!("driver/{name}"), object)?;
        server
            .listen(listener)
            .with_context(|| format!("serve {}", daemon.socket_path().display()))?;
        let registration = bus.register(&server, daemon.socket_path(), RetryPolicy::DEFAULT);
        Ok(Self { started, server, registration, keeper })
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(self, mut daemon: Context) -> anyhow::Result<()> {
        daemon.say("READY=1");
        loop {
            tokio::select! {
                () = daemon.shutdown.requested() => break,
                _ = daemon.reload.recv() => {
                    tracing::info!("driver.toml is read when the host starts; the manager starts it anew where that is needed");
                }
            }
        }
        self.stop().await;
        Ok(())
    }

    /// Takes nothing more up, lets calls that run end, and writes the state down for the next host; the handles stay.
    async fn stop(self) {
        let desk = Arc::clone(&self.started.shop.desk);
        drop(self.registration);
        desk.stop();
        let left = tokio::time::timeout(STOP_TIME, async {
            loop {
                let changed = desk.left.notified();
                if desk.lock().hired == 0 {
                    return;
                }
                changed.await;
            }
        });
        if left.await.is_err() {
            tracing::warn!(
                "{}: calls are still inside the driver; they are lost",
                self.started.shop.name
            );
        }
        // Those that wait are answered as not begun: their callers make them again.
        self.server.drain(Duration::from_millis(100)).await;
        let shop = Arc::clone(&self.started.shop);
        let written = tokio::task::spawn_blocking(move || {
            let body = shop.body();
            shop.checkpoint(&body)
        });
        if !matches!(tokio::time::timeout(STOP_TIME, written).await, Ok(Ok(true))) {
            tracing::warn!(
                "{}: the state could not be written down at the end",
                self.started.shop.name
            );
        }
        // It ends by itself once the desk has stopped; nothing is to be had of it.
        drop(self.keeper);
    }
}

fn serve(daemon: &Context, bus: &Bus) -> anyhow::Result<endpoint::Server> {
    let level = daemon.log_level.clone();
    let settings = endpoint::Settings {
        identify: Some(bus.identify()),
        log_level: Some(Arc::new(move |wanted| {
            wanted.map_or(Ok(()), |wanted| level.set(wanted))?;
            Ok(level.get())
        })),
        // Data calls are what this socket is for: whoever may call is slowed down by the driver alone, and by his own queue.
        rate: None,
        connections_per_user: 64,
        strangers_frame_max: protocol::frame::PAYLOAD_MAX + 4096,
        ..endpoint::Settings::default()
    };
    endpoint::Server::new(settings).context("make the endpoint")
}
