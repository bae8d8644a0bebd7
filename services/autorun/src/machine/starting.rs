//! What an engine does that starts: nothing, on a cold boot; or it goes on in the life in which another engine was killed; or
//! takes back what that one had prepared. Never runs anything because of the journal alone: that is there on a cold boot too.

use std::time::Duration;

use protocol::time::Moment;

use super::{Engine, Found, Stage};
use crate::{
    journal::{self, Mark},
    settings::Once,
};

const KILLED: &str = "an engine was killed while it was armed: what it had prepared is taken back, and no target runs";

impl Engine {
    pub(super) fn begin(&mut self, found: Found, now: Moment) {
        self.plan = found.plan;
        let Some(current) = found.current else {
            self.record = found.journal.unwrap_or_default();
            self.reason = found.verdict;
            if self.plan.is_some() {
                self.take_back(KILLED.to_owned(), None, now);
            }
            return;
        };
        let newer = found.journal.filter(|journal| {
            journal.run == current.run
                && current.run != [0; 16]
                && current.stage != journal::Stage::Woken
                && journal.sequence > current.sequence
        });
        self.record = newer.unwrap_or(current);
        self.note("the engine was killed in this life, and goes on");
        match self.record.stage {
            journal::Stage::Woken => self.live(found.clocks, Duration::ZERO, None, now),
            journal::Stage::Resumed => {
                self.sweep();
                self.live_on(found.clocks, now);
            }
            journal::Stage::Running => {
                self.counted = self.settings.journal.is_some();
                self.life = Some(now);
                self.saving.anchor(true);
                self.run_on(now);
            }
            journal::Stage::Done => {
                self.counted = self.settings.journal.is_some();
                self.life = Some(now);
                self.done = true;
                self.rows_of_record();
                self.stage = Stage::Done;
                if self.plan.is_some() {
                    self.take_back(KILLED.to_owned(), None, now);
                }
            }
            journal::Stage::Cold | journal::Stage::Armed => {}
        }
        self.save_next(now);
    }

    /// After a kill: a START without END runs again only where that does no harm.
    fn run_on(&mut self, now: Moment) {
        self.sweep();
        let mut doubtful = false;
        for target in &self.settings.targets {
            let entries = &mut self.record.entries;
            let Some(entry) = entries.iter_mut().find(|entry| entry.name == target.hash) else {
                continue;
            };
            match entry.mark {
                Mark::Started if target.idempotent => entry.mark = Mark::Waiting,
                Mark::Started => {
                    entry.mark = Mark::Doubtful;
                    doubtful = true;
                }
                _ => {}
            }
        }
        if doubtful {
            self.touch(true);
        }
        self.run_life(now);
    }

    /// What the killed engine left of targets that run again. Those begin before their START is recorded, so that the record
    /// does not say which of them had begun.
    fn sweep(&mut self) {
        let targets = self.settings.targets.iter().enumerate();
        let again = targets.filter(|(_, target)| {
            let mark = self.record.entry(target.hash).map(|entry| entry.mark);
            let open = matches!(mark, None | Some(Mark::Waiting | Mark::Started));
            target.idempotent && (open || target.once == Once::Always)
        });
        let targets: Vec<usize> = again.map(|(at, _)| at).collect();
        if !targets.is_empty() {
            self.actions.push_back(super::Action::Sweep { targets });
        }
    }
}
