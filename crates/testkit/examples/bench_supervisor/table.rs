//! Prints what was measured, for people or for programs.

use std::fs;

use serde_json::json;

use crate::{Crash, Size};

pub(crate) fn print(sizes: &[Size], crashes: &[Crash], as_json: bool) -> anyhow::Result<()> {
    let policy = policy();
    if as_json {
        println!("{}", json!({ "scheduler": policy, "sizes": sizes, "crashes": crashes }));
        return Ok(());
    }
    println!("scheduler of peers and children: {policy}\n");
    println!(
        "| peer | services | start ms | second start ms | start CPU ms | own CPU ms | processes | PSS KiB | private KiB | \
         page tables KiB | idle wake-ups/s | idle CPU ms/s | stop services ms | stop all ms |"
    );
    println!("|{}", " --- |".repeat(14));
    for size in sizes {
        let cost = size.cost;
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {} | {} | {} | {:.1} | {:.2} | {:.0} | {:.0} |",
            size.peer,
            size.services,
            size.start_ms,
            size.second_start_ms,
            size.start_cpu_ms,
            size.own_cpu_ms,
            cost.processes,
            cost.pss_kb,
            cost.private_kb,
            cost.page_tables_kb,
            size.wakeups_per_second,
            size.idle_cpu_ms_per_second,
            size.stop_services_ms,
            size.stop_all_ms
        );
    }
    println!(
        "\n| peer | crash min ms | p50 ms | p95 ms | CPU ms each | 100 at once, last back ms |"
    );
    println!("|{}", " --- |".repeat(6));
    for crash in crashes {
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} |",
            crash.peer, crash.min_ms, crash.p50_ms, crash.p95_ms, crash.cpu_ms_each, crash.burst_ms
        );
    }
    Ok(())
}

/// Field 41 of proc_pid_stat(5), the scheduling policy; what we start inherits it.
fn policy() -> &'static str {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    match after_name.split_whitespace().nth(38) {
        Some("1") => "SCHED_FIFO",
        Some("2") => "SCHED_RR",
        Some(_) => "ordinary, so other work on the machine counts",
        None => "unknown",
    }
}
