//! How fast services are started, restarted after a crash and stopped, and what their supervisor costs meanwhile: ours, s6,
//! runit and a floor that does nothing else, all in one run. Run it by `scripts/bench supervisor`.
//!
//! All run the same tiny child, `bench_child`, which says itself when it began; so no peer is measured by its own word, and
//! nothing polls while time is taken.

mod floor;
mod peers;
mod processes;
mod reports;
mod table;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    peers::{Peer, Session, find},
    processes::{Cost, Ends, cost, cpu_ms, sleeps, tree},
    reports::{Reports, ms, now, rest},
};

/// Services that crash one at a time, each once: s6 and runit delay the second crash within a second.
const SINGLE: usize = 20;
/// Services that are killed at once.
const BURST: usize = 100;
/// Until everything that a start leaves behind is done.
const SETTLE_SECONDS: i64 = 3;
/// How long wake-ups are counted.
const IDLE_SECONDS: i64 = 5;
/// After this time of readiness our keeper answers a crash alone.
const ARMED_SECONDS: i64 = 62;
const STOP_LIMIT_NS: i64 = 60_000_000_000;

/// Started, measured while idle, stopped.
#[derive(Serialize)]
pub(crate) struct Size {
    pub(crate) peer: &'static str,
    pub(crate) services: usize,
    pub(crate) start_ms: f64,
    /// With what the first start left on disk.
    pub(crate) second_start_ms: f64,
    /// Of the supervisor and its services together, at the first start.
    pub(crate) start_cpu_ms: f64,
    /// Of it the supervisor's own processes.
    pub(crate) own_cpu_ms: f64,
    #[serde(flatten)]
    pub(crate) cost: Cost,
    pub(crate) wakeups_per_second: f64,
    pub(crate) idle_cpu_ms_per_second: f64,
    pub(crate) stop_services_ms: f64,
    pub(crate) stop_all_ms: f64,
}

/// Killed, and back.
#[derive(Serialize)]
pub(crate) struct Crash {
    pub(crate) peer: String,
    pub(crate) min_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) cpu_ms_each: f64,
    pub(crate) burst_ms: f64,
}

struct Options {
    child: PathBuf,
    quick: bool,
    json: bool,
    only: Vec<String>,
    sizes: Vec<usize>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [role, count, program] if role == "floor" => {
            count.parse().map_err(Into::into).and_then(|count| floor::run(count, program))
        }
        _ => options(&arguments).and_then(|options| measure(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_supervisor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options {
        child: testkit::binary("examples/bench_child"),
        quick: false,
        json: false,
        only: Vec::new(),
        sizes: vec![1, 100, 1000],
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--json" => options.json = true,
            "--peer" => options.only.push(value()?.clone()),
            "--sizes" => {
                let numbers = value()?.split(',').map(str::parse).collect::<Result<_, _>>();
                options.sizes = numbers.context("--sizes: numbers with commas, as in 1,100")?;
            }
            unknown => anyhow::bail!(
                "unknown argument {unknown:?}: there are --quick, --json, --peer NAME, --sizes N,N"
            ),
        }
    }
    Ok(options)
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let mut peers = Vec::new();
    for peer in Peer::ALL {
        if !options.only.is_empty() && options.only.iter().all(|only| only != peer.name()) {
            continue;
        }
        match peer.program() {
            Some(program) if find(program).is_none() => {
                eprintln!("{} is left out: {program} is not installed", peer.name());
            }
            _ => peers.push(*peer),
        }
    }
    let (mut sizes, mut crashes) = (Vec::new(), Vec::new());
    for services in &options.sizes {
        for peer in &peers {
            eprintln!("{}: {services} services", peer.name());
            let size = size(*peer, *services, &options.child);
            sizes.push(size.with_context(|| format!("{} with {services}", peer.name()))?);
        }
    }
    for peer in &peers {
        eprintln!("{}: crashes", peer.name());
        crashes.push(crash(*peer, false, &options.child).context(peer.name())?);
        if peer.is_ours() && !options.quick {
            eprintln!("{}: crashes after {ARMED_SECONDS} s", peer.name());
            crashes.push(crash(*peer, true, &options.child).context(peer.name())?);
        }
    }
    table::print(&sizes, &crashes, options.json)
}

/// A started peer with the moment of its start and of its last child's beginning.
fn start(
    peer: Peer,
    services: usize,
    child: &Path,
    folder: &Path,
) -> anyhow::Result<(Session, Reports, i64)> {
    let mut reports = Reports::open(folder.join("fifo"))?;
    let mut session = Session::prepare(peer, services, child, reports.path())?;
    let before = now();
    session.start()?;
    let took = reports.wait(services)? - before;
    Ok((session, reports, took))
}

/// The supervising processes: all of the peer's but the children that reported.
fn supervising(session: &Session, reports: &Reports) -> anyhow::Result<Vec<i32>> {
    let all = tree(session.root()?);
    Ok(all.into_iter().filter(|pid| !reports.live.contains(pid)).collect())
}

fn size(peer: Peer, services: usize, child: &Path) -> anyhow::Result<Size> {
    let folder = tempfile::tempdir()?;
    let (mut session, mut reports, took) = start(peer, services, child, folder.path())?;
    let children: Vec<i32> = reports.live.iter().copied().collect();
    rest(SETTLE_SECONDS);
    let own = supervising(&session, &reports)?;
    let own_cpu_ms = cpu_ms(&own);
    let start_cpu_ms = own_cpu_ms + cpu_ms(&children);
    let (slept, ran) = (sleeps(&own), cpu_ms(&own));
    rest(IDLE_SECONDS);
    let seconds = f64::from(i32::try_from(IDLE_SECONDS)?);
    let wakeups = f64::from(u32::try_from(sleeps(&own) - slept)?) / seconds;
    let idle_cpu = (cpu_ms(&own) - ran) / seconds;
    let cost = cost(&own);
    let (children, own) = (Ends::watch(&children), Ends::watch(&own));
    let before = now();
    session.ask_to_stop()?;
    let stop_services_ms = ms(children.wait(STOP_LIMIT_NS).context("stop the services")? - before);
    let stop_all_ms = ms(own.wait(STOP_LIMIT_NS).context("stop the supervisor")? - before);
    session.reap()?;
    let before = now();
    session.start()?;
    let second_start_ms = ms(reports.wait(services)? - before);
    Ok(Size {
        peer: peer.name(),
        services,
        start_ms: ms(took),
        second_start_ms,
        start_cpu_ms,
        own_cpu_ms,
        cost,
        wakeups_per_second: wakeups,
        idle_cpu_ms_per_second: idle_cpu,
        stop_services_ms,
        stop_all_ms,
    })
}

/// Fresh services each: first some one at a time, then many at once.
fn crash(peer: Peer, armed: bool, child: &Path) -> anyhow::Result<Crash> {
    let folder = tempfile::tempdir()?;
    let (session, mut reports, _) = start(peer, SINGLE + BURST, child, folder.path())?;
    rest(if armed { ARMED_SECONDS } else { SETTLE_SECONDS });
    let victims: Vec<i32> = reports.live.iter().copied().collect();
    let (single, burst) = victims.split_at(SINGLE);
    let own = supervising(&session, &reports)?;
    let old: BTreeSet<i32> = victims.iter().copied().collect();
    let ran = cpu_ms(&own);
    let mut times = Vec::new();
    for pid in single {
        let before = reports.kill(*pid)?;
        times.push(ms(reports.wait(1)? - before));
    }
    rest(1);
    let fresh: Vec<i32> = reports.live.difference(&old).copied().collect();
    let spent = cpu_ms(&own) - ran + cpu_ms(&fresh);
    let before = now();
    for pid in burst {
        reports.kill(*pid)?;
    }
    let burst_ms = ms(reports.wait(burst.len())? - before);
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    Ok(Crash {
        peer: format!("{}{}", peer.name(), if armed { ", after a minute" } else { "" }),
        min_ms: at(0),
        p50_ms: at(50),
        p95_ms: at(95),
        cpu_ms_each: spent / f64::from(u32::try_from(SINGLE)?),
        burst_ms,
    })
}
