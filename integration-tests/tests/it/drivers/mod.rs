//! Drivers as tasks and operators see them: the real manager, hosts and canary, real objects made by the C compiler, callers that
//! never stop. Times are not asserted here; `scripts/bench driver` has them.

mod audit;
mod bad_objects;
mod failing;
mod jumping;
mod killing;
mod serving;
mod strangers;

use std::{
    fs,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use driver_client::{Driver, Error, Handle};
use endpoint::{CallError, CallOptions, Client, Options};
use protocol::{
    driver::{Named, Outcome, Report, Settled, Standing, Status, Upgrade},
    failure::Failure,
};
use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testkit::{Device, drivers, until};

/// Nothing is judged that a busy machine could decide.
const CALM: &str = "dev = true\nprobation = \"20ms\"\nmax-errors = 1.0\nmax-latency = 100000\nmax-memory = \"1GiB\"\nhang = \"30s\"\ndrain = \"5s\"\n";
/// `struct counters` of counter.c.
const COUNTER_READ: u32 = 2;
/// As it is built in, but started again at once however often it was killed.
const MANAGER: &str = include_str!("../../../../configs/core/driver.toml");
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
const SYS_ADMIN: u32 = 21;

/// A device with one driver, `counter`.
struct Bench {
    device: Device,
    objects: TempDir,
    runtime: tokio::runtime::Runtime,
    manager: Client,
}

/// What counter.c counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Counters {
    calls: u64,
    bytes: u64,
    checksum: u64,
    own: u64,
}

/// Threads that write without a pause, each with a handle of its own.
struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Written>>,
}

/// What one of them has to tell.
#[derive(Clone, Debug, Default)]
struct Written {
    calls: u64,
    bytes: u64,
    checksum: u64,
    /// Answers of -EIO.
    failed: u64,
    /// Anything else that went wrong; it ended then.
    lost: Option<String>,
}

/// Whether this process is one that the manager obeys: where it isn't the test says so and passes.
fn may_upgrade(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    let may = effective.is_some_and(|capabilities| capabilities & (1 << SYS_ADMIN) != 0);
    if !may {
        eprintln!("{test} needs CAP_SYS_ADMIN where it runs as root, and was not run");
    }
    may
}

fn hash_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A memfd with these bytes and these seals.
fn memfd(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("driver", flags).unwrap();
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest).unwrap();
        rest = &rest[written..];
    }
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    memfd(bytes, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
}

/// The reason for programs.
fn reason_of(failure: &Failure) -> &str {
    failure.details.as_ref().and_then(|details| details["reason"].as_str()).unwrap_or("")
}

impl Bench {
    /// Started, with version 1 from the factory and these settings of the driver; serving.
    fn start(settings: &str) -> Self {
        Self::with_factory(settings, &[])
    }

    fn with_factory(settings: &str, options: &[&str]) -> Self {
        let device = Device::with_core();
        // Hosts give up root, and must come through to their sockets all the same.
        fs::set_permissions(device.folder(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["log", "heartbeat", "config", "upgrade", "autorun"] {
            device.define(name, "command = [\"off\"]\nenabled = false\n");
        }
        let hardy = "respawn = { threshold = 0, timeout = 0, retry = 0 }";
        device.define("driver", &MANAGER.replace("respawn = \"always\"", hardy));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let manager = Client::new(device.run_dir().join("driver.sock"), Options::default());
        let objects = tempfile::tempdir().unwrap();
        let mut bench = Self { device, objects, runtime: runtime.unwrap(), manager };
        bench.install(&bench.object("1", options));
        bench.settings(settings);
        bench.device.start();
        bench.until_serving();
        bench
    }

    /// Puts an object where the root file system would have it.
    fn install(&self, object: &[u8]) {
        fs::write(self.factory(), object).unwrap();
    }

    fn factory(&self) -> PathBuf {
        self.device.folder().join("counter.so")
    }

    fn settings(&self, keys: &str) {
        let text = format!("[drivers.counter]\nobject = {:?}\n{keys}", self.factory());
        fs::write(self.device.folder().join("etc/driver.toml"), text).unwrap();
    }

    /// An object of this version.
    fn object(&self, version: &str, options: &[&str]) -> Vec<u8> {
        let version = drivers::version(version);
        let options = [&[version.as_str()], options].concat();
        let path = drivers::build(self.objects.path(), "counter", &options);
        fs::read(path).unwrap()
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        args: &impl Serialize,
        fds: &[&OwnedFd],
    ) -> Result<T, CallError> {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let options =
            CallOptions { deadline: Duration::from_secs(60), fds: &fds, ..CallOptions::default() };
        let answer = self.runtime.block_on(self.manager.call("driver", method, args, options))?;
        Ok(answer.parse().unwrap())
    }

    fn named<T: DeserializeOwned>(&self, method: &str) -> Result<T, CallError> {
        self.call(method, &Named { name: "counter".to_owned() }, &[])
    }

    fn request(&self, object: &[u8], version: &str) -> Upgrade {
        Upgrade {
            name: "counter".to_owned(),
            hash: hash_of(object),
            version: version.to_owned(),
            rollback_index: 0,
            mode: None,
            dev: true,
            permitted: false,
        }
    }

    /// # Errors
    /// The manager's refusal, or what became of the connection.
    fn try_upgrade(&self, object: &[u8], version: &str) -> Result<Report, CallError> {
        self.call("upgrade", &self.request(object, version), &[&sealed(object)])
    }

    #[track_caller]
    fn upgrade(&self, object: &[u8], version: &str) -> Report {
        match self.try_upgrade(object, version) {
            Ok(report) => report,
            Err(error) => panic!("{error}\n{}", self.told()),
        }
    }

    #[track_caller]
    fn refused(&self, object: &[u8], version: &str) -> Failure {
        failure(self.try_upgrade(object, version))
    }

    #[track_caller]
    fn settled(&self) -> Settled {
        self.named("settled").unwrap_or_else(|error| panic!("{error}\n{}", self.told()))
    }

    fn status(&self) -> Option<Status> {
        let all: Vec<Status> = self.call("list", &(), &[]).ok()?;
        all.into_iter().find(|status| status.name == "counter")
    }

    #[track_caller]
    fn until_serving(&self) -> Status {
        let found = testkit::within(Duration::from_secs(60), || {
            self.status().filter(|status| status.standing == Standing::Serving)
        });
        found.unwrap_or_else(|| panic!("{:?}\n{}", self.status(), self.told()))
    }

    /// What everybody printed, for a test that fails.
    fn told(&self) -> String {
        let printed = |service| crate::support::printed(&self.device, service).join("\n");
        format!(
            "manager:\n{}\nhost:\n{}\n{}",
            printed("driver"),
            printed("driver.counter"),
            self.device.console()
        )
    }

    fn client(&self) -> driver_client::Settings {
        client_of(&self.device.run_dir())
    }

    #[track_caller]
    fn open(&self) -> Handle {
        Driver::open("counter", 0, self.client()).unwrap()
    }

    /// The record as it is on disk.
    fn record(&self) -> serde_json::Value {
        let path = self.device.run_dir().join("state/driver/counter/record.json");
        serde_json::from_slice(&fs::read(path).unwrap_or_default()).unwrap_or_default()
    }

    fn writers(&self, count: usize) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let thread = |number: usize| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let handle = self.open();
            std::thread::spawn(move || write_until(&handle, number, &stop, &acknowledged))
        };
        let threads = (0..count).map(thread).collect();
        Writers { stop, acknowledged, threads }
    }
}

fn client_of(run_dir: &Path) -> driver_client::Settings {
    driver_client::Settings { run_dir: run_dir.to_owned(), ..driver_client::Settings::default() }
}

#[track_caller]
fn failure<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> Failure {
    match outcome {
        Err(CallError::Refused(failure)) => failure,
        other => panic!("not refused: {other:?}"),
    }
}

/// As counter.c does it.
fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn write_until(
    handle: &Handle,
    number: usize,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) -> Written {
    let mut written = Written::default();
    while !stop.load(SeqCst) {
        let data = format!("{number}:{}", written.calls);
        match handle.write(data.as_bytes()) {
            Ok(length) if length == data.len() => {
                written.calls += 1;
                written.bytes += data.len() as u64;
                written.checksum = written.checksum.wrapping_add(checksum(data.as_bytes()));
                acknowledged.fetch_add(1, SeqCst);
            }
            Err(Error::Driver(EIO)) => written.failed += 1,
            other => {
                written.lost = Some(format!("after {} calls: {other:?}", written.calls));
                break;
            }
        }
    }
    written
}

impl Writers {
    /// Waits until so many more calls have come through: nobody waits at a gate that nobody opens.
    #[track_caller]
    fn until_more(&self, more: u64) {
        let goal = self.acknowledged.load(SeqCst) + more;
        until("the writers get on", || (self.acknowledged.load(SeqCst) >= goal).then_some(()));
    }

    fn stop(self) -> Vec<Written> {
        self.stop.store(true, SeqCst);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

/// What all of them wrote together; none of them has lost its handle.
#[track_caller]
fn sum(written: &[Written]) -> Written {
    written.iter().fold(Written::default(), |sum, one| {
        assert_eq!(one.lost, None, "{written:?}");
        Written {
            calls: sum.calls + one.calls,
            bytes: sum.bytes + one.bytes,
            checksum: sum.checksum.wrapping_add(one.checksum),
            failed: sum.failed + one.failed,
            lost: None,
        }
    })
}

#[track_caller]
fn counters(handle: &Handle) -> Counters {
    let mut answer = [0; 32];
    let length = handle.ioctl(COUNTER_READ, &[], &mut answer).unwrap();
    assert_eq!(length, 32);
    let number = |at: usize| u64::from_le_bytes(answer[at * 8..][..8].try_into().unwrap());
    Counters { calls: number(0), bytes: number(1), checksum: number(2), own: number(3) }
}

/// The version that answers a read.
#[track_caller]
fn version(handle: &Handle) -> String {
    let mut line = [0; 128];
    let length = handle.read(&mut line).unwrap();
    let line = String::from_utf8_lossy(&line[..length]).into_owned();
    line.split(' ').nth(1).unwrap().to_owned()
}
