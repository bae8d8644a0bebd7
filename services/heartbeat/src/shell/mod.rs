//! Feeds datagrams, calls and times to the machine and carries out what it decides. Waits for nobody: the supervisor is
//! told by tasks beside the loop, and no error of a socket ends it.
//!
//! A turn takes in all that has come before it looks at any deadline, so that whoever reported in time is heard in time.

mod absence;
mod address;
mod batch;
mod object;
mod transport;

use std::{env, ffi::OsStr, future::poll_fn, os::fd::AsFd as _, task::Poll, time::Duration};

use anyhow::Context as _;
use daemon::{Context, clock};
use endpoint::{Bus, CallOptions, Incoming, Lives, Registration, RetryPolicy, Server};
use protocol::{
    failure::{Code, Failure},
    heartbeat::{Missed, Row},
    time::Moment,
};
use serde::Serialize;
use tokio::sync::mpsc;

use self::{
    absence::Absence,
    object::Forward,
    transport::{Happening, Noise, Transports},
};
use crate::{
    machine::{Action, Broker, CallId, Counters, Event},
    settings::{self, Settings},
};

/// Calls that may wait for the loop.
const CALLS: usize = 64;
/// Answers of the supervisor that may wait for the loop; the machine has no more under way.
const ANSWERS: usize = 64;
/// So many datagrams in a turn are a burst at least.
const MANY: usize = 64;
/// Datagrams that one turn takes in: all that a socket's buffer can hold, and a flood can't keep us from the clock.
const TURN: usize = 4_096;
/// How long the supervisor may take to hear of a miss, before it is told again.
const TELL: Duration = Duration::from_secs(5);
/// Of so many failures to tell it one is logged as a warning.
const LOUD: u8 = 16;
/// How long callers and events may take when the broker stops.
const STOP: Duration = Duration::from_secs(2);

/// What the supervisor was told, and whether it has taken it.
struct Told {
    app_id: i32,
    generation: u32,
    heard: bool,
}

/// The broker at work.
pub(crate) struct Shell {
    machine: Broker,
    settings: Settings,
    transports: Transports,
    absence: Absence,
    lives: Lives,
    server: Server,
    bus: Bus,
    /// Held, so that we stay registered.
    _registration: Registration,
    calls: mpsc::Receiver<Incoming>,
    /// What this turn has taken from there, and of the answers.
    called: Vec<Incoming>,
    told: Vec<Told>,
    /// Those that wait for the machine's answer; it answers at once.
    waiting: Option<(CallId, endpoint::Responder)>,
    answers: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
    next_call: CallId,
}

/// What `heartbeat.status` answers.
#[derive(Serialize)]
struct Status<'a> {
    listen: Vec<String>,
    sessions: usize,
    machine: Counters,
    transport: &'a Noise,
}

/// The settings of this process: file, option, environment.
pub(crate) fn settings(daemon: &Context) -> Result<Settings, String> {
    let option = daemon.options.extra("listen").flatten().cloned();
    let variable = || env::var_os("VESTAL_HEARTBEAT_LISTEN").filter(|value| !value.is_empty());
    let listen = option.or_else(variable);
    settings::load(daemon.places.config.as_deref(), listen.as_deref().map(OsStr::new))
}

impl Shell {
    /// Opens the sockets, says where they are, serves the object.
    pub(crate) fn open(daemon: &mut Context, settings: Settings) -> anyhow::Result<Self> {
        let folder = daemon.places.run.join("heartbeat");
        let opened = address::sockets(&mut daemon.sockets, &settings, &folder)?;
        for (name, at) in &opened.fresh {
            // The next broker takes them over: what is sent meanwhile waits in them.
            daemon.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
            daemon.store(name, opened.sockets[*at].as_fd());
        }
        let transports = Transports::new(opened.sockets, &settings.rules)?;
        address::publish(&folder, &transports.addresses())
            .with_context(|| format!("write {}", folder.join("addr").display()))?;
        let mut seed = [0; 16];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .context("draw random octets")?;
        let machine = Broker::new(settings.rules.clone(), seed, clock::now());

        let bus = Bus::new(&daemon.places.run, endpoint::Options::default());
        let level = daemon.log_level.clone();
        let server = Server::new(endpoint::Settings {
            identify: Some(bus.identify()),
            log_level: Some(std::sync::Arc::new(move |wanted: Option<&str>| {
                wanted.map_or(Ok(()), |wanted| level.set(wanted))?;
                Ok(level.get())
            })),
            ..endpoint::Settings::default()
        })
        .context("make the endpoint")?;
        let (inbox, calls) = mpsc::channel(CALLS);
        server.add("heartbeat", Forward { inbox })?;
        let socket = daemon.socket_path();
        let listener = daemon.listener()?;
        server.listen(listener).with_context(|| format!("serve {}", socket.display()))?;
        let registration = bus.register(&server, socket, RetryPolicy::DEFAULT);
        Ok(Self {
            machine,
            settings,
            transports,
            absence: Absence::new(clock::suspended()),
            lives: bus.lives(),
            server,
            bus,
            _registration: registration,
            calls,
            called: Vec::new(),
            told: Vec::new(),
            waiting: None,
            answers: mpsc::channel(ANSWERS),
            next_call: 0,
        })
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self, mut daemon: Context) -> anyhow::Result<()> {
        for address in self.transports.addresses() {
            tracing::info!("heartbeats are received on {address}");
        }
        daemon.say("READY=1");
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = daemon.shutdown.requested() => break,
                _ = daemon.reload.recv() => self.reload(&daemon),
                () = poll_fn(|cx| self.transports.poll_ready(cx)) => {}
                Some(told) = self.answers.1.recv() => self.told.push(told),
                Some(call) = self.calls.recv() => self.called.push(call),
                () = self.lives.next() => self.born_again(),
                () = sleep_until(deadline) => {}
            }
            if self.turn() {
                // A flood must not keep calls and their answers from their tasks.
                tokio::task::yield_now().await;
            }
        }
        tracing::info!(counters = ?self.machine.counters(), "stopping");
        // Connections are left as they are: who comes next tells their peers to open anew.
        self.server.drain(STOP).await;
        self.bus.flush(STOP).await;
        Ok(())
    }

    /// Another life of an image of the machine: told by who wrote it, also where no clock shows the sleep.
    fn born_again(&mut self) {
        tracing::info!("the machine was resumed; every deadline begins anew");
        self.machine.handle_event(Event::BornAgain, clock::now());
    }

    /// Takes in all that has come, whatever woke us. `true` where that was much.
    fn turn(&mut self) -> bool {
        self.called.extend(std::iter::from_fn(|| self.calls.try_recv().ok()).take(CALLS));
        self.told.extend(std::iter::from_fn(|| self.answers.1.try_recv().ok()).take(ANSWERS));
        let now = clock::now();
        let instant = clock::instant(now);
        if let Some(slept) = self.absence.noticed(clock::suspended()) {
            tracing::info!("the machine slept for {slept:?}; everybody gets time to report");
            self.machine.handle_event(Event::Resumed, now);
        }
        self.machine.wake(now);
        let mut received = 0;
        while received < TURN {
            let machine = &mut self.machine;
            let tell = |happening: Happening<'_>| machine.handle_event(happening.into(), now);
            let batch = self.transports.receive(instant, tell);
            received += batch.count;
            if !batch.more {
                break;
            }
            self.act(instant);
            self.transports.transmit();
        }
        let machine = &mut self.machine;
        self.transports
            .handle_timeout(instant, |happening| machine.handle_event(happening.into(), now));
        for Told { app_id, generation, heard } in std::mem::take(&mut self.told) {
            self.machine.handle_event(Event::Told { app_id, generation, heard }, now);
        }
        for call in std::mem::take(&mut self.called) {
            self.call(call, now);
        }
        self.machine.handle_timeout(now);
        self.act(instant);
        self.transports.transmit();
        received >= MANY
    }

    fn act(&mut self, instant: std::time::Instant) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Send { session, octets } => self.transports.send(session, &octets, instant),
                Action::Verify { session } => self.transports.verify(session),
                Action::Close { session } => self.transports.close(session, instant),
                Action::Answer { call, result } => {
                    let waiting = self.waiting.take().filter(|(id, _)| *id == call);
                    if let Some((_, responder)) = waiting {
                        responder.finish(result);
                    }
                }
                Action::Publish { topic, notice } => {
                    let (app, generation) = (notice.app_id, notice.generation);
                    match notice.reason {
                        Some(reason) => tracing::warn!(app, generation, ?reason, "{topic}"),
                        // Ten thousand of them after a start are no news to anybody.
                        None if topic == "heartbeat.registered" => {
                            tracing::debug!(app, generation, "{topic}");
                        }
                        None => tracing::info!(app, generation, "{topic}"),
                    }
                    if let Err(failure) = self.bus.publish(topic, &notice, false) {
                        tracing::error!("publish {topic}: {failure}");
                    }
                }
                Action::Tell { missed, attempt } => self.tell(missed, attempt),
            }
        }
    }

    /// Calls `service.missed` beside the loop.
    fn tell(&self, missed: Missed, attempt: u8) {
        let (bus, answer) = (self.bus.clone(), self.answers.0.clone());
        tokio::spawn(async move {
            let options = CallOptions { deadline: TELL, ..CallOptions::safe() };
            let outcome = bus.call("service", "missed", &missed, options).await;
            let Missed { app_id, generation, .. } = missed;
            match &outcome {
                Err(error) if attempt.is_multiple_of(LOUD) => {
                    tracing::warn!(
                        app_id,
                        generation,
                        attempt,
                        "the supervisor can't be told of a miss: {error}"
                    );
                }
                Err(error) => tracing::debug!(app_id, generation, attempt, "the same: {error}"),
                Ok(_) => {}
            }
            let told = Told { app_id, generation, heard: outcome.is_ok() };
            // Nobody is left to hear it only when the broker stops.
            let _ = answer.send(told).await;
        });
    }

    fn call(&mut self, call: Incoming, now: Moment) {
        match &*call.method {
            "list" => {
                let rows = self.rows(now);
                call.responder.reply(&rows);
            }
            "status" => {
                let status = Status {
                    listen: self.transports.addresses().iter().map(ToString::to_string).collect(),
                    sessions: self.transports.sessions(),
                    machine: self.machine.counters(),
                    transport: &self.transports.noise(),
                };
                call.responder.reply(&status);
            }
            "expect" => {
                let args = call.parse();
                self.order(call, args, now, |call, expect| Event::Expect { call, expect });
            }
            "forget" => {
                let args = call.parse();
                self.order(call, args, now, |call, forget| Event::Forget { call, forget });
            }
            method => {
                let text = format!("{method} is described but not served");
                let failure = Failure::new(Code::UnknownMethod, text);
                call.responder.fail(failure);
            }
        }
    }

    fn order<T>(
        &mut self,
        call: Incoming,
        args: Result<T, Failure>,
        now: Moment,
        event: impl FnOnce(CallId, T) -> Event<'static>,
    ) {
        let args = match args {
            Ok(args) => args,
            Err(failure) => return call.responder.fail(failure),
        };
        self.next_call += 1;
        self.waiting = Some((self.next_call, call.responder));
        self.machine.handle_event(event(self.next_call, args), now);
        self.act(clock::instant(now));
    }

    fn rows(&self, now: Moment) -> Vec<Row> {
        let rows = self.machine.rows(now).into_iter().map(|(mut row, session)| {
            if let Some((round_trip, again)) = session.and_then(|id| self.transports.figures(id)) {
                row.round_trip_us =
                    round_trip.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
                row.retransmitted += again;
            }
            row
        });
        rows.collect()
    }

    fn reload(&mut self, daemon: &Context) {
        match settings(daemon) {
            Err(problem) => {
                tracing::error!("the settings from before hold:\n{problem}");
            }
            Ok(settings) => {
                if settings.listen != self.settings.listen {
                    tracing::warn!("another `listen` holds after a restart of the broker");
                }
                self.machine.handle_event(Event::Rules(settings.rules.clone()), clock::now());
                self.settings = settings;
            }
        }
    }

    fn next_deadline(&self) -> Option<std::time::Instant> {
        let machine = self.machine.next_deadline().map(clock::instant);
        machine.into_iter().chain(self.transports.next_deadline()).min()
    }
}

impl<'a> From<Happening<'a>> for Event<'a> {
    fn from(happening: Happening<'a>) -> Self {
        match happening {
            Happening::Opened { session, from } => Self::Opened { session, from },
            Happening::Message { session, octets } => Self::Message { session, octets },
            Happening::Ended { session, retransmitted } => Self::Ended { session, retransmitted },
        }
    }
}

/// For ever, without a deadline.
async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => poll_fn(|_| Poll::<()>::Pending).await,
    }
}
