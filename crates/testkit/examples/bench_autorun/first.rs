//! From the return of the write to the first instruction of the first target, and what one record costs on each of the two disks.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use rustix::fs::OFlags;

use crate::{
    Ground,
    clocks::{between, now},
    numbers::{NONE, Report, Rounds, Table, Times},
    stand::{Place, Stand, Wanted, programs},
};

const GOAL_MS: f64 = 10.0;
const IDEMPOTENT: &str = "idempotent = true\n";
const RECORD: usize = 4096;

/// Memory that begins where O_DIRECT wants it to begin.
#[repr(align(4096))]
struct Aligned([u8; RECORD]);

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let mut stands = Vec::new();
    for (what, journal, groups, rest) in [
        ("journal on the disk, once only", Place::Disk, true, ""),
        ("journal on the disk, idempotent", Place::Disk, true, IDEMPOTENT),
        ("journal in memory, once only", Place::Memory, true, ""),
        ("journal in memory, idempotent", Place::Memory, true, IDEMPOTENT),
        ("journal on the disk, once only, without cgroups", Place::Disk, false, ""),
        ("journal in memory, once only, without cgroups", Place::Memory, false, ""),
    ] {
        let wanted = Wanted { targets: programs(1, rest), groups, ..Wanted::new(journal) };
        stands.push((what, Stand::start(&wanted)?, Vec::new(), Rounds::default()));
    }
    for round in 0..=ground.rounds {
        for (what, stand, times, costs) in &mut stands {
            let life = stand.live(1).with_context(|| (*what).to_owned())?;
            // The first one finds nothing in any cache.
            if round > 0 {
                times.push(between(life.woke, life.first)?);
                costs.push(&[life.engine_ms]);
            }
        }
    }
    let columns = &["p50 ms", "p95 ms", "p99 ms", "max ms", "engine's CPU ms"];
    let mut table = Table::new("the write returns until the first target begins", columns);
    for (what, _, times, costs) in stands {
        let times = Times::of(times);
        let cpu = costs.medians().first().copied().unwrap_or(NONE);
        let figures = [times.p50, times.p95, times.p99, times.max].map(|us| us / 1e3);
        table.row(what, &[figures.as_slice(), &[cpu]].concat());
        if what.contains("once only") {
            report.goal(format!("first target, {what}: p95 ms"), GOAL_MS, figures[1]);
        }
    }
    for (what, place) in [
        ("one record alone, on the disk: two read, one written and flushed", "/tmp"),
        ("one record alone, in memory", "/dev/shm"),
    ] {
        let times = Times::of(records(ground, Path::new(place))?);
        let figures = [times.p50, times.p95, times.p99, times.max].map(|us| us / 1e3);
        table.row(what, &[figures.as_slice(), &[NONE]].concat());
    }
    report.add(&table);
    Ok(())
}

/// What the engine does with the journal for each record, and nothing else.
fn records(ground: &Ground, place: &Path) -> anyhow::Result<Vec<Duration>> {
    let folder = tempfile::Builder::new().prefix("vb").tempdir_in(place)?;
    let path = folder.path().join("journal");
    fs::write(&path, [0; 2 * RECORD])?;
    fs::File::open(&path)?.sync_all()?;
    let mut times = Vec::new();
    for round in 0..=10 * ground.rounds {
        let before = now();
        record(&path, round).context("write a record")?;
        if round > 0 {
            times.push(between(before, now())?);
        }
    }
    Ok(times)
}

fn record(path: &Path, round: usize) -> io::Result<()> {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let mut block = Box::new(Aligned([0; RECORD]));
    let slots = [0, RECORD as u64];
    for at in slots {
        file.read_exact_at(&mut block.0, at)?;
    }
    block.0[0] = block.0[0].wrapping_add(1);
    file.write_all_at(&block.0, slots[round % 2])?;
    file.sync_all()
}
