//! What a driver's gate costs a call, beside other ways to count who is inside, and how long a live upgrade stops callers, beside
//! an exchange of the code without a gate. Run it by `scripts/bench driver`.
//!
//! What is compared takes turns, several rounds of it, and the median of the rounds counts. Prints tables, then a line of JSON.

mod cost;
mod ground;
#[path = "../bench_bus/numbers.rs"]
mod numbers;
mod pauses;
mod tasks;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::{ground::Ground, numbers::Report};

const SECTIONS: [&str; 2] = ["gate", "pauses"];

struct Options {
    quick: bool,
    only: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match options(&arguments).and_then(|options| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_driver: {error:#}");
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
    let ground = Ground::new(options.quick);
    let mut report = Report::default();
    for section in SECTIONS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == section) {
            continue;
        }
        eprintln!("{section}");
        let outcome = match section {
            "gate" => cost::measure(&ground, &mut report),
            _ => pauses::measure(&ground, &mut report),
        };
        outcome.with_context(|| section.to_owned())?;
    }
    report.finish();
    Ok(())
}
