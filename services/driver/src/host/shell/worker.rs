//! The threads that carry out calls: as many as the settings say, and more for a while when all of them are inside the
//! driver and others wait, because a driver may wait in a call.

use std::{sync::Arc, time::Duration};

use daemon::clock;
use driver_abi::Op;
use hotpatch::{Args, Caller};
use protocol::{driver::Hit, time::Moment};

use super::desk::{Desk, Inside, Reply, State, give_back, reply};
use crate::host::{
    core::{Outcome, Request},
    machine::{
        handles::{EINTR, Ended, Job, Work},
        recorder::Recorded,
    },
};

/// Workers beyond those of the settings, for calls that wait in the driver.
pub(super) const EXTRA_MAX: usize = 64;
/// Places at the gate beside the workers': for interrupts, the start, and who looks.
pub(super) const OTHERS: usize = 8;
/// A worker beyond those of the settings leaves when it had nothing to do for so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// A worker of the settings looks so often whether it is still wanted.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// Starts one more worker.
///
/// # Errors
/// Where there can be no further thread.
pub(super) fn hire(desk: &Arc<Desk>) -> std::io::Result<()> {
    desk.lock().hired += 1;
    let its = Arc::clone(desk);
    let started = std::thread::Builder::new().name("worker".to_owned()).spawn(move || work(&its));
    if started.is_err() {
        desk.lock().hired -= 1;
    }
    started.map(drop)
}

fn work(desk: &Arc<Desk>) {
    let Some(mut caller) = desk.gate.register() else {
        // There are as many places as workers; without one there is nothing that this one could do.
        return leave(desk, None);
    };
    let tid = rustix::thread::gettid().as_raw_nonzero().get();
    // Long answers are sent by tasks.
    let runtime = desk.runtime.clone();
    let _runtime = runtime.enter();
    let mut state = desk.lock();
    let place = state.place(tid);
    while !state.stopping {
        if let Some((job, line, slot)) = state.handles.take() {
            let op = job.work.op();
            if op != Op::Open && op != Op::Close {
                desk.journal.begin(slot, &line);
            }
            let (began, generation) = (clock::now(), state.generation);
            enter(&mut state, place, &job, began, &caller);
            if job.hurries {
                caller.next_call().interrupt();
            }
            if state.handles.is_ready() {
                desk.wake(&mut state);
            } else {
                state.starving = None;
            }
            drop(state);
            let outcome = carry_out(desk, &mut caller, &job);
            state = desk.lock();
            if let Some(worker) = &mut state.workers[place] {
                worker.call = None;
            }
            if state.stopping && outcome.result == EINTR {
                if let Some((done, line, slot)) = state.handles.take_back(&job) {
                    desk.journal.begin(slot, &line);
                    drop(state);
                    if let Some(done) = done {
                        give_back(line.owner, done);
                    }
                    state = desk.lock();
                }
                continue;
            }
            let took = clock::now().since(began).saturating_sub(caller.waited());
            count(desk, &mut state, &job, &outcome, (began, took, generation), tid);
            let done = end(desk, &mut state, job, slot, &outcome);
            if let Some((done, handle)) = done {
                drop(state);
                reply(done, handle, outcome);
                state = desk.lock();
            }
            continue;
        }
        let extra = state.hired > desk.threads;
        let (again, timed_out) = desk.next(state, if extra { PATIENCE } else { FOREVER });
        state = again;
        if timed_out && state.hired > desk.threads && !state.handles.is_ready() {
            break;
        }
    }
    drop(state);
    leave(desk, Some(place));
}

fn leave(desk: &Desk, place: Option<usize>) {
    let mut state = desk.lock();
    if let Some(place) = place {
        state.workers[place] = None;
    }
    state.hired -= 1;
    if state.hired == 0 {
        desk.left.notify_waiters();
    }
}

fn enter(state: &mut State, place: usize, job: &Job<Reply>, began: Moment, caller: &Caller) {
    let call = Inside {
        handle: job.handle,
        op: job.work.op(),
        began,
        ticket: caller.next_call(),
        seen: None,
    };
    if let Some(worker) = &mut state.workers[place] {
        worker.call = Some(call);
    }
    state.recorder.add(recorded(job));
}

/// Calls the driver. It is inside until it answers; while the gate is closed it waits before.
fn carry_out(desk: &Desk, caller: &mut Caller, job: &Job<Reply>) -> Outcome {
    let handle = job.handle;
    let mut room = Vec::new();
    let args = match &job.work {
        Work::Open { flags } => Args::Open { flags: *flags },
        Work::Close => Args::Close,
        Work::Call(Request::Poll { events, .. }) => Args::Poll { events: *events },
        Work::Call(Request::Write { data }) => Args::Write(data),
        Work::Call(Request::Read { length }) => {
            room.resize(*length, 0);
            Args::Read(&mut room)
        }
        Work::Call(Request::Ioctl { command, argument, room: answer }) => {
            room.clone_from(argument);
            room.resize(argument.len().max(*answer), 0);
            Args::Ioctl { command: *command, room: &mut room, input: argument.len() }
        }
        Work::Call(Request::Own { number, argument, room: answer }) => {
            room.clone_from(argument);
            room.resize(argument.len().max(*answer), 0);
            Args::Own { number: *number, room: &mut room, input: argument.len() }
        }
    };
    let brings_data = matches!(
        &job.work,
        Work::Call(Request::Read { .. } | Request::Ioctl { .. } | Request::Own { .. })
    );
    let result = desk.slot.call(caller, handle, args);
    let length = if brings_data { usize::try_from(result).unwrap_or(0) } else { 0 };
    room.truncate(length);
    Outcome { result, data: room }
}

/// Counts the call for the version that carried it out; what it waited for is not in `took`.
fn count(
    desk: &Desk,
    state: &mut State,
    job: &Job<Reply>,
    outcome: &Outcome,
    (began, took, generation): (Moment, Duration, u64),
    tid: i32,
) {
    let op = job.work.op();
    // Who was interrupted did not fail.
    let is_error = outcome.result < 0 && outcome.result != EINTR;
    state.calls += 1;
    state.errors += u64::from(is_error);
    desk.tell_keeper(state);
    if generation == state.generation {
        state.deeds.add(is_error, took);
    }
    let bit = 1u64.checked_shl(op.index()).unwrap_or(0);
    if desk.measured.load(std::sync::atomic::Ordering::Relaxed) & bit != 0 {
        let recorded = recorded(job);
        state.hit(Hit {
            function: op.to_string(),
            tid,
            at_us: began.0 / 1000,
            arguments: [
                job.handle,
                recorded.word.into(),
                recorded.argument.len() as u64,
                recorded.room.into(),
                0,
                0,
            ],
            result: Some(outcome.result),
            duration_ns: Some(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
            lost: 0,
        });
    }
}

/// Brings the handle up to date; who gets the answer.
fn end(
    desk: &Arc<Desk>,
    state: &mut State,
    job: Job<Reply>,
    slot: usize,
    outcome: &Outcome,
) -> Option<(Reply, u64)> {
    let (handle, op) = (job.handle, job.work.op());
    let brought_data = !outcome.data.is_empty();
    let (ended, line, _) = state.handles.end(job, outcome.result, brought_data, clock::now());
    desk.note_line(op, slot, line);
    match ended {
        Ended::Answer(done) => done.map(|done| (done, handle)),
        Ended::Again => None,
        Ended::Aside(ticket, until) => {
            let waits = Arc::downgrade(desk);
            desk.runtime.spawn(async move {
                tokio::time::sleep_until(clock::instant(until).into()).await;
                if let Some(desk) = waits.upgrade() {
                    desk.expire(handle, ticket);
                }
            });
            None
        }
    }
}

/// The call as the recorder keeps it.
fn recorded(job: &Job<Reply>) -> Recorded {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let (word, room, argument) = match &job.work {
        Work::Open { flags } => (*flags, 0, Vec::new()),
        Work::Close => (0, 0, Vec::new()),
        Work::Call(request) => match request {
            Request::Read { length } => (0, number(*length), Vec::new()),
            Request::Write { data } => (0, 0, data.clone()),
            Request::Ioctl { command, argument, room } => {
                (*command, number(*room), argument.clone())
            }
            Request::Poll { events, .. } => (*events, 0, Vec::new()),
            Request::Own { argument, room, .. } => (0, number(*room), argument.clone()),
        },
    };
    Recorded { handle: job.handle, op: job.work.op().index(), word, room, argument }
}
