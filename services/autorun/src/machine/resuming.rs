//! What comes between the moment a life begins and its first target. Nothing is written to a file system before the guard has
//! passed; nothing draws a random number for others before the reseed.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use protocol::{
    autorun::{Resumed, Sleep, Slept},
    failure::{Code, Failure},
    time::Moment,
};
use sha2::{Digest as _, Sha256};

use super::{
    Action, Answer, CallId, End, Engine, Entropy, Notice, Outcome, Samples, Stage, Step, To, What,
    clocks::Wake, targets::Scope, view::digits,
};
use crate::{
    journal::{self, Entry, Mark, Record},
    settings::{BeforeImage, Clock, OnMismatch, Once},
};

#[derive(Clone, Debug)]
pub(super) struct Resuming {
    left: VecDeque<After>,
    scope: Scope,
    kind: Sleep,
    inferred: bool,
    clocks: Samples,
    off: Duration,
    /// Wants to hear that this is another life.
    call: Option<CallId>,
    /// What the journal said before this life.
    earlier: Option<Record>,
    /// The engine was killed after it had counted this life.
    adopted: bool,
}

#[derive(Clone, Debug)]
pub(super) enum After {
    /// `current` says that there is a life, before anything can go wrong.
    Woken,
    Read,
    /// `current` knows the ordinal, so that an engine that is killed next doesn't count the life twice.
    Count,
    Reseed,
    Guard,
    Record,
    Clock,
    Undo(Step),
    Mount(PathBuf),
    Network(usize),
    Publish,
}

impl Engine {
    /// Another life of the armed image, proven by who wrote it.
    pub(super) fn resume(&mut self, clocks: Samples, off: Duration, now: Moment) {
        let call = match self.stage {
            Stage::Armed { call } => call,
            _ => None,
        };
        self.record.ordinal = 0;
        self.record.run = [0; 16];
        self.record.rtc = clocks.rtc.unwrap_or(0);
        self.live(clocks, off, call, now);
    }

    /// Also where an engine was killed before the guard.
    pub(super) fn live(
        &mut self,
        clocks: Samples,
        off: Duration,
        call: Option<CallId>,
        now: Moment,
    ) {
        self.armed = false;
        self.life = Some(now);
        self.reason = None;
        self.clocks.woke(now);
        self.record.stage = journal::Stage::Woken;
        let journal = self.settings.journal.is_some();
        let mut left = VecDeque::from([After::Woken]);
        left.extend(journal.then_some(After::Read));
        left.extend(journal.then_some(After::Count));
        left.push_back(After::Reseed);
        left.extend((!self.settings.guard.is_empty()).then_some(After::Guard));
        left.push_back(After::Record);
        left.extend(self.tail());
        let resuming = Resuming {
            left,
            scope: Scope::Life,
            kind: Sleep::Hibernate,
            inferred: false,
            clocks,
            off,
            call,
            earlier: None,
            adopted: false,
        };
        self.enter(Stage::Resuming(resuming));
        self.next_after(now);
    }

    /// Where an engine was killed between the guard and the first target: none of this does harm twice.
    pub(super) fn live_on(&mut self, clocks: Samples, now: Moment) {
        self.life = Some(now);
        self.saving.anchor(true);
        self.counted = self.settings.journal.is_some();
        self.generation = self.record.sequence;
        let resuming = Resuming {
            left: self.tail(),
            scope: Scope::Life,
            kind: Sleep::Hibernate,
            inferred: false,
            clocks,
            off: Duration::ZERO,
            call: None,
            earlier: None,
            adopted: true,
        };
        self.enter(Stage::Resuming(resuming));
        self.next_after(now);
    }

    /// What comes after the guard.
    fn tail(&self) -> VecDeque<After> {
        let settings = &self.settings;
        let planned = |wanted: fn(&Step) -> bool| {
            let steps = self.plan.iter().flat_map(|plan| plan.steps.iter().rev());
            steps.filter(move |step| wanted(step)).cloned().map(After::Undo)
        };
        let mut left = VecDeque::new();
        left.extend((settings.clock == Clock::Rtc).then_some(After::Clock));
        left.extend(planned(|step| matches!(step, Step::Freeze | Step::Swapoff(_))));
        left.extend(settings.mount.iter().cloned().map(After::Mount));
        left.extend((0..settings.network.len()).map(After::Network));
        left.push_back(After::Publish);
        // What was stopped stays so: its target says what becomes of it.
        left.extend(planned(|step| {
            matches!(step, Step::Service { how: BeforeImage::Freeze | BeforeImage::Quiesce, .. })
        }));
        left
    }

    /// A wake-up of no image of ours.
    pub(super) fn wake_up(&mut self, wake: Wake, now: Moment) {
        let Wake { kind, inferred, clocks, off } = wake;
        let mut left = VecDeque::from([After::Reseed]);
        left.extend((0..self.settings.network.len()).map(After::Network));
        left.push_back(After::Publish);
        let resuming = Resuming {
            left,
            scope: Scope::Wake,
            kind,
            inferred,
            clocks,
            off,
            call: None,
            earlier: None,
            adopted: false,
        };
        self.enter(Stage::Resuming(resuming));
        self.next_after(now);
    }

    fn next_after(&mut self, now: Moment) {
        loop {
            let Stage::Resuming(resuming) = &mut self.stage else { return };
            match resuming.left.pop_front() {
                Some(After::Publish) => self.publish_resumed(),
                Some(step) => return self.begin_after(step, now),
                None => return self.resumed(now),
            }
        }
    }

    fn begin_after(&mut self, step: After, now: Moment) {
        let Stage::Resuming(resuming) = &self.stage else { return };
        let (scope, clocks) = (resuming.scope, resuming.clocks);
        let adopted = resuming.adopted;
        if matches!(step, After::Record) {
            self.count(now);
        }
        let work = self.work(What::After(step.clone()), self.settings.step_timeout, now);
        let record = || Box::new(self.record.clone());
        let action = match step {
            After::Woken | After::Count => Action::Save { work, record: record(), to: To::Current },
            After::Record => {
                let journal = self.settings.journal.is_some() && !adopted;
                let to = if journal { To::Both } else { To::Current };
                Action::Save { work, record: record(), to }
            }
            After::Read => Action::ReadJournal { work },
            After::Reseed => {
                let ordinal = if scope == Scope::Life { self.record.ordinal } else { 0 };
                let entropy = Box::new(Entropy { ordinal, seed: self.record.seed, clocks });
                Action::Reseed { work, entropy }
            }
            After::Guard => Action::Guard { work },
            After::Clock => Action::SetClock { work },
            After::Undo(step) => Action::Undo { work, step },
            After::Mount(path) => Action::Mount { work, path },
            After::Network(command) => Action::Network { work, command },
            After::Publish => return,
        };
        self.actions.push_back(action);
    }

    pub(super) fn after_done(&mut self, step: After, result: Result<Outcome, String>, now: Moment) {
        let Stage::Resuming(resuming) = &self.stage else { return };
        match (step, resuming.scope) {
            (After::Read, _) => {
                if let Err(why) = self.journal_read(result) {
                    return self.mismatch(why, now);
                }
            }
            (After::Reseed, scope) => self.reseeded(result, scope),
            (After::Guard, _) => {
                if let Err(why) = result {
                    return self.mismatch(why, now);
                }
            }
            (After::Record, _) => self.recorded_life(result),
            (step, _) => match result {
                Ok(Outcome::Saved { current: Err(why), .. }) | Err(why) => {
                    self.note(format!("{}: {why}", step.name()));
                }
                Ok(_) => {}
            },
        }
        self.next_after(now);
    }

    /// What is known from earlier lives.
    ///
    /// # Errors
    /// Where it says that this image must not run.
    fn journal_read(&mut self, result: Result<Outcome, String>) -> Result<(), String> {
        let Stage::Resuming(resuming) = &mut self.stage else { return Ok(()) };
        let found = match result {
            Ok(Outcome::Journal(Some(found))) => *found,
            Ok(_) => {
                self.record.ordinal = self.record.ordinal.max(1);
                self.note("the journal is blank; lives are counted anew");
                return Ok(());
            }
            Err(why) => {
                self.record.ordinal = self.record.ordinal.max(1);
                self.note(format!("{why}; lives are counted anew"));
                return Ok(());
            }
        };
        if found.image == [0; 32] {
            return Err("the journal says that this image is not to be resumed any more".to_owned());
        }
        if found.image != self.record.image {
            return Err("the journal is about another image than this one".to_owned());
        }
        if found.run != [0; 16] && found.ordinal == self.record.ordinal {
            self.record = Record { stage: journal::Stage::Woken, ..found };
            resuming.adopted = true;
            return Ok(());
        }
        self.record.sequence = found.sequence;
        self.record.seed = found.seed;
        self.record.ordinal = found.ordinal.saturating_add(1);
        resuming.earlier = Some(found);
        Ok(())
    }

    fn reseeded(&mut self, result: Result<Outcome, String>, scope: Scope) {
        let Stage::Resuming(resuming) = &self.stage else { return };
        let (adopted, clocks) = (resuming.adopted, resuming.clocks);
        let (run, seed) = match result {
            Ok(Outcome::Fresh { run, seed }) => (run, seed),
            other => {
                let why = other.err().unwrap_or_default();
                self.note(format!("the random generator was not reseeded: {why}"));
                self.derived(clocks)
            }
        };
        if scope == Scope::Life && !adopted {
            self.record.run = run;
            self.record.seed = seed;
        }
    }

    /// A run id and a seed that are no secret but differ from life to life: the ordinal does.
    fn derived(&self, clocks: Samples) -> ([u8; 16], [u8; 32]) {
        let hash = |what: &[u8]| {
            let mut hash = Sha256::new();
            hash.update(what);
            hash.update(self.record.seed);
            hash.update(self.record.ordinal.to_le_bytes());
            hash.update(clocks.rtc.unwrap_or(0).to_le_bytes());
            hash.update(clocks.boottime.as_nanos().to_le_bytes());
            hash.finalize()
        };
        let (run, seed) = (hash(b"run"), hash(b"seed"));
        (std::array::from_fn(|at| run[at]), seed.into())
    }

    /// The record of this life, with what is kept of the lives before.
    fn count(&mut self, now: Moment) {
        let Stage::Resuming(resuming) = &mut self.stage else { return };
        self.record.stage = journal::Stage::Resumed;
        if resuming.adopted {
            return;
        }
        let earlier = resuming.earlier.take();
        let kept = |hash| earlier.as_ref().and_then(|record| record.entry(hash));
        let entries = self.settings.targets.iter().map(|target| {
            let entry = kept(target.hash).filter(|_| target.once == Once::Image);
            let mark = match entry.map(|entry| entry.mark) {
                Some(mark @ (Mark::Done | Mark::Doubtful)) => mark,
                Some(Mark::Started) if !target.idempotent => Mark::Doubtful,
                _ => return Entry { name: target.hash, ..Entry::default() },
            };
            Entry { name: target.hash, mark, status: entry.map_or(0, |entry| entry.status) }
        });
        self.record.entries = entries.collect();
        self.record.sequence = self.record.sequence.saturating_add(1);
        self.life = self.life.or(Some(now));
    }

    fn recorded_life(&mut self, result: Result<Outcome, String>) {
        let (journal, current) = match result {
            Ok(Outcome::Saved { journal, current }) => (journal, current),
            Ok(_) => (Ok(()), Ok(())),
            Err(why) => (Err(why.clone()), Err(why)),
        };
        self.counted = self.settings.journal.is_some() && journal.is_ok();
        self.saving.anchor(current.is_ok());
        self.generation = if self.counted { self.record.sequence } else { 0 };
        for why in [journal.err(), current.err()].into_iter().flatten() {
            self.note(format!("this life is not recorded: {why}"));
        }
        let Stage::Resuming(resuming) = &mut self.stage else { return };
        if let Some(call) = resuming.call.take() {
            let slept = Slept { run: digits(&self.record.run), ordinal: self.record.ordinal };
            self.answer(call, Ok(Answer::Slept(slept)));
        }
    }

    /// What the image has in memory isn't what is on the disks. No write may come before the way out but the journal's: whoever
    /// puts this image back before each boot would have it resumed for ever. Where the journal is about another image, that one is
    /// lost with it: there is one place for an image, and this one was in it.
    fn mismatch(&mut self, why: String, now: Moment) {
        if self.settings.on_mismatch == OnMismatch::Continue {
            self.record.ordinal = self.record.ordinal.max(1);
            self.note(why);
            return self.next_after(now);
        }
        if let Stage::Resuming(Resuming { call: Some(call), .. }) = self.stage {
            self.answer(call, Err(Failure::new(Code::Failed, why.clone())));
        }
        self.void();
        self.end(End::Reboot(why));
    }

    /// No image may be resumed at the next boot, nor at any later one.
    pub(super) fn void(&mut self) {
        self.record.image = [0; 32];
        self.touch(true);
    }

    fn publish_resumed(&mut self) {
        let Stage::Resuming(resuming) = &self.stage else { return };
        let life = self.life.is_some();
        let notice = Resumed {
            kind: resuming.kind,
            generation: self.generation,
            run: if life { digits(&self.record.run) } else { String::new() },
            ordinal: if self.counted { self.record.ordinal } else { 0 },
            off_ms: u64::try_from(resuming.off.as_millis()).unwrap_or(u64::MAX),
            inferred: resuming.inferred,
        };
        self.actions.push_back(Action::Publish(Notice::Resumed(notice)));
    }

    /// Now the targets.
    fn resumed(&mut self, now: Moment) {
        let Stage::Resuming(resuming) = &self.stage else { return };
        match resuming.scope {
            Scope::Life => {
                self.plan = None;
                self.actions.push_back(Action::Plan(None));
                self.run_life(now);
            }
            scope => self.run(scope, |_, target| target.on_any_wake, now),
        }
    }
}

impl After {
    fn name(&self) -> String {
        match self {
            Self::Woken | Self::Count | Self::Record => {
                "save what is known of this life".to_owned()
            }
            Self::Read => "read the journal".to_owned(),
            Self::Reseed => "reseed".to_owned(),
            Self::Guard => "compare superblocks".to_owned(),
            Self::Clock => "set the clock".to_owned(),
            Self::Undo(step) => format!("take back {step:?}"),
            Self::Mount(path) => format!("mount {}", path.display()),
            Self::Network(command) => format!("network command {}", command + 1),
            Self::Publish => "publish".to_owned(),
        }
    }
}
