//! The queue of one object: bounded, and fair between connections. Each connection has a lane; the worker takes one call
//! from each lane in turn, so that who floods waits for himself only.
//!
//! It has a gate. Closed, nothing is taken out, what waits too long is handed back, and what was taken before can be
//! waited for: that is how an object is replaced while its callers only see a pause.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// How much waits at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From one connection.
    pub(crate) lane: usize,
    /// From all connections of one user.
    pub(crate) user: usize,
    pub(crate) total: usize,
}

/// Why a call was not queued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// This limit was met.
    Full(usize),
    Closed,
}

pub(crate) struct Queue<T> {
    limits: Limits,
    state: Mutex<State<T>>,
    /// Taken and not ended.
    running: AtomicUsize,
    /// Somebody waits for the end of what runs.
    watched: AtomicBool,
    /// The gate moved, or nothing runs any more.
    changed: Notify,
}

struct State<T> {
    lanes: VecDeque<Lane<T>>,
    length: usize,
    closed: bool,
    worker: Option<Waker>,
    /// Who closed the gate, and for how long a call may wait there.
    closers: Vec<(u64, Duration)>,
    /// The buffer of the lane that was emptied last, for the next one.
    spare: VecDeque<Waiting<T>>,
}

struct Lane<T> {
    connection: u64,
    uid: u32,
    calls: VecDeque<Waiting<T>>,
}

struct Waiting<T> {
    call: T,
    /// Since when it waits at the closed gate.
    held: Option<Instant>,
}

impl<T> Queue<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State {
            lanes: VecDeque::new(),
            length: 0,
            closed: false,
            worker: None,
            closers: Vec::new(),
            spare: VecDeque::new(),
        };
        Self {
            limits,
            state: Mutex::new(state),
            running: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    pub(crate) fn push(&self, connection: u64, uid: u32, call: T) -> Result<(), (Refusal, T)> {
        let mut state = self.lock();
        if state.closed {
            return Err((Refusal::Closed, call));
        }
        let (mut lane, mut of_user) = (None, 0);
        for (at, other) in state.lanes.iter().enumerate() {
            if other.uid == uid {
                of_user += other.calls.len();
            }
            if other.connection == connection {
                lane = Some(at);
            }
        }
        let in_lane = lane.map_or(0, |at| state.lanes[at].calls.len());
        for (used, limit) in [
            (in_lane, self.limits.lane),
            (of_user, self.limits.user),
            (state.length, self.limits.total),
        ] {
            if used >= limit {
                return Err((Refusal::Full(limit), call));
            }
        }
        let held = (!state.closers.is_empty()).then(Instant::now);
        let waiting = Waiting { call, held };
        if let Some(at) = lane {
            state.lanes[at].calls.push_back(waiting);
        } else {
            let mut calls = std::mem::take(&mut state.spare);
            calls.push_back(waiting);
            state.lanes.push_back(Lane { connection, uid, calls });
        }
        state.length += 1;
        if !state.closers.is_empty() {
            return Ok(());
        }
        if let Some(worker) = state.worker.take() {
            drop(state);
            worker.wake();
        }
        Ok(())
    }

    /// The next call, which runs until [`Queue::ended`] is called for it; `None` once the queue is closed.
    pub(crate) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.lock();
        if !state.closers.is_empty() && !state.closed {
            state.worker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(mut lane) = state.lanes.pop_front() else {
            if state.closed {
                return Poll::Ready(None);
            }
            state.worker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let call = lane.calls.pop_front();
        if lane.calls.is_empty() {
            state.spare = lane.calls;
        } else {
            state.lanes.push_back(lane);
        }
        state.length -= 1;
        // Counted under the lock: whoever closes the gate sees it.
        self.running.fetch_add(1, SeqCst);
        Poll::Ready(call.map(|waiting| waiting.call))
    }

    /// A call that was taken is over.
    pub(crate) fn ended(&self) {
        if self.running.fetch_sub(1, SeqCst) == 1 && self.watched.load(SeqCst) {
            self.changed.notify_waiters();
        }
    }

    /// Returns when nothing runs; meant for a closed gate.
    pub(crate) async fn idle(&self) {
        self.watched.store(true, SeqCst);
        loop {
            let changed = self.changed.notified();
            if self.running.load(SeqCst) == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Lets nothing out until [`Queue::open_gate`]. `true` where the gate was open.
    pub(crate) fn close_gate(&self, closer: u64, hold: Duration) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let was_open = state.closers.is_empty();
        state.closers.push((closer, hold));
        for waiting in state.lanes.iter_mut().flat_map(|lane| &mut lane.calls) {
            waiting.held.get_or_insert(now);
        }
        drop(state);
        self.changed.notify_waiters();
        was_open
    }

    /// Takes back what this closer did; without one, what all did.
    pub(crate) fn open_gate(&self, closer: Option<u64>) {
        let mut state = self.lock();
        state.closers.retain(|(id, _)| closer.is_some_and(|closer| *id != closer));
        if state.closers.is_empty() {
            for waiting in state.lanes.iter_mut().flat_map(|lane| &mut lane.calls) {
                waiting.held = None;
            }
            if let Some(worker) = state.worker.take() {
                worker.wake();
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Returns when the gate is no longer closed by this one.
    pub(crate) async fn opened(&self, closer: u64) {
        loop {
            let changed = self.changed.notified();
            if !self.lock().closers.iter().any(|(id, _)| *id == closer) {
                return;
            }
            changed.await;
        }
    }

    /// Hands back what has waited too long at the closed gate, and says when to look again; `None` once it is open.
    pub(crate) fn late(&self, now: Instant) -> (Vec<T>, Option<Instant>) {
        let mut state = self.lock();
        let Some(hold) = state.closers.iter().map(|(_, hold)| *hold).max() else {
            return (Vec::new(), None);
        };
        let mut late = Vec::new();
        let mut next = now + hold;
        for lane in &mut state.lanes {
            while let Some(waiting) = lane.calls.front() {
                let until = waiting.held.map_or(now, |since| since + hold);
                if until > now {
                    next = next.min(until);
                    break;
                }
                late.extend(lane.calls.pop_front().map(|waiting| waiting.call));
            }
        }
        state.lanes.retain(|lane| !lane.calls.is_empty());
        state.length -= late.len();
        (late, Some(next))
    }

    /// Whether the gate is closed.
    pub(crate) fn is_held(&self) -> bool {
        !self.lock().closers.is_empty()
    }

    /// Hands back what nobody wants any more.
    pub(crate) fn prune(&self, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut state = self.lock();
        let mut unwanted = Vec::new();
        for lane in &mut state.lanes {
            for waiting in std::mem::take(&mut lane.calls) {
                if wanted(&waiting.call) {
                    lane.calls.push_back(waiting);
                } else {
                    unwanted.push(waiting.call);
                }
            }
        }
        state.lanes.retain(|lane| !lane.calls.is_empty());
        state.length -= unwanted.len();
        unwanted
    }

    /// Ready when the gate moves, or when nothing runs any more, from now on.
    pub(crate) fn change(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Takes nothing more; hands back what waits.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        state.length = 0;
        if let Some(worker) = state.worker.take() {
            worker.wake();
        }
        let calls = state.lanes.drain(..).flat_map(|lane| lane.calls);
        calls.map(|waiting| waiting.call).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing panics while it holds a queue's lock")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pop(queue: &Queue<u32>) -> Option<u32> {
        match queue.poll_pop(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(call) => call,
            Poll::Pending => panic!("the queue is empty"),
        }
    }

    #[test]
    fn a_flood_of_one_connection_delays_another_by_one_call() {
        let queue = Queue::new(Limits { lane: 64, user: 128, total: 256 });
        for call in 0..64 {
            queue.push(1, 0, call).unwrap();
        }
        assert_eq!(queue.push(1, 0, 64), Err((Refusal::Full(64), 64)));
        queue.push(2, 7, 1000).unwrap();
        assert_eq!((pop(&queue), pop(&queue), pop(&queue)), (Some(0), Some(1000), Some(1)));
    }

    #[test]
    fn one_user_never_fills_the_whole_queue() {
        let queue = Queue::new(Limits { lane: 4, user: 6, total: 8 });
        let accepted = (0..10_u32).filter(|n| queue.push(u64::from(*n), 1, *n).is_ok()).count();
        assert_eq!(accepted, 6);
        queue.push(100, 2, 0).unwrap();
    }

    #[test]
    fn a_closed_queue_hands_back_what_waited_and_takes_nothing() {
        let queue = Queue::new(Limits { lane: 4, user: 6, total: 8 });
        queue.push(1, 0, 5).unwrap();
        assert_eq!(queue.close(), [5]);
        assert_eq!(queue.push(1, 0, 6), Err((Refusal::Closed, 6)));
        assert_eq!(pop(&queue), None);
    }

    #[test]
    fn what_waits_too_long_at_a_closed_gate_is_handed_back_in_its_order() {
        let queue = Queue::new(Limits { lane: 4, user: 6, total: 8 });
        let hold = Duration::from_secs(1);
        queue.push(1, 0, 1).unwrap();
        assert!(queue.close_gate(7, hold));
        queue.push(1, 0, 2).unwrap();
        let (late, next) = queue.late(Instant::now());
        assert!(late.is_empty() && next.is_some_and(|next| next <= Instant::now() + hold));
        assert_eq!(queue.late(Instant::now() + hold).0, [1, 2]);
        queue.open_gate(Some(7));
        assert_eq!(queue.late(Instant::now()), (Vec::new(), None));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Pop,
        Close(u64),
        Open(Option<u64>),
        Late,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..4).prop_map(Step::Push),
            Just(Step::Pop),
            (0_u64..3).prop_map(Step::Close),
            proptest::option::of(0_u64..3).prop_map(Step::Open),
            Just(Step::Late),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_lost_doubled_or_let_through_a_closed_gate(
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let queue = Queue::new(Limits { lane: 4, user: 6, total: 8 });
            let (mut next, mut out, mut closers) = (0, Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Push(connection) => {
                        match queue.push(connection, u32::from(connection > 1), next) {
                            Ok(()) => next += 1,
                            Err((refusal, _)) => prop_assert!(matches!(refusal, Refusal::Full(_))),
                        }
                    }
                    Step::Pop => {
                        let popped = queue.poll_pop(&mut Context::from_waker(Waker::noop()));
                        if let Poll::Ready(call) = popped {
                            prop_assert!(closers.is_empty());
                            out.push(call.unwrap());
                            queue.ended();
                        }
                    }
                    Step::Close(closer) => {
                        prop_assert_eq!(queue.close_gate(closer, Duration::ZERO), closers.is_empty());
                        closers.push(closer);
                    }
                    Step::Open(closer) => {
                        queue.open_gate(closer);
                        closers.retain(|id| closer.is_some_and(|closer| *id != closer));
                    }
                    Step::Late => {
                        let (late, next) = queue.late(Instant::now());
                        prop_assert_eq!(next.is_some(), !closers.is_empty());
                        out.extend(late);
                    }
                }
                prop_assert_eq!(queue.is_held(), !closers.is_empty());
            }
            out.extend(queue.close());
            out.sort_unstable();
            prop_assert_eq!(out, (0..next).collect::<Vec<u32>>());
        }
    }
}
