//! Calls at a steady rate while a test does something to other processes, and what became of them.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use endpoint::{Bus, CallOptions, Options};

/// Calls that begin in each millisecond: 10,000 a second.
const BURST: u64 = 10;
/// A call that takes longer has failed: nothing a test does may hold callers up so long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Calls `OBJECT.echo`, 10,000 times a second, until it is dropped or finished.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    begun: AtomicU64,
    done: AtomicU64,
    slowest_us: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What became of the calls.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) done: u64,
    pub(crate) failures: Vec<String>,
    pub(crate) slowest: Duration,
}

impl Load {
    pub(crate) fn start(run_dir: &Path, object: &'static str) -> Self {
        let shared = Arc::new(Shared::default());
        let (theirs, run_dir) = (Arc::clone(&shared), run_dir.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(call(theirs, Bus::new(run_dir, Options::default()), object));
        });
        Self { shared, thread: Some(thread) }
    }

    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Relaxed)
    }

    /// Waits until so many more calls have been answered.
    #[track_caller]
    pub(crate) fn until_more(&self, calls: u64) {
        let wanted = self.done() + calls;
        testkit::until("calls are answered", || {
            let failures = self.shared.failures.lock().unwrap().clone();
            assert!(failures.is_empty(), "{failures:?}");
            (self.done() >= wanted).then_some(())
        });
    }

    /// Ends it, when every call that was begun has its answer.
    pub(crate) fn finish(mut self) -> Outcome {
        self.shared.stop.store(true, Relaxed);
        self.thread.take().expect("only here is it taken").join().unwrap();
        Outcome {
            done: self.done(),
            failures: std::mem::take(&mut *self.shared.failures.lock().unwrap()),
            slowest: Duration::from_micros(self.shared.slowest_us.load(Relaxed)),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
    }
}

async fn call(shared: Arc<Shared>, bus: Bus, object: &'static str) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    // A machine that can't keep up gets fewer calls, not all of them later at once.
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !shared.stop.load(Relaxed) {
        tick.tick().await;
        for _ in 0..BURST {
            let number = shared.begun.fetch_add(1, Relaxed);
            let (shared, bus) = (Arc::clone(&shared), bus.clone());
            tokio::spawn(async move {
                let args = number.to_le_bytes();
                let options = CallOptions { deadline: DEADLINE, ..CallOptions::default() };
                let begun = tokio::time::Instant::now();
                let failure = match bus.call_bytes(object, "echo", &args, options).await {
                    Ok(answer) if answer.result == args => None,
                    Ok(answer) => Some(format!("call {number}: another answer: {answer:?}")),
                    Err(error) => Some(format!("call {number}: {error}")),
                };
                let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                shared.slowest_us.fetch_max(took, Relaxed);
                shared.failures.lock().unwrap().extend(failure);
                shared.done.fetch_add(1, Relaxed);
            });
        }
    }
    while shared.done.load(Relaxed) < shared.begun.load(Relaxed) {
        tick.tick().await;
    }
}
