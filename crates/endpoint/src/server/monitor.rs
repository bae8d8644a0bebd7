//! The tap: whoever asks the endpoint's `_monitor` is told of each call as it ends. Costs nothing while nobody asks, and
//! delays nobody: what a reader is too slow for is dropped and counted.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use protocol::{
    failure::{Code, Failure},
    objects::Tapped,
};
use tokio::{sync::Notify, time::Instant};

use super::{incoming::Responder, link::Caller};

/// How many ended calls wait for one reader.
const WAITING_MAX: usize = 4096;
/// How many may read at the same time.
const READERS_MAX: usize = 8;

#[derive(Default)]
pub(crate) struct Monitor {
    readers: Mutex<Vec<Arc<Reader>>>,
    active: AtomicBool,
}

#[derive(Default)]
struct Reader {
    state: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    calls: VecDeque<Tapped>,
    lost: u64,
}

/// A call that is tapped, until it ends.
pub(crate) struct Note {
    monitor: Arc<Monitor>,
    tapped: Tapped,
    since: Instant,
}

impl Note {
    pub(crate) fn tell(mut self, outcome: &str) {
        let duration = self.since.elapsed().as_micros();
        self.tapped.duration_us = u64::try_from(duration).unwrap_or(u64::MAX);
        outcome.clone_into(&mut self.tapped.outcome);
        self.monitor.tell(&self.tapped);
    }
}

impl Monitor {
    /// Begins to note a call, where anybody reads.
    pub(super) fn note(
        self: &Arc<Self>,
        caller: Caller,
        object: &str,
        method: &str,
        args: usize,
    ) -> Option<Box<Note>> {
        if !self.active.load(Relaxed) {
            return None;
        }
        let tapped = Tapped {
            object: object.to_owned(),
            method: method.to_owned(),
            pid: caller.pid,
            uid: caller.uid,
            args_bytes: args as u64,
            outcome: String::new(),
            duration_us: 0,
            lost: 0,
        };
        Some(Box::new(Note { monitor: Arc::clone(self), tapped, since: Instant::now() }))
    }

    fn tell(&self, tapped: &Tapped) {
        for reader in &*self.readers() {
            reader.push(tapped.clone());
        }
    }

    /// Answers a call of `_monitor`: a line for each call that ends, until the caller has enough.
    pub(super) async fn stream(&self, responder: Responder) {
        let reader = Arc::new(Reader::default());
        {
            let mut readers = self.readers();
            if readers.len() >= READERS_MAX {
                let text = format!("{READERS_MAX} readers tap this endpoint, no more are allowed");
                return responder.fail(Failure::new(Code::Limit, text));
            }
            readers.push(Arc::clone(&reader));
            self.active.store(true, Relaxed);
        }
        let _leave = Leave { monitor: self, reader: &reader };
        let mut chunks = responder.chunks();
        loop {
            let changed = reader.changed.notified();
            let lines = reader.take();
            if lines.is_empty() {
                tokio::select! {
                    () = changed => {}
                    () = chunks.cancelled() => return,
                }
            } else if chunks.send(&lines).await.is_err() {
                return;
            }
        }
    }

    fn readers(&self) -> MutexGuard<'_, Vec<Arc<Reader>>> {
        self.readers.lock().expect("nothing panics while it holds the readers")
    }
}

/// Takes the reader off the list, however its stream ends.
struct Leave<'a> {
    monitor: &'a Monitor,
    reader: &'a Arc<Reader>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut readers = self.monitor.readers();
        readers.retain(|reader| !Arc::ptr_eq(reader, self.reader));
        self.monitor.active.store(!readers.is_empty(), Relaxed);
    }
}

impl Reader {
    fn push(&self, mut tapped: Tapped) {
        let mut state = self.lock();
        if state.calls.len() >= WAITING_MAX {
            state.lost += 1;
            return;
        }
        tapped.lost = std::mem::take(&mut state.lost);
        state.calls.push_back(tapped);
        drop(state);
        self.changed.notify_waiters();
    }

    /// What waits, as JSON, one a line.
    fn take(&self) -> Vec<u8> {
        let calls = std::mem::take(&mut self.lock().calls);
        let mut lines = Vec::new();
        for call in calls {
            serde_json::to_writer(&mut lines, &call).expect("texts and numbers are JSON");
            lines.push(b'\n');
        }
        lines
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().expect("nothing panics while it holds a reader's lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_is_too_slow_for_is_counted_and_told() {
        let monitor = Arc::new(Monitor::default());
        let caller = Caller { pid: 1, uid: 2, gid: 3 };
        assert!(monitor.note(caller, "o", "m", 5).is_none());
        let reader = Arc::new(Reader::default());
        monitor.readers().push(Arc::clone(&reader));
        monitor.active.store(true, Relaxed);
        for _ in 0..WAITING_MAX + 3 {
            monitor.note(caller, "o", "m", 5).unwrap().tell("done");
        }
        assert_eq!(reader.take().iter().filter(|byte| **byte == b'\n').count(), WAITING_MAX);
        monitor.note(caller, "o", "m", 5).unwrap().tell("busy");
        let tapped: Tapped = serde_json::from_slice(&reader.take()).unwrap();
        assert_eq!((tapped.lost, &*tapped.outcome, tapped.args_bytes), (3, "busy", 5));
    }
}
