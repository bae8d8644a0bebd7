//! Who waits for an answer, and for what.

use std::{collections::BTreeSet, time::Duration};

use protocol::{
    config::{Change, Mode, Package, Reloaded, State, Status},
    failure::{Code, Failure},
    time::Moment,
};

use super::{
    Action, Phase, Watcher,
    apply::{Apply, CONFIRM_MAX},
    file::{Digest, File, FilePath, Standing, digits, package},
};
use crate::settings::format_name;

/// Who may wait at one time.
const WAITING_MAX: usize = 64;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ask {
    Reload(Option<String>),
    Apply(Duration),
    Confirm,
    Revert(String),
    Status,
    Diff(Option<String>),
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Reloaded(Reloaded),
    Status(Status),
    Differences(Vec<Change>),
    Done,
    Failed(Failure),
}

#[derive(Debug)]
pub(super) struct Waiting {
    id: u64,
    ask: Ask,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Everything is to be looked at first.
    Asked,
    Looking,
    /// Nothing more is to be done than to read the answer off.
    Reading,
    /// Changes of these files are to be taken.
    Announcing(Announcing),
    /// Contents are to be put back.
    Restoring(Vec<(FilePath, Option<Digest>)>),
    /// They were; these are to be looked at.
    Restored(Vec<FilePath>),
}

#[derive(Debug, Default)]
struct Announcing {
    files: BTreeSet<FilePath>,
    reloaded: Reloaded,
    failed: Option<String>,
}

impl Watcher {
    pub(super) fn asked(&mut self, id: u64, ask: Ask, now: Moment) {
        if self.waiting.len() >= WAITING_MAX {
            let text = format!("{WAITING_MAX} calls wait already; try again later");
            let details = serde_json::json!({ "retry_after_ms": 1000, "not_started": true });
            return self.fail(id, Failure::new(Code::Busy, text).with_details(details));
        }
        let stage = match &ask {
            Ask::Confirm => return self.confirm(id),
            Ask::Apply(_) if self.apply.is_some() => {
                let text = "an earlier apply waits for its confirm; confirm it, or wait until it is undone";
                return self.fail(id, Failure::new(Code::Busy, text));
            }
            Ask::Apply(within) if within.is_zero() || *within > CONFIRM_MAX => {
                let text = format!(
                    "`confirm_ms` is {}, but a trial lasts 1 to {} ms, which is an hour; give such a time",
                    within.as_millis(),
                    CONFIRM_MAX.as_millis()
                );
                return self.fail(id, Failure::new(Code::InvalidArgument, text));
            }
            Ask::Status if self.settings.mode == Mode::Automatic => Stage::Reading,
            _ => Stage::Asked,
        };
        self.waiting.push(Waiting { id, ask, stage });
        // Whatever is under way, and however long a disk takes.
        self.answer_readers(now);
    }

    fn fail(&mut self, id: u64, failure: Failure) {
        self.actions.push_back(Action::Answer(id, Answer::Failed(failure)));
    }

    fn confirm(&mut self, id: u64) {
        let text = match &self.apply {
            None => "no apply waits for a confirm; it may have come too late",
            Some(_) if self.trial_deadline().is_none() => {
                "it comes too late; what was applied is being undone"
            }
            Some(_) => {
                self.apply = None;
                self.unsaved = true;
                // Answered as soon as it is written down.
                let stage = Stage::Restored(Vec::new());
                return self.waiting.push(Waiting { id, ask: Ask::Confirm, stage });
            }
        };
        self.fail(id, Failure::new(Code::Gone, text));
    }

    /// Whether somebody wants everything to be looked at.
    pub(super) fn begin_asked_look(&mut self) -> bool {
        let mut any = false;
        for waiting in &mut self.waiting {
            if matches!(waiting.stage, Stage::Asked) {
                waiting.stage = Stage::Looking;
                any = true;
            }
        }
        any
    }

    /// Everything was looked at: what each one asked for can begin.
    pub(super) fn looked_for(&mut self, now: Moment) {
        for mut waiting in std::mem::take(&mut self.waiting) {
            if matches!(waiting.stage, Stage::Looking) {
                match self.begin_asked(&waiting.ask, now) {
                    Ok(stage) => waiting.stage = stage,
                    Err(failure) => {
                        self.fail(waiting.id, failure);
                        continue;
                    }
                }
            }
            self.waiting.push(waiting);
        }
    }

    fn begin_asked(&mut self, ask: &Ask, now: Moment) -> Result<Stage, Failure> {
        match ask {
            Ask::Status | Ask::Diff(None) | Ask::Confirm => Ok(Stage::Reading),
            Ask::Diff(Some(name)) => self.there(name).map(|()| Stage::Reading),
            Ask::Reload(None) => Ok(Stage::Announcing(self.announce(None))),
            Ask::Reload(Some(name)) => {
                self.there(name)?;
                Ok(Stage::Announcing(self.announce(Some(name))))
            }
            Ask::Apply(within) => {
                if self.apply.is_some() {
                    return Err(Failure::new(Code::Busy, "an earlier apply waits for its confirm"));
                }
                self.apply = Some(Apply::new(now + *within));
                self.unsaved = true;
                Ok(Stage::Announcing(self.announce(None)))
            }
            Ask::Revert(name) => {
                self.there(name)?;
                self.contents_of(name).map(Stage::Restoring)
            }
        }
    }

    /// The files of a package, or all.
    ///
    /// # Errors
    /// Where there is no such package.
    pub(crate) fn files_of(&self, name: Option<&str>) -> Result<Vec<(FilePath, usize)>, Failure> {
        if let Some(name) = name {
            self.there(name)?;
        }
        let wanted = |path: &str| name.is_none_or(|name| name == package(path));
        let files = self.files.iter().filter(|(path, file)| wanted(path) && file.is_there());
        Ok(files.map(|(path, file)| (path.clone(), file.source)).collect())
    }

    fn there(&self, name: &str) -> Result<(), Failure> {
        if self.files.keys().any(|path| package(path) == name) {
            return Ok(());
        }
        let near = protocol::objects::nearest(name, self.files.keys().map(|path| package(path)));
        let near = near.map_or_else(
            || "`vestalctl config status` lists those that are watched".to_owned(),
            |near| format!("did you mean {near:?}?"),
        );
        Err(Failure::new(Code::NotFound, format!("no package {name:?} is watched; {near}")))
    }

    /// Releases what is pending, of one package or of all.
    fn announce(&mut self, name: Option<&String>) -> Announcing {
        let mut announcing = Announcing::default();
        for (path, file) in &mut self.files {
            if name.is_some_and(|name| name != package(path)) {
                continue;
            }
            file.release();
            match &file.standing {
                Standing::Current => announcing.reloaded.unchanged += 1,
                Standing::Changed(_) => drop(announcing.files.insert(path.clone())),
                Standing::Failed(error) => announcing.reloaded.errors.push(error.clone()),
            }
        }
        // Somebody waits: it is tried at once.
        self.retry = None;
        announcing
    }

    fn contents_of(&self, name: &str) -> Result<Vec<(FilePath, Option<Digest>)>, Failure> {
        let mut contents = Vec::new();
        let others = self
            .files
            .iter()
            .filter(|(path, file)| package(path) == name && file.standing != Standing::Current);
        for (path, file) in others {
            let Some(announced) = &file.announced else {
                let text =
                    format!("{path} was never announced: there is nothing to put back; remove it");
                return Err(Failure::new(Code::NotFound, text));
            };
            let Some(content) = announced.content else {
                let text = format!(
                    "what {path} said is not kept: it was longer than `kept-file`, or all together than `kept` in [limits]"
                );
                return Err(Failure::new(Code::Limit, text));
            };
            contents.push((path.clone(), Some(content)));
        }
        Ok(contents)
    }

    /// Puts contents back, where somebody waits for that.
    pub(super) fn begin_revert(&mut self) -> bool {
        for waiting in &mut self.waiting {
            if let Stage::Restoring(contents) = &mut waiting.stage {
                let contents = std::mem::take(contents);
                self.phase = Phase::Restoring(Some(waiting.id));
                self.actions.push_back(Action::Restore(contents));
                return true;
            }
        }
        false
    }

    pub(super) fn restored(&mut self, restored: Vec<(FilePath, Result<(), String>)>, now: Moment) {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        let mut failed = Vec::new();
        let mut paths = Vec::new();
        for (path, outcome) in restored {
            self.dirt.at_once(&path, now);
            failed.extend(outcome.err());
            paths.push(path);
        }
        match phase {
            Phase::Restoring(Some(id)) => {
                let Some(at) = self.waiting.iter().position(|waiting| waiting.id == id) else {
                    return;
                };
                if failed.is_empty() {
                    self.waiting[at].stage = Stage::Restored(paths);
                } else {
                    self.waiting.remove(at);
                    self.fail(id, Failure::new(Code::Failed, failed.join("; ")));
                }
            }
            // Nobody waits for it; `status` says it until everything is looked at again.
            _ => self.problems.extend(failed),
        }
    }

    pub(super) fn not_taken(&mut self, path: &FilePath, why: &str) {
        for waiting in &mut self.waiting {
            if let Stage::Announcing(announcing) = &mut waiting.stage
                && announcing.files.contains(path)
            {
                announcing.failed.get_or_insert_with(|| why.to_owned());
            }
        }
    }

    pub(super) fn was_taken(&mut self, path: &FilePath, change: &Change) {
        for waiting in &mut self.waiting {
            if let Stage::Announcing(announcing) = &mut waiting.stage
                && announcing.files.remove(path)
            {
                announcing.reloaded.announced.push(change.clone());
            }
        }
    }

    /// Answers those whose changes were taken and written down, or weren't taken.
    pub(super) fn settle(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            let answer = match waiting.stage {
                Stage::Announcing(Announcing { failed: Some(why), .. }) => {
                    let text = format!("{why}; it is announced again by itself");
                    Answer::Failed(Failure::new(Code::Failed, text))
                }
                Stage::Announcing(Announcing { ref files, ref reloaded, .. })
                    if !files.iter().any(|path| self.is_due(path)) =>
                {
                    Answer::Reloaded(reloaded.clone())
                }
                Stage::Restored(ref paths) if !paths.iter().any(|path| self.dirt.holds(path)) => {
                    Answer::Done
                }
                _ => {
                    self.waiting.push(waiting);
                    continue;
                }
            };
            self.actions.push_back(Action::Answer(waiting.id, answer));
        }
    }

    fn is_due(&self, path: &FilePath) -> bool {
        self.files.get(path).is_some_and(|file| file.due().is_some())
    }

    /// Answers those who only want to know.
    pub(super) fn answer_readers(&mut self, now: Moment) {
        for waiting in std::mem::take(&mut self.waiting) {
            if !matches!(waiting.stage, Stage::Reading) {
                self.waiting.push(waiting);
                continue;
            }
            let answer = match waiting.ask {
                Ask::Diff(name) => Answer::Differences(self.differences(name.as_deref())),
                _ => Answer::Status(self.status(now)),
            };
            self.actions.push_back(Action::Answer(waiting.id, answer));
        }
    }

    fn differences(&self, name: Option<&str>) -> Vec<Change> {
        let wanted = |path: &str| name.is_none_or(|name| name == package(path));
        let files = self.files.iter().filter(|(path, _)| wanted(path));
        files.filter_map(|(_, file)| file.pending().map(|it| it.change.clone())).collect()
    }

    fn status(&self, now: Moment) -> Status {
        let row = |(path, file): (&FilePath, &File)| Package {
            package: package(path).to_owned(),
            file: path.to_string(),
            format: format_name(&self.settings.sources[file.source].format).to_owned(),
            digest: file.announced.as_ref().map(|it| digits(&it.digest)).unwrap_or_default(),
            state: match file.standing {
                Standing::Current => State::Current,
                Standing::Changed(_) => State::Changed,
                Standing::Failed(_) => State::Error,
            },
            error: file.error().cloned(),
        };
        Status {
            mode: self.settings.mode,
            packages: self.files.iter().map(row).collect(),
            apply: self.applying(now),
            problems: self.problems(),
        }
    }
}
