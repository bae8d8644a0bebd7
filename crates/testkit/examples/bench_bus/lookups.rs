//! The registry with 300 objects of 60 endpoints: its memory, and what it takes to find an object. The baseline of a lookup is
//! a call to an echo with arguments and an answer of the same length; that of a call by name, a call to a known socket.

use anyhow::Context as _;
use endpoint::{Bus, CallOptions, Client, Options};
use serde_json::json;

use crate::{
    ground::{Ground, Process, Registry, Timed, memory, timed},
    numbers::{NONE, Report, Rounds, Table, Times},
};

const ENDPOINTS: usize = 60;
const OBJECTS: usize = 5;
/// Calls of a round.
const CALLS: usize = 3000;
/// First calls of a round: each takes a connection.
const FIRST_CALLS: usize = 100;

pub(crate) async fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let registry = Registry::start(ground).await?;
    let empty = memory(registry.process.pid())?;
    let run = registry.run_dir();
    let run = run.to_str().context("the scratch folder's name is text")?;
    let core = Some(&*ground.server);
    let (endpoints, objects) = (ENDPOINTS.to_string(), OBJECTS.to_string());
    let mut providers = ground.start(core, &["providers", run, &endpoints, &objects])?;
    providers.line()?;
    let full = memory(registry.process.pid())?;
    let mut table = Table::new("registry, KiB", &["RSS", "PSS", "private"]);
    table.row("without objects", &empty);
    table.row(format!("{} objects of {ENDPOINTS} endpoints", ENDPOINTS * OBJECTS), &full);
    report.add(&table);
    report.goal("RSS of the registry with 300 objects, KiB", 6144.0, full[0]);

    let lookups: Vec<Vec<u8>> = (0..ENDPOINTS * OBJECTS)
        .map(|at| json!({ "object": name(at) }).to_string().into_bytes())
        .collect();
    let first = registry.client.call_bytes("registry", "lookup", &lookups[0], safe()).await?;
    let length = first.result.len().to_string();
    let mut echo = ground.start(core, &["echo", run, "bench", &length])?;
    echo.line()?;
    let columns = &["cores", "p50 µs", "p99 µs", "server's CPU µs a call"];
    let mut table = Table::new("finding an object", columns);
    let peers = Peers { registry: &registry, providers: &providers, echo: &echo, lookups };
    ground.pin(&ground.server)?;
    peers.compare(ground, 1.0, &mut table).await?;
    if ground.client != ground.server {
        ground.pin(&ground.client)?;
        peers.compare(ground, 2.0, &mut table).await?;
    }
    ground.unpin()?;
    report.add(&table);
    Ok(())
}

fn name(at: usize) -> String {
    format!("e{:02}/o{}", at / OBJECTS, at % OBJECTS)
}

fn safe() -> CallOptions<'static> {
    CallOptions::safe()
}

struct Peers<'a> {
    registry: &'a Registry,
    providers: &'a Process,
    echo: &'a Process,
    /// The arguments for each object.
    lookups: Vec<Vec<u8>>,
}

impl Peers<'_> {
    async fn compare(&self, ground: &Ground, cores: f64, table: &mut Table) -> anyhow::Result<()> {
        let run = self.registry.run_dir();
        let echo = Client::new(run.join("bench.sock"), Options::default());
        let direct = Client::new(run.join("e00.sock"), Options::default());
        let warm = Bus::new(&run, Options::default());
        let (registry, providers) = (self.registry.process.pid(), self.providers.pid());
        let count = ground.scaled(CALLS);
        let mut rounds: [Rounds; 5] = Default::default();
        for _ in 0..ground.rounds() {
            let args = |at: usize| &self.lookups[at % self.lookups.len()];
            let call =
                async |at| checked(echo.call_bytes("bench", "answer", args(at), safe()).await);
            rounds[0].push(&figures(timed(count, self.echo.pid(), call).await?));
            let client = &self.registry.client;
            let call =
                async |at| checked(client.call_bytes("registry", "lookup", args(at), safe()).await);
            rounds[1].push(&figures(timed(count, registry, call).await?));
            let call =
                async |_| checked(direct.call_bytes("e00/o0", "echo", &[7; 64], safe()).await);
            rounds[2].push(&figures(timed(count, providers, call).await?));
            let call = async |_| checked(warm.call_bytes("e00/o0", "echo", &[7; 64], safe()).await);
            rounds[3].push(&figures(timed(count, providers, call).await?));
            let call = async |at| {
                let bus = Bus::new(&run, Options::default());
                checked(bus.call_bytes(&name(at % 300), "echo", &[7; 64], safe()).await)
            };
            rounds[4].push(&figures(timed(ground.scaled(FIRST_CALLS), registry, call).await?));
        }
        let rows = [
            "echo with arguments and answer as long as a lookup's",
            "lookup",
            "call to a known socket",
            "call by name, known from before",
            "first call of a process by name: two connections, a lookup (CPU: the registry's)",
        ];
        for (what, rounds) in rows.into_iter().zip(&rounds) {
            let figures = rounds.medians();
            table.row(what, &[&[cores], &*figures].concat());
        }
        Ok(())
    }
}

fn checked(answer: Result<endpoint::Received, endpoint::CallError>) -> anyhow::Result<()> {
    let answer = answer?;
    anyhow::ensure!(!answer.result.is_empty(), "an empty answer");
    Ok(())
}

fn figures(timed: Timed) -> [f64; 3] {
    let cpu = if timed.times.is_empty() { NONE } else { timed.cpu_us_each };
    let times = Times::of(timed.times);
    [times.p50, times.p99, cpu]
}
