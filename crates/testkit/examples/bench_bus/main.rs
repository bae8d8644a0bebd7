//! What the bus costs: the registry with 300 objects, news of a death, broadcast, floods, rules and live replacement, each
//! beside something simpler that does the same in the same run. Run it by `scripts/bench ipc`.
//!
//! The machine may be busy: what is compared takes turns, several rounds of it, and the median of the rounds counts. Prints tables,
//! then a line of JSON.

mod broadcast;
mod deaths;
mod flood;
mod ground;
mod lookups;
mod numbers;
mod raw;
mod replacement;
mod roles;
mod rules;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::{ground::Ground, numbers::Report};

const SECTIONS: [&str; 6] = ["registry", "deaths", "broadcast", "flood", "rules", "replacement"];

struct Options {
    quick: bool,
    only: Vec<String>,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = runtime.context("make a runtime").and_then(|runtime| {
        runtime.block_on(async {
            match arguments.split_first() {
                // The other processes of a measurement.
                Some((role, rest)) if !role.starts_with('-') => roles::run(role, rest).await,
                _ => measure(&options(&arguments)?).await,
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_bus: {error:#}");
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

async fn measure(options: &Options) -> anyhow::Result<()> {
    let ground = Ground::new(options.quick)?;
    println!("scheduler: {}", ground::scheduler());
    let mut report = Report::default();
    for section in SECTIONS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == section) {
            continue;
        }
        eprintln!("{section}");
        let outcome = match section {
            "registry" => lookups::measure(&ground, &mut report).await,
            "deaths" => deaths::measure(&ground, &mut report).await,
            "broadcast" => broadcast::measure(&ground, &mut report).await,
            "flood" => flood::measure(&ground, &mut report).await,
            "rules" => rules::measure(&ground, &mut report).await,
            _ => replacement::measure(&ground, &mut report),
        };
        outcome.with_context(|| section.to_owned())?;
    }
    report.finish();
    Ok(())
}
