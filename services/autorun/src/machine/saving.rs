//! STARTs and ENDs made durable. `current` on tmpfs has each of them: it outlives the engine, not the life. The journal wears
//! and is slow, so it has the START of what may not run twice, before that runs, and the rest once a level and at the end.
//! One record is written at a time; what changes meanwhile goes with the next one.

use protocol::{
    failure::{Code, Failure},
    time::Moment,
};

use super::{
    Action, Answer, CallId, End, Engine, Outcome, Reply, SAVE_LIMIT, Stage, To, What,
    targets::State,
};
use crate::settings::Once;

#[derive(Clone, Debug, Default)]
pub(super) struct Saving {
    /// Counts the changes.
    version: u64,
    current: bool,
    journal: bool,
    sent: Option<(u64, To)>,
    /// `current` names this life's run, so that an engine that starts next believes what the journal says of it.
    anchored: bool,
    /// Calls that wait until this version is in the journal.
    asking: Vec<(u64, CallId)>,
}

impl Saving {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn anchor(&mut self, anchored: bool) {
        self.anchored = anchored;
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.sent.is_some() || self.current || self.journal
    }
}

impl Engine {
    /// The record has changed; whether the journal is to know it now.
    pub(super) fn touch(&mut self, journal: bool) {
        self.saving.version += 1;
        self.saving.current |= self.life.is_some();
        self.saving.journal |= journal && self.settings.journal.is_some();
    }

    pub(super) fn save_next(&mut self, now: Moment) {
        if self.saving.sent.is_some() {
            return;
        }
        let to = match (self.saving.journal, self.saving.current) {
            (true, true) => To::Both,
            (true, false) => To::Journal,
            (false, true) => To::Current,
            (false, false) => return self.end_now(),
        };
        self.saving.sent = Some((self.saving.version, to));
        (self.saving.journal, self.saving.current) = (false, false);
        self.record.sequence = self.record.sequence.saturating_add(1);
        let work = self.work(What::Save, SAVE_LIMIT, now);
        let record = Box::new(self.record.clone());
        self.actions.push_back(Action::Save { work, record, to });
    }

    pub(super) fn saved(&mut self, result: Result<Outcome, String>, now: Moment) {
        let Some((version, to)) = self.saving.sent.take() else { return };
        let (journal, current) = match result {
            Ok(Outcome::Saved { journal, current }) => (journal, current),
            Ok(_) => (Ok(()), Ok(())),
            Err(why) => (Err(why.clone()), Err(why)),
        };
        let in_journal = to != To::Current && journal.is_ok();
        let in_current = to != To::Journal && current.is_ok();
        self.saving.anchored |= in_current;
        let known = self.saving.anchored;
        let whys = [journal.err().filter(|_| to != To::Current), current.err()];
        for why in whys.into_iter().flatten() {
            self.note(format!("what ran is not recorded: {why}"));
        }
        let (asked, later) =
            std::mem::take(&mut self.saving.asking).into_iter().partition(|(of, _)| *of <= version);
        self.saving.asking = later;
        let asked: Vec<(u64, CallId)> = asked;
        for (_, call) in asked {
            let failed =
                || Failure::new(Code::Failed, "the journal could not be written; see notes");
            let result = if in_journal { Ok(Answer::Nothing) } else { Err(failed()) };
            self.answer(call, result);
        }
        for target in 0..self.rows.len() {
            if !matches!(self.rows[target].state, State::Recording(of) if of <= version) {
                continue;
            }
            let once = self.settings.targets[target].once;
            let durable = known && (in_journal || in_current && once != Once::Image);
            self.start_recorded(target, durable, now);
        }
        if matches!(self.stage, Stage::Running(_)) {
            self.run_next(now);
        }
    }

    /// The image must not be resumed any more: whoever asks is about to change what it depends on.
    pub(super) fn invalidate(&mut self, call: CallId, reason: Option<String>, now: Moment) {
        let reason = format!(
            "the image was invalidated: {:.200}",
            reason.as_deref().unwrap_or("no reason given")
        );
        match self.stage {
            Stage::Armed { .. } if !self.writes() => {
                self.take_back(reason, Some((call, Reply::Nothing)), now);
            }
            Stage::Cold | Stage::Done | Stage::Running(_) | Stage::Over if !self.armed => {
                if self.settings.journal.is_none() {
                    let text = "without a journal an image can't be invalidated; set journal in autorun.toml";
                    return self.answer(call, Err(Failure::new(Code::Unsupported, text)));
                }
                self.void();
                self.saving.asking.push((self.saving.version, call));
                self.reason = Some(reason);
            }
            _ => self.busy(call, "invalidate"),
        }
    }

    /// The way out, once all that was to be saved is.
    pub(super) fn end(&mut self, end: End) {
        self.enter(Stage::Over);
        self.ending = Some(end);
    }

    fn end_now(&mut self) {
        match self.ending.take() {
            Some(End::Exit) => self.actions.push_back(Action::Exit),
            Some(End::Reboot(reason)) => {
                self.reason = Some(reason.clone());
                self.actions.push_back(Action::RebootCold { reason });
            }
            None => {}
        }
    }
}
