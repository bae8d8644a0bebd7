//! What is there and what it does: list, open, load, unload, and upgrades under callers that never stop.

use protocol::driver::Place;

use super::*;
use crate::support::replace_supervisor;

#[test]
fn a_driver_serves_and_is_listed_with_its_version_and_place() {
    let bench = Bench::start(CALM);
    let handle = bench.open();
    assert_eq!(handle.write(b"hello").unwrap(), 5);
    assert_eq!((version(&handle), counters(&handle).bytes), ("1".to_owned(), 5));
    let status = bench.status().unwrap();
    assert_eq!((status.version.version.as_str(), status.handles), ("1", 1), "{status:?}");
    assert_eq!(status.version.hash, hash_of(&fs::read(bench.factory()).unwrap()));
    let place: Place = bench.named("open").unwrap();
    assert_eq!(place.object, "driver/counter");
    assert_eq!(Path::new(&place.socket), bench.device.run_dir().join("driver.counter.sock"));
    let unknown = failure(bench.call::<Place>("open", &Named { name: "countre".to_owned() }, &[]));
    assert!(unknown.text.contains("did you mean \"counter\""), "{unknown}");
    handle.close().unwrap();
}

#[test]
fn unloaded_it_is_down_with_its_handles_gone_and_loaded_it_serves_again() {
    if !may_upgrade("unloaded_it_is_down") {
        return;
    }
    let bench = Bench::start(CALM);
    let handle = bench.open();
    let own = bench.device.run_dir().join("driver/counter");
    assert!(own.join("handles").exists() && own.join("fault").exists());
    // What a device and a host that ended itself leave, too.
    for name in ["cuse", "last-words"] {
        fs::write(own.join(name), "of before").unwrap();
    }
    bench.named::<serde_json::Value>("unload").unwrap();
    assert_eq!(bench.status().unwrap().standing, Standing::Down);
    let left: Vec<_> = fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    // A manager that is started again leaves it so.
    bench.device.ctl_ok(&["service", "restart", "driver"]);
    until("another manager answers", || bench.status());
    assert_eq!(bench.status().unwrap().standing, Standing::Down);
    bench.named::<Status>("load").unwrap();
    bench.until_serving();
    assert!(handle.write(b"x").is_err(), "the handle of before is gone");
    assert_eq!(bench.open().write(b"x").unwrap(), 1);
}

#[test]
fn nothing_is_lost_over_a_hundred_upgrades_under_four_callers() {
    if !may_upgrade("nothing_is_lost_over_a_hundred_upgrades") {
        return;
    }
    let bench = Bench::start(CALM);
    // Both know more than the factory version, which is upgraded by the first one with another layout of its state.
    let objects = ["2", "3"].map(|version| bench.object(version, &["-DLAYOUT=2"]));
    let pid = bench.until_serving().pid;
    let writers = bench.writers(4);
    for number in 0..100 {
        let (object, version) = (&objects[number % 2], ["2", "3"][number % 2]);
        let report = bench.upgrade(object, version);
        assert_eq!(report.to.version, version, "{report:?}");
        let settled = bench.settled();
        assert_eq!(
            (settled.outcome, settled.serves.version.as_str()),
            (Outcome::Confirmed, version),
            "{settled:?}"
        );
        writers.until_more(1);
    }
    let written = sum(&writers.stop());
    let found = counters(&bench.open());
    assert_eq!((found.calls, found.bytes, written.failed), (written.calls, written.bytes, 0));
    assert_eq!(found.checksum, written.checksum);
    let status = bench.status().unwrap();
    assert_eq!((status.pid, status.upgrades, status.rollbacks), (pid, 100, 0), "{status:?}");
    // Only what the record names is kept.
    let kept = fs::read_dir(bench.device.run_dir().join("state/driver/counter")).unwrap().count();
    assert_eq!(kept, 3, "the record and two objects");
}

#[test]
fn a_rollback_by_hand_brings_the_version_before_back_with_the_counts() {
    if !may_upgrade("a_rollback_by_hand") {
        return;
    }
    let bench = Bench::start(CALM);
    let handle = bench.open();
    handle.write(b"one").unwrap();
    bench.upgrade(&bench.object("2", &["-DLAYOUT=2"]), "2");
    assert_eq!(bench.settled().outcome, Outcome::Confirmed);
    handle.write(b"two").unwrap();
    let report: Report = bench.named("rollback").unwrap();
    assert_eq!((report.from.version.as_str(), report.to.version.as_str()), ("2", "1"));
    assert_eq!((version(&handle), counters(&handle).calls), ("1".to_owned(), 2));
    let refused = failure(bench.named::<Report>("rollback"));
    assert_eq!(reason_of(&refused), "no-previous", "{refused}");
    let settled = bench.settled();
    assert_eq!((settled.outcome, settled.tried.version.as_str()), (Outcome::RolledBack, "2"));
}

#[test]
fn what_runs_already_is_not_done_again() {
    if !may_upgrade("what_runs_already_is_not_done_again") {
        return;
    }
    let bench = Bench::start(CALM);
    let object = fs::read(bench.factory()).unwrap();
    let report = bench.upgrade(&object, "1");
    assert_eq!((report.from.hash == report.to.hash, report.pause_us), (true, 0), "{report:?}");
    assert_eq!(bench.status().unwrap().upgrades, 0);
}

#[test]
fn a_manager_that_stops_leaves_the_hosts_alone_and_a_supervisor_that_dies_does_too() {
    let bench = Bench::start(CALM);
    let pid = bench.until_serving().pid;
    let writers = bench.writers(2);
    let manager = bench.device.until_pid("driver");
    bench.device.ctl_ok(&["service", "restart", "driver"]);
    crate::support::until_other_pid(&bench.device, "driver", manager);
    writers.until_more(20);
    assert_eq!(bench.until_serving().pid, pid);
    replace_supervisor(&bench.device);
    writers.until_more(20);
    assert_eq!(bench.until_serving().pid, pid);
    assert_eq!(sum(&writers.stop()).failed, 0);
}

#[test]
fn what_is_taken_out_of_driver_toml_is_deleted_and_what_is_put_in_serves() {
    let bench = Bench::start(CALM);
    let manager = bench.device.until_pid("driver");
    let text = format!("[drivers.other]\nobject = {:?}\n", bench.factory());
    fs::write(bench.device.folder().join("etc/driver.toml"), text).unwrap();
    crate::support::kill(manager, rustix::process::Signal::HUP);
    until("the other one serves", || {
        let all: Vec<Status> = bench.call("list", &(), &[]).ok()?;
        let serves =
            |status: &Status| status.name == "other" && status.standing == Standing::Serving;
        (all.len() == 1 && all.iter().any(serves)).then_some(())
    });
    until("the first one's host is gone", || {
        bench.device.json(&["service", "list"])["driver.counter"].is_null().then_some(())
    });
    assert!(Driver::open("other", 0, bench.client()).unwrap().write(b"x").is_ok());
}

#[test]
fn another_factory_object_serves_after_the_manager_started_anew() {
    let bench = Bench::start(CALM);
    let object = bench.object("7", &[]);
    bench.install(&object);
    bench.device.ctl_ok(&["service", "restart", "driver"]);
    until("the new factory version serves", || {
        let status = bench.status()?;
        let serves =
            status.standing == Standing::Serving && status.version.hash == hash_of(&object);
        serves.then_some(())
    });
    assert_eq!(version(&bench.open()), "7");
}

#[test]
fn a_wrong_driver_toml_is_told_with_its_line_and_stops_nobody() {
    let bench = Bench::start(CALM);
    let pid = bench.until_serving().pid;
    bench.settings("thread = 2\n");
    crate::support::kill(bench.device.until_pid("driver"), rustix::process::Signal::HUP);
    until("it is told", || {
        let told = crate::support::printed(&bench.device, "driver").join("\n");
        told.contains("driver.toml:3: unknown key").then_some(())
    });
    assert_eq!(bench.until_serving().pid, pid);
}

#[test]
fn an_ordinary_user_has_drivers_too() {
    let device = Device::of_an_ordinary_user();
    fs::set_permissions(device.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["registry", "driver"] {
        fs::remove_file(device.folder().join(format!("etc/services.d/{name}.toml"))).unwrap();
    }
    let objects = tempfile::tempdir().unwrap();
    let object = device.folder().join("counter.so");
    fs::copy(drivers::build(objects.path(), "counter", &[]), &object).unwrap();
    let text = format!("[drivers.counter]\nobject = {object:?}\n");
    fs::write(device.folder().join("etc/driver.toml"), text).unwrap();
    let mut device = device;
    device.start();
    until("it serves", || {
        let reply = device.ctl(&["--json", "call", "driver", "list"]);
        let all: Vec<Status> = serde_json::from_str(&reply.stdout).ok()?;
        (all.first()?.standing == Standing::Serving).then_some(())
    });
}
