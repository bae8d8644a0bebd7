//! The gate as its users see it, with drivers written here.
#![expect(unsafe_code, reason = "drivers are called through tables of C functions")]

use std::{
    ffi::{c_int, c_long, c_void},
    io::Read as _,
    os::fd::AsRawFd as _,
    process::Command,
    sync::{
        Arc, Barrier,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::*},
        mpsc,
    },
    thread,
    time::Duration,
};

use daemon::clock;
use driver_abi::{Op, Ops, RESTART, events};
use hotpatch::{
    Args, Caller, Closing, Code, Form, Gate, Services, Shared, Slot, Stuck, Table,
    fault::{self, Fault},
    host,
};

const LIMIT: Duration = Duration::from_secs(20);
const NOTHING: Ops = Ops {
    open: None,
    close: None,
    read: None,
    write: None,
    ioctl: None,
    poll: None,
    interrupt: None,
};

struct Quiet;

impl Services for Quiet {
    fn watch(&self, _: u64, _: c_int, _: u32) -> i64 {
        0
    }

    fn notify(&self, _: u64) {}

    fn log(&self, _: c_int, _: &str) {}
}

fn table(ops: &'static Ops) -> Table {
    // SAFETY: a static table of the seven.
    unsafe { Table::new(ops, 7) }
}

fn registered(gate: &Arc<Gate>) -> Caller {
    gate.register().expect("the gate has places enough")
}

/// Of the calling thread.
fn policy() -> c_int {
    // SAFETY: no pointers.
    unsafe { libc::sched_getscheduler(0) }
}

fn until(what: &str, met: impl Fn() -> bool) {
    let end = clock::now() + LIMIT;
    while !met() {
        assert!(clock::now() < end, "{what}");
        thread::yield_now();
    }
}

/// Every form that this kernel has.
fn gates(threads: usize) -> Vec<Arc<Gate>> {
    let forms = [Form::Membarrier, Form::Fence];
    let all: Vec<_> = forms.iter().filter_map(|form| Gate::with(threads, *form).ok()).collect();
    assert!(!all.is_empty());
    all
}

extern "C" fn version_1(_: u64, _: u32) -> c_long {
    1
}
extern "C" fn version_2(_: u64, _: u32) -> c_long {
    2
}
static VERSION_1: Ops = Ops { poll: Some(version_1), ..NOTHING };
static VERSION_2: Ops = Ops { poll: Some(version_2), ..NOTHING };
const ASK: Args<'_> = Args::Poll { events: 0 };

#[test]
fn a_closed_gate_holds_calls_and_opened_they_go_on_in_the_new_code() {
    for gate in gates(4) {
        let slot = Slot::new(&gate, table(&VERSION_1));
        let mut caller = registered(&gate);
        assert_eq!(slot.call(&mut caller, 1, ASK), 1);
        let closed = gate.close(LIMIT).unwrap();
        thread::scope(|scope| {
            let calls: Vec<_> = (0..3)
                .map(|handle| {
                    let (slot, gate) = (&slot, &gate);
                    scope.spawn(move || slot.call(&mut registered(gate), handle, ASK))
                })
                .collect();
            until("three calls wait", || gate.held() == 3);
            assert!(calls.iter().all(|call| !call.is_finished()));
            assert_eq!(slot.swap(&closed, table(&VERSION_2)).unwrap(), table(&VERSION_1));
            let opened = closed.open();
            assert!(!opened.revoked && opened.held == 3 && opened.drain <= opened.pause);
            for call in calls {
                assert_eq!(call.join().unwrap(), 2);
            }
        });
        assert_eq!(gate.generation(), 1);
    }
}

#[test]
fn operations_that_are_not_there_and_answers_that_cannot_be_true() {
    extern "C" fn reads_too_much(_: u64, _: *mut c_void, length: usize) -> c_long {
        c_long::try_from(length).unwrap() + 1
    }
    extern "C" fn restarts_for_no_reason(_: u64, _: *const c_void, _: usize) -> c_long {
        -512
    }
    static LIES: Ops =
        Ops { read: Some(reads_too_much), write: Some(restarts_for_no_reason), ..NOTHING };
    let gate = Gate::new(1).unwrap();
    let mut caller = registered(&gate);
    let slot = Slot::new(&gate, table(&LIES));
    let mut room = [0; 4];
    let not_there = -i64::from(libc::ENOSYS);
    let wrong = -i64::from(libc::EIO);
    let calls: [(Args<'_>, i64); 8] = [
        (Args::Open { flags: 0 }, 0),
        (Args::Close, 0),
        (Args::Interrupt, 0),
        (ASK, not_there),
        (Args::Own { number: 0, room: &mut [], input: 0 }, not_there),
        (Args::Own { number: u32::MAX, room: &mut [], input: 0 }, not_there),
        (Args::Read(&mut room), wrong),
        (Args::Write(&[]), wrong),
    ];
    for (args, answer) in calls {
        let what = format!("{args:?}");
        assert_eq!(slot.call(&mut caller, 1, args), answer, "{what}");
    }
}

#[test]
fn there_are_as_many_callers_as_places_and_a_place_is_given_again() {
    let gate = Gate::new(2).unwrap();
    let (first, _second) = (registered(&gate), registered(&gate));
    assert!(gate.register().is_none());
    drop(first);
    assert!(gate.register().is_some());
}

/// A driver whose write waits: each word of its argument is a number.
mod waiting {
    use super::*;

    pub(super) static FD: AtomicU32 = AtomicU32::new(0);
    pub(super) static CALLS: AtomicU64 = AtomicU64::new(0);
    pub(super) static LAST: AtomicI64 = AtomicI64::new(0);

    extern "C" fn wait(_: u64, _: *const c_void, _: usize) -> c_long {
        let fd = c_int::try_from(FD.load(SeqCst)).unwrap();
        CALLS.fetch_add(1, SeqCst);
        let answer = (host(&Quiet).wait)(fd, events::IN, -1);
        LAST.store(answer, SeqCst);
        if answer > 0 { 0 } else { answer }
    }
    extern "C" fn time_out(_: u64, _: u32) -> c_long {
        (host(&Quiet).wait)(-1, 0, 1)
    }
    pub(super) static OLD: Ops = Ops { write: Some(wait), poll: Some(time_out), ..NOTHING };
}

#[test]
fn a_ticket_tells_since_when_a_call_is_inside_and_its_caller_how_long_it_waited() {
    static FD: AtomicU32 = AtomicU32::new(0);
    static MAY_GO_ON: AtomicU32 = AtomicU32::new(0);
    extern "C" fn busy_then_waits_then_busy(_: u64, _: u32) -> c_long {
        until("it may wait", || MAY_GO_ON.load(SeqCst) >= 1);
        let answer = (host(&Quiet).wait)(c_int::try_from(FD.load(SeqCst)).unwrap(), events::IN, -1);
        until("it may end", || MAY_GO_ON.load(SeqCst) >= 2);
        answer
    }
    static OPS: Ops = Ops { poll: Some(busy_then_waits_then_busy), ..NOTHING };
    let (reader, writer) = std::io::pipe().unwrap();
    FD.store(u32::try_from(reader.as_raw_fd()).unwrap(), SeqCst);
    let gate = Gate::new(2).unwrap();
    let slot = Slot::new(&gate, table(&OPS));
    thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        let closed = gate.close(LIMIT).unwrap();
        let (slot, gate) = (&slot, &gate);
        let call = scope.spawn(move || {
            let mut caller = registered(gate);
            send.send((caller.next_call(), clock::now())).unwrap();
            slot.call(&mut caller, 1, ASK);
            caller.waited()
        });
        let (ticket, began) = receive.recv().unwrap();
        until("it stands at the gate", || gate.held() == 1);
        until("it is not inside there", || ticket.inside_since(began).is_none());
        let opens = clock::now();
        drop(closed);
        until("it is inside", || ticket.inside_since(began).is_some());
        let since = ticket.inside_since(began).unwrap();
        assert!(since >= opens, "the time at the gate is none of the code's");
        MAY_GO_ON.store(1, SeqCst);
        until("it waits", || ticket.inside_since(began).is_none());
        let comes = clock::now();
        rustix::io::write(&writer, b"x").unwrap();
        until("it is inside again", || ticket.inside_since(began).is_some());
        assert!(ticket.inside_since(began).unwrap() >= comes);
        MAY_GO_ON.store(2, SeqCst);
        let waited = call.join().unwrap();
        assert_eq!(ticket.inside_since(began), None, "it is over");
        assert!(!waited.is_zero() && waited <= clock::now().since(began), "{waited:?}");
    });
}

#[test]
fn who_waits_is_outside_and_replaced_code_is_called_again() {
    extern "C" fn anew(_: u64, _: *const c_void, _: usize) -> c_long {
        0
    }
    static NEW: Ops = Ops { write: Some(anew), ..NOTHING };
    let (mut reader, writer) = std::io::pipe().unwrap();
    waiting::FD.store(u32::try_from(reader.as_raw_fd()).unwrap(), SeqCst);
    let gate = Gate::new(2).unwrap();
    let slot = Slot::new(&gate, table(&waiting::OLD));
    let call = || slot.call(&mut registered(&gate), 1, Args::Write(&[0; 0]));
    thread::scope(|scope| {
        // Without another table it goes on waiting, and is not called again.
        let first = scope.spawn(call);
        until("it waits", || gate.oldest() == Some(0));
        drop(gate.close(LIMIT).unwrap());
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(first.join().unwrap(), 0);
        assert_eq!((waiting::CALLS.load(SeqCst), waiting::LAST.load(SeqCst)), (1, 1));
        assert_eq!(gate.oldest(), None);
        reader.read_exact(&mut [0]).unwrap();
        // Interrupted, it ends.
        let (send, receive) = mpsc::channel();
        let (slot, gate) = (&slot, &gate);
        let second = scope.spawn(move || {
            let mut caller = registered(gate);
            let earlier = caller.next_call();
            assert_eq!(slot.call(&mut caller, 1, ASK), 0);
            let later = caller.next_call();
            send.send((earlier, later)).unwrap();
            slot.call(&mut caller, 1, Args::Write(&[]))
        });
        let (earlier, later) = receive.recv().unwrap();
        earlier.interrupt();
        until("it waits", || gate.oldest() == Some(0));
        earlier.interrupt();
        assert!(!second.is_finished());
        later.interrupt();
        earlier.interrupt();
        assert_eq!(second.join().unwrap(), -i64::from(libc::EINTR));
        // Replaced, it is called again, in the new code.
        let third = scope.spawn(call);
        until("it waits", || gate.oldest() == Some(0));
        let closed = gate.close(LIMIT).unwrap();
        slot.swap(&closed, table(&NEW)).unwrap();
        assert_eq!(gate.oldest(), Some(0), "the old code is yet returned to");
        drop(closed);
        assert_eq!(third.join().unwrap(), 0);
        assert_eq!(waiting::LAST.load(SeqCst), RESTART);
        assert_eq!(gate.oldest(), None);
    });
}

#[test]
fn a_wait_outside_of_any_call_is_refused() {
    assert_eq!((host(&Quiet).wait)(-1, 0, 0), -c_long::from(libc::EPERM));
}

#[test]
fn a_driver_that_calls_itself_is_not_held_by_the_gate_that_waits_for_it() {
    static SELF: std::sync::OnceLock<(Slot, Arc<Gate>)> = std::sync::OnceLock::new();
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    extern "C" fn outer(_: u64, _: u32) -> c_long {
        INSIDE.store(1, SeqCst);
        until("the gate is being closed", || INSIDE.load(SeqCst) == 2);
        let (slot, gate) = SELF.get().unwrap();
        // Its own place would make it wait for itself.
        if slot.call(&mut registered(gate), 2, Args::Close) == 7 { 7 } else { 0 }
    }
    extern "C" fn inner(_: u64) -> c_long {
        7
    }
    static OPS: Ops = Ops { open: Some(outer), close: Some(inner), ..NOTHING };
    let gate = Gate::new(3).unwrap();
    assert!(SELF.set((Slot::new(&gate, table(&OPS)), Arc::clone(&gate))).is_ok());
    let slot = &SELF.get().unwrap().0;
    thread::scope(|scope| {
        let call = scope.spawn(|| slot.call(&mut registered(&gate), 1, Args::Open { flags: 0 }));
        until("it is inside", || INSIDE.load(SeqCst) == 1);
        let closing = scope.spawn(|| drop(gate.close(LIMIT).unwrap()));
        let held = scope.spawn(|| {
            let mut caller = registered(&gate);
            while gate.held() == 0 {
                assert_eq!(slot.call(&mut caller, 3, Args::Interrupt), 0);
            }
        });
        until("the gate is closed", || gate.held() == 1);
        INSIDE.store(2, SeqCst);
        assert_eq!(call.join().unwrap(), 7);
        closing.join().unwrap();
        held.join().unwrap();
    });
}

#[test]
fn the_gate_is_opened_when_the_thread_that_closed_it_is_gone() {
    for gate in gates(1) {
        let slot = Slot::new(&gate, table(&VERSION_1));
        let hour = Closing { hold: Duration::from_secs(3600), ..Closing::default() };
        thread::scope(|scope| {
            let holder = scope.spawn(|| std::mem::forget(gate.close_with(LIMIT, hour).unwrap()));
            holder.join().unwrap();
        });
        assert_eq!(slot.call(&mut registered(&gate), 1, ASK), 1);
        drop(gate.close(LIMIT).unwrap());
    }
}

#[test]
fn a_holder_that_takes_too_long_finds_the_gate_open_and_may_change_nothing() {
    let gate = Gate::new(1).unwrap();
    let slot = Slot::new(&gate, table(&VERSION_1));
    let closing = Closing { hold: Duration::from_millis(20), ..Closing::default() };
    let closed = gate.close_with(Duration::from_millis(1), closing).unwrap();
    // It waits until the watchdog has opened.
    assert_eq!(slot.call(&mut registered(&gate), 1, ASK), 1);
    assert_eq!(slot.swap(&closed, table(&VERSION_2)).unwrap_err().code, Code::Revoked);
    // Another closing is not taken for the old one.
    let next = gate.close(LIMIT).unwrap();
    assert_eq!(closed.change().map(drop).unwrap_err().code, Code::Revoked);
    assert!(closed.open().revoked);
    slot.swap(&next, table(&VERSION_2)).unwrap();
    assert!(!next.open().revoked);
    assert_eq!(slot.call(&mut registered(&gate), 1, ASK), 2);
}

#[test]
fn two_that_close_take_turns_and_who_waits_too_long_is_told_so() {
    let gate = Gate::new(1).unwrap();
    let both = Barrier::new(2);
    thread::scope(|scope| {
        // Begun before: it would be given the priority of who closes.
        let second = scope.spawn(|| {
            let before = policy();
            both.wait();
            let busy = gate.close(Duration::from_millis(10)).map(drop);
            assert_eq!(policy(), before);
            busy
        });
        let first = gate.close(LIMIT).unwrap();
        both.wait();
        let busy = second.join().unwrap().unwrap_err();
        assert!(busy.stuck.is_empty() && busy.waited >= Duration::from_millis(10), "{busy}");
        let third = scope.spawn(|| gate.close(LIMIT).map(drop));
        drop(first);
        third.join().unwrap().unwrap();
    });
}

/// Only the child processes of other tests do something here: `body` ends the process.
fn child(name: &str, body: impl FnOnce()) -> std::process::Output {
    if std::env::var_os("HOTPATCH_CHILD").is_some_and(|child| child == name) {
        body();
        unreachable!("{name} ends its process");
    }
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("HOTPATCH_CHILD", name)
        .output()
        .unwrap()
}

#[test]
fn a_change_that_does_not_end_ends_the_process() {
    let name = "a_change_that_does_not_end_ends_the_process";
    let output = child(name, || {
        let gate = Gate::new(1).unwrap();
        let closing = Closing { hold: Duration::from_millis(1), ..Closing::default() };
        let closed = gate.close_with(Duration::from_millis(1), closing).unwrap();
        let _change = closed.change().unwrap();
        loop {
            thread::park();
        }
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("changing it did not end"), "{text}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGABRT));
}

#[test]
fn a_change_whose_thread_dies_ends_the_process() {
    let name = "a_change_whose_thread_dies_ends_the_process";
    let output = child(name, || {
        let gate = Gate::new(1).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let closed = gate.close(LIMIT).unwrap();
                std::mem::forget(closed.change().unwrap());
                std::mem::forget(closed);
            });
        });
        loop {
            thread::park();
        }
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("the thread that changed it died"), "{text}");
}

#[test]
fn a_fault_is_written_down_with_the_operation_and_ends_the_process_by_its_signal() {
    extern "C" fn crash(_: u64, _: u32) -> c_long {
        // SAFETY: none: this is the fault.
        unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
        0
    }
    static CRASHES: Ops = Ops { poll: Some(crash), ..NOTHING };
    let name = "a_fault_is_written_down_with_the_operation_and_ends_the_process_by_its_signal";
    let folder = tempfile::tempdir().unwrap();
    let file = || std::env::var_os("HOTPATCH_FILE").map(std::path::PathBuf::from);
    if let Some(file) = file() {
        let words: &'static Shared =
            Box::leak(Box::new(Shared::open(&file, fault::WORDS).unwrap()));
        fault::install(words).unwrap();
        let gate = Gate::new(1).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let slot = Slot::new(&gate, table(&CRASHES));
                slot.call(&mut registered(&gate), 77, ASK)
            });
        });
        unreachable!("it crashes");
    }
    let path = folder.path().join("fault");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("HOTPATCH_FILE", &path)
        .output()
        .unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGSEGV));
    let words = Shared::open(&path, fault::WORDS).unwrap();
    let Fault { signal, address, pc, tid, inside, .. } = fault::read(&words).unwrap();
    assert_eq!((signal, address, inside), (libc::SIGSEGV, 8, Some((Op::Poll, 77))));
    assert!(tid > 0 && (pc > 0 || cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64")))));
    fault::clear(&words);
    assert_eq!(fault::read(&words), None);
}

#[test]
fn priority_is_given_back_to_who_closed_and_to_who_was_inside() {
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    extern "C" fn stay(_: u64, _: u32) -> c_long {
        INSIDE.store(1, SeqCst);
        // Until it was raised, where that is allowed.
        until("the drain has begun", || INSIDE.load(SeqCst) == 2);
        0
    }
    static STAYS: Ops = Ops { open: Some(stay), ..NOTHING };
    let gate = Gate::new(1).unwrap();
    let slot = Slot::new(&gate, table(&STAYS));
    let before = policy();
    let both = Barrier::new(2);
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            let own = policy();
            let result = slot.call(&mut registered(&gate), 1, Args::Open { flags: 0 });
            both.wait();
            assert_eq!(policy(), own);
            result
        });
        until("it is inside", || INSIDE.load(SeqCst) == 1);
        let busy = gate.close(Duration::from_millis(5)).map(drop).unwrap_err();
        assert!(matches!(busy.stuck[..], [Stuck { operation: Op::Open, handle: 1, .. }]), "{busy}");
        assert_eq!(policy(), before);
        INSIDE.store(2, SeqCst);
        let closed = gate.close(LIMIT).unwrap();
        // Refused is a note, no failure.
        let allowed = closed.real_time().is_none();
        let raised = policy() & !libc::SCHED_RESET_ON_FORK == libc::SCHED_FIFO;
        assert!(!allowed || raised || before != libc::SCHED_OTHER);
        let begun = thread::spawn(policy).join().unwrap();
        drop(closed);
        assert_eq!(policy(), before);
        both.wait();
        assert_eq!(call.join().unwrap(), 0);
        // A driver's import may begin threads: they are none of the drain's.
        assert!(!raised || begun == libc::SCHED_OTHER, "{begun:#x}");
    });
}
