//! The code of a driver as a component of a bundle: exchanged under a task that goes on calling it, confirmed once its probation is
//! over, and taken back where it fails.

use std::fs;

use driver_client::{Driver, Handle};
use testkit::{drivers, until};

use super::Bench;

/// Nothing is judged that a busy machine could decide, but for errors.
const CALM: &str = "max-errors = 0.05\nmax-latency = 100000\nmax-memory = \"1GiB\"\nhang = \"30s\"\ndrain = \"5s\"\n";
const HEALTH: &str = "health = { timeout = \"50s\", stable = \"0ms\" }\n";
/// `CAP_SYS_ADMIN`: without it not even root may change what a driver runs.
const SYS_ADMIN: u32 = 21;

fn may_upgrade() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    let may = !rustix::process::geteuid().is_root() || effective & (1 << SYS_ADMIN) != 0;
    if !may {
        eprintln!("left out: root has no CAP_SYS_ADMIN here");
    }
    may
}

impl Bench {
    /// Started, with version 1 of the driver `counter` from the factory, and a component of that name.
    fn with_driver(probation: &str) -> Self {
        let mut bench = Self::new();
        fs::remove_file(bench.place("etc/services.d/driver.toml")).unwrap();
        fs::write(bench.place("counter.so"), bench.object("1", &[])).unwrap();
        let factory = bench.place("counter.so");
        let text =
            format!("[drivers.counter]\nobject = {factory:?}\nprobation = {probation:?}\n{CALM}");
        fs::write(bench.place("etc/driver.toml"), text).unwrap();
        let slot = |name| format!("{{ path = {:?}, size = \"1MiB\" }}", bench.place(name));
        let slots = format!("slots = [{}, {}]", slot("drv-a"), slot("drv-b"));
        let how = "activate = \"driver\"\ndriver = \"counter\"";
        bench.settings(&format!("[components.counter]\n{slots}\n{how}\n"), HEALTH);
        bench.start();
        bench
    }

    fn object(&self, version: &str, options: &[&str]) -> Vec<u8> {
        let version = drivers::version(version);
        let options = [&[version.as_str()], options].concat();
        fs::read(drivers::build(self.host.path(), "counter", &options)).unwrap()
    }

    #[track_caller]
    fn open(&self) -> Handle {
        let run_dir = self.device.run_dir();
        let settings = driver_client::Settings { run_dir, ..driver_client::Settings::default() };
        Driver::open("counter", 0, settings).unwrap()
    }
}

/// The version that answers a read.
#[track_caller]
fn version(handle: &Handle) -> String {
    let mut line = [0; 128];
    let length = handle.read(&mut line).unwrap();
    let line = String::from_utf8_lossy(&line[..length]).into_owned();
    line.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_driver_is_upgraded_over_the_network_while_a_task_has_it_open_and_goes_back_when_asked() {
    if !may_upgrade() {
        return;
    }
    let bench = Bench::with_driver("100ms");
    let handle = bench.open();
    handle.write(b"before").unwrap();
    assert_eq!(version(&handle), "1");
    // The factory's version has no index, and nothing below what was confirmed ever serves again.
    bench.bundle("drv-2.vestal", "2", 0, &[("counter", &bench.object("2", &[]))]);
    let said = bench.vestal_ok(&bench.push("drv-2.vestal"));
    assert!(said.contains("confirmed"), "{said}");
    assert_eq!(version(&handle), "2");
    let last = bench.last();
    assert!(last["reason"].as_str().unwrap().contains("counter stood still for"), "{last}");
    assert_eq!(bench.slot("counter", "B")["state"], "active");
    assert_eq!(bench.runs(), ["one"], "nothing else is restarted for it");

    bench.vestal_ok(&format!("rollback {} --key keys/operator.key", bench.address()));
    until("the version before serves", || (version(&handle) == "1").then_some(()));
    assert_eq!(bench.last()["state"], "rolled-back");
    handle.write(b"after").unwrap();
}

#[test]
fn a_driver_that_fails_its_tasks_goes_back_by_itself_and_the_history_says_why() {
    if !may_upgrade() {
        return;
    }
    let bench = Bench::with_driver("40s");
    let handle = bench.open();
    for _ in 0..200 {
        handle.write(b"well").unwrap();
    }
    bench.bundle("drv-2.vestal", "2", 2, &[("counter", &bench.object("2", &["-DERROR_ON=\"!\""]))]);
    let pushing = bench.begin(&bench.push("drv-2.vestal"));
    until("the new version fails and is taken back", || {
        let _ = handle.write(b"!");
        let state = bench.status()["state"].as_str()?.to_owned();
        (state == "rolled-back").then_some(())
    });
    let (status, error) = pushing.wait();
    assert!(!status.success() && error.contains("counter went back"), "{status}: {error}");
    let last = bench.last();
    assert_eq!(last["state"], "rolled-back");
    assert!(last["reason"].as_str().unwrap().contains("the driver counter went back"), "{last}");
    assert_eq!(version(&handle), "1");
    assert_eq!(bench.slot("counter", "B")["state"], "bad");
}
