//! What an engine does that starts: nothing, on a cold boot; or it goes on in the life in which another engine was killed; or
//! takes back what that one had prepared. Never runs anything because of the journal alone: that is there on a cold boot too.

use std::time::Duration;

use protocol::time::Moment;

use super::{Engine, Found, Stage};
use crate::journal::{self, Mark};

const KILLED: &str = "an engine was killed while it was armed: what it had prepared is taken back, and no target runs";

impl Engine {
    pub(super) fn begin(&mut self, found: Found, now: Moment) {
        self.plan = found.plan;
        let Some(current) = found.current else {
            self.record = found.journal.unwrap_or_default();
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
            journal::Stage::Resumed => self.live_on(found.clocks, now),
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
        let mut again = Vec::new();
        let mut doubtful = false;
        for (at, target) in self.settings.targets.iter().enumerate() {
            let entries = &mut self.record.entries;
            let Some(entry) = entries.iter_mut().find(|entry| entry.name == target.hash) else {
                continue;
            };
            if entry.mark == Mark::Started {
                if target.idempotent {
                    again.push(at);
                    entry.mark = Mark::Waiting;
                } else {
                    entry.mark = Mark::Doubtful;
                    doubtful = true;
                }
            }
        }
        if !again.is_empty() {
            self.actions.push_back(super::Action::Sweep { targets: again });
        }
        if doubtful {
            self.touch(true);
        }
        self.run_life(now);
    }
}
