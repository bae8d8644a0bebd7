//! An install of 256 MiB into a file, beside programs that do a part of it and peers that do all of it: in full, again, and
//! with a small change.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context as _;

use crate::{
    Ground,
    cost::{Cost, cost_of, costs_of},
    images::{Images, program, run},
    numbers::{NONE, Report, Rounds, Table, float},
    peers::{Rauc, Swupdate},
    suite::{Suite, fill},
};

const COLUMNS: [&str; 6] = [
    "wall ms",
    "CPU ms, all",
    "peak KiB, programs",
    "peak KiB, daemons",
    "MB transferred",
    "MB written",
];
const MB: f64 = 1e6;
const CPU_GOAL: f64 = 1.3;
const WALL_GOAL: f64 = 1.2;
const MEMORY_GOAL_KIB: f64 = 16384.0;
const CHANGE_GOAL_MB: f64 = 13.0;
/// Nothing of the slot: journal, history, and which chunk is where.
const REPEATED_GOAL_MB: f64 = 1.0;

/// One row of the table.
struct Row {
    what: &'static str,
    rounds: Rounds,
}

/// Rows in the order in which they were first measured.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, what: &'static str, cost: &Cost, transferred: f64) {
        let figures = [
            cost.wall_ms,
            cost.cpu_ms,
            cost.programs_kib,
            if cost.daemons_kib > 0.0 { cost.daemons_kib } else { NONE },
            transferred / MB,
            cost.written / MB,
        ];
        let place = self.0.iter().position(|row| row.what == what).unwrap_or_else(|| {
            self.0.push(Row { what, rounds: Rounds::default() });
            self.0.len() - 1
        });
        self.0[place].rounds.push(&figures);
    }

    fn figure(&self, what: &str, column: usize) -> f64 {
        let row = self.0.iter().find(|row| row.what == what);
        row.map_or(NONE, |row| row.rounds.medians()[column])
    }
}

const DD: &str = "dd, 1 MiB, direct, flushed";
const PIPE: &str = "zstd -d, sha256sum";
const FULL: &str = "vestal, full";
const AGAIN: &str = "vestal, the same again";
const CHANGE: &str = "vestal, small change, other slot erased";
const NEXT: &str = "vestal, small change, other slot has the version before";
const BACK: &str = "vestal, back to what the other slot has";

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let scratch = tempfile::Builder::new().prefix("vt").tempdir_in("/tmp")?;
    let folder = scratch.path();
    eprintln!("making images and bundles");
    let images = Images::make(folder, 3)?;
    let packed = folder.join("1.img.zst");
    run(program("zstd").args(["-q", "-9", "-T0"]).arg(images.image(1)).arg("-o").arg(&packed))?;
    let rauc = Rauc::start(&images, &folder.join("rauc"))?;
    let swupdate = Swupdate::prepare(&packed, &folder.join("swupdate"))?;
    let slot = folder.join("dd.img");
    fill(&slot)?;
    let mut rows = Rows::default();
    for round in 0..ground.rounds {
        eprintln!("round {} of {}", round + 1, ground.rounds);
        limits(&images.image(1), &packed, &slot, &mut rows)?;
        vestal(&images, &mut rows)?;
        if let Some(rauc) = &rauc {
            peer(rauc, &images, &mut rows)?;
        }
        if let Some(swupdate) = &swupdate {
            let cost = cost_of(&[], &mut swupdate.install())?;
            rows.add("swupdate, raw and zstd", &cost, length(&swupdate.bundle())?);
            same(&images.image(1), &swupdate.slot())?;
        }
    }
    let mut table = Table::new("256 MiB into a file", &COLUMNS);
    for row in &rows.0 {
        table.row(row.what, &row.rounds.medians());
    }
    let changed = float(usize::try_from(images.changed)?) / MB;
    let figures = [NONE, NONE, NONE, NONE, changed, NONE];
    table.row("the files of the first small change alone, zstd -9", &figures);
    report.add(&table);
    goals(&rows, report);
    Ok(())
}

fn goals(rows: &Rows, report: &mut Report) {
    let cpu = rows.figure(FULL, 1) / rows.figure(PIPE, 1);
    report.goal("full install: CPU, times zstd -d and sha256sum", CPU_GOAL, cpu);
    let slower = rows.figure(DD, 0).max(rows.figure(PIPE, 0));
    let wall = rows.figure(FULL, 0) / slower;
    report.goal("full install: wall, times the slower of dd and that", WALL_GOAL, wall);
    let memory = rows.0.iter().filter(|row| row.what.starts_with("vestal"));
    let memory = memory.map(|row| row.rounds.medians()[3]).fold(0.0, f64::max);
    report.goal("peak of both processes of the agent: KiB", MEMORY_GOAL_KIB, memory);
    for what in [CHANGE, NEXT] {
        let transferred = rows.figure(what, 4);
        report.goal(format!("{what}: MB transferred"), CHANGE_GOAL_MB, transferred);
    }
    for what in [AGAIN, BACK] {
        report.goal(format!("{what}: MB written"), REPEATED_GOAL_MB, rows.figure(what, 5));
    }
}

/// What cannot be done without.
fn limits(image: &Path, packed: &Path, slot: &Path, rows: &mut Rows) -> anyhow::Result<()> {
    let mut command = program("dd");
    command.args(["bs=1M", "oflag=direct", "conv=notrunc,fsync", "status=none"]);
    command.arg(format!("if={}", image.display())).arg(format!("of={}", slot.display()));
    rows.add(DD, &cost_of(&[], &mut command)?, NONE);
    let cost = cost_of(&[], program("sha256sum").arg(slot))?;
    rows.add("sha256sum of the slot, from the disk", &cost, NONE);
    for (what, hash) in [
        (PIPE, &["sha256sum"][..]),
        ("zstd -d, openssl's SHA-256", &["openssl", "dgst", "-sha256"][..]),
    ] {
        let cost = costs_of(&[], || {
            let mut unpack = program("zstd");
            unpack.args(["-q", "-d", "-c"]).arg(packed).stdout(Stdio::piped());
            let mut unpack = unpack.spawn().context("start zstd")?;
            let output = unpack.stdout.take().context("it has an output")?;
            let mut command = program(hash[0]);
            let hash = command.args(&hash[1..]).stdin(output).spawn().context("start the hash")?;
            Ok(vec![unpack, hash])
        })?;
        rows.add(what, &cost, length(packed)?);
    }
    Ok(())
}

fn vestal(images: &Images, rows: &mut Rows) -> anyhow::Result<()> {
    let suite = Suite::start(&images.keys(), "", &[], &[])?;
    for letter in ['a', 'b'] {
        fill(&suite.slot(letter))?;
    }
    for (what, number, letter) in
        [(FULL, 1, 'b'), (AGAIN, 1, 'b'), (CHANGE, 2, 'a'), (NEXT, 3, 'b'), (BACK, 2, 'a')]
    {
        let mut command = suite.install(&images.bundle(number));
        let cost = cost_of(&suite.daemons, &mut command).with_context(|| what.to_owned())?;
        // The bundle is read as it is sent, but for its own libraries.
        rows.add(what, &cost, cost.read);
        suite.confirmed();
        same(&images.image(number), &suite.slot(letter)).with_context(|| what.to_owned())?;
    }
    Ok(())
}

fn peer(rauc: &Rauc, images: &Images, rows: &mut Rows) -> anyhow::Result<()> {
    let daemons = rauc.daemons();
    for (what, name, number) in
        [("rauc, full", "full", 1), ("rauc, small change, block-hash-index", "small", 2)]
    {
        let cost = cost_of(&daemons, &mut rauc.install(name)).with_context(|| what.to_owned())?;
        rows.add(what, &cost, length(&rauc.bundle(name))?);
        same(&images.image(number), &rauc.slot('b'))?;
    }
    Ok(())
}

fn length(path: &Path) -> anyhow::Result<f64> {
    Ok(float(usize::try_from(fs::metadata(path)?.len())?))
}

/// Whether a slot holds the image: who installs something else is not measured.
fn same(image: &Path, slot: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("cmp");
    run(command.arg("-s").arg(image).arg(slot))
}
