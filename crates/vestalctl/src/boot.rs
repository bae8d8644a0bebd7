//! `vestalctl boot ...`: why there was a boot, how long it took, and whose fault that was.

use std::collections::BTreeSet;

use protocol::system::{Boot, Booted};
use serde_json::json;

use crate::{
    bus::{Bus, How},
    cli::BootCommand,
    error::Error,
    output::Output,
    table::{Cell, Paint, Table, clean},
};

pub(crate) async fn run(bus: &Bus, out: Output, command: BootCommand) -> Result<(), Error> {
    let answer = bus.call("system", "boot", &json!({}), How::READ).await?;
    let boot: Boot = serde_json::from_value(answer.clone()).map_err(|error| {
        Error::failed(format!("what the supervisor tells of the boot: {error}"))
    })?;
    match (command, out.json) {
        (BootCommand::Blame, true) => Output::json(&answer),
        (BootCommand::Blame, false) => {
            Output::text(&summary(&boot))?;
            out.table(&blame(&boot.services))
        }
        (BootCommand::Chain, true) => Output::json(&json!({ "chain": chain(&boot.services) })),
        (BootCommand::Chain, false) => {
            Output::text(&duration_line(&boot))?;
            out.table(&links(&chain(&boot.services)))
        }
    }
}

/// Why there was a boot, and how long it took.
fn summary(boot: &Boot) -> String {
    let mut text = String::new();
    if let Some(reset) = &boot.reset {
        let colon = if reset.detail.is_empty() { "" } else { ": " };
        let line = format!("reset: {}{colon}{}\n", reset.cause.word(), clean(&reset.detail));
        text.push_str(&line);
    }
    if let Some(rescue) = &boot.rescue {
        text.push_str(&format!("only the rescue set runs: {}\n", clean(rescue)));
    }
    text + &duration_line(boot) + "\n"
}

/// `kernel 1.204s + keeper 0.150s + services 2.310s = 3.664s until everything was ready`.
fn duration_line(boot: &Boot) -> String {
    let between = |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?));
    // Where the keeper didn't say when it began, its part is the kernel's.
    let both = boot.supervisor_ms.filter(|_| boot.keeper_ms.is_none());
    let parts = [
        ("kernel and keeper", both),
        ("kernel", boot.kernel_ms),
        ("keeper", between(boot.keeper_ms, boot.supervisor_ms)),
        ("services", between(boot.supervisor_ms, boot.all_ready_ms)),
    ];
    let parts =
        parts.iter().filter_map(|(name, time)| Some(format!("{name} {}", seconds((*time)?))));
    let parts: Vec<String> = parts.collect();
    match boot.all_ready_ms {
        Some(all) => {
            format!("{} = {} until everything was ready\n", parts.join(" + "), seconds(all))
        }
        None if boot.waits_for.is_empty() => format!("{}\n", parts.join(" + ")),
        None => {
            let waits_for: Vec<String> = boot.waits_for.iter().map(|name| clean(name)).collect();
            format!("{}; not ready yet: {}\n", parts.join(" + "), waits_for.join(", "))
        }
    }
}

/// The slowest first; what is not ready yet before all others.
fn blame(services: &[Booted]) -> Table {
    let mut services: Vec<&Booted> = services.iter().collect();
    services.sort_by_key(|one| std::cmp::Reverse(one.took_ms.unwrap_or(u64::MAX)));
    let mut table = Table::new(&[">TOOK", "SERVICE", "INSTANCE", ">STARTED", ">READY"]);
    for one in services {
        let known = |time: Option<u64>| match time {
            Some(time) => Cell::from(seconds(time)),
            None => Cell::painted("-", Paint::Waiting),
        };
        table.row([
            known(one.took_ms),
            Cell::from(&one.name),
            Cell::from(&one.instance),
            Cell::from(seconds(one.spawned_ms)),
            known(one.ready_ms),
        ]);
    }
    table
}

/// From the instance that was ready last back to what it waited for last, and so on; the first one first.
fn chain(services: &[Booted]) -> Vec<&Booted> {
    let mut chain: Vec<&Booted> = Vec::new();
    let mut met = BTreeSet::new();
    let mut next = services.iter().max_by_key(|one| one.ready_ms);
    while let Some(one) = next {
        // Two that took no time at all may seem to have waited for each other.
        if !met.insert((&one.name, &one.instance)) {
            break;
        }
        chain.push(one);
        let waited_for = |other: &&Booted| {
            // Applications wait for the suite's daemons without saying so.
            let is_meant = one.after.contains(&other.name) || (other.core && !one.core);
            is_meant && other.ready_ms.is_some_and(|ready| ready <= one.spawned_ms)
        };
        next = services.iter().filter(waited_for).max_by_key(|other| other.ready_ms);
    }
    chain.reverse();
    chain
}

fn links(chain: &[&Booted]) -> Table {
    let mut table = Table::new(&[">STARTED", ">TOOK", "SERVICE", "INSTANCE"]);
    for one in chain {
        let took = one.took_ms.map_or_else(|| "-".to_owned(), seconds);
        table.row([
            Cell::from(seconds(one.spawned_ms)),
            Cell::from(took),
            Cell::from(&one.name),
            Cell::from(&one.instance),
        ]);
    }
    table
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}s", milliseconds / 1000, milliseconds % 1000)
}

#[cfg(test)]
mod tests {
    use protocol::system::{Cause, Reset};

    use super::*;

    fn booted(name: &str, spawned: u64, ready: Option<u64>, after: &[&str]) -> Booted {
        Booted {
            name: name.to_owned(),
            instance: "instance1".to_owned(),
            spawned_ms: spawned,
            ready_ms: ready,
            took_ms: ready.map(|ready| ready - spawned),
            core: name == "log",
            after: after.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn services() -> Vec<Booted> {
        vec![
            booted("log", 1300, Some(1500), &[]),
            booted("db", 1500, Some(3100), &[]),
            booted("fast", 1500, Some(1510), &[]),
            booted("web", 3100, Some(3664), &["fast", "db"]),
        ]
    }

    fn boot() -> Boot {
        let detail = "the hardware watchdog has reset the machine".to_owned();
        Boot {
            reset: Some(Reset { cause: Cause::Watchdog, detail, previous_boot_id: None }),
            kernel_ms: Some(1204),
            keeper_ms: Some(1204),
            supervisor_ms: Some(1290),
            all_ready_ms: Some(3664),
            services: services(),
            ..Boot::default()
        }
    }

    #[test]
    fn the_summary_says_why_and_where_the_time_went() {
        assert_eq!(
            summary(&boot()),
            "reset: watchdog: the hardware watchdog has reset the machine\n\
             kernel 1.204s + keeper 0.086s + services 2.374s = 3.664s until everything was ready\n\n"
        );
        let not_yet = Boot {
            all_ready_ms: None,
            waits_for: vec!["web".to_owned(), "x\u{1b}".to_owned()],
            rescue: Some("why".to_owned()),
            reset: None,
            ..boot()
        };
        let unsaid = Boot { kernel_ms: None, keeper_ms: None, reset: None, ..boot() };
        assert_eq!(
            summary(&unsaid),
            "kernel and keeper 1.290s + services 2.374s = 3.664s until everything was ready\n\n"
        );
        assert_eq!(
            summary(&not_yet),
            "only the rescue set runs: why\n\
             kernel 1.204s + keeper 0.086s; not ready yet: web, x\\u{1b}\n\n"
        );
    }

    #[test]
    fn the_slowest_service_comes_first_and_what_is_not_ready_before_it() {
        let mut services = services();
        services.push(booted("hung", 2000, None, &[]));
        let text = blame(&services).render(false);
        let first: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        let names: Vec<&str> = first.iter().skip(1).map(|words| words[1]).collect();
        assert_eq!(names, ["hung", "db", "web", "log", "fast"]);
        assert_eq!(first[1], ["-", "hung", "instance1", "2.000s", "-"]);
        assert_eq!(first[2], ["1.600s", "db", "instance1", "1.500s", "3.100s"]);
    }

    #[test]
    fn the_chain_goes_from_the_first_to_the_last_and_ends_whatever_is_said() {
        let services = services();
        let names = |chain: Vec<&Booted>| -> Vec<String> {
            chain.into_iter().map(|one| one.name.clone()).collect()
        };
        assert_eq!(names(chain(&services)), ["log", "db", "web"]);
        let circle = [booted("a", 5, Some(5), &["b"]), booted("b", 5, Some(5), &["a"])];
        assert_eq!(chain(&circle).len(), 2);
        assert!(chain(&[]).is_empty());
    }
}
