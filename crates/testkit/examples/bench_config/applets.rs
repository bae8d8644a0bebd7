//! What the programs cost that scripts start by the hundred, beside `/bin/true`.

use std::process::{Command, Stdio};

use crate::{
    ground::{Ground, run},
    numbers::{Report, Rounds, Table, float},
    suite::{Place, Suite, name},
};

/// Runs of a round.
const RUNS: usize = 100;

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let suite = Suite::start(ground, 1, "mode = \"manual\"\n", &[], &[], Place::Memory)?;
    let option = format!("{}.section3.value", name(0));
    let package = name(0);
    let lines: [&[&str]; 8] = [
        &["/bin/true"],
        &["true"],
        &["uci", "get", &option],
        &["uci", "show", &package],
        &["validate_data", "uinteger(1:200)", "100"],
        &["jsonfilter", "-s", r#"{"a":{"b":[1,2]}}"#, "-e", "$.a.b[1]"],
        &["ubus", "call", "service", "list", r#"{"name":"none"}"#],
        &["reload_config"],
    ];
    let mut rounds: [Rounds; 8] = Default::default();
    for _ in 0..ground.rounds() {
        for (line, rounds) in lines.iter().zip(&mut rounds) {
            let mut command = match line[0].starts_with('/') {
                true => Command::new(line[0]),
                false => suite.program(line[0])?,
            };
            command.args(&line[1..]).stdout(Stdio::null()).stderr(Stdio::null());
            let count = ground.scaled(RUNS);
            let cost =
                ground.cost(&suite.daemons, || (0..count).try_for_each(|_| run(&mut command)))?;
            let each = float(count);
            rounds.push(&[cost.callers_ms / each, cost.daemons_ms / each, cost.wall_ms / each]);
        }
    }
    suite.check()?;
    let columns = &["CPU ms", "times /bin/true", "daemons' CPU ms", "wall ms"];
    let mut table = Table::new("one run", columns);
    let least = rounds[0].medians()[0];
    for (line, rounds) in lines.iter().zip(&rounds) {
        let [cpu, daemons, wall] = rounds.medians()[..] else { continue };
        let what = match line[0] {
            "true" => "`true` of busybox".to_owned(),
            _ => format!("`{}`", line.join(" ")),
        };
        table.row(what, &[cpu, cpu / least, daemons, wall]);
    }
    report.add(&table);
    Ok(())
}
