//! Thirty programs that do nothing: by the engine, four at a time, and by what people have without one.

use std::time::Duration;

use anyhow::Context as _;

use crate::{
    Ground,
    clocks::between,
    hooks::{Hook, Hooks},
    numbers::{NONE, Report, Rounds, Table, Times, float},
    stand::{Place, Stand, Wanted, programs},
};

const COUNT: usize = 30;
const GOAL_MS: f64 = 300.0;
const IDEMPOTENT: &str = "idempotent = true\n";

/// What one contender took.
#[derive(Default)]
struct Took {
    first: Vec<Duration>,
    last: Vec<Duration>,
    done: Vec<Duration>,
    cpu: Rounds,
    /// Where the kernel tells it in steps that are too large for one round.
    children_ms: f64,
}

impl Took {
    fn row(self, table: &mut Table, what: &str) -> f64 {
        let rounds = float(self.done.len());
        let medians = self.cpu.medians();
        let at = |column: usize| medians.get(column).copied().unwrap_or(NONE);
        let [first, last, done] = [self.first, self.last, self.done].map(Times::of);
        let times = [first.p50, last.p50, done.p50, done.p95, done.max].map(|us| us / 1e3);
        let all = at(1) + self.children_ms / rounds;
        table.row(what, &[times.as_slice(), &[at(0), all]].concat());
        times[3]
    }
}

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let mut stands = Vec::new();
    for (what, journal, groups, rest) in [
        ("engine, journal on the disk, once only", Place::Disk, true, ""),
        ("engine, journal on the disk, idempotent", Place::Disk, true, IDEMPOTENT),
        ("engine, journal in memory, once only", Place::Memory, true, ""),
        ("engine, journal in memory, idempotent", Place::Memory, true, IDEMPOTENT),
        ("engine, journal on the disk, once only, without cgroups", Place::Disk, false, ""),
        ("engine, journal in memory, once only, without cgroups", Place::Memory, false, ""),
    ] {
        let wanted = Wanted { targets: programs(COUNT, rest), groups, ..Wanted::new(journal) };
        stands.push((what, Stand::start(&wanted)?, Took::default()));
    }
    let hooks = Hooks::new(COUNT)?;
    let mut others = [
        ("sh, one after another", Hook::Sequence, Took::default()),
        ("sh, all in the background", Hook::Background, Took::default()),
        ("run-parts", Hook::RunParts, Took::default()),
        ("posix_spawn and wait, no shell", Hook::Spawn, Took::default()),
    ];
    for round in 0..=ground.rounds {
        for (what, stand, took) in &mut stands {
            let life = stand.live(COUNT).with_context(|| (*what).to_owned())?;
            // The first one finds nothing in any cache.
            if round > 0 {
                took.first.push(between(life.woke, life.first)?);
                took.last.push(between(life.woke, life.last)?);
                took.done.push(between(life.woke, life.done)?);
                took.cpu.push(&[life.engine_ms, life.engine_ms]);
                took.children_ms += life.children_ms;
            }
        }
        for (what, hook, took) in &mut others {
            let ran = hooks.run(*hook).with_context(|| (*what).to_owned())?;
            if round > 0 {
                took.first.push(ran.first);
                took.last.push(ran.last);
                took.done.push(ran.done);
                took.cpu.push(&[NONE, ran.cpu_ms]);
            }
        }
    }
    let columns = &[
        "first begins, p50 ms",
        "last begins",
        "done, p50 ms",
        "p95",
        "max",
        "engine's CPU ms",
        "CPU ms, all",
    ];
    let mut table = Table::new("30 programs that do nothing", columns);
    for (what, _, took) in stands {
        let p95 = took.row(&mut table, what);
        if what.contains("once only") {
            report.goal(format!("30 targets, {what}: done, p95 ms"), GOAL_MS, p95);
        }
    }
    for (what, _, took) in others {
        took.row(&mut table, what);
    }
    report.add(&table);
    Ok(())
}
