//! Performs what the machine wants and tells it what happened. Decides nothing, and never waits for a peer: whatever can
//! block runs beside the loop and comes back as an [`Inbound`].

mod calls;
mod proof;
mod state_file;
mod supervisor;
mod watcher;

use std::{
    collections::HashMap,
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use daemon::{Context, clock};
use endpoint::{Bus, Failure, Incoming, Options, Peer, Responder, Server, Settings};
use protocol::{policy::Identity, service::Activated};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::Instant,
};

use self::{calls::Forward, state_file::StateFile, supervisor::SupervisorLine, watcher::Watcher};
use crate::{
    machine::{Action, Answer, CallId, Connection, Event, Own, Refusal, Registry},
    settings::Policies,
};

/// What arrives; bounded, so that a flood of calls waits in the server's queues, where each caller has its own share.
const INBOX: usize = 256;
/// Most connections of one user: every endpoint needs one, and so does every subscription.
const CONNECTIONS_PER_USER: usize = 1024;
/// An event of the longest data that may be published, in its call.
const STRANGERS_FRAME_MAX: usize = protocol::registry::DATA_MAX + (8 << 10);
/// Changes of the policy files are looked at together when they come close together.
const SETTLE: Duration = Duration::from_millis(100);
/// How long running calls may take at the end.
const DRAIN: Duration = Duration::from_secs(1);

/// Something from a task beside the loop.
enum Inbound {
    Call(Incoming),
    Closed(Connection),
    Proved { call: CallId, outcome: Result<(), String> },
    Identified { connection: Connection, outcome: Result<Identity, String> },
    Activated { object: String, outcome: Result<Activated, Failure> },
}

/// The registry at work.
pub(crate) struct Shell {
    context: Context,
    machine: Registry,
    server: Server,
    policies: Policies,
    state: StateFile,
    supervisor: SupervisorLine,
    watcher: Option<Watcher>,
    /// The policy files are read again then.
    reread_at: Option<Instant>,
    inbox: mpsc::Receiver<Inbound>,
    back: mpsc::Sender<Inbound>,
    /// Connections that called.
    peers: HashMap<Connection, Peer>,
    /// Calls without an answer.
    calls: HashMap<CallId, Responder>,
    last_call: CallId,
}

impl Shell {
    /// Reads what there is, and serves.
    pub(crate) fn start(context: Context, listener: UnixListener) -> anyhow::Result<Self> {
        raise_descriptor_limit();
        let run_dir = context.places.run.clone();
        let (back, inbox) = mpsc::channel(INBOX);
        let mut policies = Policies::new(context.places.config.as_deref());
        // Watched before they are read: no change is missed.
        let watcher = policies.folder().and_then(|folder| {
            let watcher = Watcher::new(folder);
            watcher
                .inspect_err(|error| {
                    tracing::warn!("watch {}: {error}; SIGHUP reads it again", folder.display());
                })
                .ok()
        });
        let rules = policies.read();
        let options = Options { patience: Duration::ZERO, ..Options::default() };
        let log_level = context.log_level.clone();
        let settings = Settings {
            rules: Arc::new(rules.0.clone()),
            identify: Some(Bus::new(&run_dir, options).identify()),
            log_level: Some(Arc::new(move |level| {
                level.map_or(Ok(()), |level| log_level.set(level)).map(|()| log_level.get())
            })),
            connections_per_user: CONNECTIONS_PER_USER,
            strangers_frame_max: STRANGERS_FRAME_MAX,
            ..Settings::default()
        };
        let server = Server::new(settings).context("draw a nonce")?;
        server.add("registry", Forward(back.clone())).context("serve the registry")?;
        let state = StateFile::new(&run_dir);
        let socket = context.socket_path();
        let own = Own {
            socket: socket.to_string_lossy().into_owned(),
            // As the other daemons write it, however it was given to us.
            run_dir: socket.parent().unwrap_or(&run_dir).to_string_lossy().into_owned(),
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            uid: rustix::process::geteuid().as_raw(),
            objects: server.objects(),
        };
        let now = clock::now();
        // Seconds of this boot: small, and another one for each registry that had to begin anew.
        let epoch = u32::try_from(now.0 / 1_000_000_000).unwrap_or(u32::MAX);
        let problems = rules.1.clone();
        let machine = Registry::new(own, state.read(), epoch, rules, now);
        let shell = Self {
            machine,
            policies,
            state,
            supervisor: SupervisorLine::new(&run_dir),
            watcher,
            reread_at: None,
            inbox,
            back,
            peers: HashMap::new(),
            calls: HashMap::new(),
            last_call: 0,
            context,
            server,
        };
        shell.server.listen(listener).context("listen")?;
        shell.show(&problems);
        shell.context.say("READY=1");
        Ok(shell)
    }

    /// Runs until it is asked to end.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let mut inbound = Vec::new();
        loop {
            self.carry_out();
            let deadline = self.machine.next_deadline().map(|at| clock::instant(at).into());
            let deadline = [deadline, self.reread_at].into_iter().flatten().min();
            tokio::select! {
                () = self.context.shutdown.requested() => break,
                _ = self.inbox.recv_many(&mut inbound, INBOX) => {
                    for one in inbound.drain(..) {
                        self.take(one);
                        self.carry_out();
                    }
                }
                _ = self.context.reload.recv() => self.read_policies(),
                changed = changed(&mut self.watcher) => match changed {
                    Ok(()) => {
                        self.reread_at.get_or_insert_with(|| Instant::now() + SETTLE);
                    }
                    Err(error) => {
                        tracing::error!("watch the policy files: {error}; SIGHUP reads them again");
                        self.watcher = None;
                    }
                },
                () = sleep_until(deadline), if deadline.is_some() => {
                    self.machine.handle_timeout(clock::now());
                    if self.reread_at.is_some_and(|at| at <= Instant::now()) {
                        self.read_policies();
                    }
                }
            }
        }
        tracing::info!("stopping; endpoints go on and register with the next registry");
        for (_, responder) in self.calls.drain() {
            responder.fail(calls::leaving());
        }
        // What was taken and not looked at, and what still comes in, is told the same.
        self.inbox.close();
        while let Ok(inbound) = self.inbox.try_recv() {
            if let Inbound::Call(call) = inbound {
                call.responder.fail(calls::leaving());
            }
        }
        self.server.drain(DRAIN).await;
        Ok(())
    }

    fn take(&mut self, inbound: Inbound) {
        let event = match inbound {
            Inbound::Call(call) => return self.called(call),
            Inbound::Closed(connection) => {
                self.peers.remove(&connection);
                Event::Closed { connection }
            }
            Inbound::Proved { call, outcome } => Event::Proved { call, outcome },
            Inbound::Identified { connection, outcome } => {
                Event::Identified { connection, outcome }
            }
            Inbound::Activated { object, outcome } => Event::Activated { object, outcome },
        };
        self.machine.handle_event(event, clock::now());
    }

    fn called(&mut self, call: Incoming) {
        if &*call.method == "status" {
            return self.status(call.responder);
        }
        let request = match calls::request(&call) {
            Ok(request) => request,
            Err(failure) => return call.responder.fail(failure),
        };
        let peer = call.responder.peer();
        let connection = peer.id();
        if !self.peers.contains_key(&connection) {
            self.follow(peer.clone(), false);
            self.machine.connected(connection, || calls::caller(&peer));
            self.peers.insert(connection, peer);
        }
        let now = clock::now();
        let deadline = call.responder.deadline();
        let deadline = deadline.map(|at| now + at.saturating_duration_since(Instant::now()));
        self.last_call += 1;
        let id = self.last_call;
        self.calls.insert(id, call.responder);
        self.machine.handle_event(Event::Call { call: id, connection, deadline, request }, now);
    }

    /// Tells the end of a connection; `process`: also that of the process, which may leave the socket to a child.
    fn follow(&self, peer: Peer, process: bool) {
        let back = self.back.clone();
        let pidfd = if process { peer.pidfd() } else { None };
        if process && pidfd.is_none() {
            return;
        }
        tokio::spawn(async move {
            let process_end = pidfd.and_then(|pidfd| watched(pidfd).ok());
            let ended = async {
                match &process_end {
                    Some(pidfd) => drop(pidfd.readable().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = peer.closed() => {
                    // Of two tasks of one connection the other one tells it.
                    if process {
                        return;
                    }
                }
                () = ended => {}
            }
            drop(back.send(Inbound::Closed(peer.id())).await);
        });
    }

    fn status(&self, responder: Responder) {
        let (mut status, connections) = self.machine.status();
        for (subscriber, connection) in status.subscribers.iter_mut().zip(connections) {
            if let Some(peer) = self.peers.get(&connection) {
                let (waiting, lost) = peer.events_state();
                (subscriber.waiting, subscriber.lost) = (waiting as u64, lost);
            }
        }
        responder.reply(&status);
    }

    fn read_policies(&mut self) {
        self.reread_at = None;
        let (rules, problems) = self.policies.read();
        self.show(&problems);
        self.machine.handle_event(Event::Policy { rules, problems }, clock::now());
    }

    /// Problems of policy files: for the log, and for who looks at the service.
    fn show(&self, problems: &[String]) {
        for problem in problems {
            tracing::error!("policy: {problem}");
        }
        match problems {
            [] => self.context.say("STATUS=ready"),
            [first, ..] => {
                let more = problems.len() - 1;
                self.context.say(&format!("STATUS=policy: {first} (and {more} more)"));
            }
        }
    }

    /// Performs everything the machine wants at the moment.
    fn carry_out(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Save => self.state.write(&self.machine.saved()),
            Action::Reply { call, result } => self.reply(call, result),
            Action::Send { to, topic, data } => {
                for peer in to.iter().filter_map(|connection| self.peers.get(connection)) {
                    // One that is gone is told of by its task.
                    let _ = peer.event_shared(&topic, &data);
                }
            }
            Action::Prove { call, socket, nonce } => {
                let back = self.back.clone();
                tokio::spawn(async move {
                    let outcome = proof::prove(socket, nonce).await;
                    drop(back.send(Inbound::Proved { call, outcome }).await);
                });
            }
            Action::Identify { connection } => self.identify(connection),
            Action::Queue { connection, limit, overflow } => {
                if let Some(peer) = self.peers.get(&connection) {
                    peer.set_events(limit, overflow);
                }
            }
            Action::Activate { object } => {
                let (back, supervisor) = (self.back.clone(), self.supervisor.clone());
                tokio::spawn(async move {
                    let outcome = supervisor.activate(&object).await;
                    drop(back.send(Inbound::Activated { object, outcome }).await);
                });
            }
            Action::Release { service } => {
                let supervisor = self.supervisor.clone();
                tokio::spawn(async move { supervisor.release(service).await });
            }
            Action::Enforce(policy) => {
                tracing::info!("policy {} with {} rules", policy.epoch, policy.rules.len());
                self.server.set_policy(policy);
            }
            Action::Audit(refusal) => audit(&refusal),
        }
    }

    fn reply(&mut self, call: CallId, result: Result<Answer, Failure>) {
        let Some(responder) = self.calls.remove(&call) else { return };
        if let Ok(Answer::Registered(registered)) = &result {
            let (peer, count) = (responder.peer(), registered.objects.len());
            tracing::info!(
                "endpoint {}: pid {}, {count} objects",
                registered.handle,
                peer.caller().pid
            );
            self.follow(peer, true);
        }
        responder.finish(result);
    }

    fn identify(&self, connection: Connection) {
        let Some(peer) = self.peers.get(&connection).cloned() else { return };
        let back = self.back.clone();
        tokio::spawn(async move {
            let outcome = peer.identify().await;
            let outcome = outcome.map(|identity| (*identity).clone());
            let outcome = outcome.map_err(|failure| failure.to_string());
            drop(back.send(Inbound::Identified { connection, outcome }).await);
        });
    }
}

fn audit(refusal: &Refusal) {
    let Refusal { verb, what, pid, uid, rule, text, suppressed } = refusal;
    let rule = rule.as_deref().unwrap_or("none");
    match suppressed {
        0 => tracing::warn!(target: "audit", pid, uid, verb, what, rule, "audit: {text}"),
        _ => {
            tracing::warn!(target: "audit", pid, uid, verb, what, rule, suppressed, "audit: {text}")
        }
    }
}

/// Every endpoint takes two descriptors here.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum.map(|maximum| maximum.min(65_536));
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("raise the limit of open files: {error}");
    }
}

/// A descriptor whose readability is waited for.
fn watched(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "unsound only for types that may close or replace their descriptor; OwnedFd doesn't, and the successor is unsafe"
    )]
    AsyncFd::with_interest(fd, Interest::READABLE)
}

async fn changed(watcher: &mut Option<Watcher>) -> std::io::Result<()> {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}
