//! Serves the object `driver`, and keeps a task for each driver that looks after it. Stopping, it leaves the hosts alone.

mod attend;
mod caller;
mod canary;
mod change;
mod charge;
mod folders;
mod host;
mod object;
mod services;

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::Context as _;
use daemon::{Context, places::Places};
use endpoint::{Bus, Change, Client, Options, Registration, RetryPolicy, Watch};
use tokio::task::AbortHandle;

use self::{charge::Charge, object::DriverObject, services::Services};
use crate::settings::{self, Settings};

/// How long what runs may take when the manager is told to stop.
const STOP_TIME: Duration = Duration::from_secs(2);
/// What hosts are called on the bus.
const HOSTS: &str = "driver/";

/// What all tasks share.
pub(super) struct Desk {
    run: PathBuf,
    /// `STATE_DIR/driver`.
    state: PathBuf,
    bus: Bus,
    services: Services,
    charges: Mutex<BTreeMap<String, Attended>>,
}

/// A driver, and the task that looks after it.
struct Attended {
    charge: Arc<Charge>,
    task: AbortHandle,
}

/// The manager at work.
pub(super) struct Shell {
    desk: Arc<Desk>,
    server: endpoint::Server,
    /// Others find us by it, as long as it lives.
    registration: Registration,
    hosts: Watch,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Attended>> {
        self.charges.lock().expect("nothing panics while it holds the table of drivers")
    }

    fn charge(&self, name: &str) -> Option<Arc<Charge>> {
        self.lock().get(name).map(|attended| Arc::clone(&attended.charge))
    }

    fn charges(&self) -> Vec<Arc<Charge>> {
        self.lock().values().map(|attended| Arc::clone(&attended.charge)).collect()
    }

    /// Looks after a driver from now on, in the place of whoever did.
    fn attend(self: &Arc<Self>, name: &str, settings: &settings::Driver) {
        let charge = Arc::new(Charge::new(name, settings.clone(), &self.run, &self.state));
        let task =
            tokio::spawn(attend::attend(Arc::clone(self), Arc::clone(&charge))).abort_handle();
        let before = self.lock().insert(name.to_owned(), Attended { charge, task });
        if let Some(before) = before {
            before.task.abort();
        }
    }

    /// Ends what is no driver any more: its host, its handles. The record stays for the day that it is one again.
    async fn delete_others(&self, drivers: &BTreeMap<String, settings::Driver>) {
        let hosts = match self.services.hosts().await {
            Ok(hosts) => hosts,
            Err(error) => {
                return tracing::warn!("hosts of drivers that are none any more may run: {error}");
            }
        };
        for name in hosts.into_keys().filter(|name| !drivers.contains_key(name)) {
            tracing::info!(driver = name, "it is not in driver.toml any more: its host is deleted");
            if let Err(error) = self.services.delete(&name).await {
                tracing::warn!(driver = name, "delete its host: {error}");
                continue;
            }
            if settings::is_name(&name)
                && let Err(error) = folders::empty(&self.run.join("driver").join(&name))
            {
                tracing::warn!(driver = name, "remove its handles: {error}");
            }
        }
    }
}

impl Shell {
    /// Serves the object and begins to look after the drivers.
    pub(super) fn open(
        daemon: &Context,
        settings: Settings,
        listener: UnixListener,
    ) -> anyhow::Result<Self> {
        let Places { run, state, .. } = &daemon.places;
        let bus = Bus::new(run, Options::default());
        let desk = Arc::new(Desk {
            run: run.clone(),
            state: state.join("driver"),
            services: Services::new(Client::new(
                daemon.places.socket("supervisor"),
                Options::default(),
            )),
            bus: bus.clone(),
            charges: Mutex::default(),
        });
        let server = serve(daemon, &desk, listener)?;
        let registration = bus.register(&server, daemon.socket_path(), RetryPolicy::DEFAULT);
        let hosts = bus.watch(&format!("{HOSTS}*"));
        for (name, driver) in &settings.drivers {
            desk.attend(name, driver);
        }
        // Deleting waits for the supervisor, and nobody waits for that.
        let (others, drivers) = (Arc::clone(&desk), settings.drivers);
        tokio::spawn(async move { others.delete_others(&drivers).await });
        Ok(Self { desk, server, registration, hosts })
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(mut self, mut daemon: Context) -> anyhow::Result<()> {
        daemon.say("READY=1");
        let mut watched = true;
        loop {
            tokio::select! {
                biased;
                () = daemon.shutdown.requested() => break,
                _ = daemon.reload.recv() => self.reload(&daemon.places).await,
                change = self.hosts.next(), if watched => match change {
                    Ok(change) => self.host_changed(&change),
                    Err(why) => {
                        tracing::warn!("hosts that are started again are seen late: {why}");
                        watched = false;
                    }
                },
            }
        }
        drop(self.registration);
        self.server.drain(STOP_TIME).await;
        Ok(())
    }

    /// A host came, or another one in its place: it may need what it can't have by itself.
    fn host_changed(&self, change: &Change) {
        let (Change::Added(found) | Change::Changed(found)) = change else { return };
        let charge = found.object.name.strip_prefix(HOSTS).and_then(|name| self.desk.charge(name));
        if let Some(charge) = charge {
            charge.poke();
        }
    }

    /// SIGHUP: what is new, changed or gone in driver.toml.
    async fn reload(&self, places: &Places) {
        let read = match settings::load(places.config.as_deref()) {
            Ok(read) => read,
            Err(error) => return tracing::warn!("{error}; the configuration from before holds"),
        };
        for (name, driver) in &read.drivers {
            let before = self.desk.charge(name);
            match before {
                Some(before) if before.settings == *driver => {}
                before => {
                    // An upgrade that runs is not cut off.
                    let _permit = match &before {
                        Some(before) => before.permit_at_last().await,
                        None => None,
                    };
                    self.desk.attend(name, driver);
                }
            }
        }
        self.desk.lock().retain(|name, attended| {
            let stays = read.drivers.contains_key(name);
            if !stays {
                attended.task.abort();
            }
            stays
        });
        self.desk.delete_others(&read.drivers).await;
    }
}

fn serve(
    daemon: &Context,
    desk: &Arc<Desk>,
    listener: UnixListener,
) -> anyhow::Result<endpoint::Server> {
    let level = daemon.log_level.clone();
    let settings = endpoint::Settings {
        identify: Some(desk.bus.identify()),
        log_level: Some(Arc::new(move |wanted| {
            wanted.map_or(Ok(()), |wanted| level.set(wanted))?;
            Ok(level.get())
        })),
        ..endpoint::Settings::default()
    };
    let server = endpoint::Server::new(settings).context("make the endpoint")?;
    server.add("driver", DriverObject::new(Arc::clone(desk)))?;
    server.listen(listener).with_context(|| format!("serve {}", daemon.socket_path().display()))?;
    Ok(server)
}
