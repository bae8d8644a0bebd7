//! Treats a device badly for some minutes, at random but repeatably, and looks whether it is well after each step. Run it by
//! `scripts/soak`.
//!
//! Steps are a pure function of the seed (`plan`); `steps` does them, `soak` knows what must hold afterwards.

mod guest;
mod host;
mod plan;
mod report;
mod soak;
mod steps;

use std::{panic, process::ExitCode, time::Duration};

use anyhow::Context as _;
use daemon::clock;
use testkit::machine::Image;

use crate::{plan::Plan, report::Report, soak::Soak};

/// So much of the console is shown where something was wrong.
const TAIL_LINES: usize = 60;

struct Options {
    time: Duration,
    seed: u64,
    json: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match options(&arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("soak: {error:#}");
            return ExitCode::from(2);
        }
    };
    let Some(image) = Image::from_env("VESTAL_IMAGE") else { return ExitCode::from(2) };
    let report = soak(&image, &options);
    if options.json {
        println!("{}", report.json());
    } else {
        report.print();
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let mut arguments = arguments.iter();
    let minutes: u64 = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .filter(|minutes| (1..=10_000).contains(minutes))
        .context("how many minutes? scripts/soak MINUTES, 1 to 10000")?;
    let seed = u64::try_from(clock::wall().as_millis()).unwrap_or(1);
    let mut options = Options { time: Duration::from_secs(minutes * 60), seed, json: false };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => options.json = true,
            "--seed" => {
                let seed = arguments.next().and_then(|text| text.parse().ok());
                options.seed = seed.context("--seed needs a number")?;
            }
            unknown => anyhow::bail!("unknown argument {unknown:?}: there are --seed N and --json"),
        }
    }
    Ok(options)
}

/// The whole run. What does not answer makes the kit panic, which is one more violation.
fn soak(image: &Image, options: &Options) -> Report {
    eprintln!("seed {}", options.seed);
    let mut soak = match panic::catch_unwind(|| Soak::start(image, options.seed)) {
        Ok(Ok(soak)) => soak,
        Ok(Err(error)) => return failed(options.seed, format!("at the start: {error:#}")),
        Err(_) => return failed(options.seed, "the machine has not started: see above".to_owned()),
    };
    // It is not run again afterwards, only asked what it has seen.
    let run = panic::AssertUnwindSafe(|| soak.run(Plan::new(options.seed), options.time));
    let violation = match panic::catch_unwind(run) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some("the machine did not answer as it should: see above".to_owned()),
    };
    soak.report.violations.extend(violation);
    if !soak.report.violations.is_empty() {
        let console = soak.machine.console();
        let lines: Vec<&str> = console.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        eprintln!("--- console:\n{}", tail.join("\n"));
    }
    soak.report
}

fn failed(seed: u64, violation: String) -> Report {
    let mut report = Report::new(seed);
    report.violations.push(violation);
    report
}
