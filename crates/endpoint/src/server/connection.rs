//! One connection: the only task that touches its socket. Reads frames and routes calls, writes what handlers left in
//! the [`Link`], and keeps all its deadlines with one timer.

use std::{
    future::Future,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use protocol::{
    failure::{Code, Failure},
    message::{Call, Hello, Message, Welcome},
};
use tokio::{
    net::UnixStream,
    time::{Instant, Sleep},
};

use super::{
    Shared,
    incoming::{Incoming, Responder},
    link::Link,
    router::{Route, not_started, row},
};
use crate::wire::{Inbox, ReadError, Sink, Violation};

/// Nothing more is read from a connection while this much waits to be written to it.
const HIGH_WATER: usize = 256 << 10;
/// Reads in a row before other connections get their turn.
const READS: usize = 8;
/// A deadline of this value is none.
const FOREVER_MS: u32 = u32::MAX;
/// The deadline of a call that names none.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

pub(super) struct Connection {
    stream: UnixStream,
    inbox: Inbox,
    session: Session,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer fires; it is only moved forward, so most calls never touch it.
    armed: Option<Instant>,
    /// When the frame that is not complete began.
    frame_since: Option<Instant>,
    /// Since when the peer takes nothing, and how much it had taken then.
    stalled: Option<(Instant, u64)>,
}

/// What messages change.
struct Session {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// Until Hello has come.
    greeted: bool,
    opened: Instant,
    now: Instant,
    /// The earliest deadline of a call that came since the timer was looked at.
    earliest: Option<Instant>,
    said_goodbye: bool,
}

impl Connection {
    pub(super) fn new(
        shared: Arc<Shared>,
        link: Arc<Link>,
        stream: UnixStream,
        now: Instant,
    ) -> Self {
        let inbox = match shared.is_trusted(link.caller.uid) {
            true => Inbox::default(),
            false => Inbox::keeping(shared.settings.strangers_frame_max),
        };
        let session = Session {
            shared,
            link,
            greeted: false,
            opened: now,
            now,
            earliest: None,
            said_goodbye: false,
        };
        Self { stream, inbox, session, timer: None, armed: None, frame_since: None, stalled: None }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        let settings = &self.session.shared.settings;
        let mut state = self.session.link.lock();
        let wanted = [
            (!self.session.greeted).then(|| self.session.opened + settings.handshake),
            self.frame_since.map(|since| since + settings.frame_time),
            self.stalled.map(|(since, _)| since + settings.stall),
            self.session.earliest.take(),
        ];
        let mut wanted = wanted.into_iter().flatten().min();
        loop {
            if let Some(at) = wanted
                && self.armed.is_none_or(|armed| at < armed)
            {
                self.armed = Some(at);
                match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(at),
                    None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
                }
            }
            let Some(timer) = self.timer.as_mut().filter(|_| self.armed.is_some()) else { return };
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.armed = None;
            let now = Instant::now();
            if !self.session.greeted && now >= self.session.opened + settings.handshake {
                state.goodbye("timeout", &format!("no Hello within {:?}", settings.handshake));
            }
            if self.frame_since.is_some_and(|since| now >= since + settings.frame_time) {
                let text = format!("a frame took longer than {:?} to arrive", settings.frame_time);
                state.goodbye("timeout", &text);
            }
            if self.stalled.is_some_and(|(since, _)| now >= since + settings.stall) {
                self.session.shared.counters.slow_readers.fetch_add(1, Relaxed);
                state.ending = true;
                state.closed = true;
            }
            let due =
                state.calls.iter().filter(|(_, call)| call.deadline.is_some_and(|d| d <= now));
            for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.session.shared.counters.timeouts.fetch_add(1, Relaxed);
                state.fail(id, &Failure::new(Code::Timeout, "the call's deadline passed"));
            }
            if state.ending || state.closed {
                return;
            }
            let calls = state.calls.values().filter_map(|call| call.deadline);
            let others = [
                (!self.session.greeted).then(|| self.session.opened + settings.handshake),
                self.frame_since.map(|since| since + settings.frame_time),
                self.stalled.map(|(since, _)| since + settings.stall),
            ];
            wanted = calls.chain(others.into_iter().flatten()).min();
        }
    }

    /// Reads until the socket is empty, too much waits to be written, or others should have their turn.
    /// Ready when nothing can be read any more.
    fn poll_reads(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..READS {
            {
                let state = self.session.link.lock();
                if state.ending || state.out.queued() >= HIGH_WATER {
                    return Poll::Pending;
                }
            }
            let read = match self.inbox.poll_read(cx, &self.stream, &mut self.session) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(read) => read,
            };
            match read {
                Ok(()) if self.inbox.is_inside_frame() => {
                    self.frame_since.get_or_insert_with(Instant::now);
                }
                Ok(()) => self.frame_since = None,
                Err(ReadError::Violation(violation)) => {
                    let shared = &self.session.shared;
                    shared.counters.violations.fetch_add(1, Relaxed);
                    let caller = self.session.link.caller;
                    tracing::warn!(pid = caller.pid, uid = caller.uid, "peer refused: {violation}");
                    self.session.link.lock().goodbye("protocol", &violation.to_string());
                    return Poll::Pending;
                }
                Err(ReadError::Io(_) | ReadError::Eof) => return Poll::Ready(()),
            }
            if self.session.said_goodbye {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what waits. Ready when the connection is over.
    fn poll_writes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let settings = &self.session.shared.settings;
        let mut state = self.session.link.lock();
        loop {
            state.move_events();
            if state.out.queued() == 0 {
                break;
            }
            match state.out.poll_write(cx, &self.stream) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {
                    let written = state.out.written();
                    if self.stalled.is_none_or(|(_, before)| before != written) {
                        self.stalled = Some((Instant::now(), written));
                    }
                    if state.out.queued() > settings.output_max {
                        self.session.shared.counters.slow_readers.fetch_add(1, Relaxed);
                        return Poll::Ready(());
                    }
                    return Poll::Pending;
                }
            }
        }
        self.stalled = None;
        if state.draining && state.calls.is_empty() {
            if !state.ending {
                state.goodbye(
                    Code::Gone.as_str(),
                    "the service leaves; what had no answer was not begun",
                );
                drop(state);
                return self.poll_writes(cx);
            }
            return Poll::Ready(());
        }
        if state.ending { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.session.link.lock().set_task(cx.waker());
        loop {
            if this.poll_reads(cx).is_ready() {
                return Poll::Ready(());
            }
            let full = this.session.link.lock().out.queued() >= HIGH_WATER;
            if this.poll_writes(cx).is_ready() {
                return Poll::Ready(());
            }
            // Reading was held up by what has been written now: its readiness must be asked for again.
            let room = this.session.link.lock().out.queued() < HIGH_WATER;
            if !(full && room) {
                break;
            }
        }
        this.poll_timer(cx);
        let state = this.session.link.lock();
        if state.closed {
            return Poll::Ready(());
        }
        // The timer may have queued answers behind the writes above.
        if state.out.queued() > 0 && this.stalled.is_none() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let lost = self.session.link.lock().events_lost;
        self.session.shared.counters.events_lost.fetch_add(lost, Relaxed);
        self.session.link.close();
        self.session.shared.forget(&self.session.link);
    }
}

impl Sink for Session {
    fn message(
        &mut self,
        id: u32,
        message: Message<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Violation> {
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

impl Session {
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
        let served = self.shared.router.served();
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
        let counters = &self.shared.counters;
        counters.calls.fetch_add(1, Relaxed);
        let deadline = match call.deadline_ms {
            FOREVER_MS => None,
            0 => Some(DEFAULT_DEADLINE),
            ms => Some(Duration::from_millis(u64::from(ms))),
        };
        if deadline.is_some() {
            // One reading of the clock would do for all calls of a read; it costs less than telling them apart.
            self.now = Instant::now();
        }
        let deadline = deadline.map(|after| self.now + after);
        let mut state = self.link.lock();
        if state.calls.contains_key(&id) {
            return Err(Violation::Unexpected(format!("Call {id}: the id is in use")));
        }
        if state.draining {
            state.fail(id, &not_started(Code::Gone, "the service leaves".to_owned()));
            return Ok(());
        }
        let open = state.calls.len();
        let limit = self.shared.settings.calls_per_connection;
        if open >= limit {
            counters.busy.fetch_add(1, Relaxed);
            let text =
                format!("{open} calls of this connection are open, at most {limit} are allowed");
            let details = serde_json::json!({ "retry_after_ms": 50, "not_started": true });
            state.fail(id, &Failure::new(Code::Busy, text).with_details(details));
            return Ok(());
        }
        let (object, method) = match self.shared.router.route(call) {
            Ok(Route::Object(object, method)) => (object, method),
            Ok(Route::Introspection(json)) => {
                let serial = state.open(id, deadline, call.credit);
                let serial = serial.expect("the id was seen to be free under this lock");
                drop(state);
                self.responder(id, serial, deadline).reply_bytes(json);
                return Ok(());
            }
            Err(failure) => {
                state.fail(id, &failure);
                return Ok(());
            }
        };
        let caller = self.link.caller;
        if let Err(refusal) = (self.shared.settings.policy)(&caller, &object.name, &method) {
            counters.denied.fetch_add(1, Relaxed);
            let (pid, uid) = (caller.pid, caller.uid);
            tracing::warn!(pid, uid, "{}.{method} refused: {refusal}", object.name);
            state.fail(id, &refusal);
            return Ok(());
        }
        let serial = state.open(id, deadline, call.credit);
        let serial = serial.expect("the id was seen to be free under this lock");
        drop(state);
        self.earliest = [self.earliest, deadline].into_iter().flatten().min();
        let responder = self.responder(id, serial, deadline);
        let incoming = Incoming { method, args: call.args.to_vec(), fds, responder };
        if !object.push(self.link.id, caller.uid, incoming) {
            counters.busy.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn responder(&self, id: u32, serial: u64, deadline: Option<Instant>) -> Responder {
        Responder::new(Arc::clone(&self.link), id, serial, deadline)
    }
}
