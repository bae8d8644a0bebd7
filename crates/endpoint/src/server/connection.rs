//! One connection: the only task that touches its socket. Reads frames and routes calls, writes what handlers left in
//! the [`Link`], and keeps all its deadlines with one timer.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use protocol::failure::{Code, Failure};
use tokio::{
    net::UnixStream,
    time::{Instant, Sleep},
};

use super::{
    Shared,
    link::{Link, State},
    session::Session,
};
use crate::wire::{Inbox, ReadError};

/// Nothing more is read from a connection while this much waits to be written to it.
const HIGH_WATER: usize = 256 << 10;
/// Reads in a row before other connections get their turn.
const READS: usize = 8;
/// Messages in a row before other connections get their turn.
const MESSAGES: usize = 64;
/// A read that brought more messages than this is followed by small ones, so that a turn stays short.
const MANY: usize = 32;
/// One that brought fewer, and the beginning of another, is followed by large ones.
const FEW: usize = 8;
/// What a small read takes at most.
const SMALL_READ: usize = 4 << 10;

pub(super) struct Connection {
    stream: Arc<UnixStream>,
    inbox: Inbox,
    session: Session,
    opened: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer fires; it is only moved forward, so most calls never touch it.
    armed: Option<Instant>,
    /// When the frame that is not complete began.
    frame_since: Option<Instant>,
    /// Since when the peer takes nothing, and how much it had taken then.
    stalled: Option<(Instant, u64)>,
}

impl Connection {
    pub(super) fn new(
        shared: Arc<Shared>,
        link: Arc<Link>,
        stream: Arc<UnixStream>,
        now: Instant,
    ) -> Self {
        let mut inbox = match link.trusted {
            true => Inbox::default(),
            false => Inbox::keeping(shared.settings.strangers_frame_max),
        };
        inbox.read_at_most(SMALL_READ);
        let session = Session::new(shared, link, now);
        Self {
            stream,
            inbox,
            session,
            opened: now,
            timer: None,
            armed: None,
            frame_since: None,
            stalled: None,
        }
    }

    /// When the connection itself must be looked at: greeting, frame, reader, rest.
    fn own_deadline(&self) -> Option<Instant> {
        let settings = &self.session.shared.settings;
        let all = [
            (!self.session.greeted).then(|| self.opened + settings.handshake),
            self.frame_since.map(|since| since + settings.frame_time),
            self.stalled.map(|(since, _)| since + settings.stall),
            self.session.rest,
        ];
        all.into_iter().flatten().min()
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        let link = Arc::clone(&self.session.link);
        let mut wanted =
            [self.own_deadline(), self.session.earliest.take()].into_iter().flatten().min();
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
            let mut state = link.lock();
            self.expire(&mut state, Instant::now());
            if state.ending || state.closed {
                return;
            }
            if self.session.rest.take_if(|rest| *rest <= Instant::now()).is_some() {
                // Reading goes on.
                cx.waker().wake_by_ref();
            }
            let calls = state.calls.values().filter_map(|call| call.deadline).min();
            wanted = [self.own_deadline(), calls].into_iter().flatten().min();
        }
    }

    /// Ends what took too long.
    fn expire(&mut self, state: &mut State, now: Instant) {
        let settings = &self.session.shared.settings;
        let counters = &self.session.shared.counters;
        if !self.session.greeted && now >= self.opened + settings.handshake {
            state.goodbye("timeout", &format!("no Hello within {:?}", settings.handshake));
        }
        if self.frame_since.is_some_and(|since| now >= since + settings.frame_time) {
            let text = format!("a frame took longer than {:?} to arrive", settings.frame_time);
            state.goodbye("timeout", &text);
        }
        if self.stalled.is_some_and(|(since, _)| now >= since + settings.stall) {
            counters.slow_readers.fetch_add(1, Relaxed);
            state.ending = true;
            state.closed = true;
        }
        let due = state.calls.iter().filter(|(_, call)| call.deadline.is_some_and(|d| d <= now));
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            counters.timeouts.fetch_add(1, Relaxed);
            state.fail(id, &Failure::new(Code::Timeout, "the call's deadline passed"));
        }
    }

    /// Reads until the socket is empty, too much waits to be written, or others should have their turn.
    /// Ready when nothing can be read any more.
    fn poll_reads(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let turn = self.session.messages;
        for _ in 0..READS {
            if self.session.rest.is_some() {
                return Poll::Pending;
            }
            {
                let state = self.session.link.lock();
                if state.ending || state.out.queued() >= HIGH_WATER {
                    return Poll::Pending;
                }
            }
            let before = self.session.messages;
            let read = match self.inbox.poll_read(cx, &self.stream, &mut self.session) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(read) => read,
            };
            match read {
                Ok(()) if self.inbox.is_inside_frame() => {
                    if self.session.messages > before {
                        // It is another frame than the one that was begun before.
                        self.frame_since = None;
                    }
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
            match self.session.messages - before {
                MANY.. => self.inbox.read_at_most(SMALL_READ),
                ..FEW if self.inbox.is_inside_frame() => self.inbox.read_at_most(usize::MAX),
                _ => {}
            }
            if self.session.messages - turn >= MESSAGES {
                break;
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
        if this.session.link.lock().set_task(cx.waker()) {
            this.session.catch_up();
        }
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
        let lost = self.session.link.lock().events.lost();
        self.session.shared.counters.events_lost.fetch_add(lost, Relaxed);
        self.session.link.close();
        self.session.shared.forget(&self.session.link);
    }
}
