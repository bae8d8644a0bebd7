//! Upgrades of the example driver, version 1 to 2 and back with all of its state, under tasks that call nonstop: how long the gate is
//! closed, what for, and how long a task's call takes that meets it. In the same run the same without a gate.

use std::{
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::*},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use daemon::clock;
use hotpatch::{Args, Closing, Gate, Image, Module, Redirect, Sealed, Slot, host};
use testkit::drivers;

use crate::{
    ground::{Class, Ground, Nothing, schedule},
    numbers::{NONE, Report, Table, Times, float, micros},
    tasks::{Seen, Way, task},
};

const LIMIT: Duration = Duration::from_secs(10);
/// Between two upgrades.
const REST: Duration = Duration::from_micros(500);
const PAUSES: &[&str] =
    &["upgrades", "p50 us", "p99", "p99.9", "max", "drain p50", "state p50", "change p50"];
const CALLS: &[&str] = &["calls", "lost", "failed", "wrong", "met p50 us", "p95", "p99", "max"];

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Table,
    Jump,
    NoGate,
}

#[derive(Clone, Copy)]
struct Setup {
    kind: Kind,
    callers: u64,
    real_time: bool,
}

impl Setup {
    fn name(self) -> String {
        let Self { kind, callers, real_time } = self;
        let kind = match kind {
            Kind::Table => "table",
            Kind::Jump => "entry jumps",
            Kind::NoGate => "no gate, table",
        };
        let class = if real_time { "real time" } else { "ordinary" };
        let s = if callers == 1 { "" } else { "s" };
        format!("{kind}, {callers} caller{s}, {class}")
    }
}

/// The parts of each pause.
#[derive(Default)]
struct Parts {
    pause: Vec<Duration>,
    drain: Vec<Duration>,
    state: Vec<Duration>,
    change: Vec<Duration>,
}

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let upgrades = if ground.quick { 1000 } else { 3000 };
    let mut pauses = Table::new("gate closed", PAUSES);
    let mut calls = Table::new("callers", CALLS);
    let mut troubles = 0;
    for real_time in [true, false] {
        if real_time && !ground.real_time {
            continue;
        }
        for kind in [Kind::Table, Kind::Jump] {
            for callers in [1, 4] {
                let setup = Setup { kind, callers, real_time };
                let (parts, seen, lost) = run(setup, upgrades).with_context(|| setup.name())?;
                let figures = pause_figures(&parts);
                pauses.row(setup.name(), &figures);
                troubles += lost + call_row(&mut calls, &setup.name(), &seen, lost);
                if real_time {
                    goals(report, setup, &figures);
                }
            }
        }
    }
    let setup = Setup { kind: Kind::NoGate, callers: 4, real_time: ground.real_time };
    let (_, seen, lost) = run(setup, upgrades).with_context(|| setup.name())?;
    let without = lost + call_row(&mut calls, &setup.name(), &seen, lost);
    report.add(&pauses);
    report.add(&calls);
    report.goal("calls lost, failed or answered wrong, with the gate", 0.0, count(troubles));
    anyhow::ensure!(without > 0, "without a gate nothing went wrong: this run says nothing");
    Ok(())
}

fn goals(report: &mut Report, setup: Setup, figures: &[f64; 8]) {
    let what = setup.name();
    if setup.callers == 1 {
        report.goal(format!("{what}: pause p99, us"), 150.0, figures[2]);
    } else {
        report.goal(format!("{what}: pause p50, us"), 100.0, figures[1]);
        report.goal(format!("{what}: pause p99, us"), 300.0, figures[2]);
        report.goal(format!("{what}: pause p99.9, us"), 10_000.0, figures[3]);
    }
}

fn pause_figures(parts: &Parts) -> [f64; 8] {
    let pause = |per_mille| at(&parts.pause, per_mille);
    let half = |times: &[Duration]| at(times, 500);
    [
        float(parts.pause.len()),
        pause(500),
        pause(990),
        pause(999),
        pause(1000),
        half(&parts.drain),
        half(&parts.state),
        half(&parts.change),
    ]
}

/// Answers how many calls went wrong.
fn call_row(table: &mut Table, what: &str, seen: &[Seen], lost: u64) -> u64 {
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let (failed, wrong) = (sum(|seen| seen.failed), sum(|seen| seen.wrong));
    let held: Vec<Duration> = seen.iter().flat_map(|seen| seen.held.iter().copied()).collect();
    let Times { p50, p95, p99, max } = Times::of(held);
    let counts = [sum(|seen| seen.calls), lost, failed, wrong].map(count);
    table.row(what, &[&counts[..], &[p50, p95, p99, max]].concat());
    failed + wrong
}

fn at(times: &[Duration], per_mille: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let place = (times.len() * per_mille / 1000).min(times.len().saturating_sub(1));
    times.get(place).map_or(NONE, |time| micros(*time))
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}

/// The times, what the tasks saw, and how many calls are missing in the driver's own count.
fn run(setup: Setup, upgrades: u64) -> anyhow::Result<(Parts, Vec<Seen>, u64)> {
    let folder = tempfile::tempdir()?;
    let versions = [load(folder.path(), "1")?, load(folder.path(), "2")?];
    let places = usize::try_from(setup.callers)? + 1;
    let gate = Gate::new(places)?;
    anyhow::ensure!(versions[0].import(host(&Nothing), &[]) == 0, "the driver doesn't begin");
    let slot = Slot::new(&gate, versions[0].table());
    for handle in 1..=setup.callers {
        let mut caller = gate.register().context("the first one has a place")?;
        anyhow::ensure!(slot.call(&mut caller, handle, Args::Open { flags: 0 }) == 0, "no handle");
    }
    let way = if setup.kind == Kind::NoGate {
        let ops = versions[0].table().ops().cast_mut();
        Way::Bare(gate, AtomicPtr::new(ops), AtomicU64::new(0))
    } else {
        Way::Gated(gate, slot)
    };
    let stop = AtomicBool::new(false);
    let start = Barrier::new(places);
    let (times, seen) = thread::scope(|scope| {
        let tasks: Vec<_> = (1..=setup.callers)
            .map(|handle| {
                let (way, stop, start) = (&way, &stop, &start);
                scope.spawn(move || {
                    let caller = way.register();
                    schedule(if setup.real_time { Class::RoundRobin } else { Class::Ordinary });
                    start.wait();
                    Ok(task(way, &mut caller?, handle, stop))
                })
            })
            .collect();
        let upgrader = scope.spawn(|| {
            schedule(if setup.real_time { Class::Upgrader } else { Class::Ordinary });
            start.wait();
            let times = upgrade_all(setup, &way, &versions, upgrades);
            stop.store(true, Relaxed);
            times
        });
        let times = upgrader.join();
        let seen = tasks.into_iter().map(|task| match task.join() {
            Ok(seen) => seen,
            Err(_) => anyhow::bail!("a task panicked"),
        });
        (times, seen.collect::<anyhow::Result<Vec<Seen>>>())
    });
    let (Ok(times), seen) = (times, seen?) else { anyhow::bail!("the upgrader panicked") };
    let calls: u64 = seen.iter().map(|seen| seen.calls - seen.failed).sum();
    Ok((times?, seen, calls.abs_diff(way.counted()?)))
}

fn load(folder: &Path, version: &str) -> anyhow::Result<Module> {
    let bytes = std::fs::read(drivers::build(folder, "counter", &[&drivers::version(version)]))?;
    Ok(Module::load(&Sealed::new("counter", &bytes)?, &Image::check(&bytes)?)?)
}

fn upgrade_all(
    setup: Setup,
    way: &Way,
    versions: &[Module; 2],
    upgrades: u64,
) -> anyhow::Result<Parts> {
    let mut parts = Parts::default();
    let mut jumps = jumps(setup, versions)?;
    for number in 0..upgrades {
        // The tasks call.
        thread::park_timeout(REST);
        let old = usize::from(!number.is_multiple_of(2));
        let (old, new) = (&versions[old], &versions[1 - old]);
        let carry = || -> anyhow::Result<()> {
            let answer = new.import(host(&Nothing), &old.export()?);
            anyhow::ensure!(answer >= 0, "the state is not taken: {answer}");
            Ok(())
        };
        match way {
            Way::Bare(_, ops, generation) => {
                carry()?;
                ops.store(new.table().ops().cast_mut(), SeqCst);
                generation.fetch_add(1, SeqCst);
            }
            Way::Gated(gate, slot) => {
                let closing = Closing { real_time: setup.real_time, ..Closing::default() };
                let closed = gate.close_with(LIMIT, closing)?;
                let drained = clock::now();
                carry()?;
                let carried = clock::now();
                let change = closed.change()?;
                for jump in &mut jumps {
                    if number.is_multiple_of(2) {
                        jump.apply(&closed)?
                    } else {
                        jump.undo(&closed)?
                    }
                }
                slot.swap(&closed, if jumps.is_empty() { new.table() } else { slot.table() })?;
                drop(change);
                let changed = clock::now();
                let opened = closed.open();
                parts.pause.push(opened.pause);
                parts.drain.push(opened.drain);
                parts.state.push(carried.since(drained));
                parts.change.push(changed.since(carried));
            }
        }
    }
    Ok(parts)
}

/// From each operation of version 1 to that of version 2.
fn jumps(setup: Setup, versions: &[Module; 2]) -> anyhow::Result<Vec<Redirect>> {
    if setup.kind != Kind::Jump {
        return Ok(Vec::new());
    }
    let [one, two] = versions;
    let operations = one.functions().iter().filter(|function| function.operation.is_some());
    let jumps = operations.map(|from| {
        let same = |to: &&hotpatch::Function| to.operation == from.operation;
        let to = two.functions().iter().find(same).context("version 2 has each operation")?;
        Ok(Redirect::new(from, std::ptr::with_exposed_provenance(to.address))?)
    });
    jumps.collect()
}
