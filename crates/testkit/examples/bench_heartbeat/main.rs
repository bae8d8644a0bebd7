//! What heartbeats cost: the broker with 1, 1,000 and 10,000 sessions, beside a server that only receives 46 octets and sends 6,
//! and a ping over Reliable UDP beside one over bare UDP. Run it by `scripts/bench heartbeat`.
//!
//! One process plays all applications, each with a socket of its own. What is compared takes turns on the same sockets, several
//! rounds of it, and the median of the rounds counts. Prints tables, then a line of JSON.

mod beats;
mod broker;
mod connections;
mod detection;
mod echo;
mod fleet;
mod ground;
mod idle;
#[path = "../bench_bus/numbers.rs"]
mod numbers;
mod ping;
mod raw;
mod recovery;
mod segment;
mod session;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::{ground::Ground, numbers::Report};

const SECTIONS: [&str; 6] = ["segment", "ping", "beats", "idle", "detection", "recovery"];

struct Options {
    quick: bool,
    only: Vec<String>,
    sizes: Vec<usize>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        // The other processes of a measurement.
        [role] if role == "beats" => raw::serve(),
        [role] if role == "echo" => echo::bare(),
        [role] if role == "reliable-echo" => echo::reliable(),
        [role] if role == "connections" => connections::weigh(),
        _ => options(&arguments).and_then(|options| measure(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_heartbeat: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options { quick: false, only: Vec::new(), sizes: vec![1, 1_000, 10_000] };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--only" => {
                let name = value()?;
                let known = SECTIONS.join(", ");
                anyhow::ensure!(SECTIONS.contains(&&**name), "--only {name}: there are {known}");
                options.only.push(name.clone());
            }
            "--sizes" => {
                let numbers = value()?.split(',').map(str::parse).collect::<Result<_, _>>();
                options.sizes = numbers.context("--sizes: numbers with commas, as in 1,1000")?;
            }
            unknown => anyhow::bail!(
                "unknown argument {unknown:?}: there are --quick, --only NAME and --sizes N,N"
            ),
        }
    }
    Ok(options)
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let ground = Ground::new(options.quick)?;
    let mut report = Report::default();
    for section in SECTIONS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == section) {
            continue;
        }
        eprintln!("{section}");
        let outcome = match section {
            "segment" => segment::measure(&ground, &mut report),
            "ping" => ping::measure(&ground, &mut report),
            "beats" => beats::measure(&ground, &options.sizes, &mut report),
            "idle" => idle::measure(&ground, &options.sizes, &mut report),
            "detection" => detection::measure(&ground, &options.sizes, &mut report),
            _ => recovery::measure(&ground, &options.sizes, &mut report),
        };
        outcome.with_context(|| section.to_owned())?;
    }
    report.finish();
    Ok(())
}
