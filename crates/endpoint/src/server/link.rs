//! What a connection, its calls and their handlers share: the outbox, the open calls, the events that wait.
//! Handlers write here and wake the connection's task; they never touch the socket.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    task::{Context, Poll, Waker},
    time::Duration,
};

use protocol::{
    failure::{Code, Failure},
    frame::{CHUNK_MAX, FrameError},
    message::{Event, Goodbye, Message, Reply},
    policy::Identity,
    registry::Overflow,
};
use tokio::{net::UnixStream, sync::Notify, time::Instant};

use super::{events::Events, kernel, monitor::Note, router::Target, settings::Identify};
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
/// Events are encoded only while less than this waits in the outbox, so that replies overtake them.
const EVENTS_ROOM: usize = 64 << 10;
/// How long finding out what a process is may take.
const IDENTIFY_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) caller: Caller,
    /// Root, or the user this process runs as.
    pub(crate) trusted: bool,
    identify: Option<Identify>,
    groups: OnceLock<Arc<[u32]>>,
    /// The connection is closed.
    gone: Notify,
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
    pub(crate) events: Events,
    /// What the process is, once somebody found out.
    pub(crate) identity: Option<Arc<Identity>>,
    /// How the search ended that the connection's task began.
    pub(crate) identified: Option<Result<(), Failure>>,
    /// The rules changed: the connection's task must judge its open calls again.
    pub(crate) rejudge: bool,
    /// Until the connection ends.
    stream: Option<Arc<UnixStream>>,
    serial: u64,
    task: Option<Waker>,
}

/// A call that has no answer yet.
pub(crate) struct Open {
    pub(crate) serial: u64,
    /// The object, and the place of the method in its list; `None` for the endpoint's own methods.
    pub(crate) on: Option<(Arc<Target>, usize)>,
    /// Somebody taps.
    note: Option<Box<Note>>,
    pub(crate) deadline: Option<Instant>,
    credit: u64,
    /// It came with credit; without, the caller can't take pieces.
    chunks: bool,
    /// Wants to hear of the end of the call.
    cancelled: Option<Waker>,
    /// Waits for credit.
    writer: Option<Waker>,
}

/// What is noted of a call that begins.
#[derive(Default)]
pub(crate) struct Opening {
    pub(crate) deadline: Option<Instant>,
    pub(crate) credit: u32,
    pub(crate) on: Option<(Arc<Target>, usize)>,
    pub(crate) note: Option<Box<Note>>,
}

impl Open {
    fn over(self, outcome: &str) {
        if let Some(note) = self.note {
            note.tell(outcome);
        }
        for waker in [self.cancelled, self.writer].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Link {
    pub(crate) fn new(
        id: u64,
        caller: Caller,
        trusted: bool,
        identify: Option<Identify>,
        stream: Arc<UnixStream>,
    ) -> Self {
        let state = State { stream: Some(stream), ..State::default() };
        Self {
            id,
            caller,
            trusted,
            identify,
            groups: OnceLock::new(),
            gone: Notify::new(),
            state: Mutex::new(state),
        }
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

    /// Answers a call that it was not done; `false` where it is over already.
    pub(crate) fn fail(&self, id: u32, serial: u64, failure: &Failure) -> bool {
        let mut state = self.lock();
        if !state.is_open(id, serial) {
            return false;
        }
        state.fail(id, failure);
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
    pub(crate) fn event(&self, topic: Arc<str>, data: Arc<[u8]>) -> bool {
        let mut state = self.lock();
        if state.closed || state.ending {
            return false;
        }
        let kept = state.events.push(topic, data);
        if !kept {
            let text = format!(
                "{} events wait for this reader, no more are kept for it, and it asked to be disconnected then",
                state.events.len()
            );
            state.goodbye(Code::Limit.as_str(), &text);
        }
        state.wake_task();
        kept
    }

    pub(crate) fn set_events(&self, limit: usize, overflow: Overflow) {
        self.lock().events.set(limit, overflow);
    }

    pub(crate) fn stream(&self) -> Option<Arc<UnixStream>> {
        self.lock().stream.clone()
    }

    /// The caller's supplementary groups, asked once; `None` where the kernel doesn't tell.
    pub(crate) fn groups(&self, stream: Option<&UnixStream>) -> Option<Arc<[u32]>> {
        if self.groups.get().is_none() {
            let groups = kernel::groups(stream?.as_fd()).ok()?;
            // Somebody else may have asked meanwhile: the answer is the same.
            let _ = self.groups.set(groups.into());
        }
        self.groups.get().map(Arc::clone)
    }

    pub(crate) fn pidfd(&self) -> Option<OwnedFd> {
        kernel::pidfd(self.stream()?.as_fd()).ok()
    }

    /// What the process is: asked once, unless that failed.
    pub(crate) async fn identify(&self) -> Result<Arc<Identity>, Failure> {
        if let Some(known) = &self.lock().identity {
            return Ok(Arc::clone(known));
        }
        let Some(identify) = &self.identify else {
            let text = "what process this is can't be found out: there is no supervisor to ask";
            return Err(Failure::new(Code::Unsupported, text));
        };
        let asked = identify(self.caller, self.pidfd());
        let identity = match tokio::time::timeout(IDENTIFY_MAX, asked).await {
            Ok(answer) => Arc::new(answer?),
            Err(_) => {
                let text = format!("the supervisor did not answer within {IDENTIFY_MAX:?}");
                return Err(Failure::new(Code::Timeout, text));
            }
        };
        self.lock().identity = Some(Arc::clone(&identity));
        Ok(identity)
    }

    /// Tells the connection's task how the search ended that it began.
    pub(crate) fn set_identified(&self, outcome: Result<(), Failure>) {
        let mut state = self.lock();
        state.identified = Some(outcome);
        state.wake_task();
    }

    /// Whether the process can be identified at all.
    pub(crate) fn can_identify(&self) -> bool {
        self.identify.is_some()
    }

    /// Has all open calls judged again.
    pub(crate) fn rejudge(&self) {
        let mut state = self.lock();
        state.rejudge = true;
        state.wake_task();
    }

    /// Returns when the connection is gone.
    pub(crate) async fn closed(&self) {
        loop {
            let gone = self.gone.notified();
            if self.lock().closed {
                return;
            }
            gone.await;
        }
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
        state.stream = None;
        state.out = Outbox::default();
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        calls.into_values().for_each(|call| call.over(Code::Gone.as_str()));
        self.gone.notify_waiters();
    }
}

impl State {
    /// Notes who is to be woken. `true` where something waits for the connection's task besides its socket.
    pub(crate) fn set_task(&mut self, waker: &Waker) -> bool {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            self.task = Some(waker.clone());
        }
        self.rejudge || self.identified.is_some() || self.draining
    }

    pub(crate) fn wake_task(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Notes a new call; its serial number. `None` where the id is in use.
    pub(crate) fn open(&mut self, id: u32, opening: Opening) -> Option<u64> {
        self.serial += 1;
        let serial = self.serial;
        let open = Open {
            serial,
            on: opening.on,
            note: opening.note,
            deadline: opening.deadline,
            credit: u64::from(opening.credit),
            chunks: opening.credit > 0,
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

    /// Answers with a result.
    pub(crate) fn answer(&mut self, id: u32, reply: Reply<'_>, fds: Vec<OwnedFd>) {
        if let Err(error) = self.out.push(id, &Message::Reply(reply), fds) {
            self.fail(id, &unsendable(&error));
        } else if let Some(open) = self.calls.remove(&id) {
            open.over("done");
        }
    }

    /// Answers with a failure, whether the call is open or was never opened.
    pub(crate) fn fail(&mut self, id: u32, failure: &Failure) {
        if let Some(open) = self.calls.remove(&id) {
            open.over(failure.code.as_str());
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
            let Some((event, lost)) = self.events.pop() else { break };
            let message = Event { topic: &event.topic, lost, data: &event.data };
            if self.out.push(0, &Message::Event(message), Vec::new()).is_err() {
                self.events.unsendable(lost);
            }
        }
    }

    pub(crate) fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_deref()
    }
}

fn unsendable(error: &FrameError) -> Failure {
    Failure::new(Code::Failed, format!("the result cannot be sent: {error}"))
}
