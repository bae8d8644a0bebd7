//! Tries a new version out before anybody depends on it: loads it, gives it the state, makes the last calls again. A process of
//! its own, in which a crash, a hang or a leak harms nobody. What it says last on stderr is the reason, behind a word for programs.
//!
//! Descriptor 3 is the object, sealed; stdin is what the host gave as `trial`, or nothing. Exit code 0: it may be tried.

use std::{
    ffi::c_int,
    io::Read as _,
    os::fd::{AsFd as _, OwnedFd},
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    time::Duration,
};

use daemon::clock;
use driver_abi::{DATA_MAX, Op, STATE_MAX, State};
use hotpatch::{Args, Code, Gate, Image, Module, Refusal, Sealed, Services, Slot, Ticket};
use protocol::driver::OBJECT_MAX;
use rustix::process::{
    PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getpid, pidfd_getfd, pidfd_open, setrlimit,
};

use crate::host::machine::recorder::{Recorded, Sample};

const OBJECT: c_int = 3;
/// Seconds of the processor.
const CPU: u64 = 5;
/// Bytes of address space.
const MEMORY: u64 = 1 << 30;
/// Longest sample: a state, and the calls that a recorder keeps.
const SAMPLE_MAX: u64 = STATE_MAX as u64 + (4 << 20);

/// How long a call may wait.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long all calls together may take; what is left then is not made.
const REPLAY_TIME: Duration = Duration::from_secs(3);

/// What the driver calls back for is done for nobody here.
struct Silent;

impl Services for Silent {
    fn watch(&self, _: u64, _: c_int, _: u32) -> i64 {
        0
    }

    fn notify(&self, _: u64) {}

    fn log(&self, level: c_int, text: &str) {
        eprintln!("level {level}: {text}");
    }
}

/// Runs the canary to its end.
pub(crate) fn main() -> ExitCode {
    match try_out() {
        Ok(()) => ExitCode::SUCCESS,
        Err((word, text)) => {
            eprintln!("{word}: {}", text.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

type Reason = (&'static str, String);

fn try_out() -> Result<(), Reason> {
    let refused = |refusal: Refusal| (refusal.code.name(), refusal.text);
    let object =
        descriptor().map_err(|error| ("system", format!("descriptor {OBJECT}: {error}")))?;
    let sealed = Sealed::adopt(object, OBJECT_MAX).map_err(refused)?;
    let image = Image::check(sealed.bytes()).map_err(refused)?;
    let mut bytes = Vec::new();
    let stdin = std::io::stdin().lock().take(SAMPLE_MAX + 1).read_to_end(&mut bytes);
    stdin.map_err(|error| ("system", format!("stdin: {error}")))?;
    let sample = Sample::decode(&bytes)
        .filter(|_| bytes.len() as u64 <= SAMPLE_MAX)
        .ok_or(("system", "what came on stdin is no trial of a host".to_owned()))?;
    limit(Resource::Cpu, CPU)?;
    limit(Resource::As, MEMORY)?;
    limit(Resource::Core, 0)?;
    // Loading makes a copy of the object in memory, which counts as a file; and what is said last may go to one.
    limit(Resource::Fsize, OBJECT_MAX)?;
    let module = Module::load(&sealed, &image).map_err(refused)?;
    rehearse(&module, &sample)
}

/// The whole way: state in, state out, self test, and the calls.
fn rehearse(module: &Module, sample: &Sample) -> Result<(), Reason> {
    let host = hotpatch::host(&Silent);
    let result = module.import(host, &sample.state);
    if result < 0 {
        return Err(("import", format!("it does not take the state: error {result}")));
    }
    let refused = |refusal: Refusal| (refusal.code.name(), refusal.text);
    let exported = module.export().map_err(refused)?;
    State::parse(&exported)
        .map_err(|error| (Code::BadDriver.name(), format!("its state is none: {error}")))?;
    if let Ok(before) = State::parse(&sample.state)
        && before.layout != module.layout()
    {
        let back = module.downgrade(before.layout).map_err(refused)?;
        if State::parse(&back).ok().as_ref() != Some(&before) {
            return Err((
                "state-lost",
                "what it writes in the old layout is not what it was given".to_owned(),
            ));
        }
    }
    let result = module.self_test();
    if result < 0 {
        return Err(("self-test", format!("it answered {result}")));
    }
    let gate = Gate::new(1).map_err(|error| ("system", format!("a gate: {error}")))?;
    // From here on it opens nothing more: no file, no socket, no device.
    limit(Resource::Nofile, 0)?;
    replay(module, &gate, &sample.calls)
}

/// Makes the calls that the host had last. What they answer is not looked at: the devices behind are not there. That they come
/// back is what counts, and that the state can still be exported.
fn replay(module: &Module, gate: &Arc<Gate>, calls: &[Recorded]) -> Result<(), Reason> {
    let slot = Slot::new(gate, module.table());
    let mut caller = gate.register().ok_or(("system", "no place at the gate".to_owned()))?;
    let (begins, ends) = patience().map_err(|error| ("system", format!("a thread: {error}")))?;
    let until = clock::now() + REPLAY_TIME;
    for call in calls {
        if clock::now() >= until {
            break;
        }
        // Nobody takes the word of a thread that has ended for more than that.
        let _ = begins.send(caller.next_call());
        let room = usize::try_from(call.room).unwrap_or(DATA_MAX).min(DATA_MAX);
        let mut bytes = call.argument.clone();
        let input = bytes.len();
        let args = match Op::at(call.op) {
            Op::Open => Args::Open { flags: call.word },
            Op::Close => Args::Close,
            Op::Write => Args::Write(&bytes),
            Op::Poll => Args::Poll { events: call.word },
            Op::Interrupt => Args::Interrupt,
            Op::Read => {
                bytes.resize(room, 0);
                Args::Read(&mut bytes)
            }
            Op::Ioctl => {
                bytes.resize(input.max(room), 0);
                Args::Ioctl { command: call.word, room: &mut bytes, input }
            }
            Op::Own(number) => {
                bytes.resize(input.max(room), 0);
                Args::Own { number, room: &mut bytes, input }
            }
        };
        slot.call(&mut caller, call.handle, args);
        let _ = ends.send(());
    }
    let exported = module.export().map_err(|refusal| (refusal.code.name(), refusal.text))?;
    State::parse(&exported)
        .map(drop)
        .map_err(|error| (Code::BadDriver.name(), format!("after {} calls: {error}", calls.len())))
}

/// A thread that interrupts calls which wait for what never comes here. It is told of each that begins and ends.
fn patience() -> std::io::Result<(Sender<Ticket>, Sender<()>)> {
    let (begins, begun) = mpsc::channel::<Ticket>();
    let (ends, ended) = mpsc::channel::<()>();
    let work = move || {
        while let Ok(ticket) = begun.recv() {
            if ended.recv_timeout(PATIENCE).is_ok() {
                continue;
            }
            ticket.interrupt();
            if ended.recv().is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("patience".to_owned()).spawn(work)?;
    Ok((begins, ends))
}

fn limit(resource: Resource, value: u64) -> Result<(), Reason> {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(resource, limit).map_err(|error| ("system", format!("limit {resource:?}: {error}")))
}

/// The object's descriptor, which is known by its number only.
fn descriptor() -> rustix::io::Result<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(own.as_fd(), OBJECT, PidfdGetfdFlags::empty())
}
