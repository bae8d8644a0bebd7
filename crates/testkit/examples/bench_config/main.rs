//! What configuration costs: from an edit to its trigger, the watcher's start with 1,000 files, `reload_config` beside the loop
//! that OpenWrt's does, comments, the applets and init scripts. Run it by `scripts/bench config`.
//!
//! As root it runs in a pid namespace of its own, where the kernel's last pid counts every process and thread that was begun.
//! What is compared takes turns, several rounds of it, and the median of the rounds counts. Prints tables, then a line of JSON.

mod applets;
mod comments;
mod edit;
mod ground;
#[path = "../bench_bus/numbers.rs"]
mod numbers;
mod reload;
#[path = "../bench_supervisor/reports.rs"]
mod reports;
mod scripts;
mod startup;
mod suite;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;

use crate::{ground::Ground, numbers::Report};

const SECTIONS: [&str; 6] = ["edit", "startup", "reload", "comments", "applets", "scripts"];

struct Options {
    quick: bool,
    only: Vec<String>,
    /// The namespace is made.
    inside: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        // The other process of a measurement.
        [role, folder] if role == "floor" => edit::floor(Path::new(folder)),
        _ => options(&arguments).and_then(|options| enter(&options, &arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_config: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options { quick: false, only: Vec::new(), inside: false };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--inside" => options.inside = true,
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

/// Measures in namespaces of our own where we may make them.
fn enter(options: &Options, arguments: &[String]) -> anyhow::Result<()> {
    if options.inside {
        return measure(options);
    }
    if !ground::may_enter() {
        eprintln!(
            "no namespaces of our own: process starts aren't counted, and all is on the disk"
        );
        return measure(options);
    }
    ground::enter(arguments)
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let ground = Ground::new(options.quick, options.inside)?;
    println!("scheduler: {}", ground::scheduler());
    let mut report = Report::default();
    for section in SECTIONS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == section) {
            continue;
        }
        eprintln!("{section}");
        let outcome = match section {
            "edit" => edit::measure(&ground, &mut report),
            "startup" => startup::measure(&ground, &mut report),
            "reload" => reload::measure(&ground, &mut report),
            "comments" => comments::measure(&ground, &mut report),
            "applets" => applets::measure(&ground, &mut report),
            _ => scripts::measure(&ground, &mut report),
        };
        outcome.with_context(|| section.to_owned())?;
    }
    report.finish();
    Ok(())
}
