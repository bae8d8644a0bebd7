//! SIGKILL for the manager at points of an upgrade, and for the host: no gate stays closed, record and host come together, and of
//! the calls only the one that was inside a host that died fails.

use rustix::process::Signal;

use super::*;
use crate::support::{kill, until_other_pid};

/// Upgrades with a kill each.
const ROUNDS: usize = 100;

fn rounds() -> usize {
    if std::env::var_os("VESTAL_FULL").is_some() { ROUNDS } else { 12 }
}

#[test]
fn a_manager_that_is_killed_during_upgrades_loses_nothing_and_the_next_one_brings_all_together() {
    if !may_upgrade("a_manager_that_is_killed_during_upgrades") {
        return;
    }
    let bench = Bench::start(CALM);
    let objects = ["2", "3"].map(|version| bench.object(version, &["-DLAYOUT=2"]));
    let host = bench.until_serving().pid;
    let writers = bench.writers(2);
    for round in 0..rounds() {
        let serves = bench.until_serving().version.version;
        let (object, version) = if serves == "2" { (&objects[1], "3") } else { (&objects[0], "2") };
        let manager = bench.device.until_pid("driver");
        std::thread::scope(|scope| {
            let upgrade = scope.spawn(|| bench.try_upgrade(object, version));
            // Another point each time, by what the writers get done meanwhile, or by what is on disk.
            match round % 3 {
                0 => writers.until_more(round as u64 * 8),
                1 => drop(testkit::within(Duration::from_secs(2), || {
                    (bench.record()["probation"] == true || upgrade.is_finished()).then_some(())
                })),
                _ => {}
            }
            kill(manager, Signal::KILL);
            // Whether it was done is what the next one says.
            drop(upgrade.join().unwrap());
        });
        until_other_pid(&bench.device, "driver", manager);
        writers.until_more(10);
        let status = bench.until_serving();
        let settled = until("it is settled", || bench.named::<Settled>("settled").ok());
        let record = bench.record();
        assert_eq!(record["probation"], false, "round {round}: {record}");
        let status = bench.status().filter(|now| now.version == status.version).unwrap_or(status);
        assert_eq!(
            record["current"]["hash"], settled.serves.hash,
            "round {round}: {record} {status:?}"
        );
        assert_eq!(status.pid, host, "round {round}: no host was restarted");
    }
    let written = sum(&writers.stop());
    let found = counters(&bench.open());
    assert_eq!((found.calls, found.bytes, written.failed), (written.calls, written.bytes, 0));
}

#[test]
fn a_host_that_is_killed_fails_one_call_of_a_handle_at_most_and_the_handles_go_on() {
    let bench = Bench::start(&format!("{CALM}checkpoint = \"10ms\"\n"));
    let handle = bench.open();
    let writers = bench.writers(2);
    let mut pid = bench.device.until_pid("driver.counter");
    for _ in 0..3 {
        writers.until_more(50);
        kill(pid, Signal::KILL);
        pid = until_other_pid(&bench.device, "driver.counter", pid);
        writers.until_more(10);
    }
    let written = writers.stop();
    sum(&written);
    for one in &written {
        assert!(one.failed <= 3, "{one:?}");
    }
    assert_eq!(handle.write(b"still there").unwrap(), 11);
    assert_eq!((bench.until_serving().version.version.as_str(), counters(&handle).own), ("1", 1));
}

#[test]
fn a_host_that_is_killed_on_probation_starts_with_the_version_before() {
    if !may_upgrade("a_host_that_is_killed_on_probation") {
        return;
    }
    let bench = Bench::start(&CALM.replace("20ms", "60s"));
    let handle = bench.open();
    handle.write(b"one").unwrap();
    bench.upgrade(&bench.object("2", &[]), "2");
    assert_eq!(version(&handle), "2");
    let pid = bench.device.until_pid("driver.counter");
    kill(pid, Signal::KILL);
    let settled = bench.settled();
    assert_eq!(
        (settled.outcome, settled.serves.version.as_str()),
        (Outcome::RolledBack, "1"),
        "{settled:?}"
    );
    assert_eq!((version(&handle), counters(&handle).calls), ("1".to_owned(), 1));
}

#[test]
fn a_torn_record_starts_the_factory_version_and_says_so() {
    if !may_upgrade("a_torn_record") {
        return;
    }
    let mut bench = Bench::start(CALM);
    bench.upgrade(&bench.object("2", &[]), "2");
    bench.settled();
    assert!(bench.device.stop().success());
    let record = bench.device.run_dir().join("state/driver/counter/record.json");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, &text[..text.len() / 2]).unwrap();
    bench.device.start();
    let status = bench.until_serving();
    assert_eq!(status.version.version, "1", "{status:?}");
    assert!(status.notes.iter().any(|note| note.contains("record.json")), "{status:?}");
}
