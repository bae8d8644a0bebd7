//! What a client's calls take while another one calls 100 times faster than its bucket allows; beside the same flood on
//! another endpoint, which shows how much of it is the machine's share.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use endpoint::{CallOptions, Client, Options};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    ground::{Ground, Process, Registry, is_root},
    numbers::{NONE, Report, Rounds, Table, Times},
};

/// A hundred times the bucket of a user who is not trusted.
const PER_SECOND: &str = "100000";
const GOAL: f64 = 2.0;

/// Who floods whom.
#[derive(Clone, Copy, PartialEq)]
enum Flood {
    Nobody,
    /// A user without rights floods an endpoint that nobody else calls.
    Elsewhere,
    Stranger,
    /// The bucket is a connection's, so that more of them hold more.
    StrangerWithMany,
    /// Root and the own user of an endpoint have no bucket.
    Trusted,
}

impl Flood {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Nobody, "alone"),
        (Self::Elsewhere, "a stranger floods another endpoint"),
        (Self::Stranger, "a stranger floods this endpoint"),
        (Self::StrangerWithMany, "the same over 64 connections"),
        (Self::Trusted, "a trusted user, who has no bucket, floods this endpoint"),
    ];
}

pub(crate) async fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let registry = Registry::start(ground).await?;
    std::fs::write(
        registry.policies().join("bench.toml"),
        "[[allow]]\nobject = \"bench\"\nanyone = true\n",
    )?;
    registry.until("policy", |policy| mentions(policy, "bench.toml")).await?;
    let run_dir = registry.run_dir();
    let run = run_dir.to_str().context("the scratch folder's name is text")?;
    let core = Some(&*ground.server);
    let mut here = ground.start(core, &["echo", run, "here", "0"])?;
    here.line()?;
    // A name belongs to one endpoint of a registry, so this one has another.
    let elsewhere = Registry::start(ground).await?;
    std::fs::copy(registry.policies().join("bench.toml"), elsewhere.policies().join("bench.toml"))?;
    elsewhere.until("policy", |policy| mentions(policy, "bench.toml")).await?;
    let other = elsewhere.run_dir();
    let other = other.to_str().context("the scratch folder's name is text")?;
    let mut there = ground.start(core, &["echo", other, "there", "0"])?;
    there.line()?;

    let root = is_root();
    ground.pin(&ground.client)?;
    let client = Client::new(run_dir.join("here.sock"), Options::default());
    let mut rounds: [Rounds; 5] = Default::default();
    for _ in 0..ground.rounds() {
        for ((flood, _), rounds) in Flood::ALL.into_iter().zip(&mut rounds) {
            let strange = !matches!(flood, Flood::Nobody | Flood::Trusted);
            if strange && !root {
                continue;
            }
            let socket = match flood {
                Flood::Elsewhere => Path::new(other).join("there.sock"),
                _ => run_dir.join("here.sock"),
            };
            let flooder = match flood {
                Flood::Nobody => None,
                Flood::StrangerWithMany => Some(start(ground, &socket, "64", strange)?),
                _ => Some(start(ground, &socket, "1", strange)?),
            };
            rounds.push(&phase(ground, &client, flooder).await?);
        }
    }
    ground.unpin()?;
    let columns =
        &["p50 µs", "p99 µs", "p99 by that alone", "flooder's calls sent/s", "done/s", "refused/s"];
    let mut table = Table::new("calls one after another", columns);
    let alone = rounds[0].medians();
    for ((flood, what), rounds) in Flood::ALL.into_iter().zip(&rounds) {
        let figures = rounds.medians();
        let [p50, p99, sent, done, refused] = figures[..] else { continue };
        let ratio = p99 / alone[1];
        table.row(what, &[p50, p99, ratio, sent, done, refused]);
        if flood == Flood::Stranger {
            report.goal("p99 beside a flooding stranger by p99 alone", GOAL, ratio);
        }
    }
    report.add(&table);
    Ok(())
}

fn mentions(policy: &Value, file: &str) -> bool {
    policy["behind"].as_array().is_some_and(Vec::is_empty) && policy.to_string().contains(file)
}

fn start(
    ground: &Ground,
    socket: &Path,
    connections: &str,
    strange: bool,
) -> anyhow::Result<Process> {
    let socket = socket.to_str().context("the scratch folder's name is text")?;
    let (core, arguments) = (Some(&*ground.client), ["flood", socket, PER_SECOND, connections]);
    let mut flooder = match strange {
        true => ground.start_stranger(core, &arguments)?,
        false => ground.start(core, &arguments)?,
    };
    flooder.line()?;
    Ok(flooder)
}

/// Calls for a while, once the flooder has had the time to empty its bucket.
async fn phase(
    ground: &Ground,
    client: &Client,
    flooder: Option<Process>,
) -> anyhow::Result<[f64; 5]> {
    let long = Duration::from_millis(if ground.quick { 300 } else { 2000 });
    let warm = Duration::from_millis(if ground.quick { 100 } else { 500 });
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < warm + long {
        let before = Instant::now();
        client.call_bytes("bench", "echo", &[7; 64], CallOptions::default()).await?;
        if before - began > warm {
            times.push(before.elapsed());
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let told = flooder.map(Process::finish).transpose()?.unwrap_or_default();
    let rate = |name: &str| told[name].as_f64().map_or(NONE, |count| count / seconds);
    let times = Times::of(times);
    Ok([times.p50, times.p99, rate("sent"), rate("done"), rate("refused")])
}
