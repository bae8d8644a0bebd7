//! What subscribers and the log are told.

use std::time::Duration;

use protocol::keeper::ShutdownKind;
use serde_json::{Map, Value, json};

use super::{
    Action, Ending, Happening, Supervisor,
    exits::exit_code,
    health::{Miss, Sign},
    instance::Life,
};
use crate::settings::{CriticalAction, OnMiss};

impl Supervisor {
    pub(super) fn happen(&mut self, slot: u32, topic: &'static str, details: &[(&str, Value)]) {
        let Some(life) = self.lives.get(&slot) else { return };
        let happening = about(life, topic, details);
        self.actions.push_back(Action::Publish(happening));
        if topic == "service.start" {
            let happening = about(life, "instance.start", &[]);
            self.actions.push_back(Action::Publish(happening));
        }
    }

    pub(super) fn happen_of(
        &mut self,
        life: &Life,
        topic: &'static str,
        details: &[(&str, Value)],
    ) {
        self.actions.push_back(Action::Publish(about(life, topic, details)));
    }

    pub(super) fn happen_late(&mut self, slot: u32, late: Duration) {
        let late_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
        self.happen(slot, "service.late", &[("supervisor_late_ms", json!(late_ms))]);
    }

    /// It missed its watchdog on a machine that is starved itself, `excuses` times in a row now.
    pub(super) fn happen_starved(&mut self, slot: u32, excuses: u8) {
        let text = "it missed its watchdog while the machine is starved, and gets one more period";
        let details =
            [("starved", json!(true)), ("excuses", json!(excuses)), ("text", json!(text))];
        self.happen(slot, "service.late", &details);
    }

    /// It showed no sign of life: what is done about it.
    pub(super) fn happen_missed(&mut self, slot: u32, miss: &Miss, action: OnMiss) {
        let age_ms = u64::try_from(miss.age.as_millis()).unwrap_or(u64::MAX);
        let mut details = vec![("age_ms", json!(age_ms)), ("action", json!(action.word()))];
        match miss.sign {
            Sign::Watchdog => details.push(("sign", json!("watchdog"))),
            Sign::Heartbeat(why) => {
                details.extend([("sign", json!("heartbeat")), ("missed", json!(why))]);
            }
        }
        let misses = self.lives.get(&slot).map_or(0, |life| life.misses);
        details.push(("misses", json!(misses)));
        self.happen(slot, "service.missed", &details);
    }

    pub(super) fn happen_respawn(&mut self, slot: u32, delay: Duration) {
        let Some(life) = self.lives.get(&slot) else { return };
        let count = json!(life.backoff.respawns());
        let delay_ms = json!(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        let details = crash_details(life);
        self.happen(slot, "service.respawn", &[("respawn_count", count), ("delay_ms", delay_ms)]);
        self.happen(slot, "instance.respawn", &details);
    }

    /// Crashed too often: what is done about it.
    pub(super) fn happen_escalation(&mut self, slot: u32, action: CriticalAction) {
        let (action, text) = match action {
            CriticalAction::Restart => ("restart", "restarting it with all that require it"),
            CriticalAction::Reboot => ("reboot", "stopping everything, then a reboot"),
            CriticalAction::Rescue if self.has_rescue => {
                ("rescue", "stopping everything but the log and a shell on the console")
            }
            CriticalAction::Rescue => (
                "rescue",
                "stopping everything, then a reboot, because the rescue set is for PID 1 only",
            ),
        };
        self.happen(slot, "service.critical", &[("action", json!(action)), ("text", json!(text))]);
    }

    pub(super) fn happen_shutdown(&mut self, kind: ShutdownKind, exit_code: u8, ending: &Ending) {
        let kind = format!("{kind:?}").to_lowercase();
        let data = json!({
            "kind": kind, "exit_code": exit_code, "cause": ending.cause, "reason": ending.reason,
        });
        self.actions.push_back(Action::Publish(Happening { topic: "system.shutdown", data }));
    }

    pub(super) fn happen_fail(&mut self, slot: u32) {
        let Some(life) = self.lives.get(&slot) else { return };
        let details = crash_details(life);
        self.happen(slot, "service.fail", &[]);
        self.happen(slot, "instance.fail", &details);
    }
}

/// procd's fields of `instance.respawn` and `instance.fail`.
fn crash_details(life: &Life) -> [(&'static str, Value); 3] {
    [
        ("exit_code", json!(exit_code(life.seen.exit))),
        ("respawn_count", json!(life.backoff.respawns())),
        ("command", json!(life.settings().process.command)),
    ]
}

fn about(life: &Life, topic: &'static str, details: &[(&str, Value)]) -> Happening {
    let mut data = Map::new();
    data.insert("service".to_owned(), json!(life.service.name));
    data.insert("instance".to_owned(), json!(life.name));
    if life.seen.pid != 0 {
        data.insert("pid".to_owned(), json!(life.seen.pid));
    }
    data.insert("generation".to_owned(), json!(life.seen.generation));
    if !life.reason.is_empty() && !topic.ends_with(".start") && !topic.ends_with(".ready") {
        data.insert("reason".to_owned(), json!(life.reason));
    }
    // Two processes of one instance are there for a while: which one this is about.
    if life.is_beside() {
        let which = if life.outgoing { "old" } else { "new" };
        data.insert("replacement".to_owned(), json!(which));
    }
    for (key, value) in details {
        data.insert((*key).to_owned(), value.clone());
    }
    Happening { topic, data: Value::Object(data) }
}
