//! Upgrades by jumps at the entries of functions, under callers that never stop.

use protocol::driver::Mode;

use super::*;

const UPGRADES: usize = 50;

#[test]
fn nothing_is_lost_over_fifty_upgrades_by_jumps_and_a_rollback_under_four_callers() {
    if !may_upgrade("nothing_is_lost_over_fifty_upgrades_by_jumps") {
        return;
    }
    let bench = Bench::start(&format!("{CALM}mode = \"jump\"\n"));
    let objects = ["2", "3"].map(|version| bench.object(version, &[]));
    let pid = bench.until_serving().pid;
    let writers = bench.writers(4);
    let mut jumps = 0;
    for number in 0..UPGRADES {
        let (object, version) = (&objects[number % 2], ["2", "3"][number % 2]);
        let report = bench.upgrade(object, version);
        jumps += usize::from(report.mode == Mode::Jump);
        // Layers have an end: then the table is exchanged, and the next jumps begin from there.
        assert!(report.mode == Mode::Jump || !report.notes.is_empty(), "{report:?}");
        assert_eq!(bench.settled().serves.version, version);
        writers.until_more(1);
    }
    let report: Report = bench.named("rollback").unwrap();
    assert_eq!(report.to.version, ["2", "3"][UPGRADES % 2], "{report:?}");
    writers.until_more(20);
    let written = sum(&writers.stop());
    let found = counters(&bench.open());
    assert_eq!((found.calls, found.bytes, written.failed), (written.calls, written.bytes, 0));
    assert_eq!(found.checksum, written.checksum);
    let status = bench.status().unwrap();
    assert_eq!((status.pid, status.upgrades, status.rollbacks), (pid, 50, 1), "{status:?}");
    if hotpatch_jumps() {
        assert!(jumps > UPGRADES / 2, "{jumps} of {UPGRADES} by jumps");
    }
}

/// Elsewhere all of them are by the table.
fn hotpatch_jumps() -> bool {
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
}
