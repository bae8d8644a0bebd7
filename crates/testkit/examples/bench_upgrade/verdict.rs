//! How soon it is known whether a bundle is believed: the whole run of `vestalctl upgrade install --dry-run`, beside one that only
//! asks for the status.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use testkit::binary;

use crate::{
    Ground,
    cost::now,
    images::{pack, run},
    numbers::{Report, Table, Times},
    suite::Suite,
};

/// Runs of a round.
const RUNS: usize = 20;
const GOAL_MS: f64 = 10.0;
const IMAGE: usize = 1 << 20;
/// Where the first signature's bytes begin: after the header, and what says whose it is.
const SIGNATURE: usize = 48 + 12;

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let scratch = tempfile::Builder::new().prefix("vt").tempdir_in("/tmp")?;
    let (good, flipped, stranger) = bundles(scratch.path())?;
    let suite = Suite::start(&scratch.path().join("keys"), "", &[], &[])?;
    for letter in ['a', 'b'] {
        fs::write(suite.slot(letter), vec![0xff; IMAGE])?;
    }
    let dry = |bundle: &Path| {
        let mut command = suite.install(bundle);
        command.arg("--dry-run").stderr(Stdio::null());
        command
    };
    let mut status = suite.device.command("vestalctl");
    status.args(["upgrade", "status"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut cases = [
        ("status alone", status, true),
        ("believed", dry(&good), true),
        ("a bit of the signature is wrong", dry(&flipped), false),
        ("signed by a stranger", dry(&stranger), false),
    ];
    let mut times: [Vec<_>; 4] = Default::default();
    for _ in 0..ground.rounds * RUNS {
        for ((what, command, is_good), times) in cases.iter_mut().zip(&mut times) {
            let before = now();
            let ended = command.status().context("start vestalctl")?;
            let after = now();
            anyhow::ensure!(ended.success() == *is_good, "{what}: it ended with {ended}");
            times.push(std::time::Duration::from_nanos(u64::try_from(after - before)?));
        }
    }
    let columns = &["p50 ms", "p95 ms", "p99 ms", "max ms"];
    let mut table = Table::new("verdict, the whole program", columns);
    for ((what, ..), times) in cases.iter().zip(times) {
        let Times { p50, p95, p99, max } = Times::of(times);
        table.row(*what, &[p50, p95, p99, max].map(|us| us / 1e3));
        if *what != "status alone" {
            report.goal(format!("verdict, {what}: p95 ms"), GOAL_MS, p95 / 1e3);
        }
    }
    report.add(&table);
    Ok(())
}

/// One that is believed, one with another bit, one of keys that the device does not know.
fn bundles(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf, PathBuf)> {
    let image = folder.join("image");
    fs::write(&image, vec![7; IMAGE])?;
    for name in ["keys", "others"] {
        let keys = folder.join(name);
        run(Command::new(binary("vestal")).args(["keygen", "--dev"]).arg(keys))?;
    }
    let bundle = |version: &str| folder.join(format!("{version}.vestal"));
    pack(folder, &folder.join("keys"), "1", &image)?;
    pack(folder, &folder.join("others"), "2", &image)?;
    let mut bytes = fs::read(bundle("1"))?;
    *bytes.get_mut(SIGNATURE).context("a bundle has a signature")? ^= 1;
    fs::write(bundle("3"), bytes)?;
    Ok((bundle("1"), bundle("3"), bundle("2")))
}
