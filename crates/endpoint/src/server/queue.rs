//! The queue of one object: bounded, and fair between connections. Each connection has a lane; the worker takes one call
//! from each lane in turn, so that who floods waits for himself only.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    task::{Context, Poll, Waker},
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
}

struct State<T> {
    lanes: VecDeque<Lane<T>>,
    length: usize,
    closed: bool,
    worker: Option<Waker>,
    /// The buffer of the lane that was emptied last, for the next one.
    spare: VecDeque<T>,
}

struct Lane<T> {
    connection: u64,
    uid: u32,
    calls: VecDeque<T>,
}

impl<T> Queue<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State {
            lanes: VecDeque::new(),
            length: 0,
            closed: false,
            worker: None,
            spare: VecDeque::new(),
        };
        Self { limits, state: Mutex::new(state) }
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
        if let Some(at) = lane {
            state.lanes[at].calls.push_back(call);
        } else {
            let mut calls = std::mem::take(&mut state.spare);
            calls.push_back(call);
            state.lanes.push_back(Lane { connection, uid, calls });
        }
        state.length += 1;
        if let Some(worker) = state.worker.take() {
            drop(state);
            worker.wake();
        }
        Ok(())
    }

    /// The next call; `None` once the queue is closed.
    pub(crate) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.lock();
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
        Poll::Ready(call)
    }

    /// Takes nothing more; hands back what waits.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        state.length = 0;
        if let Some(worker) = state.worker.take() {
            worker.wake();
        }
        state.lanes.drain(..).flat_map(|lane| lane.calls).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing panics while it holds a queue's lock")
    }
}

#[cfg(test)]
mod tests {
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
}
