//! Measures the upgrade agent with the real programs: an install of 256 MiB beside `dd`, `sha256sum`, `zstd`, RAUC and SWUpdate, small
//! changes and repetitions, how soon a bundle is refused, and how long an application is away. Run it by `scripts/bench upgrade`.
//!
//! What is compared takes turns, several rounds of it, and the median of the rounds counts. Prints tables, then a line of JSON.

mod cost;
mod images;
mod install;
#[path = "../bench_bus/numbers.rs"]
mod numbers;
mod peers;
mod suite;
mod switch;
mod verdict;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::numbers::Report;

const SECTIONS: [&str; 3] = ["install", "verdict", "switch"];

/// How thoroughly to measure.
pub(crate) struct Ground {
    pub(crate) rounds: usize,
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
            eprintln!("bench_upgrade: {error:#}");
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
    anyhow::ensure!(root, "only root can say what the processes read and wrote: run it as root");
    let ground = Ground { rounds: if options.quick { 3 } else { 5 } };
    let mut report = Report::default();
    for section in SECTIONS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == section) {
            continue;
        }
        eprintln!("{section}");
        let outcome = match section {
            "install" => install::measure(&ground, &mut report),
            "verdict" => verdict::measure(&ground, &mut report),
            _ => switch::measure(&ground, &mut report),
        };
        outcome.with_context(|| section.to_owned())?;
    }
    report.finish();
    Ok(())
}
