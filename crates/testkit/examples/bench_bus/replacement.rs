//! `service replace` under load: how long callers wait at most, and whether a call fails; beside equally long spans in
//! which nothing is replaced.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use endpoint::{Bus, CallOptions, Options};
use testkit::{Device, binary, until, within};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    ground::Ground,
    numbers::{NONE, Report, Table, Times, float},
};

const REPLACEMENTS: usize = 20;
const DEADLINE: Duration = Duration::from_secs(20);
/// How long is looked at, after the old process has gone. With the same time before it an endpoint has been registered for
/// more than a second when the next replacement comes, as on a device.
const SETTLE: Duration = Duration::from_millis(600);
/// Different reasons of failures that are told.
const REASONS_MAX: usize = 5;

/// What is called meanwhile.
#[derive(Clone, Copy)]
struct Call {
    object: &'static str,
    method: &'static str,
    args: &'static str,
    /// Calls that begin in each millisecond.
    burst: u64,
}

const ECHO: Call = Call { object: "camera", method: "echo", args: "hello", burst: 10 };
const LOOKUP: Call =
    Call { object: "registry", method: "lookup", args: r#"{"object":"camera"}"#, burst: 1 };
/// Who is replaced, and what is called.
const CASES: [(&str, Call); 4] = [
    ("camera", Call { burst: 1, ..ECHO }),
    ("camera", ECHO),
    ("registry", ECHO),
    ("registry", LOOKUP),
];

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    ground.unpin()?;
    let mut device = Device::with_core();
    device.define("camera", &definition("camera"));
    device.start();
    device.ctl_ok(&["wait-for", "service", "system", "registry", "log", "camera"]);
    let columns = &["longest wait p50 ms", "max ms", "one replacement takes ms", "calls", "failed"];
    let mut table = Table::new("calls during replacements", columns);
    let mut all_failed = 0;
    for (service, call) in CASES {
        let load = Load::start(&device.run_dir(), call);
        load.settle();
        let (mut idle, mut replaced) = (Spans::default(), Spans::default());
        let mut took = Vec::new();
        for _ in 0..ground.scaled(REPLACEMENTS) {
            idle.add(&load, || ());
            replaced.add(&load, || took.push(replace(&device, service)));
        }
        load.finish();
        let Call { object, method, burst, .. } = call;
        let (what, count) = (format!("{object}.{method}, {burst},000 a second"), took.len());
        let took = Times::of(took).p50 / 1e3;
        table.row(format!("{what}: nothing done"), &idle.figures(NONE));
        table.row(format!("{what}: {service} replaced {count} times"), &replaced.figures(took));
        all_failed += replaced.failed;
    }
    report.goal("failed calls while services are replaced", 0.0, float(all_failed));
    report.add(&table);
    Ok(())
}

fn definition(name: &str) -> String {
    let program: PathBuf = binary("vestal-demo-object");
    format!(
        "command = [{program:?}, {name:?}]\nrespawn = \"always\"\n\
         readiness = {{ notify = true }}\n\
         [[sockets]]\nname = \"control\"\nlisten = \"run:{name}.sock\"\nmode = \"0666\"\n"
    )
}

/// Replaces it, and returns how long the command took.
fn replace(device: &Device, service: &str) -> Duration {
    let old = device.until_pid(service);
    let began = Instant::now();
    device.ctl_ok(&["service", "replace", service]);
    let took = began.elapsed();
    until("the old process is gone", || (!testkit::alive(old)).then_some(()));
    took
}

/// Spans of time of one kind, and what became of the calls that were made in them.
#[derive(Default)]
struct Spans {
    slowest: Vec<Duration>,
    calls: usize,
    failed: usize,
}

impl Spans {
    /// Does this and then nothing for a while.
    fn add(&mut self, load: &Load, act: impl FnOnce()) {
        load.settle();
        let (calls, failed) = load.counts();
        load.take_slowest();
        act();
        within(SETTLE, || None::<()>);
        load.settle();
        self.slowest.push(load.take_slowest());
        let (calls_now, failed_now) = load.counts();
        self.calls += calls_now - calls;
        self.failed += failed_now - failed;
    }

    fn figures(&self, took: f64) -> [f64; 5] {
        let times = Times::of(self.slowest.clone());
        let [p50, max] = [times.p50, times.max].map(|us| us / 1e3);
        [p50, max, took, float(self.calls), float(self.failed)]
    }
}

/// Calls at a steady rate, from a thread of its own.
struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    begun: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    slowest_us: AtomicU64,
    reasons: Mutex<Vec<String>>,
}

impl Load {
    fn start(run_dir: &Path, call: Call) -> Self {
        let shared = Arc::new(Shared::default());
        let (theirs, run_dir) = (Arc::clone(&shared), run_dir.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("descriptors are left");
            runtime.block_on(theirs.run(&Bus::new(run_dir, Options::default()), call));
        });
        Self { shared, thread }
    }

    /// Waits until every call that was begun until now has its answer.
    fn settle(&self) {
        let wanted = self.shared.begun.load(Relaxed) + 1;
        until("calls are answered", || (self.shared.done.load(Relaxed) >= wanted).then_some(()));
    }

    /// How many calls were answered, and how many of them failed.
    fn counts(&self) -> (usize, usize) {
        let count = |count: &AtomicU64| usize::try_from(count.load(Relaxed)).unwrap_or(usize::MAX);
        (count(&self.shared.done), count(&self.shared.failed))
    }

    /// The longest call since this was asked last.
    fn take_slowest(&self) -> Duration {
        Duration::from_micros(self.shared.slowest_us.swap(0, Relaxed))
    }

    fn finish(self) {
        self.shared.stop.store(true, Relaxed);
        self.thread.join().expect("the load does not panic");
    }
}

impl Shared {
    async fn run(self: Arc<Self>, bus: &Bus, call: Call) {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        // What this process was too late for is not made up for at once: no more than the rate says comes at a time.
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !self.stop.load(Relaxed) {
            tick.tick().await;
            for _ in 0..call.burst {
                self.begun.fetch_add(1, Relaxed);
                tokio::spawn(Arc::clone(&self).one(bus.clone(), call));
            }
        }
        while self.done.load(Relaxed) < self.begun.load(Relaxed) {
            tick.tick().await;
        }
    }

    async fn one(self: Arc<Self>, bus: Bus, call: Call) {
        let Call { object, method, args, .. } = call;
        let options = CallOptions { deadline: DEADLINE, ..CallOptions::default() };
        let began = Instant::now();
        if let Err(error) = bus.call_bytes(object, method, args.as_bytes(), options).await {
            self.failed.fetch_add(1, Relaxed);
            self.tell(error.to_string());
        }
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.slowest_us.fetch_max(took, Relaxed);
        self.done.fetch_add(1, Relaxed);
    }

    /// Each reason once.
    fn tell(&self, reason: String) {
        let mut reasons = self.reasons.lock().expect("nothing panics while it holds the reasons");
        if reasons.len() < REASONS_MAX && !reasons.contains(&reason) {
            eprintln!("a call failed: {reason}");
            reasons.push(reason);
        }
    }
}
