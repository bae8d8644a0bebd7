//! What the messages of a connection do: the greeting, and which of its calls begin, wait, or are refused and why.
//! It belongs to the connection's task and never touches the socket.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use protocol::{
    failure::{Code, Failure},
    message::{Call, Hello, Message, Welcome},
};
use tokio::time::Instant;

use super::{
    Shared, control,
    incoming::{Incoming, Responder},
    link::{Link, Opening, State},
    rate::Bucket,
    router::{Route, Target, View, busy, not_started, row},
    rules::{Reason, Ruling, refusal},
};
use crate::wire::{Sink, Violation};

/// A deadline of this value is none.
const FOREVER_MS: u32 = u32::MAX;
/// The deadline of a call that names none.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// Who has so many calls in a row refused for their rate floods, and is not read for [`FLOOD_REST`].
const FLOOD: u32 = 32;
const FLOOD_REST: Duration = Duration::from_millis(100);

pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Arc<Link>,
    /// Until Hello has come.
    pub(super) greeted: bool,
    pub(super) said_goodbye: bool,
    /// The earliest deadline of a call that came since the timer was looked at.
    pub(super) earliest: Option<Instant>,
    /// How many messages came; the connection's task takes turns by it.
    pub(super) messages: usize,
    /// Nothing is read before: it calls faster than it may, and goes on.
    pub(super) rest: Option<Instant>,
    bucket: Option<Bucket>,
    /// Calls in a row that were refused for their rate.
    throttled: u32,
    /// Calls that wait until it is known what the process is, and those behind them for the same objects.
    parked: VecDeque<Parked>,
    /// Somebody finds out.
    identifying: bool,
}

struct Parked {
    target: Arc<Target>,
    call: Incoming,
}

/// Where a call goes that may be made.
enum Way {
    Introspection(Vec<u8>),
    Endpoint(&'static str),
    Queue(Arc<Target>, usize),
    Park(Arc<Target>, usize),
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, link: Arc<Link>, now: Instant) -> Self {
        let settings = &shared.settings;
        let rate = if link.trusted { settings.rate_trusted } else { settings.rate };
        let bucket = rate.map(|rate| Bucket::new(rate, now));
        Self {
            shared,
            link,
            greeted: false,
            said_goodbye: false,
            earliest: None,
            messages: 0,
            rest: None,
            bucket,
            throttled: 0,
            parked: VecDeque::new(),
            identifying: false,
        }
    }

    /// Does what others asked of the connection's task: judges parked calls by what was found out, open ones by new
    /// rules, and ends what has not begun where the server leaves.
    pub(super) fn catch_up(&mut self) {
        let link = Arc::clone(&self.link);
        let mut state = link.lock();
        let identified = state.identified.take();
        let rejudge = std::mem::take(&mut state.rejudge);
        let draining = state.draining;
        if identified.is_some() {
            self.identifying = false;
        }
        if identified.is_some() || rejudge {
            let failed = identified.and_then(Result::err);
            self.judge_open(&mut state, failed.as_ref());
        }
        drop(state);
        if draining {
            for Parked { call, .. } in self.parked.drain(..) {
                call.responder.fail(leaving());
            }
        }
        if !self.identifying {
            for Parked { target, call } in std::mem::take(&mut self.parked) {
                self.queue(&target, call);
            }
        }
    }

    /// Judges all open calls again. Those for which the process must be identified wait for that, unless it has `failed`.
    fn judge_open(&mut self, state: &mut State, failed: Option<&Failure>) {
        let mut refused = Vec::new();
        for (id, open) in &state.calls {
            let Some((target, method)) = &open.on else { continue };
            let reason = match target.judge(&self.link, state, *method) {
                Ruling::Allowed => continue,
                Ruling::Denied(source) => Reason::Rule(source),
                Ruling::Undecided => match failed {
                    Some(failure) => Reason::Unidentified(failure.text.clone()),
                    None if self.link.can_identify() => {
                        identify(&self.link, &mut self.identifying);
                        continue;
                    }
                    None => Reason::nobody_to_ask(),
                },
            };
            let is_it = |parked: &Parked| parked.call.responder.is_call(*id, open.serial);
            let began = !self.parked.iter().any(is_it);
            refused.push((open.serial, *id, Arc::clone(target), *method, reason, began));
        }
        refused.sort_unstable_by_key(|(serial, ..)| *serial);
        for (_, id, target, method, reason, began) in refused {
            if began {
                self.shared.counters.revoked.fetch_add(1, Relaxed);
            }
            state.fail(id, &self.deny(&target, method, &reason, began));
        }
    }

    /// Counts and audits a refusal; the answer.
    fn deny(&self, target: &Target, method: usize, reason: &Reason, began: bool) -> Failure {
        let (caller, method) = (self.link.caller, target.method(method));
        self.shared.counters.denied.fetch_add(1, Relaxed);
        self.shared.audit.denied(caller, &target.name, method, reason.name());
        refusal(caller, &target.name, method, reason, began)
    }

    fn hello(&mut self, theirs: &Hello) -> Result<(), Violation> {
        self.greeted = true;
        let mut state = self.link.lock();
        let agreed = match Hello::OURS.agree(theirs) {
            Ok(agreed) => agreed,
            Err(text) => {
                self.shared.counters.violations.fetch_add(1, Relaxed);
                state.goodbye(Code::Unsupported.as_str(), &text);
                return Ok(());
            }
        };
        let served = self.shared.router.served(View::of(self.link.caller.pid));
        let welcome = Welcome {
            major: agreed.major,
            minor: agreed.minor,
            features: agreed.features,
            nonce: self.shared.nonce,
            objects: served.iter().map(row).collect(),
        };
        state.out.push(0, &Message::Welcome(welcome), Vec::new())?;
        Ok(())
    }

    fn call(&mut self, id: u32, call: &Call<'_>, fds: Vec<OwnedFd>) -> Result<(), Violation> {
        self.shared.counters.calls.fetch_add(1, Relaxed);
        let link = Arc::clone(&self.link);
        let mut state = link.lock();
        if state.calls.contains_key(&id) {
            return Err(Violation::Unexpected(format!("Call {id}: the id is in use")));
        }
        let way = match self.admit(&state, call) {
            Ok(way) => way,
            Err(failure) => {
                state.fail(id, &failure);
                drop(state);
                self.tap_refused(call, failure.code);
                return Ok(());
            }
        };
        let deadline = match call.deadline_ms {
            FOREVER_MS => None,
            0 => Some(Instant::now() + DEFAULT_DEADLINE),
            ms => Some(Instant::now() + Duration::from_millis(u64::from(ms))),
        };
        let mut opening = Opening { deadline, credit: call.credit, ..Opening::default() };
        if let Way::Queue(target, at) | Way::Park(target, at) = &way {
            let (monitor, method) = (&self.shared.monitor, target.method(*at));
            opening.note = monitor.note(link.caller, &target.name, method, call.args.len());
            opening.on = Some((Arc::clone(target), *at));
        }
        let serial = state.open(id, opening).expect("the id was seen to be free under this lock");
        drop(state);
        self.earliest = [self.earliest, deadline].into_iter().flatten().min();
        let responder = Responder::new(link, id, serial, deadline);
        let incoming = |method| Incoming { method, args: call.args.to_vec(), fds, responder };
        match way {
            Way::Introspection(json) => incoming("".into()).responder.reply_bytes(json),
            Way::Endpoint(method) => control::answer(&self.shared, incoming(method.into())),
            Way::Queue(target, at) => self.queue(&target, incoming(Arc::clone(target.method(at)))),
            Way::Park(target, at) => {
                let call = incoming(Arc::clone(target.method(at)));
                self.parked.push_back(Parked { target, call });
            }
        }
        Ok(())
    }

    /// Whether a call may be made now, and where it goes.
    fn admit(&mut self, state: &State, call: &Call<'_>) -> Result<Way, Failure> {
        if state.draining {
            return Err(leaving());
        }
        self.throttle()?;
        let (open, limit) = (state.calls.len(), self.shared.settings.calls_per_connection);
        if open >= limit {
            self.shared.counters.count_busy();
            let text =
                format!("{open} calls of this connection are open, at most {limit} are allowed");
            return Err(busy(text, 50));
        }
        let caller = self.link.caller;
        let (target, at) = match self.shared.router.route(call, caller.pid)? {
            Route::Object(target, at) => (target, at),
            Route::Introspection(json) => return Ok(Way::Introspection(json)),
            Route::Endpoint(method) if self.link.trusted => return Ok(Way::Endpoint(method)),
            Route::Endpoint(method) => {
                let reason = Reason::Rule(None);
                self.shared.counters.denied.fetch_add(1, Relaxed);
                self.shared.audit.denied(caller, "", method, reason.name());
                return Err(refusal(caller, "the endpoint", method, &reason, false));
            }
        };
        match target.judge(&self.link, state, at) {
            // It must not overtake one that waits.
            Ruling::Allowed if self.parked.iter().any(|p| Arc::ptr_eq(&p.target, &target)) => {}
            Ruling::Allowed => return Ok(Way::Queue(target, at)),
            Ruling::Denied(source) => {
                return Err(self.deny(&target, at, &Reason::Rule(source), false));
            }
            Ruling::Undecided if self.link.can_identify() => {}
            Ruling::Undecided => {
                return Err(self.deny(&target, at, &Reason::nobody_to_ask(), false));
            }
        }
        let (parked, limit) = (self.parked.len(), self.shared.settings.queue);
        if parked >= limit {
            self.shared.counters.count_busy();
            let text = format!(
                "{parked} calls of this connection wait until it is known what its process is, no more may"
            );
            return Err(busy(text, 50));
        }
        identify(&self.link, &mut self.identifying);
        Ok(Way::Park(target, at))
    }

    /// Takes a token of the connection's bucket, if it has one.
    fn throttle(&mut self) -> Result<(), Failure> {
        let Some(bucket) = &mut self.bucket else { return Ok(()) };
        let now = Instant::now();
        let Err(wait) = bucket.take(now) else {
            self.throttled = 0;
            return Ok(());
        };
        self.shared.counters.throttled.fetch_add(1, Relaxed);
        self.throttled += 1;
        if self.throttled >= FLOOD {
            self.throttled = 0;
            self.rest = Some(now + FLOOD_REST);
        }
        let ms = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let text = format!("this connection calls faster than it may; try again in {ms} ms");
        Err(busy(text, ms))
    }

    fn queue(&self, target: &Target, call: Incoming) {
        // What ended while it was parked is not begun.
        if call.responder.is_open() && !target.push(self.link.id, self.link.caller.uid, call) {
            self.shared.counters.count_busy();
        }
    }

    /// Who taps hears of refused calls too.
    fn tap_refused(&self, call: &Call<'_>, code: Code) {
        let object = self.shared.router.name(call.token, call.generation).unwrap_or_default();
        let monitor = &self.shared.monitor;
        if let Some(note) = monitor.note(self.link.caller, &object, call.method, call.args.len()) {
            note.tell(code.as_str());
        }
    }
}

/// Begins to find out what the process is, unless that goes on already.
fn identify(link: &Arc<Link>, identifying: &mut bool) {
    if !std::mem::replace(identifying, true) {
        let link = Arc::clone(link);
        tokio::spawn(async move {
            let outcome = link.identify().await;
            link.set_identified(outcome.map(drop));
        });
    }
}

fn leaving() -> Failure {
    not_started(Code::Gone, "the service leaves".to_owned())
}

impl Sink for Session {
    fn message(
        &mut self,
        id: u32,
        message: Message<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Violation> {
        self.messages += 1;
        match message {
            Message::Hello(hello) if !self.greeted => self.hello(&hello),
            Message::Goodbye(_) => {
                self.said_goodbye = true;
                Ok(())
            }
            Message::Call(call) if self.greeted => self.call(id, &call, fds),
            Message::Credit(bytes) if self.greeted => {
                self.link.lock().credit(id, bytes);
                Ok(())
            }
            Message::Cancel if self.greeted => {
                let mut state = self.link.lock();
                // Its answer may have crossed: then there is nothing to cancel.
                if state.calls.contains_key(&id) {
                    self.shared.counters.cancelled.fetch_add(1, Relaxed);
                    state.fail(id, &Failure::new(Code::Cancelled, "the caller took it back"));
                }
                Ok(())
            }
            Message::Ping if self.greeted => {
                let pushed = self.link.lock().out.push(id, &Message::Pong, Vec::new());
                pushed.map(drop).map_err(Violation::Frame)
            }
            Message::Reply(_) | Message::Chunk(_) | Message::Pong => Err(Violation::Unexpected(
                format!("{:?} {id}: nobody waits for it", message.kind()),
            )),
            other if self.greeted => Err(Violation::Unexpected(format!(
                "{:?} has no place in a greeted connection to a server",
                other.kind()
            ))),
            other => Err(Violation::Unexpected(format!("{:?} came before Hello", other.kind()))),
        }
    }
}
