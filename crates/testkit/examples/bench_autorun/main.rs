//! What the autorun engine costs: from the return of the write that takes an image to the first target, thirty targets beside a
//! shell's hook, an idle engine, arming and the way back. The real engine, registry and supervisor, on a machine that is a folder.
//! Run it by `scripts/bench autorun`.
//!
//! What is compared takes turns, many rounds of it. Prints tables, then a line of JSON.

mod arming;
mod clocks;
mod first;
mod hooks;
mod idle;
mod leaving;
#[path = "../bench_bus/numbers.rs"]
mod numbers;
mod stand;
mod thirty;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::numbers::Report;

const SECTIONS: [&str; 5] = ["first", "thirty", "leaving", "arming", "idle"];

/// How thoroughly to measure.
pub(crate) struct Ground {
    pub(crate) rounds: usize,
    /// How long idle engines are watched.
    pub(crate) watch_ms: i64,
}

struct Options {
    quick: bool,
    only: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match options(&arguments).and_then(|options| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_autorun: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options { quick: false, only: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--only" => {
                let name = arguments.next().context("--only needs a name")?;
                let known = SECTIONS.join(", ");
                anyhow::ensure!(SECTIONS.contains(&&**name), "--only {name}: there are {known}");
                options.only.push(name.clone());
            }
            unknown => {
                anyhow::bail!("unknown argument {unknown:?}: there are --quick and --only NAME")
            }
        }
    }
    Ok(options)
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let root = rustix::process::geteuid().is_root();
    anyhow::ensure!(root, "run directories are mounted in memory here: run it as root");
    let ground = match options.quick {
        true => Ground { rounds: 30, watch_ms: 10_000 },
        false => Ground { rounds: 100, watch_ms: 60_000 },
    };
    let mut report = Report::default();
    for section in SECTIONS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == section) {
            continue;
        }
        eprintln!("{section}");
        let outcome = match section {
            "first" => first::measure(&ground, &mut report),
            "thirty" => thirty::measure(&ground, &mut report),
            "leaving" => leaving::measure(&ground, &mut report),
            "arming" => arming::measure(&ground, &mut report),
            _ => idle::measure(&ground, &mut report),
        };
        outcome.with_context(|| section.to_owned())?;
    }
    report.finish();
    Ok(())
}
