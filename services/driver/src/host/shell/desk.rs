//! Where calls come in, wait, and are handed to the workers; what is counted of them. Its lock is held for moments only:
//! never while the driver runs, and never while an answer is given.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic::AtomicU64},
    time::Duration,
};

use daemon::clock;
use driver_abi::{DATA_MAX, Op};
use hotpatch::{Gate, Slot};
use protocol::{driver::Hit, time::Moment};

use super::journal::Journal;
use crate::host::{
    core::{AGAIN, Done, Outcome, Owner, Request, Ticket},
    machine::{
        handles::{Answer, EINTR, Handles, Interrupted, Queued},
        line::Line,
        probation::Deeds,
        recorder::Recorder,
    },
};

const EINVAL: i64 = -22;
/// Hits of measured operations that nobody has taken yet.
const HITS_MAX: usize = 4096;

/// What a caller of `open` gives to get the answer.
pub(crate) type Opened = Box<dyn FnOnce(Result<u64, i64>) + Send>;

/// Who gets an answer.
pub(crate) enum Reply {
    Open(Opened),
    Call(Done),
}

pub(crate) struct Desk {
    pub(super) gate: Arc<Gate>,
    pub(super) slot: Slot,
    pub(super) journal: Journal,
    /// Workers that the settings ask for.
    pub(super) threads: usize,
    state: Mutex<State>,
    /// There is work.
    work: Condvar,
    /// The keeper has something to look at.
    chores: Condvar,
    /// A call that is inside for longer hangs: the keeper has to look by then.
    hang: Duration,
    /// Places in the table of operations that are measured here, because their entry can't be probed.
    pub(super) measured: AtomicU64,
    pub(super) runtime: tokio::runtime::Handle,
    /// Told when the last worker has left.
    pub(super) left: tokio::sync::Notify,
}

/// What the lock guards.
pub(super) struct State {
    pub(super) handles: Handles<Reply>,
    /// By number; a worker's place is reused after it has left.
    pub(super) workers: Vec<Option<Busy>>,
    pub(super) hired: usize,
    pub(super) idle: usize,
    /// When work was found waiting with no worker idle; the keeper hires another one if that goes on.
    pub(super) starving: Option<Moment>,
    pub(super) stopping: bool,
    /// Of the version that serves.
    pub(super) deeds: Deeds,
    /// How often the code was replaced.
    pub(super) generation: u64,
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) recorder: Recorder,
    pub(super) hits: Vec<Hit>,
    pub(super) hits_lost: u64,
    /// The keeper sleeps until this moment, or until it is called.
    keeper_sleeps: Option<Moment>,
    /// Somebody told while the keeper was at work.
    pub(super) called: bool,
}

/// What a worker is at.
#[derive(Clone)]
pub(super) struct Busy {
    pub(super) tid: i32,
    pub(super) call: Option<Inside>,
}

/// The call that it carries out.
#[derive(Clone)]
pub(super) struct Inside {
    pub(super) handle: u64,
    pub(super) op: Op,
    pub(super) began: Moment,
    pub(super) ticket: hotpatch::Ticket,
    pub(super) seen: Option<Seen>,
}

/// How the keeper found a call inside.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// It was there since this moment without a wait.
    pub(super) since: Moment,
    /// How often it was looked at since.
    pub(super) times: u32,
    /// When it is looked at next.
    pub(super) next: Moment,
}

impl Reply {
    /// Gives a number as the answer.
    fn answer(self, result: i64) {
        match self {
            Self::Open(done) => done(Err(result)),
            Self::Call(done) => done(Outcome::of(result)),
        }
    }
}

impl Desk {
    pub(super) fn new(
        gate: Arc<Gate>,
        slot: Slot,
        journal: Journal,
        threads: usize,
        hang: Duration,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let state = State {
            handles: Handles::new(journal.next()),
            workers: Vec::new(),
            hired: 0,
            idle: 0,
            starving: None,
            stopping: false,
            deeds: Deeds::default(),
            generation: 0,
            calls: 0,
            errors: 0,
            recorder: Recorder::default(),
            hits: Vec::new(),
            hits_lost: 0,
            keeper_sleeps: None,
            called: false,
        };
        Self {
            gate,
            slot,
            journal,
            threads,
            state: Mutex::new(state),
            work: Condvar::new(),
            chores: Condvar::new(),
            hang,
            measured: AtomicU64::new(0),
            runtime,
            left: tokio::sync::Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the desk")
    }

    pub(crate) fn open(&self, owner: Owner, flags: u32, done: Opened) {
        let mut state = self.lock();
        if state.stopping {
            drop(state);
            return done(Err(AGAIN));
        }
        match state.handles.open(owner, flags, Reply::Open(done)) {
            Ok(_) => {
                self.journal.set_next(state.handles.next_handle());
                self.wake(&mut state);
            }
            Err(answer) => {
                drop(state);
                answer.done.answer(answer.result);
            }
        }
    }

    pub(crate) fn submit(
        &self,
        owner: Owner,
        handle: u64,
        sequence: u64,
        request: Request,
        done: Done,
    ) -> Ticket {
        let none = Ticket(0);
        if request.weight() > DATA_MAX {
            done(Outcome::of(EINVAL));
            return none;
        }
        let mut state = self.lock();
        let done = Reply::Call(done);
        match state.handles.submit(owner, handle, sequence, request, done, clock::now()) {
            Queued::Waits(ticket) => {
                self.wake(&mut state);
                ticket
            }
            Queued::Joined(ticket, before) => {
                drop(state);
                // Who asked before has gone away, and gets a word all the same.
                before.answer(EINTR);
                ticket
            }
            Queued::Answered(answer) => {
                drop(state);
                answer.done.answer(answer.result);
                none
            }
        }
    }

    pub(crate) fn close(self: &Arc<Self>, owner: Owner, handle: u64, done: Done) {
        let mut state = self.lock();
        let answers = match state.handles.close(owner, handle, Some(Reply::Call(done))) {
            Ok(answers) => {
                self.wake(&mut state);
                // Nobody waits for what its calls wait for.
                self.interrupt_inside(&state, handle);
                answers
            }
            Err(answer) => answer.into_iter().collect(),
        };
        drop(state);
        give(answers);
    }

    /// The process has ended: its handles are closed, and what runs for it is interrupted.
    pub(super) fn owner_ended(self: &Arc<Self>, owner: Owner) {
        let mut state = self.lock();
        let inside = state.handles.owner_ended(owner);
        self.wake(&mut state);
        for handle in inside {
            self.interrupt_inside(&state, handle);
        }
    }

    pub(crate) fn interrupt(self: &Arc<Self>, ticket: Ticket) {
        let mut state = self.lock();
        match state.handles.interrupt(ticket) {
            Interrupted::Runs { handle } => self.interrupt_inside(&state, handle),
            Interrupted::Answered(answer) => {
                drop(state);
                give(vec![answer]);
            }
            Interrupted::Nothing => {}
        }
    }

    /// Something may be there for who polls this handle (0: any).
    pub(super) fn notify(&self, handle: u64) {
        let mut state = self.lock();
        state.handles.notify(handle);
        if state.handles.is_ready() {
            self.wake(&mut state);
        }
    }

    /// The time of a `poll` is over.
    pub(super) fn expire(&self, handle: u64, ticket: Ticket) {
        let answer = self.lock().handles.expire(handle, ticket);
        give(answer.into_iter().collect());
    }

    /// Waits for work; nothing where the worker is to leave.
    pub(super) fn next<'d>(
        &'d self,
        mut state: MutexGuard<'d, State>,
        patience: Duration,
    ) -> (MutexGuard<'d, State>, bool) {
        state.idle += 1;
        let (mut state, timeout) = self
            .work
            .wait_timeout_while(state, patience, |state| {
                !state.stopping && !state.handles.is_ready()
            })
            .expect("nothing panics while it holds the desk");
        state.idle -= 1;
        (state, timeout.timed_out())
    }

    /// There may be work: wakes a worker, or the keeper where none is idle.
    pub(super) fn wake(&self, state: &mut State) {
        if state.idle > 0 {
            self.work.notify_one();
        } else if state.starving.is_none() {
            state.starving = Some(clock::now());
            self.chores.notify_one();
        }
        self.tell_keeper(state);
    }

    /// There is something to look after again.
    pub(super) fn tell_keeper(&self, state: &mut State) {
        let sleeps_long = |until: &Moment| *until > clock::now() + self.hang;
        if state.keeper_sleeps.take_if(|until| sleeps_long(until)).is_some() {
            self.chores.notify_one();
        }
    }

    /// A call that waited is inside again: the keeper may have thought that there was nothing to look at.
    pub(super) fn returned(&self) {
        self.tell_keeper(&mut self.lock());
    }

    /// Nothing more is taken up; workers leave when they are done. What waits in the driver is ended, to be made again.
    pub(super) fn stop(&self) {
        let left = {
            let mut state = self.lock();
            state.stopping = true;
            let inside = state.workers.iter().flatten().filter_map(|worker| worker.call.as_ref());
            inside.for_each(|call| call.ticket.interrupt());
            state.handles.leave()
        };
        self.work.notify_all();
        self.chores.notify_all();
        for (owner, done) in left {
            give_back(owner, done);
        }
    }

    /// Calls the keeper, also where it is at work.
    pub(super) fn call_keeper(&self) {
        self.lock().called = true;
        self.chores.notify_one();
    }

    /// The keeper's sleep; nothing is the time until it is called. Whether it shall end.
    pub(super) fn rest(&self, time: Option<Duration>) -> bool {
        let mut state = self.lock();
        if !state.called && !state.stopping && time != Some(Duration::ZERO) {
            state.keeper_sleeps = Some(clock::now() + time.unwrap_or(Duration::MAX));
            let proof = "nothing panics while it holds the desk";
            state = match time {
                Some(time) => self.chores.wait_timeout(state, time).expect(proof).0,
                None => self.chores.wait(state).expect(proof),
            };
            state.keeper_sleeps = None;
        }
        state.called = false;
        state.stopping
    }

    /// A call was carried out: counts it, and keeps its line.
    pub(super) fn note_line(&self, op: Op, slot: usize, line: Option<Line>) {
        match (line, op) {
            (None, _) => self.journal.clear(slot),
            (Some(line), Op::Open) => self.journal.write(slot, &line),
            (Some(line), _) => self.journal.end(slot, &line),
        }
    }

    /// Interrupts what the driver waits for in this handle's call, and tells the driver by its own operation.
    fn interrupt_inside(self: &Arc<Self>, state: &State, handle: u64) {
        let inside = state.workers.iter().flatten().filter_map(|worker| worker.call.as_ref());
        let Some(call) = inside.into_iter().find(|call| call.handle == handle) else { return };
        call.ticket.interrupt();
        let desk = Arc::clone(self);
        // The driver's `interrupt` is its code, too: it gets a thread and a place at the gate for the moment.
        self.runtime.spawn_blocking(move || {
            if let Some(mut caller) = desk.gate.register() {
                desk.slot.call(&mut caller, handle, hotpatch::Args::Interrupt);
            }
        });
    }
}

impl State {
    /// A measured operation was called.
    pub(super) fn hit(&mut self, hit: Hit) {
        if self.hits.len() < HITS_MAX {
            self.hits.push(hit);
        } else {
            self.hits_lost += 1;
        }
    }

    /// The number of a new worker.
    pub(super) fn place(&mut self, tid: i32) -> usize {
        let busy = Some(Busy { tid, call: None });
        match self.workers.iter().position(Option::is_none) {
            Some(place) => {
                self.workers[place] = busy;
                place
            }
            None => {
                self.workers.push(busy);
                self.workers.len() - 1
            }
        }
    }
}

/// The call is made again, at the next host.
pub(super) fn give_back(owner: Owner, done: Reply) {
    if owner != Owner::Kernel {
        done.answer(AGAIN);
    }
}

fn give(answers: Vec<Answer<Reply>>) {
    for answer in answers {
        answer.done.answer(answer.result);
    }
}

/// Gives a worker's outcome to who waits for it.
pub(super) fn reply(done: Reply, handle: u64, outcome: Outcome) {
    match done {
        Reply::Open(done) if outcome.result >= 0 => done(Ok(handle)),
        Reply::Open(done) => done(Err(outcome.result)),
        Reply::Call(done) => done(outcome),
    }
}
