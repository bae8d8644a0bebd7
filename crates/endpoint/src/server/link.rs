//! What a connection, its calls and their handlers share: the outbox, the open calls, the events that wait.
//! Handlers write here and wake the connection's task; they never touch the socket.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use protocol::{
    failure::{Code, Failure},
    frame::{CHUNK_MAX, FrameError},
    message::{Event, Goodbye, Message, Reply},
};
use tokio::time::Instant;

use crate::wire::Outbox;

/// Who calls, as the kernel says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller {
    /// Of the process that connected; 0 where the kernel doesn't know it (another pid namespace).
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// Most credit a call can hold, in bytes.
const CREDIT_MAX: u64 = 64 << 20;
/// Most events that wait for one reader; beyond it the oldest is lost, and counted.
const EVENTS_MAX: usize = 256;
/// Most bytes of events that wait for one reader.
const EVENT_BYTES_MAX: usize = 4 << 20;
/// Events are encoded only while less than this waits in the outbox, so that replies overtake them.
const EVENTS_ROOM: usize = 64 << 10;

pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) caller: Caller,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) out: Outbox,
    pub(crate) calls: HashMap<u32, Open>,
    pub(crate) draining: bool,
    /// Nothing is read any more; the connection ends when the outbox is empty.
    pub(crate) ending: bool,
    pub(crate) closed: bool,
    /// The reader missed these, because it was too slow; for the server's counters.
    pub(crate) events_lost: u64,
    events: VecDeque<(String, Vec<u8>)>,
    event_bytes: usize,
    /// As told with the next event.
    lost: u32,
    serial: u64,
    task: Option<Waker>,
    watchers: Vec<Waker>,
}

/// A call that has no answer yet.
pub(crate) struct Open {
    serial: u64,
    pub(crate) deadline: Option<Instant>,
    credit: u64,
    /// It came with credit; without, the caller can't take pieces.
    chunks: bool,
    /// Wants to hear of the end of the call.
    cancelled: Option<Waker>,
    /// Waits for credit.
    writer: Option<Waker>,
}

impl Open {
    fn wake(self) {
        for waker in [self.cancelled, self.writer].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Link {
    pub(crate) fn new(id: u64, caller: Caller) -> Self {
        Self { id, caller, state: Mutex::new(State::default()) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a connection's lock")
    }

    /// Answers a call; `false` where it is over already.
    pub(crate) fn answer(&self, id: u32, serial: u64, reply: Reply<'_>, fds: Vec<OwnedFd>) -> bool {
        let mut state = self.lock();
        if !state.is_open(id, serial) {
            return false;
        }
        state.answer(id, reply, fds);
        state.wake_task();
        true
    }

    /// Pending until the call is over: answered, cancelled, timed out, or its connection gone.
    pub(crate) fn poll_over(&self, id: u32, serial: u64, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        match state.calls.get_mut(&id) {
            Some(open) if open.serial == serial => {
                open.cancelled = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    pub(crate) fn is_open(&self, id: u32, serial: u64) -> bool {
        self.lock().is_open(id, serial)
    }

    /// Whether an answer may come in pieces; true for a call that is over, where it doesn't matter.
    pub(crate) fn takes_chunks(&self, id: u32, serial: u64) -> bool {
        let state = self.lock();
        state.calls.get(&id).is_none_or(|open| open.serial != serial || open.chunks)
    }

    /// Sends as much of `data` as the call has credit for: how much, or `None` once the call is over.
    pub(crate) fn poll_chunk(
        &self,
        id: u32,
        serial: u64,
        data: &[u8],
        cx: &Context<'_>,
    ) -> Poll<Option<usize>> {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(open) = state.calls.get_mut(&id).filter(|open| open.serial == serial) else {
            return Poll::Ready(None);
        };
        let credit = usize::try_from(open.credit).unwrap_or(usize::MAX);
        let length = data.len().min(credit).min(CHUNK_MAX);
        if length == 0 && !data.is_empty() {
            open.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        open.credit -= length as u64;
        let pushed = state.out.push(id, &Message::Chunk(&data[..length]), Vec::new());
        pushed.expect("a chunk of at most CHUNK_MAX bytes is a frame");
        state.wake_task();
        Poll::Ready(Some(length))
    }

    /// Queues an event; `false` once the connection is gone.
    pub(crate) fn event(&self, topic: &str, data: Vec<u8>) -> bool {
        let mut state = self.lock();
        if state.closed || state.ending {
            return false;
        }
        state.event_bytes += topic.len() + data.len();
        state.events.push_back((topic.to_owned(), data));
        while state.events.len() > EVENTS_MAX || state.event_bytes > EVENT_BYTES_MAX {
            let Some((topic, data)) = state.events.pop_front() else { break };
            state.event_bytes -= topic.len() + data.len();
            state.lost = state.lost.saturating_add(1);
            state.events_lost += 1;
        }
        state.wake_task();
        true
    }

    /// Pending until the connection is gone.
    pub(crate) fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(());
        }
        if !state.watchers.iter().any(|known| known.will_wake(cx.waker())) {
            state.watchers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Asks for an orderly end: no new calls, then Goodbye.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        state.wake_task();
    }

    /// Answers every open call with `failed`.
    pub(crate) fn abandon_calls(&self, text: &str) {
        let mut state = self.lock();
        let ids: Vec<u32> = state.calls.keys().copied().collect();
        for id in ids {
            state.fail(id, &Failure::new(Code::Failed, text));
        }
        state.wake_task();
    }

    /// Ends the connection without waiting for its reader.
    pub(crate) fn cut(&self) {
        let mut state = self.lock();
        state.ending = true;
        state.closed = true;
        state.wake_task();
    }

    /// The socket is gone: every open call is over.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.events.clear();
        state.event_bytes = 0;
        state.out = Outbox::default();
        let calls = std::mem::take(&mut state.calls);
        let watchers = std::mem::take(&mut state.watchers);
        drop(state);
        calls.into_values().for_each(Open::wake);
        watchers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    pub(crate) fn set_task(&mut self, waker: &Waker) {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            self.task = Some(waker.clone());
        }
    }

    fn wake_task(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Notes a new call; its serial number. `None` where the id is in use.
    pub(crate) fn open(&mut self, id: u32, deadline: Option<Instant>, credit: u32) -> Option<u64> {
        self.serial += 1;
        let serial = self.serial;
        let open = Open {
            serial,
            deadline,
            credit: u64::from(credit),
            chunks: credit > 0,
            cancelled: None,
            writer: None,
        };
        match self.calls.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => None,
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(open);
                Some(serial)
            }
        }
    }

    fn is_open(&self, id: u32, serial: u64) -> bool {
        self.calls.get(&id).is_some_and(|open| open.serial == serial)
    }

    pub(crate) fn answer(&mut self, id: u32, reply: Reply<'_>, fds: Vec<OwnedFd>) {
        if let Some(open) = self.calls.remove(&id) {
            open.wake();
        }
        let pushed = self.out.push(id, &Message::Reply(reply), fds);
        if let Err(error) = pushed {
            self.fail(id, &unsendable(&error));
        }
    }

    /// Answers with a failure, whether the call is open or was never opened.
    pub(crate) fn fail(&mut self, id: u32, failure: &Failure) {
        if let Some(open) = self.calls.remove(&id) {
            open.wake();
        }
        let json = serde_json::to_vec(failure).unwrap_or_default();
        let reply = Message::Reply(Reply::Failed { failure: &json });
        if self.out.push(id, &reply, Vec::new()).is_err() {
            // Only details a handler made over a frame long get here.
            let short = Failure::new(failure.code, "the reason is longer than a frame");
            let json = serde_json::to_vec(&short).unwrap_or_default();
            let reply = Message::Reply(Reply::Failed { failure: &json });
            self.out.push(id, &reply, Vec::new()).expect("a short failure is a frame");
        }
    }

    pub(crate) fn credit(&mut self, id: u32, bytes: u32) {
        // The call may just have ended: its credit is of no use then.
        if let Some(open) = self.calls.get_mut(&id) {
            open.credit = (open.credit + u64::from(bytes)).min(CREDIT_MAX);
            if let Some(writer) = open.writer.take() {
                writer.wake();
            }
        }
    }

    /// Says why, and reads nothing more.
    pub(crate) fn goodbye(&mut self, code: &str, text: &str) {
        if self.ending {
            return;
        }
        self.ending = true;
        let text = text.get(..1024).unwrap_or(text);
        let text = if text.len() > 4096 { "the reason is too long to be told" } else { text };
        let goodbye = Message::Goodbye(Goodbye { code, text });
        self.out.push(0, &goodbye, Vec::new()).expect("a short goodbye is a frame");
    }

    /// Moves events into the outbox while there is room.
    pub(crate) fn move_events(&mut self) {
        while self.out.queued() < EVENTS_ROOM {
            let Some((topic, data)) = self.events.pop_front() else { break };
            self.event_bytes -= topic.len() + data.len();
            let event = Event { topic: &topic, lost: self.lost, data: &data };
            if self.out.push(0, &Message::Event(event), Vec::new()).is_ok() {
                self.lost = 0;
            } else {
                self.lost = self.lost.saturating_add(1);
                self.events_lost += 1;
            }
        }
    }
}

fn unsendable(error: &FrameError) -> Failure {
    Failure::new(Code::Failed, format!("the result cannot be sent: {error}"))
}
