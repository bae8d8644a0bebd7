//! New versions that crash, fail, loop, leak or are slow once they serve: the version before comes back by itself, with a reason.
//! Each behaves well until it is written something that begins with `!`, so that nobody finds out before.

use tokio::time::Instant;

use super::*;

/// Long enough for a failure to be found, short enough that nobody waits.
const JUDGED: &str = "dev = true\nprobation = \"20s\"\nmax-errors = 0.05\nmax-latency = 100000\nmax-memory = \"1GiB\"\nhang = \"300ms\"\ncheckpoint = \"10ms\"\n";

/// What became of a version that is no good.
struct Outcomes {
    settled: Settled,
    /// The host is another process.
    restarted: bool,
    /// Answers of -EIO.
    failed: u64,
}

/// Upgrades to a bad version and provokes it, until it is rolled back; the handle goes on.
#[track_caller]
fn rolls_back(
    settings: &str,
    options: &[&str],
    provoke: impl Fn(&Handle) -> Result<(), Error>,
) -> Outcomes {
    let bench = Bench::start(settings);
    let handle = bench.open();
    for _ in 0..200 {
        handle.write(b"well").unwrap();
    }
    let pid = bench.until_serving().pid;
    let report = bench.upgrade(&bench.object("2", options), "2");
    assert!(report.probation_ms > 0, "{report:?}");
    let mut failed = 0;
    let mut begun = None;
    until("it is rolled back", || {
        begun.get_or_insert_with(Instant::now);
        match provoke(&handle) {
            Ok(()) => {}
            Err(Error::Driver(EIO)) => failed += 1,
            Err(other) => panic!("{other}\n{}", bench.told()),
        }
        (bench.status()?.rollbacks > 0 || bench.status()?.last.is_some()).then_some(())
    });
    // It goes on with the same handle, whatever became of the host.
    handle.write(b"on").unwrap();
    let took = begun.map(|begun| begun.elapsed()).unwrap_or_default();
    eprintln!("{options:?}: the version before serves {took:?} after the first bad call began");
    let settled = bench.settled();
    assert_eq!(
        (settled.outcome, settled.tried.version.as_str()),
        (Outcome::RolledBack, "2"),
        "{settled:?}"
    );
    assert!(settled.reason.as_ref().is_some_and(|reason| !reason.is_empty()), "{settled:?}");
    let status = bench.until_serving();
    assert_eq!(status.version.version, "1", "{status:?}");
    // The handle is the same, and what was counted is there, but for calls since the last checkpoint of a host that died.
    assert_eq!(version(&handle), "1");
    assert!(counters(&handle).calls > 1, "{:?}", counters(&handle));
    let record = bench.record();
    assert_eq!(
        (&record["probation"], &record["current"]["hash"]),
        (&false.into(), &status.version.hash.as_str().into())
    );
    Outcomes { settled, restarted: status.pid != pid, failed }
}

fn provoked(handle: &Handle) -> Result<(), Error> {
    handle.write(b"!").map(drop)
}

#[test]
fn a_version_that_crashes_is_rolled_back_and_only_the_call_inside_fails() {
    if !may_upgrade("a_version_that_crashes") {
        return;
    }
    let outcomes = rolls_back(JUDGED, &["-DCRASH_ON=\"!\""], provoked);
    assert_eq!((outcomes.restarted, outcomes.failed), (true, 1));
    let reason = outcomes.settled.reason.unwrap();
    assert!(reason.contains("signal 11") && reason.contains("write"), "{reason}");
}

#[test]
fn a_version_that_fails_calls_is_rolled_back_without_a_restart() {
    if !may_upgrade("a_version_that_fails_calls") {
        return;
    }
    let outcomes = rolls_back(JUDGED, &["-DERROR_ON=\"!\""], provoked);
    assert!(!outcomes.restarted && outcomes.failed > 0);
}

#[test]
fn a_version_that_never_returns_is_ended_and_rolled_back() {
    if !may_upgrade("a_version_that_never_returns") {
        return;
    }
    let outcomes = rolls_back(JUDGED, &["-DLOOP_ON=\"!\""], provoked);
    assert_eq!((outcomes.restarted, outcomes.failed), (true, 1));
    let reason = outcomes.settled.reason.unwrap();
    assert!(reason.contains("write"), "{reason}");
}

#[test]
fn a_version_that_loses_memory_is_rolled_back_without_a_restart() {
    if !may_upgrade("a_version_that_loses_memory") {
        return;
    }
    let settings = JUDGED.replace("1GiB", "2MiB");
    let outcomes = rolls_back(&settings, &["-DLEAK=65536"], provoked);
    assert!(!outcomes.restarted && outcomes.failed == 0);
}

#[test]
fn a_version_that_is_slow_is_rolled_back_without_a_restart() {
    if !may_upgrade("a_version_that_is_slow") {
        return;
    }
    let settings = JUDGED.replace("100000", "20");
    let outcomes = rolls_back(&settings, &["-DSLOW_US=10000"], provoked);
    assert!(!outcomes.restarted && outcomes.failed == 0);
}

#[test]
fn a_driver_that_is_busy_is_not_replaced_and_the_refusal_names_thread_and_function() {
    if !may_upgrade("a_driver_that_is_busy") {
        return;
    }
    let settings = CALM.replace("drain = \"5s\"", "drain = \"20ms\"");
    let bench = Bench::with_factory(&settings, &["-DSLOW_US=1000000"]);
    let object = bench.object("2", &[]);
    let writers = bench.writers(1);
    writers.until_more(1);
    let refused = bench.refused(&object, "2");
    assert_eq!(refused.code, protocol::failure::Code::Busy, "{refused:?}");
    assert!(refused.text.contains("write") && refused.text.contains("thread"), "{refused}");
    writers.until_more(1);
    assert_eq!(sum(&writers.stop()).failed, 0);
    let (status, record) = (bench.until_serving(), bench.record());
    assert_eq!((status.version.version.as_str(), &record["probation"]), ("1", &false.into()));
}
