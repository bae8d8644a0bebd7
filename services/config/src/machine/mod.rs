//! What is looked at when, what is announced, and what is done again: events and `now` in, actions out.
//!
//! ```text
//!            touched, quiet time over, asked           found to say something else
//!   Idle ------------------------------------> Looking ---------------------------+
//!    ^  ^                                                                         |
//!    |  |  saved                                                                  v
//!    |  +--------- Saving <-------------------------------------------------- Announcing
//!    |                        taken by the supervisor, or not: then again later
//!    +---- Restoring  (revert; an `apply` that nobody confirmed)
//! ```
//!
//! One thing at a time: while files are read nothing is announced, and while something is announced nothing is read, so
//! that what was announced is always a content that was there. What is touched meanwhile waits.
//!
//! What is going to be announced is written down first, and counts as announced once the supervisor has taken it. Killed
//! between the two, or without an answer, the watcher announces it again, with the same digest, by which the supervisor
//! knows it; only then it looks at the file anew. Nothing here reads a clock or a file.

mod apply;
mod asking;
mod dirt;
mod file;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use protocol::{
    config::{Change, Mode, Unreadable},
    time::Moment,
};

use self::{
    apply::Apply,
    asking::Waiting,
    dirt::{Dirt, Due},
    file::{File, Pending, Standing},
};
pub(crate) use self::{
    asking::{Answer, Ask},
    file::{
        Announced, Digest, FilePath, Found, Known, Look, Looked, NotTaken, Reading, digits,
        package, shorten,
    },
    record::{Record, Trial},
};
use crate::settings::Settings;

/// Changes that are announced at once, before what was taken is written down.
const BATCH: usize = 32;
/// How long after a change was not taken it is announced again; doubles.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Looks in a row that may find a file being written, before that is an error.
const MOVING_MAX: u32 = 20;

#[derive(Debug)]
pub(crate) enum Event {
    /// Written and closed, renamed, removed, linked.
    Touched(FilePath),
    /// Rights or times of it changed.
    Attributes(FilePath),
    /// A folder came or went, or the kernel lost events: anything may have changed.
    Lost,
    Looked(Looked),
    Taken(Vec<(FilePath, Result<(), NotTaken>)>),
    Saved(Result<(), String>),
    Restored(Vec<(FilePath, Result<(), String>)>),
    Asked(u64, Ask),
    /// The settings were read again.
    Settings(Arc<Settings>),
}

#[derive(Debug)]
pub(crate) enum Action {
    Look(Look, Arc<Settings>),
    /// Tell the supervisor.
    Announce(Vec<(FilePath, Change)>),
    Save(Record),
    /// Put contents back; `None`: remove the file.
    Restore(Vec<(FilePath, Option<Digest>)>),
    /// Tell the bus.
    Publish(Change),
    PublishError(Unreadable),
    Answer(u64, Answer),
    /// Everything was compared once, and what was found is written down.
    Ready,
}

#[derive(Debug, Eq, PartialEq)]
enum Phase {
    Idle,
    Looking,
    Announcing,
    Saving,
    /// For a `revert` that is asked for, or (`None`) for an `apply` that nobody confirmed.
    Restoring(Option<u64>),
}

#[derive(Debug)]
struct Retry {
    at: Moment,
    pause: Duration,
    why: String,
}

#[derive(Debug)]
pub(crate) struct Watcher {
    settings: Arc<Settings>,
    files: BTreeMap<FilePath, File>,
    /// Sources that were never looked into: what is found there is what services start with, and no change.
    fresh: BTreeSet<usize>,
    phase: Phase,
    dirt: Dirt,
    waiting: Vec<Waiting>,
    apply: Option<Apply>,
    /// What is being announced, from before it is written down.
    flight: BTreeSet<FilePath>,
    /// Since the supervisor didn't take something.
    retry: Option<Retry>,
    /// What is to be written down isn't.
    unsaved: bool,
    /// Why it could not be.
    save_problem: Option<String>,
    /// Of the last look at everything.
    problems: Vec<String>,
    /// Settings that hold as soon as nothing is under way.
    next_settings: Option<Arc<Settings>>,
    /// Everything was compared once, and that was told.
    compared: bool,
    ready: bool,
    actions: VecDeque<Action>,
}

impl Watcher {
    /// `record` is what the watcher before has written down; without it whatever is there counts as announced.
    pub(crate) fn new(settings: Arc<Settings>, record: Option<Record>, now: Moment) -> Self {
        let mut watcher = Self {
            files: BTreeMap::new(),
            fresh: (0..settings.sources.len()).collect(),
            phase: Phase::Idle,
            dirt: Dirt::new(settings.quiet, settings.longest),
            waiting: Vec::new(),
            apply: None,
            flight: BTreeSet::new(),
            retry: None,
            unsaved: false,
            save_problem: None,
            problems: Vec::new(),
            next_settings: None,
            compared: false,
            ready: false,
            actions: VecDeque::new(),
            settings,
        };
        if let Some(record) = record {
            watcher.recall(record, now);
        }
        watcher.dirt.everything_at_once(now);
        watcher.advance(now);
        watcher
    }

    pub(crate) fn handle_event(&mut self, event: Event, now: Moment) {
        match event {
            Event::Touched(path) => self.dirt.touch(&path, now),
            Event::Attributes(path) => {
                // Nothing is written by a change of rights; but what could not be read may be readable now.
                if self.files.get(&path).is_some_and(|file| file.error().is_some()) {
                    self.dirt.touch(&path, now);
                }
            }
            Event::Lost => self.dirt.touch_everything(now),
            Event::Looked(looked) => self.looked(looked, now),
            Event::Taken(taken) => self.taken(taken, now),
            Event::Saved(saved) => {
                self.phase = Phase::Idle;
                self.save_problem = saved.err();
                self.announce_flight();
            }
            Event::Restored(restored) => self.restored(restored, now),
            Event::Asked(id, ask) => self.asked(id, ask, now),
            Event::Settings(settings) => self.next_settings = Some(settings),
        }
        self.advance(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        self.advance(now);
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        if self.phase != Phase::Idle {
            return None;
        }
        let retry = self.retry.as_ref().filter(|_| self.any_due()).map(|retry| retry.at);
        [self.dirt.deadline(), retry, self.trial_deadline()].into_iter().flatten().min()
    }

    /// Whether everything that was taken is written down.
    pub(crate) fn is_saved(&self) -> bool {
        !self.unsaved && !matches!(self.phase, Phase::Announcing | Phase::Saving)
    }

    pub(crate) fn knows(&self, path: &FilePath) -> bool {
        self.files.contains_key(path)
    }

    fn any_due(&self) -> bool {
        self.files.values().any(|file| file.due().is_some())
    }

    /// Begins the next thing, where nothing is under way.
    fn advance(&mut self, now: Moment) {
        if self.phase == Phase::Announcing {
            self.answer_readers(now);
        }
        if self.phase != Phase::Idle {
            return;
        }
        if let Some(settings) = self.next_settings.take() {
            self.reconfigure(settings, now);
        }
        self.finish_trial();
        if self.unsaved {
            return self.save();
        }
        if self.compared && !std::mem::replace(&mut self.ready, true) {
            self.actions.push_back(Action::Ready);
        }
        self.settle();
        if self.begin_undoing(now) || self.begin_revert() || self.begin_look(now) {
            return;
        }
        self.answer_readers(now);
        self.begin_announcement(now);
    }

    fn begin_look(&mut self, now: Moment) -> bool {
        let due = if self.begin_asked_look() {
            self.dirt.take_everything();
            Due::Everything
        } else {
            match self.dirt.take(now) {
                Some(due) => due,
                None => return false,
            }
        };
        let known = |(path, file): (&FilePath, &File)| Known {
            path: path.clone(),
            source: file.source,
            announced: file.announced.clone(),
        };
        let (everything, files) = match due {
            Due::Everything => (true, self.files.iter().map(known).collect()),
            Due::Files(paths) => {
                (false, paths.into_iter().filter_map(|path| self.known(path)).collect())
            }
        };
        let silent = (0..self.settings.sources.len()).filter(|at| self.is_silent(*at)).collect();
        let look = Look { everything, files, silent };
        self.phase = Phase::Looking;
        self.actions.push_back(Action::Look(look, Arc::clone(&self.settings)));
        true
    }

    /// Whether a file of this source is not announced the first time.
    fn is_silent(&self, source: usize) -> bool {
        self.fresh.contains(&source) || !self.settings.new_files
    }

    fn known(&self, path: FilePath) -> Option<Known> {
        let file = self.files.get(&path);
        let source = file.map(|file| file.source).or_else(|| self.source_of(&path))?;
        Some(Known { source, announced: file.and_then(|file| file.announced.clone()), path })
    }

    /// The source a file is in, or is.
    fn source_of(&self, path: &str) -> Option<usize> {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let sources = &self.settings.sources;
        sources.iter().position(|source| *source.path == *path || *source.path == *folder)
    }

    fn looked(&mut self, looked: Looked, now: Moment) {
        self.phase = Phase::Idle;
        let seen: BTreeSet<FilePath> =
            looked.readings.iter().map(|reading| reading.path.clone()).collect();
        for reading in looked.readings {
            self.read(reading, now);
        }
        if looked.everything {
            // Of what was announced the look says that it is gone; the rest is forgotten.
            self.files.retain(|path, file| {
                let of_interest = file.announced.is_some() || file.redo || seen.contains(path);
                of_interest || looked.away.contains(&file.source)
            });
            let before = self.fresh.len();
            self.fresh.retain(|source| looked.away.contains(source));
            self.unsaved |= self.fresh.len() != before;
            self.problems = looked.problems;
            self.compared = true;
        }
        self.release_undone();
        self.looked_for(now);
    }

    /// Takes in what was found of one file.
    fn read(&mut self, reading: Reading, now: Moment) {
        let Reading { path, source, found } = reading;
        let known = self.files.get(&path).is_some_and(|file| file.announced.is_some());
        let silent = !known && self.is_silent(source);
        let file = self.files.entry(path.clone()).or_insert_with(|| File::new(source));
        if file.redo {
            return;
        }
        let moving = std::mem::take(&mut file.moving);
        match found {
            Found::Same(announced) => {
                self.unsaved |= file.announced.as_ref() != Some(&announced);
                file.announced = Some(announced);
                file.standing = Standing::Current;
            }
            Found::Other(Some(to), _) if silent => {
                file.announced = Some(to);
                file.standing = Standing::Current;
                self.unsaved = true;
            }
            Found::Other(to, change) => {
                let released = self.settings.mode == Mode::Automatic || file.due().is_some();
                let pending = Pending { to, change, released };
                file.standing = Standing::Changed(Box::new(pending));
            }
            Found::Nothing => drop(self.files.remove(&path)),
            Found::Moving if moving < MOVING_MAX => {
                file.moving = moving + 1;
                self.dirt.touch(&path, now);
            }
            Found::Moving => {
                let text = format!(
                    "it was written to whenever it was read, {MOVING_MAX} times; write another file and rename it"
                );
                let name = package(&path).to_owned();
                self.failed(
                    &path,
                    Unreadable { package: name, file: path.to_string(), line: None, text },
                );
            }
            Found::Failed(error) => self.failed(&path, error),
        }
    }

    fn failed(&mut self, path: &FilePath, error: Unreadable) {
        let Some(file) = self.files.get_mut(path) else { return };
        if file.error() != Some(&error) {
            file.standing = Standing::Failed(error.clone());
            self.actions.push_back(Action::PublishError(error));
        }
    }

    fn begin_announcement(&mut self, now: Moment) {
        if self.retry.as_ref().is_some_and(|retry| retry.at > now) {
            return;
        }
        let due = self.files.iter().filter(|(_, file)| file.due().is_some());
        self.flight = due.map(|(path, _)| path.clone()).take(BATCH).collect();
        if self.flight.is_empty() {
            self.retry = None;
            return;
        }
        self.try_out();
        self.save();
    }

    fn save(&mut self) {
        self.unsaved = false;
        self.phase = Phase::Saving;
        self.actions.push_back(Action::Save(self.record()));
    }

    /// What is going to be announced is written down, and so is the way back; or it can't be, which is no reason to keep
    /// it back.
    fn announce_flight(&mut self) {
        let change = |path: &FilePath| {
            let file = self.files.get(path)?;
            let change = file.due()?.change.clone();
            Some((path.clone(), Change { again: file.redo, ..change }))
        };
        let batch: Vec<_> = self.flight.iter().filter_map(change).collect();
        if !batch.is_empty() {
            self.phase = Phase::Announcing;
            self.actions.push_back(Action::Announce(batch));
        }
    }

    fn taken(&mut self, taken: Vec<(FilePath, Result<(), NotTaken>)>, now: Moment) {
        self.phase = Phase::Idle;
        self.flight.clear();
        self.unsaved = true;
        let mut refused = None;
        for (path, outcome) in taken {
            let Some(file) = self.files.get_mut(&path) else { continue };
            if let Err(NotTaken { why, perhaps }) = outcome {
                file.redo |= perhaps;
                let why = format!("the change of {} was not taken: {why}", package(&path));
                self.not_taken(&path, &why);
                refused = Some(why);
                continue;
            }
            let standing = std::mem::replace(&mut file.standing, Standing::Current);
            let Standing::Changed(pending) = standing else { continue };
            file.announced = pending.to;
            if std::mem::take(&mut file.redo) {
                // Whatever it says by now was not believed.
                self.dirt.at_once(&path, now);
            }
            if file.announced.is_none() {
                self.files.remove(&path);
            }
            self.was_taken(&path, &pending.change);
            self.actions.push_back(Action::Publish(pending.change));
        }
        self.retry = refused.map(|why| {
            let pause = self.retry.as_ref().map_or(RETRY, |retry| retry.pause * 2).min(RETRY_MAX);
            Retry { at: now + pause, pause, why }
        });
    }

    /// What a person should know.
    fn problems(&self) -> Vec<String> {
        let retry = self
            .retry
            .as_ref()
            .map(|retry| format!("{}; it is announced again within {RETRY_MAX:?}", retry.why));
        self.problems.iter().chain(&self.save_problem).chain(&retry).cloned().collect()
    }

    /// Other settings: files of sources that aren't there any more are forgotten, those of new ones are what services
    /// start with.
    fn reconfigure(&mut self, settings: Arc<Settings>, now: Moment) {
        let before = std::mem::replace(&mut self.settings, settings);
        let fresh = std::mem::take(&mut self.fresh);
        let seen = |source: &crate::settings::Source| {
            let at = before.sources.iter().position(|known| known == source);
            at.is_some_and(|at| !fresh.contains(&at))
        };
        let sources = self.settings.sources.iter().enumerate();
        self.fresh = sources.filter(|(_, source)| !seen(source)).map(|(at, _)| at).collect();
        let files = std::mem::take(&mut self.files);
        for (path, mut file) in files {
            if let Some(source) = self.source_of(&path).filter(|at| !self.fresh.contains(at)) {
                file.source = source;
                self.files.insert(path, file);
            }
        }
        self.dirt = Dirt::new(self.settings.quiet, self.settings.longest);
        self.dirt.everything_at_once(now);
        self.unsaved = true;
    }
}
