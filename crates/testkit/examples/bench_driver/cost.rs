//! Calls of a driver's empty operation: bare, through the gate in both of its forms, and behind other ways to know who is inside.

use std::{
    ffi::c_long,
    hint::black_box,
    sync::{
        Arc, Barrier, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::*, compiler_fence, fence},
    },
    thread,
    time::Duration,
};

use daemon::clock;
use driver_abi::Ops;
use hotpatch::{Args, Caller, Form, Gate, Slot};

use crate::{
    ground::{Ground, pin, schedule},
    numbers::{NONE, Report, Rounds, Table, float, micros},
};

const THREADS: [usize; 3] = [1, 2, 4];
const COLUMNS: &[&str] =
    &["empty, ns", "beyond bare", "64 bytes, Mcalls/s of 1 thread", "2 threads", "4 threads"];

extern "C" fn nothing(_: u64, events: u32) -> c_long {
    events.into()
}

/// As much as a small driver does: it sums 64 bytes up.
extern "C" fn sums(_: u64, events: u32) -> c_long {
    let data = black_box(&[7_u8; 64]);
    let sum = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    black_box(sum);
    events.into()
}

const fn polls(poll: extern "C" fn(u64, u32) -> c_long) -> Ops {
    Ops {
        open: None,
        close: None,
        read: None,
        write: None,
        ioctl: None,
        poll: Some(poll),
        interrupt: None,
    }
}

static EMPTY: Ops = polls(nothing);
static WORK: Ops = polls(sums);

/// One way to call.
trait Way: Sync {
    type Seat;
    fn seat(&self) -> Self::Seat;
    fn call(&self, seat: &mut Self::Seat) -> i64;
}

/// The function behind the table's pointer, as every way calls it in the end.
#[inline]
#[expect(unsafe_code, reason = "calls through a table of C functions")]
fn poll(ops: &'static Ops) -> i64 {
    // SAFETY: it is one of the two functions above.
    black_box(ops).poll.map_or(0, |poll| unsafe { poll(1, 1) })
}

struct Bare(&'static Ops);

impl Way for Bare {
    type Seat = ();

    fn seat(&self) {}

    #[inline]
    fn call(&self, (): &mut ()) -> i64 {
        poll(self.0)
    }
}

/// The gate's two instructions and nothing else: no table that can be exchanged, nothing for reports, no check of the answer.
struct Flag {
    ops: &'static Ops,
    closed: AtomicBool,
    asymmetric: bool,
}

#[repr(align(128))]
struct Active(AtomicBool);

impl Way for Flag {
    type Seat = Arc<Active>;

    fn seat(&self) -> Arc<Active> {
        Arc::new(Active(AtomicBool::new(false)))
    }

    #[inline]
    fn call(&self, active: &mut Arc<Active>) -> i64 {
        active.0.store(true, Relaxed);
        if self.asymmetric {
            compiler_fence(SeqCst)
        } else {
            fence(SeqCst)
        }
        let result = if self.closed.load(Acquire) { 0 } else { poll(self.ops) };
        active.0.store(false, Release);
        compiler_fence(SeqCst);
        if self.closed.load(Relaxed) { 0 } else { result }
    }
}

struct Gated(Arc<Gate>, Slot);

impl Gated {
    fn new(form: Form, ops: &'static Ops) -> anyhow::Result<Self> {
        let gate = Gate::with(4, form)?;
        #[expect(unsafe_code, reason = "promises that the table is one")]
        // SAFETY: a static table of the seven.
        let table = unsafe { hotpatch::Table::new(ops, driver_abi::OPS) };
        let slot = Slot::new(&gate, table);
        Ok(Self(gate, slot))
    }
}

impl Way for Gated {
    type Seat = Caller;

    fn seat(&self) -> Caller {
        self.0.register().expect("a place for each of four threads")
    }

    #[inline]
    fn call(&self, caller: &mut Caller) -> i64 {
        self.1.call(caller, 1, Args::Poll { events: 1 })
    }
}

/// All count in one place.
struct Counter {
    ops: &'static Ops,
    inside: AtomicU64,
    closed: AtomicBool,
}

impl Way for Counter {
    type Seat = ();

    fn seat(&self) {}

    #[inline]
    fn call(&self, (): &mut ()) -> i64 {
        self.inside.fetch_add(1, SeqCst);
        let result = if self.closed.load(SeqCst) { 0 } else { poll(self.ops) };
        self.inside.fetch_sub(1, SeqCst);
        result
    }
}

struct Lock(&'static Ops, RwLock<()>);

impl Way for Lock {
    type Seat = ();

    fn seat(&self) {}

    #[inline]
    fn call(&self, (): &mut ()) -> i64 {
        let _inside = self.1.read();
        poll(self.0)
    }
}

const NAMES: [&str; 7] = [
    "none",
    "flag, compiler fence",
    "flag, fence",
    "`Slot::call`, membarrier",
    "`Slot::call`, fence",
    "one atomic counter",
    "std's RwLock",
];

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let rounds = if ground.quick { 5 } else { 9 };
    let mut found: [Rounds; NAMES.len()] = Default::default();
    for _ in 0..rounds {
        for (way, rounds) in found.iter_mut().enumerate() {
            let empty = run(ground, way, &EMPTY, 1)?;
            let [one, two, four] = THREADS.map(|threads| run(ground, way, &WORK, threads));
            rounds.push(&[1000.0 / empty, one?, two?, four?]);
        }
    }
    let mut table = Table::new("a call", COLUMNS);
    let medians = found.map(|rounds| rounds.medians());
    let bare = medians[0].clone();
    for (name, figures) in NAMES.iter().zip(&medians) {
        let [ns, one, two, four] = figures[..] else { continue };
        table.row(*name, &[ns, ns - bare[0], one, two, four]);
    }
    report.add(&table);
    report.goal("the flag alone, ns a call beyond bare", 2.0, medians[1][0] - bare[0]);
    report.goal("`Slot::call`, ns a call beyond bare", 2.0, medians[3][0] - bare[0]);
    let lost = (1.0 - medians[3][2] / bare[2]) * 100.0;
    report.goal("`Slot::call`, 64 bytes, 2 threads, % of the calls lost", 15.0, lost);
    Ok(())
}

/// Millions of calls a second.
fn run(ground: &Ground, way: usize, ops: &'static Ops, threads: usize) -> anyhow::Result<f64> {
    let flag = |asymmetric| Flag { ops, closed: AtomicBool::new(false), asymmetric };
    let gated = |form| match Gated::new(form, ops) {
        Ok(gated) => Ok(timed(ground, &gated, threads)),
        // A kernel without membarrier has nothing to measure here.
        Err(_) if form == Form::Membarrier => Ok(NONE),
        Err(error) => Err(error),
    };
    Ok(match way {
        0 => timed(ground, &Bare(ops), threads),
        1 => timed(ground, &flag(true), threads),
        2 => timed(ground, &flag(false), threads),
        3 => gated(Form::Membarrier)?,
        4 => gated(Form::Fence)?,
        5 => {
            let (inside, closed) = (AtomicU64::new(0), AtomicBool::new(false));
            timed(ground, &Counter { ops, inside, closed }, threads)
        }
        _ => timed(ground, &Lock(ops, RwLock::new(())), threads),
    })
}

/// Each thread on a processor of its own, as far as there are enough.
fn timed<W: Way>(ground: &Ground, way: &W, threads: usize) -> f64 {
    let calls = if ground.quick { 500_000 } else { 2_000_000 };
    let start = Barrier::new(threads);
    let class = ground.measured();
    let took = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|number| {
                let start = &start;
                scope.spawn(move || {
                    // The first processor has the most interrupts.
                    pin((number + 1) % ground.cores);
                    let mut seat = way.seat();
                    schedule(class);
                    start.wait();
                    let begin = clock::now();
                    for _ in 0..calls {
                        black_box(way.call(&mut seat));
                    }
                    (begin, clock::now())
                })
            })
            .collect();
        let all = all.into_iter().filter_map(|thread| thread.join().ok());
        let (begins, ends): (Vec<_>, Vec<_>) = all.unzip();
        match (begins.into_iter().min(), ends.into_iter().max()) {
            (Some(begin), Some(end)) => end.since(begin),
            _ => Duration::ZERO,
        }
    });
    float(threads * calls) / micros(took)
}
