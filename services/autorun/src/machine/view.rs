//! What others see of the engine.

use std::fmt::Write as _;

use protocol::autorun::{State as Outside, Status, Target, TargetRow};

use super::{
    Engine,
    targets::{Row, State},
};
use crate::settings::BackEnd;

impl Engine {
    pub(crate) fn status(&self) -> Status {
        let hex = |octets: &[u8]| octets.iter().any(|octet| *octet != 0).then(|| digits(octets));
        let targets = self.settings.targets.iter().zip(&self.rows);
        Status {
            state: self.state(),
            image: hex(&self.record.image),
            run: self.life.and_then(|_| hex(&self.record.run)),
            ordinal: self.counted.then_some(self.record.ordinal),
            back_end: match self.settings.back_end {
                BackEnd::Auto => "auto",
                BackEnd::Snapshot => "snapshot",
                BackEnd::Sysfs => "sysfs",
                BackEnd::Exec => "exec",
                BackEnd::None => "none",
            }
            .to_owned(),
            targets: targets.map(|(target, row)| row.seen(target.name.as_str())).collect(),
            reason: self.reason.clone(),
            notes: self.notes.iter().cloned().collect(),
        }
    }

    pub(super) fn stands(&self) -> &'static str {
        match self.state() {
            Outside::Cold => "cold",
            Outside::Arming => "arming or taking back",
            Outside::Armed => "armed",
            Outside::Resumed => "resuming",
            Outside::Running => "targets run",
            _ => "done",
        }
    }
}

impl Row {
    fn seen(&self, name: &str) -> TargetRow {
        TargetRow {
            name: name.to_owned(),
            state: match self.state {
                State::Waiting | State::Recording(_) | State::Backoff(_) | State::Again => {
                    Target::Waiting
                }
                State::Probing | State::Working | State::Checking => Target::Running,
                State::Ended(outward) => outward,
            },
            started_ms: self.started,
            ended_ms: self.ended,
            text: self.text.clone(),
        }
    }
}

pub(super) fn digits(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(2 * octets.len()), |mut digits, octet| {
        let _ = write!(digits, "{octet:02x}");
        digits
    })
}
