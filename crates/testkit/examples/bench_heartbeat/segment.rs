//! The state machine alone, without a socket: the figure of `crates/rudp/examples/bench_segment`.

use std::process::Command;

use anyhow::Context as _;

use crate::{
    ground::Ground,
    numbers::{Report, Table},
};

const LIMIT_NS: f64 = 300.0;

pub(crate) fn measure(_: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let program = testkit::binary("examples/bench_segment");
    let output = Command::new(&program).output();
    let output = output.with_context(|| format!("run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
    let found: f64 = first.with_context(|| format!("understand {text:?}"))?;
    let mut table = Table::new("core", &["ns a segment"]);
    table.row("10,000 connections, heartbeat and acknowledgement", &[found]);
    report.add(&table);
    report.goal("the core's time for a segment, ns", LIMIT_NS, found);
    Ok(())
}
