//! Makes what an instance needs before it is spawned: listening sockets, notify socket, pipes, cgroup and the spawn plan.
//!
//! Everything has a fixed place that follows from the slot, and everything is taken as it is where it is there already:
//! a supervisor that was restarted prepares a running instance again without touching it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, chown},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use daemon::places::Places;
use protocol::{
    keeper::{DepositName, Disposition, Request, plan::Plan},
    name::Name,
};
use tokio::sync::mpsc;

use super::{
    Inbound,
    cgroup::Cgroups,
    channel::Channel,
    environment::{self, executor},
    keys,
    logs::{Drain, Stream},
    notify, own_places,
    pipes::Switch,
    prepared::Prepared,
    sockets,
    special_files::{make_fifo, sealed},
};
use crate::{
    machine::{Seat, identity},
    settings::{Process, ReadinessKind, Service, UnixKind},
};

/// The folders of all slots, the sockets that the keeper holds for us, and the cgroups.
pub(crate) struct Workshop {
    places: Places,
    cgroups: Option<Cgroups>,
    /// `vestal-exec`, beside our own binary.
    executor: PathBuf,
    /// Our own copies of what is deposited in the keeper, by name.
    pub(super) deposits: BTreeMap<String, OwnedFd>,
    pub(super) slots: BTreeMap<u32, Prepared>,
    /// Where what services print goes.
    switch: Arc<Switch>,
    inbox: mpsc::Sender<Inbound>,
}

impl Workshop {
    pub(crate) fn open(
        places: Places,
        cgroups: Option<Cgroups>,
        executor: PathBuf,
        inbox: mpsc::Sender<Inbound>,
    ) -> io::Result<Self> {
        for folder in ["pipes", "notify", "ready", "locks"] {
            let path = places.run.join(folder);
            match fs::DirBuilder::new().mode(0o755).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let (deposits, slots, switch) = Default::default();
        Ok(Self { places, cgroups, executor, deposits, slots, switch, inbox })
    }

    /// A deposit that the keeper hands over.
    pub(crate) fn take_deposit(&mut self, name: &DepositName, descriptor: OwnedFd) {
        self.deposits.insert(name.as_str().to_owned(), descriptor);
    }

    /// Takes a deposit out that is for us and not for a service.
    pub(crate) fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.deposits.remove(name)
    }

    /// The supervisor's own listening socket: the deposited one, or a new one.
    pub(crate) fn own_socket(&mut self, channel: &mut Channel) -> anyhow::Result<OwnedFd> {
        const NAME: &str = "own/supervisor";
        if !self.deposits.contains_key(NAME) {
            let path = self.places.socket("supervisor");
            let socket = sockets::unix(&path, UnixKind::Stream, 0o666)
                .with_context(|| format!("listen on {}", path.display()))?;
            self.deposit(NAME.to_owned(), socket, channel)?;
        }
        let socket = self.deposits[NAME].try_clone().context("copy the own socket")?;
        rustix::io::ioctl_fionbio(&socket, true).context("make the own socket non-blocking")?;
        Ok(socket)
    }

    pub(crate) fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.places.run
    }

    pub(crate) fn slot(&mut self, slot: u32) -> Option<&mut Prepared> {
        self.slots.get_mut(&slot)
    }

    /// The folder of a slot's cgroup, where it has one.
    pub(crate) fn group(&self, slot: u32) -> Option<PathBuf> {
        let Prepared { service, instance, seat, .. } = self.slots.get(&slot)?;
        Some(self.cgroups.as_ref()?.path(&service.name, instance, seat.second))
    }

    /// The slot in whose cgroup a process is.
    pub(crate) fn slot_of_cgroup(&self, pid: i32) -> Option<u32> {
        let group = self.cgroups.as_ref()?.group_of(pid)?;
        let (service, instance) = group.split_once('/')?;
        let is_it = |prepared: &Prepared| {
            let second = instance.strip_suffix('+');
            prepared.seat.second == second.is_some()
                && prepared.service.name.escaped() == service
                && prepared.instance.escaped() == second.unwrap_or(instance)
        };
        self.slots.iter().find(|(_, prepared)| is_it(prepared)).map(|(slot, _)| *slot)
    }

    /// Prepares a slot and tells the keeper; the texts are limits that are not enforced.
    ///
    /// # Errors
    /// What is missing or taken, with its name; the slot must not be spawned then.
    pub(crate) fn define(
        &mut self,
        slot: u32,
        (service, instance, seat): (Arc<Service>, Name, Seat),
        disposition: Disposition,
        channel: &mut Channel,
    ) -> anyhow::Result<(u32, Vec<String>)> {
        let settings =
            service.instances.get(&instance).context("the service has no such instance")?;
        let process = settings.process.clone();
        let fresh = !self.slots.contains_key(&slot);
        let mut prepared = match self.slots.remove(&slot) {
            Some(old) => Prepared { service, instance, disposition, seat, ..old },
            None => Prepared {
                service,
                instance,
                disposition,
                seat,
                probe: None,
                environment: Vec::new(),
                drain: None,
                notify: None,
                newline: None,
                sockets: Vec::new(),
                stored: self.stored_of(slot),
                broker_port: None,
                key_of: None,
            },
        };
        if fresh {
            self.share_stored(slot, &mut prepared, channel)?;
        }
        let told = self.prepare(slot, &mut prepared, &process, channel);
        // Kept also when something is missing: an instance that runs is still read from, and its sockets are still ours.
        self.slots.insert(slot, prepared);
        told
    }

    /// What a running instance needs comes first, because it needs it even where the rest fails.
    fn prepare(
        &mut self,
        slot: u32,
        prepared: &mut Prepared,
        process: &Process,
        channel: &mut Channel,
    ) -> anyhow::Result<(u32, Vec<String>)> {
        self.open_streams(slot, prepared, process, channel)?;
        if prepared.service.core {
            own_places::make(&self.places, &prepared.service.name, process)?;
        }
        let shared = prepared.seat.replaces;
        self.open_sockets(slot, shared, &process.sockets, &mut prepared.sockets, channel)?;
        let notify = wants_notify(process).then(|| self.place("notify", slot));
        let names = prepared.sockets.iter().map(|(_, socket)| socket.name.clone());
        let names = names.chain(prepared.stored.iter().map(|(_, name)| name.clone())).collect();
        prepared.broker_port = process.app_id.map(|_| self.broker_port());
        let environment = environment::of_instance(
            &self.places,
            (&prepared.service.name, &prepared.instance, prepared.seat),
            process,
            notify.as_deref(),
            names,
            prepared.broker_port,
        )?;
        let told = self.tell_keeper(slot, prepared, process, &environment, channel);
        prepared.environment = if prepared.has_commands() { environment } else { Vec::new() };
        prepared.environment.retain(|(name, _)| name != environment::KEY_FD);
        told
    }

    /// Frees everything of a slot, here and in the keeper.
    pub(crate) fn forget(&mut self, slot: u32, channel: &mut Channel) {
        self.release(slot, channel);
        self.withdraw_key(slot, channel);
        if let Some(prepared) = self.slots.remove(&slot) {
            prepared.flush_log();
            if let Some(cgroups) = &self.cgroups {
                let Seat { second, .. } = prepared.seat;
                cgroups.remove(&prepared.service.name, &prepared.instance, second);
            }
        }
        self.withdraw(&format!("s{slot}/"), channel);
        for path in [
            self.pipe(slot, "out"),
            self.pipe(slot, "err"),
            self.place("notify", slot),
            self.place("ready", slot),
            self.place("locks", slot),
        ] {
            // Most slots have only some of them.
            let _ = fs::remove_file(path);
        }
        channel.send(&Request::Forget { slot }, Vec::new());
    }

    /// Everything is stopped for good.
    pub(crate) fn close(&self) {
        if let Some(cgroups) = &self.cgroups {
            cgroups.remove_all();
        }
    }

    /// The machine changed how the keeper answers; remembered for the next Define of our own.
    pub(crate) fn disposed(&mut self, slot: u32, disposition: Disposition) {
        if let Some(prepared) = self.slots.get_mut(&slot) {
            prepared.disposition = disposition;
        }
    }

    pub(super) fn define_again(&mut self, slot: u32, channel: &mut Channel) -> anyhow::Result<()> {
        let Some(prepared) = self.slots.get(&slot) else { return Ok(()) };
        let whose = (Arc::clone(&prepared.service), prepared.instance.clone(), prepared.seat);
        self.define(slot, whose, prepared.disposition, channel).map(drop)
    }

    /// Log pipes, readiness pipe and notify socket, as far as the definition wants them.
    fn open_streams(
        &mut self,
        slot: u32,
        prepared: &mut Prepared,
        process: &Process,
        channel: &mut Channel,
    ) -> anyhow::Result<()> {
        let owner = process.user.as_ref().map(|user| (user.uid, user.gid));
        let mut pipes = Vec::new();
        for (wanted, stream, name) in
            [(process.stdout, Stream::Out, "out"), (process.stderr, Stream::Err, "err")]
        {
            if wanted {
                let path = self.pipe(slot, name);
                make_fifo(&path, owner).with_context(|| format!("log pipe {}", path.display()))?;
                pipes.push((stream, path));
            }
        }
        if pipes.is_empty() {
            prepared.drain = None;
        } else if prepared.drain.as_ref().is_none_or(|drain| !drain.has(&pipes)) {
            let file = self.log_file(&prepared.service.name, &prepared.instance);
            let owner = (&prepared.service.name, &prepared.instance);
            let drain = Drain::start(file, owner, &pipes, &self.switch);
            prepared.drain = Some(drain.context("open the log pipes")?);
        }
        match process.readiness.kind {
            ReadinessKind::Fd(_) if prepared.newline.is_none() => {
                let path = self.place("ready", slot);
                make_fifo(&path, owner)
                    .with_context(|| format!("readiness pipe {}", path.display()))?;
                prepared.newline = Some(notify::listen_newline(slot, &path, self.inbox.clone())?);
            }
            ReadinessKind::Fd(_) => {}
            _ => prepared.newline = None,
        }
        if !wants_notify(process) {
            prepared.notify = None;
        } else if prepared.notify.is_none() {
            let socket = self.notify_socket(slot, owner, channel)?;
            prepared.notify = Some(notify::listen(slot, socket, self.inbox.clone())?);
        }
        Ok(())
    }

    fn notify_socket(
        &mut self,
        slot: u32,
        owner: Option<(u32, u32)>,
        channel: &mut Channel,
    ) -> anyhow::Result<OwnedFd> {
        let name = format!("s{slot}/notify");
        if !self.deposits.contains_key(&name) {
            let path = self.place("notify", slot);
            // The name is the slot's own: whatever is there belongs to an instance that has left it.
            let _ = fs::remove_file(&path);
            let socket = sockets::unix(&path, UnixKind::Datagram, 0o600)
                .with_context(|| format!("notify socket {}", path.display()))?;
            if let Some((uid, gid)) = owner {
                chown(&path, Some(uid), Some(gid)).context("give the notify socket to its user")?;
            }
            self.deposit(name.clone(), socket, channel)?;
        }
        self.deposits[&name].try_clone().context("copy the notify socket")
    }

    fn tell_keeper(
        &self,
        slot: u32,
        prepared: &Prepared,
        process: &Process,
        environment: &[(String, String)],
        channel: &mut Channel,
    ) -> anyhow::Result<(u32, Vec<String>)> {
        let null = || "/dev/null".to_owned();
        let pipe = |wanted, name| match wanted {
            true => self.pipe(slot, name).to_string_lossy().into_owned(),
            false => null(),
        };
        let plan = Plan {
            programs: environment::programs(&process.command, environment),
            argv: process.command.clone(),
            env: environment.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            directory: process.directory.to_string_lossy().into_owned(),
            stdin: null(),
            stdout: pipe(process.stdout, "out"),
            stderr: pipe(process.stderr, "err"),
            lock: self.place("locks", slot).to_string_lossy().into_owned(),
            sockets: prepared
                .sockets
                .iter()
                .map(|(name, _)| name)
                .chain(prepared.stored.iter().map(|(name, _)| name))
                .cloned()
                .chain(process.app_id.map(|_| keys::deposit(slot)))
                .collect(),
            ready: match process.readiness.kind {
                ReadinessKind::Fd(number) => {
                    Some((self.place("ready", slot).to_string_lossy().into_owned(), number))
                }
                _ => None,
            },
            executor: executor(process, &self.executor),
        };
        let mut descriptors = vec![sealed("vestal-plan", &plan.encode()?)?];
        let mut missing = Vec::new();
        if let Some(cgroups) = &self.cgroups {
            let (group, not_enforced) = cgroups
                .prepare(
                    &prepared.service.name,
                    &prepared.instance,
                    prepared.seat.second,
                    &process.cgroup,
                )
                .context("make the cgroup")?;
            descriptors.push(group);
            missing = not_enforced;
        } else if process.cgroup != Default::default() {
            missing.push(
                "memory, pids and cpu limits are not enforced: no writable cgroup v2".to_owned(),
            );
        }
        let define = Request::Define {
            slot,
            identity: identity(&prepared.service.name, &prepared.instance),
            disposition: prepared.disposition,
            cgroup: descriptors.len() > 1,
        };
        Ok((channel.send(&define, descriptors), missing))
    }

    fn place(&self, folder: &str, slot: u32) -> PathBuf {
        self.places.run.join(folder).join(slot.to_string())
    }

    fn pipe(&self, slot: u32, name: &str) -> PathBuf {
        self.places.run.join("pipes").join(format!("{slot}.{name}"))
    }

    pub(crate) fn log_file(&self, service: &Name, instance: &Name) -> PathBuf {
        let name = format!("{}.{}.log", service.escaped(), instance.escaped());
        self.places.state.join("supervisor/log").join(name)
    }
}

/// The notify socket is made only for those who use it: a thousand plain services need no thousand sockets.
fn wants_notify(process: &Process) -> bool {
    process.readiness.kind == ReadinessKind::Notify
        || process.watchdog.is_some()
        || process.fd_store > 0
}
