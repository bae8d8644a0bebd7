//! Upgrades of a real driver, version 1 to 2 and back, while tasks call it without a pause; and what happens to those who call
//! without a gate.
#![expect(unsafe_code, reason = "drivers are loaded and called")]

use std::{
    ffi::{c_int, c_long},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::*},
    },
    thread,
    time::Duration,
};

use daemon::clock;
use driver_abi::{Op, Ops};
use hotpatch::{
    Args, Caller, Form, Gate, Image, Module, Sealed, Services, Slot, Stuck, Table, host,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Commands of the example driver.
const READ: u32 = 2;
const ADD: u32 = 3;
/// Bytes of a payload, and of both answers at most.
const ROOM: usize = 64;

struct Quiet;

impl Services for Quiet {
    fn watch(&self, _: u64, _: c_int, _: u32) -> i64 {
        0
    }

    fn notify(&self, _: u64) {}

    fn log(&self, _: c_int, _: &str) {}
}

/// How an operation is called: through the gate, or not.
trait Way: Sync {
    fn ioctl(&self, caller: &mut Caller, handle: u64, command: u32, room: &mut [u8]) -> i64;
    /// How often the code was replaced.
    fn generation(&self) -> u64;
}

struct Gated {
    slot: Slot,
    gate: Arc<Gate>,
}

impl Way for Gated {
    fn ioctl(&self, caller: &mut Caller, handle: u64, command: u32, room: &mut [u8]) -> i64 {
        let input = room.len();
        self.slot.call(caller, handle, Args::Ioctl { command, room, input })
    }

    fn generation(&self) -> u64 {
        self.gate.generation()
    }
}

/// The negative control: the pointer is exchanged under the callers' feet.
struct Bare {
    ops: AtomicPtr<Ops>,
    generation: AtomicU64,
}

impl Way for Bare {
    fn ioctl(&self, _: &mut Caller, handle: u64, command: u32, room: &mut [u8]) -> i64 {
        // SAFETY: both objects stay loaded for the whole test.
        let ioctl = unsafe { (*self.ops.load(SeqCst)).ioctl }.unwrap();
        // SAFETY: the room is as long as it is said to be.
        unsafe { ioctl(handle, command, room.as_mut_ptr().cast(), room.len(), room.len()) }
    }

    fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }
}

/// What went wrong, and what was done.
#[derive(Debug, Default, Eq, PartialEq)]
struct Tally {
    calls: u64,
    failed: u64,
    wrong_hash: u64,
    wrong_version: u64,
    checksum: u64,
}

/// One task: calls until told to stop, each time with other bytes, and checks each answer.
fn task(way: &dyn Way, gate: &Arc<Gate>, handle: u64, stop: &AtomicBool, all: &AtomicU64) -> Tally {
    let mut caller = gate.register().expect("a place for each task");
    let mut tally = Tally::default();
    let mut payload = [0; ROOM];
    while !stop.load(Relaxed) {
        payload[..8].copy_from_slice(&handle.to_le_bytes());
        payload[8..16].copy_from_slice(&tally.calls.to_le_bytes());
        let sum = fnv(&payload);
        let mut room = payload;
        let before = way.generation();
        let answer = way.ioctl(&mut caller, handle, ADD, &mut room);
        let after = way.generation();
        tally.calls += 1;
        tally.checksum = tally.checksum.wrapping_add(sum);
        all.fetch_add(1, Relaxed);
        if answer != 16 {
            tally.failed += 1;
            continue;
        }
        let word = |at: usize| u64::from_le_bytes(room[at..at + 8].try_into().unwrap());
        tally.wrong_hash += u64::from(word(8) != sum);
        // Only where no upgrade came between, it is known which version had to answer.
        tally.wrong_version += u64::from(before == after && word(0) != 1 + before % 2);
    }
    tally
}

fn fnv(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// What the driver has counted: calls, checksum, and each task's calls.
fn counted(way: &dyn Way, gate: &Arc<Gate>, tasks: u64) -> (u64, u64, Vec<u64>) {
    let mut caller = gate.register().expect("the tasks are gone");
    let mut ask = |handle: u64| {
        let mut room = [0; ROOM];
        assert_eq!(way.ioctl(&mut caller, handle, READ, &mut room), 32);
        let word = |at: usize| u64::from_le_bytes(room[at * 8..at * 8 + 8].try_into().unwrap());
        (word(0), word(2), word(3))
    };
    let (calls, checksum, _) = ask(1);
    (calls, checksum, (1..=tasks).map(|handle| ask(handle).2).collect())
}

/// Runs the tasks, and so many upgrades, each after every task on average has called at least once since the one before.
fn run(
    way: &dyn Way,
    gate: &Arc<Gate>,
    tasks: u64,
    upgrades: u64,
    upgrade: &mut dyn FnMut(u64),
) -> Vec<Tally> {
    let (stop, all) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let tasks: Vec<_> = (1..=tasks)
            .map(|handle| {
                let (stop, all) = (&stop, &all);
                scope.spawn(move || task(way, gate, handle, stop, all))
            })
            .collect();
        for number in 0..upgrades {
            let enough = all.load(Relaxed) + tasks.len() as u64;
            let end = clock::now() + LIMIT;
            while all.load(Relaxed) < enough {
                assert!(clock::now() < end, "the tasks don't call");
                // Who sleeps a little has its turn sooner than who yields.
                thread::park_timeout(Duration::from_micros(50));
            }
            upgrade(number);
        }
        stop.store(true, Relaxed);
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    })
}

fn until(what: &str, met: impl Fn() -> bool) {
    let end = clock::now() + LIMIT;
    while !met() {
        assert!(clock::now() < end, "{what}");
        thread::yield_now();
    }
}

fn load(path: &Path) -> Module {
    let bytes = std::fs::read(path).unwrap();
    let object = Sealed::new("counter", &bytes).unwrap();
    Module::load(&object, &Image::check(&bytes).unwrap()).unwrap()
}

/// Version 1 with an empty state and a handle for each task, and version 2, whose state has another layout.
fn versions(folder: &tempfile::TempDir, tasks: u64) -> [Module; 2] {
    let build = |number: u32, options: &[&str]| {
        let version = testkit::drivers::version(&number.to_string());
        let options = [options, &[version.as_str()]].concat();
        load(&testkit::drivers::build(folder.path(), "counter", &options))
    };
    let versions = [build(1, &[]), build(2, &["-DLAYOUT=2"])];
    assert_eq!(versions[0].import(host(&Quiet), &[]), 0);
    let gate = Gate::new(1).unwrap();
    let mut caller = gate.register().unwrap();
    let slot = Slot::new(&gate, versions[0].table());
    for handle in 1..=tasks {
        assert_eq!(slot.call(&mut caller, handle, Args::Open { flags: 0 }), 0);
    }
    versions
}

/// The state goes from the old version to the new one.
fn carry(versions: &[Module; 2], number: u64) -> Table {
    let [one, two] = versions;
    if number.is_multiple_of(2) {
        assert_eq!(two.import(host(&Quiet), &one.export().unwrap()), 0);
        two.table()
    } else {
        assert_eq!(one.import(host(&Quiet), &two.downgrade(1).unwrap()), 0);
        one.table()
    }
}

/// Tests of this file one after the other: together they would measure how the machine shares itself.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn upgrades_with(form: Form, tasks: u64, upgrades: u64) {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let versions = versions(&folder, tasks);
    let Ok(gate) = Gate::with(usize::try_from(tasks).unwrap(), form) else {
        eprintln!("left out: this kernel has no membarrier");
        return;
    };
    let way = Gated { slot: Slot::new(&gate, versions[0].table()), gate: Arc::clone(&gate) };
    let tallies = run(&way, &gate, tasks, upgrades, &mut |number| {
        let closed = gate.close(LIMIT).unwrap();
        let table = carry(&versions, number);
        way.slot.swap(&closed, table).unwrap();
        assert!(!closed.open().revoked);
    });
    let own: Vec<u64> = tallies.iter().map(|tally| tally.calls).collect();
    let checksum = tallies.iter().fold(0_u64, |sum, tally| sum.wrapping_add(tally.checksum));
    for tally in &tallies {
        let Tally { failed, wrong_hash, wrong_version, .. } = tally;
        assert_eq!((failed, wrong_hash, wrong_version), (&0, &0, &0));
    }
    assert_eq!(gate.generation(), upgrades);
    assert_eq!(counted(&way, &gate, tasks), (own.iter().sum(), checksum, own));
}

/// The same without a gate: how many calls were not counted, failed, or were answered by the wrong version.
fn troubles_without_gate(tasks: u64, upgrades: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let versions = versions(&folder, tasks);
    // For its places only.
    let gate = Gate::new(usize::try_from(tasks).unwrap()).unwrap();
    let ops = AtomicPtr::new(versions[0].table().ops().cast_mut());
    let way = Bare { ops, generation: AtomicU64::new(0) };
    let tallies = run(&way, &gate, tasks, upgrades, &mut |number| {
        carry(&versions, number);
        let new = &versions[usize::from(number.is_multiple_of(2))];
        way.ops.store(new.table().ops().cast_mut(), SeqCst);
        way.generation.fetch_add(1, SeqCst);
    });
    let calls: u64 = tallies.iter().map(|tally| tally.calls).sum();
    let wrong = |tally: &Tally| tally.failed + tally.wrong_hash + tally.wrong_version;
    let lost = calls.abs_diff(counted(&way, &gate, tasks).0);
    lost + tallies.iter().map(wrong).sum::<u64>()
}

#[test]
fn a_thousand_upgrades_under_4_callers_lose_and_fail_nothing() {
    upgrades_with(Gate::new(0).unwrap().form(), 4, 1000);
}

#[test]
fn a_thousand_upgrades_under_16_callers_lose_and_fail_nothing() {
    upgrades_with(Gate::new(0).unwrap().form(), 16, 1000);
}

#[test]
fn on_kernels_without_membarrier_nothing_is_lost_either() {
    upgrades_with(Form::Fence, 4, 300);
}

#[test]
fn without_the_gate_the_same_test_sees_losses() {
    let _alone = alone();
    // Chance has a part in it; two hundred upgrades show some nearly always.
    let found = (0..30).map(|_| troubles_without_gate(4, 200)).find(|troubles| *troubles > 0);
    assert!(found.is_some(), "the test cannot see what the gate is for");
}

#[test]
fn a_call_that_does_not_end_is_named_and_everyone_else_goes_on() {
    let _alone = alone();
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    static RELEASED: AtomicU32 = AtomicU32::new(0);
    extern "C" fn stays(_: u64, events: u32) -> c_long {
        if events == 1 {
            INSIDE.store(1, SeqCst);
            until("it is released", || RELEASED.load(SeqCst) == 1);
        }
        0
    }
    static STUCK: Ops = Ops {
        open: None,
        close: None,
        read: None,
        write: None,
        ioctl: None,
        poll: Some(stays),
        interrupt: None,
    };
    let limit = Duration::from_millis(100);
    let gate = Gate::new(3).unwrap();
    // SAFETY: a static table of the seven.
    let slot = Slot::new(&gate, unsafe { Table::new(&raw const STUCK, 7) });
    let call = |handle: u64, events: u32| {
        slot.call(&mut gate.register().unwrap(), handle, Args::Poll { events })
    };
    let (tid, others, stop) = (AtomicU32::new(0), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let stuck = scope.spawn(|| {
            tid.store(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned(), SeqCst);
            call(9, 1)
        });
        let other = scope.spawn(|| {
            while !stop.load(SeqCst) {
                assert_eq!(call(5, 0), 0);
                others.fetch_add(1, SeqCst);
            }
        });
        until("the thread is inside", || INSIDE.load(SeqCst) == 1);
        // The other one may be preempted inside, and so named as well.
        let found = (0..20).find_map(|_| {
            let busy = gate.close(limit).map(drop).err()?;
            (busy.stuck.len() == 1).then_some(busy)
        });
        let busy = found.expect("the thread is stuck");
        let tid = tid.load(SeqCst).cast_signed();
        assert_eq!(busy.stuck, [Stuck { tid, operation: Op::Poll, handle: 9 }]);
        assert!(busy.to_string().contains(&format!("thread {tid} in poll of handle 9")), "{busy}");
        assert!(busy.waited >= limit, "{busy}");
        // More is the machine's; benchmarks say how much.
        assert!(busy.waited < limit * 20, "{busy}");
        let before = others.load(SeqCst);
        until("the gate is open again", || others.load(SeqCst) > before + 100);
        RELEASED.store(1, SeqCst);
        assert_eq!(stuck.join().unwrap(), 0);
        drop(gate.close(LIMIT).unwrap());
        stop.store(true, SeqCst);
        other.join().unwrap();
    });
}
