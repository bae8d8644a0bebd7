//! Events to 100 subscribers of another process, with and without one more that never reads, beside a loop that writes the
//! same bytes to 100 connections and does nothing else.

use std::{io::Write as _, os::unix::net::UnixListener, path::Path};

use anyhow::Context as _;
use endpoint::CallOptions;
use protocol::{
    frame::encode,
    message::{Event, Message},
};
use serde_json::{Value, json};

use crate::{
    ground::{DISK, Ground, Process, Registry, cpu_us, now_ns, scratch},
    numbers::{NONE, Report, Rounds, Table, float},
    raw::Raw,
};

const SUBSCRIBERS: usize = 100;
/// Of a round; no more than may wait for one subscriber, so that who reads at all loses none.
const EVENTS: usize = 3000;
/// Calls of `publish` at a time.
const DEPTH: usize = 16;
const TOPIC: &str = "bench.tick";

pub(crate) async fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let registry = Registry::start(ground).await?;
    let run = registry.run_dir();
    let run = run.to_str().context("the scratch folder's name is text")?;
    let events = ground.scaled(EVENTS);
    ground.pin(&ground.client)?;
    let count = SUBSCRIBERS.to_string();
    let arguments = ["subscribers", run, &count, &events.to_string()];
    let mut subscribers = ground.start(Some(&ground.client), &arguments)?;
    subscribers.line()?;
    let (mut alone, mut with_deaf, mut raw) =
        (Rounds::default(), Rounds::default(), Rounds::default());
    let (mut deaf_lost, mut lost) = (0.0, 0.0);
    for _ in 0..ground.rounds() {
        let figures = round(&registry, &mut subscribers, events).await?;
        lost += figures[3];
        alone.push(&figures);
        let socket = registry.run_dir().join("registry.sock");
        let deaf = Raw::connect(&socket, "registry")?.subscribe("bench.*")?;
        let figures = round(&registry, &mut subscribers, events).await?;
        lost += figures[3];
        with_deaf.push(&figures);
        deaf_lost = lost_by_the_slowest(&registry.ask("status").await?);
        drop(deaf);
        raw.push(&written(ground, events)?);
        ground.pin(&ground.client)?;
        // The registry has seen that it is gone.
        let gone = |status: &Value| {
            status["subscribers"].as_array().is_some_and(|all| all.len() == SUBSCRIBERS)
        };
        registry.until("status", gone).await?;
    }
    ground.unpin()?;
    let columns = &["events/s", "deliveries/s", "server's CPU µs a delivery", "lost"];
    let mut table = Table::new("64 bytes to 100 subscribers", columns);
    table.row("write(2) to 100 connections", &raw.medians());
    table.row("published", &alone.medians());
    table.row("published, one more never reads", &with_deaf.medians());
    table.row("of these, who never reads", &[NONE, NONE, NONE, deaf_lost]);
    report.add(&table);
    report.goal("events lost by those who read, all rounds", 0.0, lost);
    Ok(())
}

fn lost_by_the_slowest(status: &Value) -> f64 {
    let all = status["subscribers"].as_array();
    let lost = all.into_iter().flatten().filter_map(|one| one["lost"].as_f64());
    lost.fold(0.0, f64::max)
}

/// Publishes `events`; until all subscribers have told that they have them.
async fn round(
    registry: &Registry,
    subscribers: &mut Process,
    events: usize,
) -> anyhow::Result<[f64; 4]> {
    let args = json!({ "topic": TOPIC, "data": "x".repeat(62) }).to_string();
    let (ran, began) = (cpu_us(registry.process.pid()), now_ns());
    let publishers: Vec<_> = (0..DEPTH)
        .map(|at| {
            let (client, args) = (registry.client.clone(), args.clone());
            let mine = events / DEPTH + usize::from(at < events % DEPTH);
            tokio::spawn(async move {
                for _ in 0..mine {
                    let options = CallOptions::default();
                    client.call_bytes("registry", "publish", args.as_bytes(), options).await?;
                }
                Ok::<_, endpoint::CallError>(())
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await??;
    }
    let told: Value = serde_json::from_str(&subscribers.line()?)?;
    let ended = told["at"].as_i64().context("the subscribers tell a moment")?;
    let cpu = cpu_us(registry.process.pid()) - ran;
    let lost = told["lost"].as_f64().unwrap_or(NONE);
    Ok(figures(events, ended - began, cpu, lost))
}

fn figures(events: usize, took_ns: i64, cpu_us: f64, lost: f64) -> [f64; 4] {
    #[expect(clippy::cast_precision_loss, reason = "a time of seconds is far below 2^52 ns")]
    let seconds = took_ns as f64 / 1e9;
    let deliveries = float(events * SUBSCRIBERS);
    [float(events) / seconds, deliveries / seconds, cpu_us / deliveries, lost]
}

/// The baseline: this process writes, on the core where the registry runs otherwise.
fn written(ground: &Ground, events: usize) -> anyhow::Result<[f64; 4]> {
    let folder = scratch(DISK)?;
    let socket = folder.path().join("raw.sock");
    let listener = UnixListener::bind(&socket)?;
    let data = format!("\"{}\"", "x".repeat(62));
    let mut event = Vec::new();
    encode(&mut event, 0, &Message::Event(Event { topic: TOPIC, lost: 0, data: data.as_bytes() }))?;
    let mut sink = start_sink(ground, &socket, events * event.len())?;
    let mut streams = Vec::new();
    for _ in 0..SUBSCRIBERS {
        streams.push(listener.accept()?.0);
    }
    sink.line()?;
    ground.pin(&ground.server)?;
    let own = std::process::id();
    let (ran, began) = (cpu_us(own), now_ns());
    for _ in 0..events {
        for stream in &mut streams {
            stream.write_all(&event)?;
        }
    }
    let cpu = cpu_us(own) - ran;
    let ended: i64 = sink.line()?.parse()?;
    Ok(figures(events, ended - began, cpu, 0.0))
}

fn start_sink(ground: &Ground, socket: &Path, bytes: usize) -> anyhow::Result<Process> {
    let socket = socket.to_str().context("the scratch folder's name is text")?;
    let (count, bytes) = (SUBSCRIBERS.to_string(), bytes.to_string());
    ground.start(Some(&ground.client), &["sink", socket, &count, &bytes])
}
