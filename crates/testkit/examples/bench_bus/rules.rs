//! What judging a call by rules costs, for the endpoint's own user and for a stranger, with the rules in files of the
//! registry as a device has them.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    ground::{Ground, Registry, STRANGER, cpu_us, is_root},
    numbers::{Report, Rounds, Table, float},
};

/// Calls of a round: one after another, and 32 at a time.
const SEQUENTIAL: usize = 4000;
const PIPELINED: usize = 60_000;

/// Files, and whether they let the stranger in.
fn variants() -> [(&'static str, String, bool); 4] {
    let allowed = format!("[[allow]]\nobject = \"bench\"\nuser = {STRANGER}\n");
    let mut others = allowed.clone();
    for number in 0..100 {
        write!(others, "[[allow]]\nobject = \"camera{number}\"\nuser = {STRANGER}\n")
            .expect("writing to a String never fails");
    }
    let mut ten = "[[deny]]\nobject = \"bench\"\nmethods = [\"erase\"]\nanyone = true\n\
                   [[deny]]\nobject = \"bench\"\nuid-range = \"4000-4999\"\n\
                   [[allow]]\nobject = \"bench\"\nuid-range = \"5000-5999\"\ngroup = 5000\n"
        .to_owned();
    for number in 0..6 {
        write!(ten, "[[allow]]\nobject = \"bench*\"\nmethods = [\"read{number}*\"]\ngroup = 0\n")
            .expect("writing to a String never fails");
    }
    ten.push_str(&allowed);
    [
        ("built-in rules only", String::new(), false),
        ("1 rule on the object", allowed, true),
        ("1 rule on it, 100 on others", others, true),
        ("10 rules on it, two of them deny", ten, true),
    ]
}

pub(crate) async fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let registry = Registry::start(ground).await?;
    let run_dir = registry.run_dir();
    let run = run_dir.to_str().context("the scratch folder's name is text")?;
    let core = Some(&*ground.server);
    let mut echo = ground.start(core, &["fast-echo", run, "bench"])?;
    echo.line()?;
    let socket = run_dir.join("bench.sock");
    let socket = socket.to_str().context("the scratch folder's name is text")?;
    let (sequential, pipelined) = (ground.scaled(SEQUENTIAL), ground.scaled(PIPELINED));
    let arguments = ["caller", socket, &sequential.to_string(), &pipelined.to_string()];
    let root = is_root();
    let variants = variants();
    let mut rounds: [[Rounds; 2]; 4] = Default::default();
    for _ in 0..ground.rounds() {
        for ((what, text, admits), rounds) in variants.iter().zip(&mut rounds) {
            replace(&registry, text).await.with_context(|| (*what).to_owned())?;
            for (strange, rounds) in [false, true].into_iter().zip(rounds) {
                if strange && !(root && *admits) {
                    continue;
                }
                let ran = cpu_us(echo.pid());
                let mut caller = match strange {
                    true => ground.start_stranger(core, &arguments)?,
                    false => ground.start(core, &arguments)?,
                };
                let told: Value = serde_json::from_str(&caller.line()?)?;
                let calls = sequential + sequential / 10 + pipelined / 32 * 32;
                let cpu = (cpu_us(echo.pid()) - ran) / float(calls);
                let figure = |name: &str| told[name].as_f64().unwrap_or(f64::NAN);
                rounds.push(&[figure("p50"), figure("p99"), figure("per_second"), cpu]);
            }
        }
    }
    let columns = &["p50 µs", "p99 µs", "calls/s, 32 at a time", "server's CPU µs a call"];
    let mut table = Table::new("calls under rules, one core", columns);
    for (at, who) in ["own user", "stranger"].into_iter().enumerate() {
        for ((what, ..), rounds) in variants.iter().zip(&rounds) {
            let figures = rounds[at].medians();
            if !figures.is_empty() {
                table.row(format!("{who}: {what}"), &figures);
            }
        }
    }
    report.add(&table);
    Ok(())
}

/// Puts this file in the place of the one before, and returns when every endpoint judges by it.
async fn replace(registry: &Registry, text: &str) -> anyhow::Result<()> {
    let before = registry.ask("policy").await?["epoch"].as_u64().unwrap_or(0);
    let path = registry.policies().join("bench.toml");
    if fs::read_to_string(&path).unwrap_or_default() == text {
        return Ok(());
    }
    write_whole(&path, text)?;
    let holds = |policy: &Value| {
        policy["epoch"].as_u64().is_some_and(|epoch| epoch > before)
            && policy["behind"].as_array().is_some_and(Vec::is_empty)
    };
    let policy = registry.until("policy", holds).await?;
    let problems = policy["problems"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(problems.is_empty(), "the registry says: {problems:?}");
    Ok(())
}

fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)?;
    Ok(fs::rename(fresh, path)?)
}
