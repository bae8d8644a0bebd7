//! One connection of a client: the task that owns the socket, and what it shares with the calls that wait.

use std::{
    collections::HashMap,
    fmt,
    future::{Future, poll_fn},
    io,
    os::fd::OwnedFd,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use protocol::{
    failure::Failure,
    message::{Call, Hello, Message, Object, Reply, Welcome},
    objects::{ENDPOINT, Served, Wanted},
};
use tokio::net::UnixStream;

use super::{Event, Received};
use crate::wire::{Inbox, Outbox, ReadError, Sink, Violation};

/// How long the other side may take to answer Hello.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Bytes of chunks that a call takes before it says more.
pub(crate) const WINDOW: u32 = 1 << 20;
/// Most bytes of calls that wait for a server that doesn't read.
const OUTPUT_MAX: usize = 16 << 20;
/// Most calls that were given up while the server still owes their answers.
const ABANDONED_MAX: usize = 4096;

/// Takes the events of a connection, in their order. Dropped when the connection has ended.
pub(crate) type Deliver = Box<dyn Fn(Event) + Send>;

pub(crate) struct Connection {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    out: Outbox,
    waiting: HashMap<u32, Waiting>,
    abandoned: usize,
    last_id: u32,
    objects: HashMap<String, Served>,
    /// What Welcome said.
    nonce: Option<[u8; 16]>,
    end: Option<End>,
    task: Option<Waker>,
    greeter: Option<Waker>,
    /// Set when the last user is gone: the task may end.
    unused: bool,
}

/// How the connection ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// The other side said why.
    Goodbye {
        code: String,
        text: String,
    },
    /// It broke the protocol.
    Violation(String),
    Io(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goodbye { code, text } => write!(f, "{text} ({code})"),
            Self::Violation(text) | Self::Io(text) => f.write_str(text),
        }
    }
}

/// A call without an answer.
struct Waiting {
    /// Where the call's frame ends in what is written.
    frame_end: u64,
    waker: Option<Waker>,
    /// Nobody waits; the id is free when the answer has come.
    abandoned: bool,
    /// What came in chunks and was not taken yet.
    chunks: Vec<u8>,
    /// Bytes that may still come in chunks.
    credit: u64,
    outcome: Option<Outcome>,
}

/// The answer to a call.
pub(crate) enum Outcome {
    Done(Received),
    /// All chunks together are the result.
    Joined(Vec<OwnedFd>),
    Refused(Failure),
    /// The connection ended; `unread` where the call can't have been carried out.
    Ended {
        end: End,
        unread: bool,
    },
}

/// What a caller sees of its call.
pub(crate) enum Progress {
    Chunks(Vec<u8>),
    Outcome(Outcome),
}

/// A call to be sent.
pub(crate) struct Question<'a> {
    pub(crate) target: (u32, u32),
    pub(crate) method: &'a str,
    pub(crate) args: &'a [u8],
    pub(crate) deadline_ms: u32,
    pub(crate) credit: u32,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Connection {
    /// Connects and shakes hands.
    pub(crate) async fn open(path: &Path, deliver: Deliver) -> Result<Arc<Self>, OpenError> {
        Self::over(UnixStream::connect(path).await.map_err(OpenError::Io)?, deliver).await
    }

    /// Shakes hands.
    pub(crate) async fn over(stream: UnixStream, deliver: Deliver) -> Result<Arc<Self>, OpenError> {
        let connection = Arc::new(Self { state: Mutex::default() });
        connection
            .lock()
            .out
            .push(0, &Message::Hello(Hello::OURS), Vec::new())
            .expect("Hello is a frame");
        let session = Session { connection: Arc::clone(&connection), deliver };
        tokio::spawn(Task { stream, inbox: Inbox::default(), session });
        let greeted = poll_fn(|cx| connection.poll_greeted(cx));
        match tokio::time::timeout(HANDSHAKE, greeted).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(end)) => Err(OpenError::Ended(end)),
            Err(_) => {
                connection.retire();
                let text = format!("no Welcome within {HANDSHAKE:?}");
                Err(OpenError::Io(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }

    fn poll_greeted(&self, cx: &Context<'_>) -> Poll<Result<(), End>> {
        let mut state = self.lock();
        if state.nonce.is_some() {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = &state.end {
            return Poll::Ready(Err(end.clone()));
        }
        state.greeter = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn is_usable(&self) -> bool {
        let state = self.lock();
        state.end.is_none() && !state.unused
    }

    /// No further use: the task ends as soon as nothing is open.
    pub(crate) fn retire(&self) {
        let mut state = self.lock();
        state.unused = true;
        state.wake_task();
    }

    /// Token and generation of an object that is what the caller wants, or why it isn't; `None`: there is no such object.
    pub(crate) fn find(
        &self,
        object: &str,
        wanted: &Wanted<'_>,
    ) -> Option<Result<(u32, u32), Failure>> {
        let state = self.lock();
        let served = state.objects.get(object)?;
        Some(wanted.check(served).map(|()| (served.token, served.generation)))
    }

    /// The other side's nonce; it is there since the handshake.
    pub(crate) fn nonce(&self) -> Option<[u8; 16]> {
        self.lock().nonce
    }

    pub(crate) fn object_names(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    pub(crate) fn learn(&self, served: Vec<Served>) {
        let known = served.into_iter().map(|served| (served.name.clone(), served));
        self.lock().objects = known.collect();
    }

    /// Puts a call on its way.
    pub(crate) fn send(self: &Arc<Self>, question: Question<'_>) -> Result<Pending, SendError> {
        let mut state = self.lock();
        if state.end.is_some() {
            return Err(SendError::Ended);
        }
        if state.out.queued() > OUTPUT_MAX {
            return Err(SendError::Congested);
        }
        let id = state.free_id();
        let fds = u8::try_from(question.fds.len()).unwrap_or(u8::MAX);
        let call = Call {
            token: question.target.0,
            generation: question.target.1,
            grant: 0,
            method: question.method,
            deadline_ms: question.deadline_ms,
            credit: question.credit,
            fds,
            args: question.args,
        };
        let pushed = state.out.push(id, &Message::Call(call), question.fds);
        let frame_end = pushed.map_err(|error| SendError::Invalid(error.to_string()))?;
        let waiting = Waiting {
            frame_end,
            waker: None,
            abandoned: false,
            chunks: Vec::new(),
            credit: u64::from(question.credit),
            outcome: None,
        };
        state.waiting.insert(id, waiting);
        state.wake_task();
        drop(state);
        Ok(Pending { connection: Arc::clone(self), id, over: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a connection's lock")
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        let state = &mut *state;
        // What the other side said first is the reason; that it then closed is none.
        let end = state.end.get_or_insert(end).clone();
        let drained = matches!(&end, End::Goodbye { code, .. } if code == "gone");
        let written = state.out.written();
        state.waiting.retain(|_, waiting| !waiting.abandoned);
        for waiting in state.waiting.values_mut().filter(|waiting| waiting.outcome.is_none()) {
            let unread = drained || waiting.frame_end > written;
            waiting.outcome = Some(Outcome::Ended { end: end.clone(), unread });
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
        if let Some(greeter) = state.greeter.take() {
            greeter.wake();
        }
        state.out = Outbox::default();
    }
}

/// Why a connection could not be made.
pub(crate) enum OpenError {
    Io(io::Error),
    Ended(End),
}

/// Why a call could not be put on its way.
pub(crate) enum SendError {
    /// The connection ended before.
    Ended,
    Congested,
    Invalid(String),
}

impl State {
    fn wake_task(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    fn free_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if self.last_id != 0 && !self.waiting.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }
}

/// A call on its way. Dropped before its answer has come it is cancelled.
pub(crate) struct Pending {
    connection: Arc<Connection>,
    id: u32,
    over: bool,
}

impl Pending {
    /// The next chunks, or the answer. Not to be called again after the answer.
    pub(crate) async fn next(&mut self) -> Progress {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Progress> {
        let mut state = self.connection.lock();
        let state = &mut *state;
        let waiting = state.waiting.get_mut(&self.id);
        let waiting = waiting.expect("an open call stays in the table until it is answered");
        if !waiting.chunks.is_empty() {
            let chunks = std::mem::take(&mut waiting.chunks);
            if waiting.outcome.is_none() {
                let credit = u32::try_from(chunks.len()).unwrap_or(WINDOW);
                waiting.credit += u64::from(credit);
                let pushed = state.out.push(self.id, &Message::Credit(credit), Vec::new());
                pushed.expect("Credit is a frame");
                state.wake_task();
            }
            return Poll::Ready(Progress::Chunks(chunks));
        }
        if waiting.outcome.is_none() {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.over = true;
        let waiting = state.waiting.remove(&self.id);
        let outcome = waiting.and_then(|waiting| waiting.outcome);
        Poll::Ready(Progress::Outcome(outcome.expect("it was seen under this lock")))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut state = self.connection.lock();
        let state = &mut *state;
        let Some(waiting) = state.waiting.get_mut(&self.id) else { return };
        if waiting.outcome.is_some() || state.end.is_some() {
            state.waiting.remove(&self.id);
            return;
        }
        waiting.abandoned = true;
        waiting.chunks = Vec::new();
        state.abandoned += 1;
        state.out.push(self.id, &Message::Cancel, Vec::new()).expect("Cancel is a frame");
        state.wake_task();
    }
}

/// Owns the socket.
struct Task {
    stream: UnixStream,
    inbox: Inbox,
    session: Session,
}

struct Session {
    connection: Arc<Connection>,
    deliver: Deliver,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        {
            let mut state = this.session.connection.lock();
            if !state.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                state.task = Some(cx.waker().clone());
            }
        }
        // Reading ends by Pending or by the runtime's budget, which tokio's sockets keep.
        while let Poll::Ready(read) = this.inbox.poll_read(cx, &this.stream, &mut this.session) {
            let end = match read {
                Ok(()) => continue,
                Err(ReadError::Violation(violation)) => End::Violation(violation.to_string()),
                Err(ReadError::Io(error)) => End::Io(error.to_string()),
                Err(ReadError::Eof) => End::Io("the other side closed it".to_owned()),
            };
            this.session.connection.end(end);
            return Poll::Ready(());
        }
        let mut state = this.session.connection.lock();
        let written = state.out.poll_write(cx, &this.stream);
        let over = state.abandoned > ABANDONED_MAX
            || (state.unused && state.waiting.len() == state.abandoned && written.is_ready());
        drop(state);
        match written {
            // Its Goodbye may still lie in the socket: reading finds it, and then the end.
            Poll::Ready(Err(_)) if !over => Poll::Pending,
            _ if over => {
                this.session.connection.end(End::Io("it was given up".to_owned()));
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }
}

impl Sink for Session {
    fn message(
        &mut self,
        id: u32,
        message: Message<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Violation> {
        let mut state = self.connection.lock();
        match message {
            Message::Welcome(welcome) if state.nonce.is_none() => {
                state.welcome(&welcome);
                Ok(())
            }
            Message::Goodbye(goodbye) => {
                let (code, text) = (goodbye.code.to_owned(), goodbye.text.to_owned());
                state.end = Some(End::Goodbye { code, text });
                Ok(())
            }
            Message::Event(event) if state.nonce.is_some() => {
                drop(state);
                let (topic, data) = (event.topic.to_owned(), event.data.to_vec());
                (self.deliver)(Event { topic, data, lost: event.lost });
                Ok(())
            }
            Message::Reply(reply) if state.nonce.is_some() => state.reply(id, reply, fds),
            Message::Chunk(data) if state.nonce.is_some() => state.chunk(id, data),
            Message::Ping if state.nonce.is_some() => {
                state.out.push(id, &Message::Pong, Vec::new())?;
                state.wake_task();
                Ok(())
            }
            other => Err(Violation::Unexpected(format!(
                "{:?} has no place here in a connection to a client",
                other.kind()
            ))),
        }
    }
}

impl State {
    fn welcome(&mut self, welcome: &Welcome<'_>) {
        self.nonce = Some(welcome.nonce);
        let objects = welcome.objects.iter().filter(|object| object.token != ENDPOINT);
        let known = objects.map(|row| (row.name.to_owned(), served(row)));
        self.objects = known.collect();
        if let Some(greeter) = self.greeter.take() {
            greeter.wake();
        }
    }

    fn reply(&mut self, id: u32, reply: Reply<'_>, fds: Vec<OwnedFd>) -> Result<(), Violation> {
        let Some(waiting) = self.waiting.get_mut(&id).filter(|w| w.outcome.is_none()) else {
            return Err(Violation::Unexpected(format!("Reply {id}: nobody waits for it")));
        };
        if waiting.abandoned {
            self.waiting.remove(&id);
            self.abandoned -= 1;
            return Ok(());
        }
        waiting.outcome = Some(match reply {
            Reply::Done { result, .. } => Outcome::Done(Received { result: result.to_vec(), fds }),
            Reply::Joined { .. } => Outcome::Joined(fds),
            Reply::Failed { failure } => {
                let failure = serde_json::from_slice(failure).map_err(|error| {
                    Violation::Unexpected(format!("Reply {id} holds no failure: {error}"))
                })?;
                Outcome::Refused(failure)
            }
        });
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn chunk(&mut self, id: u32, data: &[u8]) -> Result<(), Violation> {
        let Some(waiting) = self.waiting.get_mut(&id).filter(|w| w.outcome.is_none()) else {
            return Err(Violation::Unexpected(format!("Chunk {id}: nobody waits for it")));
        };
        let left = waiting.credit.checked_sub(data.len() as u64);
        waiting.credit = left.ok_or_else(|| {
            Violation::Unexpected(format!("Chunk {id} is longer than the credit that was left"))
        })?;
        if !waiting.abandoned {
            waiting.chunks.extend_from_slice(data);
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
        Ok(())
    }
}

fn served(row: &Object<'_>) -> Served {
    Served {
        name: row.name.to_owned(),
        token: row.token,
        generation: row.generation,
        interface: row.interface.to_owned(),
        version: row.version,
        hash: row.hash,
    }
}
