//! The open handles and their calls: those of one handle one after the other, those of different handles side by side, a
//! `poll` that finds nothing put aside until somebody tells. Everything that can grow has a limit.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use driver_abi::Op;
use protocol::{driver::HANDLES_MAX, time::Moment};

use super::line::{Line, Verdict};
use crate::host::core::{Owner, Request, Ticket};

/// Calls of one handle that wait, `poll`s that were put aside included.
const QUEUE_MAX: usize = 64;
/// Bytes of all calls that wait.
const BYTES_MAX: usize = 64 << 20;

pub(crate) const EBADF: i64 = -9;
pub(crate) const EAGAIN: i64 = -11;
pub(crate) const EINTR: i64 = -4;
pub(crate) const EMFILE: i64 = -24;
pub(crate) const ENOBUFS: i64 = -105;

/// What a worker is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Work {
    Open { flags: u32 },
    Close,
    Call(Request),
}

/// One call that a worker took.
#[derive(Debug)]
pub(crate) struct Job<T> {
    pub(crate) ticket: Ticket,
    pub(crate) handle: u64,
    pub(crate) sequence: u64,
    pub(crate) work: Work,
    /// For a `poll`: when it is answered whatever there is.
    deadline: Option<Moment>,
    /// How often somebody had told when it was taken.
    told: u64,
    /// Its handle is being closed: it is carried out, but may wait for nothing.
    pub(crate) hurries: bool,
    /// What gets the answer; it may be taken over by a caller who makes the same call again.
    done: Option<T>,
}

/// An answer, and who gets it.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) done: T,
    pub(crate) result: i64,
}

/// What became of a call that was to be queued.
#[derive(Debug)]
pub(crate) enum Queued<T> {
    /// A worker takes it.
    Waits(Ticket),
    /// The same call waits or runs already and was made again: this one gets the answer now.
    Joined(Ticket, T),
    Answered(Answer<T>),
}

/// What became of a call that a worker has carried out.
#[derive(Debug)]
pub(crate) enum Ended<T> {
    /// This gets the answer, if anybody does.
    Answer(Option<T>),
    /// A `poll` without events, put aside; until when.
    Aside(Ticket, Moment),
    /// The driver told meanwhile: it is asked again.
    Again,
}

/// What runs or waits of a caller who waits no longer.
#[derive(Debug)]
pub(crate) enum Interrupted<T> {
    Answered(Answer<T>),
    /// The driver is in it.
    Runs {
        handle: u64,
    },
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Handles<T> {
    open: BTreeMap<u64, Handle<T>>,
    ready: VecDeque<u64>,
    next_handle: u64,
    next_ticket: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Handle<T> {
    line: Line,
    /// Its place in the journal.
    slot: usize,
    queue: VecDeque<Job<T>>,
    aside: Vec<Job<T>>,
    running: Option<Running<T>>,
    told: u64,
    /// Nothing more is taken; its `close` is in the queue.
    closing: bool,
}

#[derive(Debug)]
struct Running<T> {
    ticket: Ticket,
    sequence: u64,
    done: Option<T>,
    bytes: usize,
}

impl Work {
    pub(crate) fn op(&self) -> Op {
        match self {
            Self::Open { .. } => Op::Open,
            Self::Close => Op::Close,
            Self::Call(request) => request.op(),
        }
    }

    fn weight(&self) -> usize {
        if let Self::Call(request) = self { request.weight() } else { 0 }
    }
}

impl<T> Handles<T> {
    /// `next` is the first number that no handle had yet.
    pub(crate) fn new(next: u64) -> Self {
        Self {
            open: BTreeMap::new(),
            ready: VecDeque::new(),
            next_handle: next.max(1),
            next_ticket: 1,
            bytes: 0,
        }
    }

    pub(crate) fn next_handle(&self) -> u64 {
        self.next_handle
    }

    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    /// Takes a handle of the host before into the list; the driver has been given it back.
    pub(crate) fn adopt(&mut self, line: Line, slot: usize) {
        self.next_handle = self.next_handle.max(line.handle + 1);
        self.open.insert(line.handle, Handle::new(line, slot));
    }

    /// A new handle, whose `open` is queued; its line and its place in the journal are told, too.
    ///
    /// # Errors
    /// Where there are too many.
    pub(crate) fn open(
        &mut self,
        owner: Owner,
        flags: u32,
        done: T,
    ) -> Result<(Line, usize), Answer<T>> {
        let Some(slot) = self.free_slot() else {
            return Err(Answer { done, result: EMFILE });
        };
        let line = Line::new(self.next_handle, owner, flags);
        self.next_handle += 1;
        let ticket = self.ticket();
        let mut handle = Handle::new(line, slot);
        handle.queue.push_back(Job {
            ticket,
            handle: line.handle,
            sequence: 0,
            work: Work::Open { flags },
            deadline: None,
            told: 0,
            hurries: false,
            done: Some(done),
        });
        self.open.insert(line.handle, handle);
        self.ready.push_back(line.handle);
        Ok((line, slot))
    }

    /// Queues a call, or answers it.
    pub(crate) fn submit(
        &mut self,
        owner: Owner,
        handle: u64,
        sequence: u64,
        request: Request,
        done: T,
        now: Moment,
    ) -> Queued<T> {
        let weight = request.weight();
        let full = self.bytes + weight > BYTES_MAX;
        let Some(it) = self.open.get_mut(&handle).filter(|it| it.is_of(owner) && !it.closing)
        else {
            return Queued::Answered(Answer { done, result: EBADF });
        };
        if sequence != 0
            && let Some((ticket, place)) = it.same(sequence)
        {
            return match place.replace(done) {
                Some(before) => Queued::Joined(ticket, before),
                None => Queued::Waits(ticket),
            };
        }
        if let Verdict::Answer(result) = it.line.judge(sequence, request.op()) {
            // It is said once; from now on it counts as answered so.
            if it.line.started == sequence && it.line.done < sequence {
                it.line.end(sequence, request.op(), result, false);
            }
            return Queued::Answered(Answer { done, result });
        }
        if it.queue.len() + it.aside.len() >= QUEUE_MAX {
            return Queued::Answered(Answer { done, result: EAGAIN });
        }
        if full {
            return Queued::Answered(Answer { done, result: ENOBUFS });
        }
        let deadline =
            if let Request::Poll { wait, .. } = &request { Some(now + *wait) } else { None };
        self.bytes += weight;
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        it.queue.push_back(Job {
            ticket,
            handle,
            sequence,
            work: Work::Call(request),
            deadline,
            told: 0,
            hurries: false,
            done: Some(done),
        });
        self.make_ready(handle);
        Queued::Waits(ticket)
    }

    /// Ends a handle: `close` comes after the calls that wait, and nothing after it.
    ///
    /// # Errors
    /// Where `owner` has no such handle.
    pub(crate) fn close(
        &mut self,
        owner: Owner,
        handle: u64,
        done: Option<T>,
    ) -> Result<Vec<Answer<T>>, Option<Answer<T>>> {
        let ticket = self.ticket();
        let Some(it) = self.open.get_mut(&handle).filter(|it| it.is_of(owner) && !it.closing)
        else {
            return Err(done.map(|done| Answer { done, result: EBADF }));
        };
        it.closing = true;
        it.queue.push_back(Job {
            ticket,
            handle,
            sequence: 0,
            work: Work::Close,
            deadline: None,
            told: 0,
            hurries: false,
            done,
        });
        let aside = std::mem::take(&mut it.aside);
        self.make_ready(handle);
        Ok(aside.into_iter().filter_map(|job| job.answer(EBADF)).collect())
    }

    /// The owner has ended: its calls that wait are forgotten, and its handles closed. Those where the driver is in a call
    /// are named: it has to be interrupted.
    pub(crate) fn owner_ended(&mut self, owner: Owner) -> Vec<u64> {
        let of_owner: Vec<u64> = self
            .open
            .values()
            .filter(|it| it.is_of(owner) && !it.closing)
            .map(|it| it.line.handle)
            .collect();
        let mut inside = Vec::new();
        for handle in of_owner {
            let Some(it) = self.open.get_mut(&handle) else { continue };
            // Its open is kept: without it there would be nothing to close.
            let kept = it.queue.iter().position(|job| !matches!(job.work, Work::Open { .. }));
            let forgotten: usize = match kept {
                Some(from) => it.queue.drain(from..).map(|job| job.work.weight()).sum(),
                None => 0,
            };
            it.aside.clear();
            if it.running.is_some() {
                inside.push(handle);
            }
            self.bytes -= forgotten;
            let _ = self.close(owner, handle, None);
        }
        inside
    }

    /// The next call for a worker; its line has been brought up to date and has to be written before the driver gets it.
    pub(crate) fn take(&mut self) -> Option<(Job<T>, Line, usize)> {
        loop {
            let handle = self.ready.pop_front()?;
            let Some(it) = self.open.get_mut(&handle).filter(|it| it.running.is_none()) else {
                continue;
            };
            let Some(mut job) = it.queue.pop_front() else { continue };
            let bytes = job.work.weight();
            job.told = it.told;
            job.hurries = it.closing && matches!(job.work, Work::Call(_));
            it.running = Some(Running {
                ticket: job.ticket,
                sequence: job.sequence,
                done: job.done.take(),
                bytes,
            });
            it.line.begin(job.sequence, job.work.op());
            return Some((job, it.line, it.slot));
        }
    }

    /// Whether a worker would find something.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A worker has carried it out. The line has to be written if there is one; without, the handle is gone and its place free.
    pub(crate) fn end(
        &mut self,
        job: Job<T>,
        result: i64,
        brought_data: bool,
        now: Moment,
    ) -> (Ended<T>, Option<Line>, usize) {
        let handle = job.handle;
        let it = self.open.get_mut(&handle).expect("only the end of its close takes a handle away");
        let running = it.running.take().expect("a call that was taken runs until it has ended");
        let slot = it.slot;
        self.bytes -= running.bytes;
        it.line.end(job.sequence, job.work.op(), result, brought_data);
        let line = it.line;
        let failed_open = matches!(job.work, Work::Open { .. }) && result < 0;
        if matches!(job.work, Work::Close) || failed_open {
            // What waits behind a failed open is its close at most: nobody else knew the handle.
            self.open.remove(&handle);
            return (Ended::Answer(running.done), None, slot);
        }
        let waits = job.deadline.filter(|deadline| result == 0 && *deadline > now && !it.closing);
        let Some(deadline) = waits else {
            self.make_ready(handle);
            return (Ended::Answer(running.done), Some(line), slot);
        };
        let again = job.told != it.told;
        let ticket = job.ticket;
        let job = Job { done: running.done, ..job };
        let ended = if again {
            it.queue.push_back(job);
            Ended::Again
        } else {
            it.aside.push(job);
            Ended::Aside(ticket, deadline)
        };
        self.make_ready(handle);
        (ended, Some(line), slot)
    }

    /// A worker has a call back that did nothing, because the host ends: who waits for it, and the line to be written.
    pub(crate) fn take_back(&mut self, job: &Job<T>) -> Option<(Option<T>, Line, usize)> {
        let it = self.open.get_mut(&job.handle)?;
        let running = it.running.take()?;
        self.bytes -= running.bytes;
        it.line.take_back(job.sequence);
        Some((running.done, it.line, it.slot))
    }

    /// The host ends: all that has not begun, and whose it is.
    pub(crate) fn leave(&mut self) -> Vec<(Owner, T)> {
        let mut left = Vec::new();
        for it in self.open.values_mut() {
            let owner = it.line.owner;
            let waiting = it.queue.drain(..).chain(it.aside.drain(..));
            left.extend(waiting.filter_map(|job| job.done).map(|done| (owner, done)));
        }
        self.ready.clear();
        left
    }

    /// Something may be there for who polls this handle; 0 is any of them.
    pub(crate) fn notify(&mut self, handle: u64) {
        let told: Vec<u64> = match handle {
            0 => self.open.keys().copied().collect(),
            handle => vec![handle],
        };
        for handle in told {
            let Some(it) = self.open.get_mut(&handle) else { continue };
            it.told += 1;
            let aside = std::mem::take(&mut it.aside);
            if !aside.is_empty() {
                it.queue.extend(aside);
                self.make_ready(handle);
            }
        }
    }

    /// The time of a `poll` that was put aside is over.
    pub(crate) fn expire(&mut self, handle: u64, ticket: Ticket) -> Option<Answer<T>> {
        let it = self.open.get_mut(&handle)?;
        let at = it.aside.iter().position(|job| job.ticket == ticket)?;
        it.aside.swap_remove(at).answer(0)
    }

    /// The caller waits no longer.
    pub(crate) fn interrupt(&mut self, ticket: Ticket) -> Interrupted<T> {
        for it in self.open.values_mut() {
            if it.running.as_ref().is_some_and(|running| running.ticket == ticket) {
                return Interrupted::Runs { handle: it.line.handle };
            }
            let is_it = |job: &Job<T>| job.ticket == ticket && matches!(job.work, Work::Call(_));
            let job = if let Some(at) = it.queue.iter().position(is_it) {
                it.queue.remove(at).inspect(|job| self.bytes -= job.work.weight())
            } else {
                it.aside.iter().position(is_it).map(|at| it.aside.swap_remove(at))
            };
            if let Some(job) = job {
                return job.answer(EINTR).map_or(Interrupted::Nothing, Interrupted::Answered);
            }
        }
        Interrupted::Nothing
    }

    fn make_ready(&mut self, handle: u64) {
        let ready = |it: &Handle<T>| it.running.is_none() && !it.queue.is_empty();
        if self.open.get(&handle).is_some_and(ready) && !self.ready.contains(&handle) {
            self.ready.push_back(handle);
        }
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }

    fn free_slot(&self) -> Option<usize> {
        let taken: std::collections::BTreeSet<usize> =
            self.open.values().map(|it| it.slot).collect();
        (0..HANDLES_MAX).find(|slot| !taken.contains(slot))
    }
}

impl<T> Handle<T> {
    fn new(line: Line, slot: usize) -> Self {
        Self {
            line,
            slot,
            queue: VecDeque::new(),
            aside: Vec::new(),
            running: None,
            told: 0,
            closing: false,
        }
    }

    fn is_of(&self, owner: Owner) -> bool {
        match (self.line.owner, owner) {
            // The watch of the process ends its handles before its number is used again.
            (Owner::Process { pid, .. }, Owner::Process { pid: asks, .. }) => pid == asks,
            (has, asks) => has == asks,
        }
    }

    /// Where the answer goes of a call with this number that has none yet.
    fn same(&mut self, sequence: u64) -> Option<(Ticket, &mut Option<T>)> {
        if let Some(running) = self.running.as_mut().filter(|it| it.sequence == sequence) {
            return Some((running.ticket, &mut running.done));
        }
        let mut waiting = self.queue.iter_mut().chain(&mut self.aside);
        waiting.find(|job| job.sequence == sequence).map(|job| (job.ticket, &mut job.done))
    }
}

impl<T> Job<T> {
    fn answer(self, result: i64) -> Option<Answer<T>> {
        self.done.map(|done| Answer { done, result })
    }
}

/// The time that a caller gives a `poll`: as long as it waits anyway where the number is the highest.
pub(crate) fn wait_of(milliseconds: u32) -> Duration {
    match milliseconds {
        u32::MAX => Duration::from_secs(365 * 86_400),
        some => Duration::from_millis(u64::from(some)),
    }
}

#[cfg(test)]
mod tests;
