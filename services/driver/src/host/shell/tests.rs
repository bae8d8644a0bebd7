//! The host with real drivers, in this process. What ends a process is tried by the tests that start processes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use daemon::places::Places;
use driver_abi::events;
use hotpatch::{Closing, Sealed};
use protocol::{
    driver::{Mode, Outcome as Settling, Report, Settled, Upgrade},
    failure::{Code, Failure},
};
use tempfile::TempDir;
use testkit::drivers::{build, version};
use tokio::{runtime::Handle, sync::Notify};

use super::{
    keeper::Keeper,
    start::{Started, start},
    worker,
    workshop::Shut,
};
use crate::{
    host::core::{Outcome, Owner, Request},
    record,
    settings::Driver,
};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);
const NAME: &str = "counter";

struct Bench {
    folder: TempDir,
    runtime: Runtime,
    started: Started,
    keeper: Option<JoinHandle<()>>,
}

/// One thread that runs tasks, as in the host itself.
struct Runtime {
    handle: Handle,
    ends: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, ends) = (runtime.handle().clone(), Arc::new(Notify::new()));
        let end = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            runtime.block_on(end.notified());
            runtime.shutdown_background();
        });
        Self { handle, ends, thread: Some(thread) }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.ends.notify_one();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl Fn(&mut Driver)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let factory = build(folder.path(), "counter", &[]);
        Self::of(folder, factory, change)
    }

    fn of(folder: TempDir, factory: PathBuf, change: impl Fn(&mut Driver)) -> Self {
        let runtime = Runtime::new();
        let mut driver = settings(factory);
        change(&mut driver);
        let (started, keeper) = begin(&folder, &runtime.handle, driver);
        Self { folder, runtime, started, keeper: Some(keeper) }
    }

    /// What a new host of the same run directory finds.
    fn again(mut self) -> Self {
        self.end();
        let driver = self.started.shop.settings.clone();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        Self::of(folder, driver.object.clone(), |fresh| fresh.clone_from(&driver))
    }

    fn end(&mut self) {
        self.started.shop.desk.stop();
        if let Some(keeper) = self.keeper.take() {
            keeper.join().unwrap();
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn open(&self) -> u64 {
        let (tell, told) = mpsc::channel();
        self.started.core.open(own(), 0, move |opened| tell.send(opened).unwrap());
        told.recv_timeout(PATIENCE).unwrap().unwrap()
    }

    fn call(&self, handle: u64, sequence: u64, request: Request) -> Outcome {
        let (tell, told) = mpsc::channel();
        let done = move |outcome| tell.send(outcome).unwrap();
        self.started.core.submit(own(), handle, sequence, request, done);
        told.recv_timeout(PATIENCE).unwrap()
    }

    fn write(&self, handle: u64, text: &str) -> i64 {
        self.call(handle, 0, Request::Write { data: text.into() }).result
    }

    /// The driver's own line about itself.
    fn line(&self, handle: u64) -> String {
        let outcome = self.call(handle, 0, Request::Read { length: 200 });
        String::from_utf8(outcome.data).unwrap()
    }

    fn upgrade(&self, mode: Mode, options: &[&str]) -> Result<Report, Failure> {
        let path = build(self.path(), "counter", options);
        let bytes = std::fs::read(path).unwrap();
        let version = options.iter().find_map(|option| option.strip_prefix("-DVERSION="));
        let upgrade = Upgrade {
            name: NAME.to_owned(),
            hash: record::hash_of(&bytes),
            version: version.unwrap().trim_matches('"').to_owned(),
            rollback_index: 1,
            mode: Some(mode),
            dev: true,
            permitted: false,
        };
        self.started.shop.replace(&Sealed::new(NAME, &bytes).unwrap(), &upgrade)
    }

    fn settled(&self) -> Settled {
        let mut trials = self.started.shop.trials.subscribe();
        let over =
            async { tokio::time::timeout(PATIENCE, trials.wait_for(|trials| !trials.open)).await };
        let trials = self.runtime.handle.block_on(over).unwrap().unwrap().clone();
        trials.last.unwrap()
    }

    fn serves(&self) -> String {
        self.started.shop.serving().version.version
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.end();
    }
}

fn begin(folder: &TempDir, runtime: &Handle, driver: Driver) -> (Started, JoinHandle<()>) {
    let places = Places {
        run: folder.path().join("run"),
        config: None,
        state: folder.path().join("state"),
        uci: None,
    };
    super::make_folder(&places.run.join("driver").join(NAME)).unwrap();
    let _runtime = runtime.enter();
    let started = start(NAME, driver, &places).unwrap();
    (0..started.shop.settings.threads).for_each(|_| worker::hire(&started.shop.desk).unwrap());
    let keeper = Keeper::start(&started.shop).unwrap();
    (started, keeper)
}

fn settings(object: PathBuf) -> Driver {
    Driver {
        object,
        user: None,
        device: None,
        probation: Duration::from_secs(60),
        drain: Duration::from_secs(2),
        threads: 2,
        checkpoint: Duration::from_millis(20),
        max_errors: 0.05,
        max_latency: 10.0,
        max_memory: 64 << 20,
        hang: Duration::from_secs(10),
        dev: true,
        mode: Mode::Table,
    }
}

/// This process has the handles.
fn own() -> Owner {
    let pid = i32::try_from(std::process::id()).unwrap();
    Owner::Process { pid, start: super::owners::start_time(pid).unwrap() }
}

fn reason(failure: &Failure) -> &str {
    failure.details.as_ref().and_then(|details| details["reason"].as_str()).unwrap_or_default()
}

#[test]
fn an_upgrade_keeps_what_was_counted_and_the_handles() {
    let bench = Bench::new();
    let handle = bench.open();
    for _ in 0..5 {
        assert_eq!(bench.write(handle, "four"), 4);
    }
    let report = bench.upgrade(Mode::Table, &[&version("2"), "-DLAYOUT=2"]).unwrap();
    assert_eq!((report.from.version.as_str(), report.to.version.as_str()), ("1", "2"));
    assert!(report.pause_us > 0 && report.probation_ms == 60_000, "{report:?}");
    bench.write(handle, "four");
    let line = bench.line(handle);
    assert!(line.contains("version 2 calls 6 bytes 24") && line.contains("own 6"), "{line}");
}

#[test]
fn a_jump_upgrade_serves_goes_back_and_can_be_stacked() {
    let bench = Bench::new();
    let handle = bench.open();
    bench.write(handle, "x");
    for next in ["2", "3"] {
        let report = bench.upgrade(Mode::Jump, &[&version(next)]).unwrap();
        assert_eq!(report.mode, Mode::Jump, "{:?}", report.notes);
        bench.write(handle, "x");
        assert!(bench.line(handle).contains(&format!("version {next} ")));
        let mut body = bench.started.shop.body();
        body.trial = None;
        drop(body);
        bench.started.shop.settle(Settling::Confirmed, report.to, None);
    }
    for before in ["2", "1"] {
        bench.started.shop.roll_back(None).unwrap();
        bench.write(handle, "x");
        assert!(bench.line(handle).contains(&format!("version {before} ")));
    }
    assert!(bench.line(handle).contains("calls 5 bytes 5"), "{}", bench.line(handle));
}

#[test]
fn a_jump_to_a_version_with_more_operations_goes_by_its_table_and_says_so() {
    let bench = Bench::new();
    let report = bench.upgrade(Mode::Jump, &[&version("2"), "-DADDED"]).unwrap();
    assert_eq!(report.mode, Mode::Table);
    assert!(report.notes.iter().any(|note| note.contains("more operations")), "{:?}", report.notes);
    let handle = bench.open();
    let added = bench.call(handle, 0, Request::Own { number: 2, argument: vec![], room: 10 });
    assert_eq!(added.data, b"2");
}

#[test]
fn what_does_not_take_over_is_refused_and_the_old_one_serves_on() {
    let bench = Bench::new();
    let handle = bench.open();
    bench.write(handle, "x");
    for (option, expected) in [
        ("-DIMPORT_FAILS", "import"),
        ("-DSELF_TEST_FAILS", "self-test"),
        ("-DLOSE_STATE", "state-lost"),
    ] {
        let failure = bench.upgrade(Mode::Table, &[&version("2"), option]).unwrap_err();
        assert_eq!(reason(&failure), expected, "{failure}");
    }
    let failure = bench.upgrade(Mode::Table, &[&version("2"), "-DLOSE_STATE"]).unwrap_err();
    assert!(failure.text.contains("handles"), "the field is named: {failure}");
    bench.write(handle, "x");
    assert!(bench.line(handle).contains("version 1 calls 2"), "{}", bench.line(handle));
    assert!(!bench.started.shop.trials.borrow().open);
}

#[test]
fn the_object_that_serves_needs_no_upgrade_and_another_hash_is_refused() {
    let bench = Bench::new();
    let first = bench.upgrade(Mode::Table, &[&version("2")]).unwrap();
    let object =
        Sealed::new(NAME, &std::fs::read(&bench.started.shop.settings.object).unwrap()).unwrap();
    let upgrade = Upgrade {
        name: NAME.to_owned(),
        hash: first.to.hash,
        version: "1".to_owned(),
        rollback_index: 0,
        mode: None,
        dev: true,
        permitted: false,
    };
    let failure = bench.started.shop.replace(&object, &upgrade).unwrap_err();
    assert_eq!(reason(&failure), "hash");
    let failure = bench.upgrade(Mode::Table, &[&version("3")]).unwrap_err();
    assert_eq!((failure.code, reason(&failure)), (Code::Busy, "probation"));
}

#[test]
fn a_version_that_fails_is_rolled_back_without_a_call_lost() {
    let bench = Bench::new();
    let handle = bench.open();
    bench.write(handle, "x");
    bench.upgrade(Mode::Table, &[&version("2"), "-DERROR_AT=1", "-DLAYOUT=2"]).unwrap();
    for _ in 0..6 {
        assert_eq!(bench.write(handle, "x"), -5);
    }
    let settled = bench.settled();
    assert_eq!((settled.outcome, settled.serves.version.as_str()), (Settling::RolledBack, "1"));
    assert!(settled.reason.unwrap().contains("calls failed"));
    assert_eq!(bench.write(handle, "x"), 1);
    assert!(bench.line(handle).contains("version 1 calls 2"), "{}", bench.line(handle));
}

#[test]
fn a_version_that_is_slow_or_grows_is_rolled_back() {
    let bench = Bench::with(|driver| driver.max_memory = 4 << 20);
    let handle = bench.open();
    (0..30).for_each(|_| assert_eq!(bench.write(handle, "x"), 1));
    for (option, part) in [("-DSLOW_US=20000", "max-latency"), ("-DLEAK=1048576", "max-memory")] {
        bench.upgrade(Mode::Table, &[&version("2"), option]).unwrap();
        (0..30).for_each(|_| assert_eq!(bench.write(handle, "x"), 1));
        let settled = bench.settled();
        assert_eq!(settled.outcome, Settling::RolledBack, "{option}");
        assert!(settled.reason.as_ref().unwrap().contains(part), "{settled:?}");
    }
    assert!(bench.line(handle).contains("version 1 calls 90"), "{}", bench.line(handle));
}

#[test]
fn a_version_that_does_well_is_confirmed_and_can_still_be_taken_back() {
    let bench = Bench::with(|driver| driver.probation = Duration::from_millis(100));
    let handle = bench.open();
    bench.upgrade(Mode::Table, &[&version("2"), "-DLAYOUT=2"]).unwrap();
    bench.write(handle, "x");
    let settled = bench.settled();
    assert_eq!((settled.outcome, settled.serves.version.as_str()), (Settling::Confirmed, "2"));
    let report = bench.started.shop.roll_back(Some("by hand".to_owned())).unwrap();
    assert_eq!((report.from.version.as_str(), report.to.version.as_str()), ("2", "1"));
    assert!(bench.line(handle).contains("version 1 calls 1"));
    let failure = bench.started.shop.roll_back(None).unwrap_err();
    assert_eq!(reason(&failure), "no-previous");
}

#[test]
fn the_next_host_has_the_handles_the_state_and_what_was_answered() {
    let bench = Bench::new();
    let handle = bench.open();
    assert_eq!(bench.call(handle, 1, Request::Write { data: b"four".to_vec() }).result, 4);
    let body = bench.started.shop.body();
    assert!(bench.started.shop.checkpoint(&body));
    drop(body);
    let bench = bench.again();
    let again = bench.call(handle, 1, Request::Write { data: b"four".to_vec() });
    assert_eq!(again.result, 4, "it is answered, and not made twice");
    assert!(bench.line(handle).contains("calls 1 bytes 4") && bench.line(handle).contains("own 1"));
    assert_eq!(bench.call(handle, 2, Request::Write { data: b"x".to_vec() }).result, 1);
    assert!(bench.open() > handle, "a number is never used twice");
}

#[test]
fn a_checkpoint_comes_a_while_after_a_call_without_anybody_asking() {
    let bench = Bench::new();
    let handle = bench.open();
    bench.write(handle, "four");
    let state = bench.path().join("run/driver").join(NAME).join("state");
    testkit::until("the state is written", || state.exists().then_some(()));
}

#[test]
fn on_probation_the_state_is_kept_in_the_old_layout_too() {
    let bench = Bench::new();
    let handle = bench.open();
    bench.write(handle, "four");
    bench.upgrade(Mode::Table, &[&version("2"), "-DLAYOUT=2"]).unwrap();
    bench.write(handle, "four");
    let body = bench.started.shop.body();
    assert!(bench.started.shop.checkpoint(&body));
    drop(body);
    // The factory version, which knows layout 1 only, is what the next host loads here.
    let bench = bench.again();
    assert_eq!(bench.serves(), "1");
    assert!(bench.line(handle).contains("version 1 calls 2 bytes 8"), "{}", bench.line(handle));
}

#[test]
fn a_poll_of_what_is_there_is_answered_at_once() {
    let bench = Bench::new();
    let handle = bench.open();
    let request = Request::Poll { events: events::IN, wait: PATIENCE };
    assert_eq!(bench.call(handle, 0, request).result, i64::from(events::IN));
}

#[test]
fn a_handle_ends_with_its_owner_and_others_stay() {
    let bench = Bench::new();
    let handle = bench.open();
    bench.started.shop.desk.owner_ended(own());
    assert_eq!(bench.write(handle, "x"), -9);
    let closed = || (bench.started.shop.desk.lock().handles.count() == 0).then_some(());
    testkit::until("it is closed", closed);
    assert_eq!(bench.started.shop.desk.journal.lines(), []);
}

#[test]
fn calls_made_through_many_upgrades_are_all_counted() {
    let bench = Arc::new(Bench::new());
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let bench = Arc::clone(&bench);
            std::thread::spawn(move || {
                let handle = bench.open();
                (0..500).filter(|_| bench.write(handle, "x") == 1).count()
            })
        })
        .collect();
    for next in 2..12 {
        let mode = if next % 2 == 0 { Mode::Table } else { Mode::Jump };
        let report = bench.upgrade(mode, &[&version(&next.to_string())]).unwrap();
        let mut body = bench.started.shop.body();
        body.trial = None;
        drop(body);
        bench.started.shop.settle(Settling::Confirmed, report.to, None);
    }
    let made: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert_eq!(made, 1500);
    let handle = bench.open();
    assert!(
        bench.line(handle).contains("version 11 calls 1500 bytes 1500"),
        "{}",
        bench.line(handle)
    );
}

#[test]
fn what_was_exported_while_the_watchdog_had_opened_the_gate_is_thrown_away() {
    let bench = Bench::new();
    let handle = bench.open();
    let gate = &bench.started.shop.desk.gate;
    let hold = Duration::from_millis(1);
    let shut = gate.close_with(Duration::ZERO, Closing { hold, real_time: false }).unwrap();
    // It is answered as soon as somebody opens.
    assert_eq!(bench.write(handle, "x"), 1);
    assert_eq!(Shut(shut).end("made beside a call"), None);
    let shut = bench.started.shop.shut(PATIENCE).unwrap();
    assert_eq!(shut.end("made behind the gate"), Some("made behind the gate"));
}

#[test]
fn what_a_call_waits_for_is_no_time_of_the_codes() {
    let folder = tempfile::tempdir().unwrap();
    let factory = build(folder.path(), "pipe", &[]);
    let bench = Bench::of(folder, factory, |_| {});
    let handle = bench.open();
    let bell = 200u32.to_le_bytes().to_vec();
    assert_eq!(
        bench.call(handle, 0, Request::Own { number: 0, argument: bell, room: 0 }).result,
        0
    );
    let deeds = || bench.started.shop.desk.lock().deeds.clone();
    testkit::until("both are counted", || (deeds().calls == 2).then_some(()));
    let longest = deeds().times.p99().unwrap();
    assert!(longest < Duration::from_millis(200), "{longest:?}");
}
