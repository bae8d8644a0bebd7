//! A device on a clock of its own: a tmpfs and memory that an image brings back, a journal that nothing brings back, and a
//! shell that does what the machine says, or fails as the test wants.

use std::collections::{BTreeMap, BTreeSet};

use protocol::autorun::{Resumed, Status};
use sha2::{Digest as _, Sha256};

use super::super::*;
use crate::journal::{Journal, tests::Scratch};

/// More events than any scenario needs.
const EVENTS_MAX: usize = 100_000;
const MS: Duration = Duration::from_millis(1);

/// What a target's program does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Does {
    Exits(i32, Duration),
    /// Until it gets TERM.
    Hangs,
    /// Until it gets KILL.
    IgnoresTerm,
    /// Not even then.
    Sticks,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Log {
    Did(Step),
    Undid(Step),
    Start(usize),
    Stop(usize, bool),
    Exited(usize),
    Probe(usize),
    Reseed,
    Guard,
    Counted(u64),
    Clock,
    Mount,
    Network,
    Resumed(Resumed),
    Prepare,
    Exit,
    Reboot(String),
}

#[derive(Clone, Debug)]
struct Image {
    engine: Engine,
    current: Option<Record>,
    plan: Option<Plan>,
    work: WorkId,
    now: Moment,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) engine: Option<Engine>,
    pub(super) now: Moment,
    /// CLOCK_BOOTTIME minus CLOCK_MONOTONIC.
    pub(super) offset: Duration,
    pub(super) rtc: Option<i64>,
    pub(super) disk: Scratch,
    pub(super) current: Option<Record>,
    pub(super) plan: Option<Plan>,
    image: Option<Image>,
    pub(super) off: bool,
    pub(super) log: Vec<(Moment, Log)>,
    pub(super) answers: BTreeMap<CallId, Result<Answer, Failure>>,
    pending: Vec<(Moment, WorkId, Result<Outcome, String>)>,
    running: BTreeMap<WorkId, usize>,
    pub(super) does: BTreeMap<usize, Does>,
    /// Targets whose probe fails, so often.
    pub(super) broken: BTreeMap<usize, u32>,
    /// This step of arming fails.
    pub(super) fails: Option<Step>,
    /// This step of arming never comes back.
    pub(super) hangs: Option<Step>,
    pub(super) write_fails: bool,
    pub(super) guard_fails: bool,
    pub(super) tmpfs_full: bool,
    /// From this operation on it is.
    pub(super) fills: Option<usize>,
    /// The engine is killed at this operation on journal, tmpfs or a program: before it has an effect, or after.
    pub(super) kill: Option<(usize, bool)>,
    /// More of these, the last first; each before the operation's effect.
    kills: Vec<usize>,
    cut: Option<(usize, u8)>,
    pub(super) operations: usize,
    pub(super) deaths: usize,
    images: u8,
    next_call: CallId,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let mut world = Self {
            settings,
            engine: None,
            now: Moment(5_000_000_000),
            offset: Duration::ZERO,
            rtc: Some(1_000_000),
            disk: Scratch::default(),
            current: None,
            plan: None,
            image: None,
            off: false,
            log: Vec::new(),
            answers: BTreeMap::new(),
            pending: Vec::new(),
            running: BTreeMap::new(),
            does: BTreeMap::new(),
            broken: BTreeMap::new(),
            fails: None,
            hangs: None,
            write_fails: false,
            guard_fails: false,
            tmpfs_full: false,
            fills: None,
            kill: None,
            kills: Vec::new(),
            cut: None,
            operations: 0,
            deaths: 0,
            images: 0,
            next_call: 1,
        };
        world.start_engine();
        world
    }

    pub(super) fn clocks(&self) -> Samples {
        let monotonic = Duration::from_nanos(self.now.0);
        Samples { boottime: monotonic + self.offset, monotonic, rtc: self.rtc }
    }

    pub(super) fn start_engine(&mut self) {
        let journal = Journal::new(self.disk.clone()).read().unwrap_or_default();
        let found = Found {
            verdict: None,
            current: self.current.clone(),
            plan: self.plan.clone(),
            journal: journal.filter(|_| self.settings.journal.is_some()),
            clocks: self.clocks(),
        };
        self.pending.clear();
        self.engine = Some(Engine::new(self.settings.clone(), found, self.now));
    }

    pub(super) fn call(&mut self, request: Request) -> CallId {
        let call = self.next_call;
        self.next_call += 1;
        self.tell(Event::Call { call, request });
        call
    }

    pub(super) fn tell(&mut self, event: Event) {
        let now = self.now;
        if let Some(engine) = &mut self.engine {
            engine.handle_event(event, now);
        }
        self.perform();
    }

    /// Asks, and lets everything happen that follows.
    pub(super) fn ask(&mut self, request: Request) -> Option<Result<Answer, Failure>> {
        let call = self.call(request);
        self.settle();
        self.answers.get(&call).cloned()
    }

    pub(super) fn sleep(&mut self) -> Option<Result<Answer, Failure>> {
        self.ask(Request::Sleep { kind: protocol::autorun::Sleep::Hibernate, back_end: None })
    }

    pub(super) fn status(&self) -> Status {
        self.engine.as_ref().expect("an engine").status()
    }

    pub(super) fn state(&self) -> State {
        self.status().state
    }

    /// Until nothing goes on any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..EVENTS_MAX {
            if !self.step() {
                return;
            }
        }
        panic!("it never ends: {:?}", self.engine);
    }

    /// One event, if there is any to come.
    pub(super) fn step(&mut self) -> bool {
        self.perform();
        if self.off {
            return false;
        }
        let Some(engine) = &mut self.engine else {
            self.start_engine();
            return true;
        };
        let deadline = engine.next_deadline();
        let due = self.pending.iter().enumerate().min_by_key(|(at, (due, ..))| (*due, *at));
        let due = due.map(|(at, (due, ..))| (at, *due));
        match (due, deadline) {
            (Some((at, due)), deadline) if deadline.is_none_or(|deadline| due <= deadline) => {
                let (_, work, result) = self.pending.remove(at);
                self.now = self.now.max(due);
                if let Some(target) = self.running.remove(&work) {
                    self.log.push((self.now, Log::Exited(target)));
                }
                engine.handle_event(Event::Did { work, result }, self.now);
            }
            (_, Some(deadline)) => {
                self.now = self.now.max(deadline);
                engine.handle_timeout(self.now);
                let next = engine.next_deadline();
                assert!(next.is_none_or(|next| next > self.now), "it would spin: {engine:?}");
            }
            _ => return false,
        }
        self.perform();
        true
    }

    fn note(&mut self, log: Log) {
        self.log.push((self.now, log));
    }

    fn perform(&mut self) {
        while let Some(action) = self.engine.as_mut().and_then(Engine::poll_action) {
            self.act(action);
        }
    }

    fn later(&mut self, work: WorkId, after: Duration, result: Result<Outcome, String>) {
        self.pending.push((self.now + after, work, result));
    }

    /// Whether the engine dies here, before the effect or after.
    fn operation(&mut self, after: bool) -> bool {
        if !after {
            self.operations += 1;
        }
        self.tmpfs_full |= self.fills.is_some_and(|at| at <= self.operations);
        if self.kill.is_none() && self.kills.last() == Some(&self.operations) {
            self.kill = self.kills.pop().map(|at| (at, false));
        }
        let dies = self.engine.is_some() && self.kill == Some((self.operations, after));
        if dies {
            self.kill = None;
            self.deaths += 1;
            self.engine = None;
            self.pending.clear();
            self.running.clear();
        }
        dies
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Check { work, .. } => {
                let check = match self.fails {
                    Some(Step::Check) => vec!["no swap".to_owned()],
                    _ => Vec::new(),
                };
                let check = protocol::autorun::Check { problems: check, notes: Vec::new() };
                self.later(work, MS, Ok(Outcome::Checked(check)));
            }
            Action::Plan(plan) => {
                if !self.operation(false) {
                    self.plan = plan;
                    self.operation(true);
                }
            }
            Action::Do { work, step } => self.arm_step(work, step),
            Action::Undo { work, step } => {
                self.note(Log::Undid(step));
                self.later(work, MS * 5, Ok(Outcome::Done));
            }
            Action::WriteImage { work, kind, .. } => self.write_image(work, kind),
            Action::Save { work, record, to } => self.save(work, *record, to),
            Action::ReadJournal { work } => {
                if self.operation(false) {
                    return;
                }
                let result = Journal::new(self.disk.clone()).read();
                let result = result.map(|record| Outcome::Journal(record.map(Box::new)));
                self.later(work, MS, result);
            }
            Action::Reseed { work, entropy } => {
                self.note(Log::Reseed);
                let hash = |what: u8| {
                    let Entropy { ordinal, seed, clocks } = &*entropy;
                    let text = format!("{what} {ordinal} {seed:?} {:?}", clocks.rtc);
                    <[u8; 32]>::from(Sha256::digest(text))
                };
                let run = std::array::from_fn(|at| hash(1)[at]);
                self.later(work, MS, Ok(Outcome::Fresh { run, seed: hash(2) }));
            }
            Action::Guard { work } => {
                self.note(Log::Guard);
                let changed = Err("the superblock of /dev/sda1 was changed".to_owned());
                let result = if self.guard_fails { changed } else { Ok(Outcome::Done) };
                self.later(work, MS, result);
            }
            Action::SetClock { work } => self.plain(work, Log::Clock),
            Action::Mount { work, .. } => self.plain(work, Log::Mount),
            Action::Network { work, .. } => self.plain(work, Log::Network),
            Action::Publish(Notice::Resumed(resumed)) => self.note(Log::Resumed(resumed)),
            Action::Publish(Notice::Prepare(_)) => self.note(Log::Prepare),
            Action::Publish(Notice::State(_)) | Action::Sweep { .. } => {}
            Action::Start { work, target, .. } => self.start(work, target),
            Action::Stop { work, target, kill } => {
                self.note(Log::Stop(target, kill));
                let ends = match self.does.get(&target) {
                    Some(Does::Hangs) => true,
                    Some(Does::IgnoresTerm) => kill,
                    _ => false,
                };
                if ends {
                    self.later(work, MS, Ok(Outcome::Exited(if kill { -9 } else { -15 })));
                }
            }
            Action::Probe { work, target } => {
                self.note(Log::Probe(target));
                let broken = self.broken.get_mut(&target).filter(|left| **left > 0);
                let result = match broken {
                    Some(left) => {
                        *left -= 1;
                        Err("no frames".to_owned())
                    }
                    None => Ok(Outcome::Done),
                };
                self.later(work, MS, result);
            }
            Action::Abandon { work } => self.pending.retain(|(_, id, _)| *id != work),
            Action::Answer { call, result } => {
                assert!(self.answers.insert(call, result).is_none(), "call {call} answered twice");
            }
            Action::RebootCold { reason } => {
                self.note(Log::Reboot(reason));
                self.off = true;
            }
            Action::Exit => {
                self.note(Log::Exit);
                self.off = true;
            }
        }
    }

    fn plain(&mut self, work: WorkId, log: Log) {
        self.note(log);
        self.later(work, MS, Ok(Outcome::Done));
    }

    fn arm_step(&mut self, work: WorkId, step: Step) {
        if self.hangs.as_ref() == Some(&step) {
            return;
        }
        if self.fails.as_ref() == Some(&step) {
            return self.later(work, MS, Err("busy".to_owned()));
        }
        let outcome = match step {
            Step::Identify => {
                self.images += 1;
                let [image, seed] = [1, 2].map(|what| Sha256::digest([self.images, what]).into());
                Outcome::Identified { image, seed }
            }
            Step::Forget => {
                self.current = None;
                Outcome::Done
            }
            _ => Outcome::Done,
        };
        self.note(Log::Did(step));
        self.later(work, MS * 2, Ok(outcome));
    }

    fn write_image(&mut self, work: WorkId, kind: protocol::autorun::Sleep) {
        if self.write_fails {
            return self.later(work, MS * 100, Err("No such device".to_owned()));
        }
        if kind == protocol::autorun::Sleep::Suspend {
            self.offset += Duration::from_secs(100);
            let clocks = self.clocks();
            return self.later(work, MS, Ok(Outcome::Woke(clocks)));
        }
        self.image = Some(Image {
            engine: self.engine.clone().expect("it just acted"),
            current: self.current.clone(),
            plan: self.plan.clone(),
            work,
            now: self.now,
        });
        self.off = true;
    }

    fn save(&mut self, work: WorkId, record: Record, to: To) {
        if self.disk.medium().dead {
            self.off = true;
            return;
        }
        let mut journal = Ok(());
        let mut current = Ok(());
        if to != To::Current {
            if self.operation(false) {
                return;
            }
            let before = self.journal().ok().flatten().map_or(0, |record| record.ordinal);
            journal = match self.fails {
                Some(Step::Record) => Err("the device is gone".to_owned()),
                _ => Journal::new(self.disk.clone()).write(&record).map(|_| ()),
            };
            if self.disk.medium().dead {
                self.off = true;
                return;
            }
            if journal.is_ok() && before < record.ordinal {
                self.note(Log::Counted(record.ordinal));
            }
            if self.operation(true) {
                return;
            }
        }
        if to != To::Journal {
            if self.operation(false) {
                return;
            }
            if self.tmpfs_full {
                current = Err("no space".to_owned());
            } else {
                self.current = Some(record);
            }
            if self.operation(true) {
                return;
            }
        }
        self.later(work, MS * 5, Ok(Outcome::Saved { journal, current }));
    }

    fn start(&mut self, work: WorkId, target: usize) {
        if self.operation(false) {
            return;
        }
        self.note(Log::Start(target));
        self.running.insert(work, target);
        if let Does::Exits(status, after) =
            self.does.get(&target).copied().unwrap_or(Does::Exits(0, MS * 10))
        {
            self.later(work, after, Ok(Outcome::Exited(status)));
        }
        self.operation(true);
    }

    /// As [`Self::resume`], with an engine that is killed at each of these operations.
    pub(super) fn resume_killed(&mut self, after: Duration, kills: &[usize]) {
        self.kills = kills.iter().rev().copied().collect();
        self.resume(after);
    }

    /// The power goes at that write of the next life, of which these sectors arrive.
    pub(super) fn cut_next(&mut self, write: usize, sectors: u8) {
        self.cut = Some((write, sectors));
    }

    /// The power is back; the image is resumed after so long, if there is one.
    pub(super) fn resume(&mut self, after: Duration) {
        let image = self.image.clone().expect("an image was written");
        self.power_on();
        self.now = image.now;
        self.offset = self.offset.max(Duration::ZERO) + after;
        self.current = image.current;
        self.plan = image.plan;
        self.engine = Some(image.engine);
        let clocks = self.clocks();
        self.tell(Event::Did { work: image.work, result: Ok(Outcome::Woke(clocks)) });
        self.settle();
    }

    pub(super) fn has_image(&self) -> bool {
        self.image.is_some()
    }

    pub(super) fn boot_cold(&mut self) {
        self.power_on();
        self.start_engine();
        self.settle();
    }

    fn power_on(&mut self) {
        self.off = false;
        self.current = None;
        self.plan = None;
        self.engine = None;
        self.pending.clear();
        self.running.clear();
        self.answers.clear();
        self.log.clear();
        let mut medium = self.disk.medium();
        medium.dead = false;
        medium.cut = self.cut.take();
    }

    /// How often each target began since the power came.
    pub(super) fn starts(&self) -> BTreeMap<usize, usize> {
        let mut starts = BTreeMap::new();
        for (_, log) in &self.log {
            if let Log::Start(target) = log {
                *starts.entry(*target).or_default() += 1;
            }
        }
        starts
    }

    pub(super) fn events(&self) -> Vec<&Log> {
        self.log.iter().map(|(_, log)| log).collect()
    }

    pub(super) fn place(&self, name: &str) -> usize {
        let is = |target: &crate::settings::Target| target.name.as_str() == name;
        self.settings.targets.iter().position(is).expect("such a target")
    }

    pub(super) fn journal(&self) -> Result<Option<Record>, String> {
        Journal::new(self.disk.clone()).read()
    }

    pub(super) fn reported_doubtful(&self) -> BTreeSet<usize> {
        let rows = self.status().targets;
        let doubtful =
            |row: &protocol::autorun::TargetRow| row.state == protocol::autorun::Target::Doubtful;
        (0..rows.len()).filter(|at| doubtful(&rows[*at])).collect()
    }
}
