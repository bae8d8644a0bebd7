//! What the journal keeps, so that a supervisor that is killed anywhere knows what the one before it had promised.

use std::time::Duration;

use protocol::{name::Name, time::Moment};
use serde::{Deserialize, Serialize};

use super::{
    backoff::Backoff,
    boot::{BootRecord, First},
    critical::Crashes,
    frozen::Frozen,
    health::Health,
    instance::{Life, State},
    replace::Role,
    triggers::{QueueRecord, TakenRecord},
};

/// One line of the journal. The last record of a key counts. Message-made definitions are journalled by the shell,
/// before it hands them to the machine.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) enum Record {
    /// The instance's whole memory. Key: the slot.
    Instance(Box<InstanceRecord>),
    /// The slot is free. Key: the slot.
    Forgotten { slot: u32 },
    /// What a service's triggers still have to do; an empty one is nothing to remember. Key: the service.
    Queue(Box<QueueRecord>),
    /// Which change of a package was taken last. Key: the package.
    Taken(TakenRecord),
    /// The boot as a whole. One key.
    Boot(Box<BootRecord>),
    /// All of these or none, in this order.
    Together(Vec<Self>),
}

/// One instance's whole memory. Read by older and newer versions: keys may be missing, unknown ones are passed over, and
/// none ever changes its meaning.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct InstanceRecord {
    pub(crate) slot: u32,
    pub(crate) service: Name,
    pub(crate) instance: Name,
    /// The desired state: up.
    #[serde(default)]
    pub(crate) wanted: bool,
    /// A restart was promised, and its stop has not ended yet.
    #[serde(default)]
    pub(crate) again: bool,
    /// The last generation that was seen.
    #[serde(default)]
    pub(crate) generation: u32,
    /// The last generation whose end was dealt with.
    #[serde(default)]
    pub(crate) ended: u32,
    /// Since when `generation` is ready.
    #[serde(default)]
    pub(crate) ready_at: Option<Moment>,
    /// Where the instance rests, if nothing of it runs.
    #[serde(default)]
    pub(crate) rest: Rest,
    #[serde(default)]
    pub(crate) backoff: Backoff,
    #[serde(default)]
    pub(crate) crashes: Crashes,
    #[serde(default)]
    pub(crate) restarts: u32,
    /// How the last run ended, in words.
    #[serde(default)]
    pub(crate) reason: String,
    /// Fingerprint of the definition that the running process was made from.
    #[serde(default)]
    pub(crate) made_from: Option<u64>,
    /// Hash of the files and network devices that it was made with.
    #[serde(default)]
    pub(crate) made_with: Option<u64>,
    /// A watchdog period that the instance or procd's `watchdog` asked for, in milliseconds.
    #[serde(default)]
    pub(crate) watchdog_ms: Option<u64>,
    /// procd's watchdog mode, where somebody has set one.
    #[serde(default)]
    pub(crate) watchdog_mode: Option<u32>,
    /// How often it missed its watchdog or its heartbeats.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) misses: u32,
    /// What the slot is for its instance, while that is being replaced.
    #[serde(default, skip_serializing_if = "Role::is_only")]
    pub(crate) role: Role,
    /// It has the second of its instance's two places.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) second: bool,
    /// Only who looked for one of its objects wants it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) on_demand: bool,
    /// It is kept from running, or was about to be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) frozen: bool,
    /// Its first start since the boot.
    #[serde(default, skip_serializing_if = "First::is_empty")]
    pub(crate) first: First,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl InstanceRecord {
    /// Nothing but the generation differs.
    pub(crate) fn is_before_beginning_of(&self, later: &Self) -> bool {
        self.generation < later.generation
            && *self == Self { generation: self.generation, ..later.clone() }
    }
}

/// Why nothing of an instance runs, as far as it can't be derived from its definition.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) enum Rest {
    #[default]
    None,
    /// Respawned at that moment.
    Pausing {
        until: Moment,
        delayed: bool,
    },
    Done {
        fulfilled: bool,
    },
    Held {
        reason: String,
    },
    Failed {
        reason: String,
    },
}

impl Life {
    /// What the next supervisor has to know of it.
    pub(crate) fn record(&self) -> InstanceRecord {
        let rest = match &self.state {
            State::Pausing { until, delayed } => Rest::Pausing { until: *until, delayed: *delayed },
            State::Done { fulfilled } => Rest::Done { fulfilled: *fulfilled },
            State::Held { reason } => Rest::Held { reason: reason.clone() },
            State::Failed { reason } => Rest::Failed { reason: reason.clone() },
            _ => Rest::None,
        };
        InstanceRecord {
            slot: self.slot,
            service: self.service.name.clone(),
            instance: self.name.clone(),
            wanted: self.wanted,
            again: self.again,
            generation: self.seen.generation,
            ended: self.ended,
            ready_at: self.ready_at,
            rest,
            backoff: self.backoff.clone(),
            crashes: self.crashes.clone(),
            restarts: self.restarts,
            reason: self.reason.clone(),
            made_from: Some(self.made_from),
            made_with: Some(self.made_with),
            watchdog_ms: self
                .health
                .asked()
                .map(|period| u64::try_from(period.as_millis()).unwrap_or(u64::MAX)),
            watchdog_mode: self.watchdog_mode,
            misses: self.misses,
            role: self.role,
            second: self.second,
            on_demand: self.on_demand,
            frozen: self.frozen.is_some(),
            first: self.first,
        }
    }

    /// Takes over what the supervisor before this one knew.
    pub(crate) fn remember(&mut self, record: InstanceRecord) {
        self.wanted = record.wanted;
        self.again = record.again;
        self.seen.generation = record.generation;
        self.ended = record.ended;
        self.ready_at = record.ready_at;
        self.state = match &record.rest {
            Rest::None => State::Stopped,
            Rest::Pausing { until, delayed } => State::Pausing { until: *until, delayed: *delayed },
            Rest::Done { fulfilled } => State::Done { fulfilled: *fulfilled },
            Rest::Held { reason } => State::Held { reason: reason.clone() },
            Rest::Failed { reason } => State::Failed { reason: reason.clone() },
        };
        // What waits for its respawn was started before, and in its turn.
        self.attempted = matches!(self.state, State::Pausing { .. });
        self.checked = self.attempted;
        self.stumbled = self.attempted;
        self.backoff = record.backoff.clone();
        self.crashes = record.crashes.clone();
        self.restarts = record.restarts;
        self.reason.clone_from(&record.reason);
        // A version that didn't write them down is no reason to restart anything.
        self.made_from = record.made_from.unwrap_or(self.made_from);
        self.made_with = record.made_with.unwrap_or(self.made_with);
        self.watchdog_mode = record.watchdog_mode;
        self.misses = record.misses;
        (self.role, self.second) = (record.role, record.second);
        self.on_demand = record.on_demand;
        self.frozen = record.frozen.then(Frozen::remembered);
        self.first = record.first;
        self.health = Health::with_period(record.watchdog_ms.map(Duration::from_millis));
        self.recorded = Some(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this version writes.
    const TODAY: &str = r#"{"Instance":{"slot":3,"service":"web","instance":"instance1","wanted":true,"again":false,"generation":7,"ended":6,"ready_at":5000000000,"rest":{"Pausing":{"until":6000000000,"delayed":true}},"backoff":{"respawns":2,"short_runs":0,"exec_failures":1,"refusals":0,"last_delay_ms":200},"crashes":[4000000000],"restarts":6,"reason":"exit 1","made_from":12345678901234567890,"made_with":42,"watchdog_ms":30000,"watchdog_mode":1}}"#;

    fn read(text: &str) -> InstanceRecord {
        match serde_json::from_str(text).unwrap() {
            Record::Instance(record) => *record,
            other => panic!("{other:?} is no instance"),
        }
    }

    #[test]
    fn todays_records_are_read_and_written_as_they_are() {
        let record = read(TODAY);
        assert_eq!((record.slot, record.generation, record.restarts), (3, 7, 6));
        assert_eq!(record.made_from, Some(12_345_678_901_234_567_890));
        assert_eq!(record.rest, Rest::Pausing { until: Moment(6_000_000_000), delayed: true });
        let again = serde_json::to_string(&Record::Instance(Box::new(record))).unwrap();
        assert_eq!(again, TODAY);
        let forgotten: Record = serde_json::from_str(r#"{"Forgotten":{"slot":3}}"#).unwrap();
        assert_eq!(forgotten, Record::Forgotten { slot: 3 });
    }

    #[test]
    fn records_of_other_versions_are_read_as_far_as_they_go() {
        let poor = read(r#"{"Instance":{"slot":3,"service":"web","instance":"instance1"}}"#);
        assert_eq!((poor.wanted, poor.generation, &poor.rest), (false, 0, &Rest::None));
        assert_eq!((poor.made_from, poor.made_with), (None, None));
        let rich = read(
            r#"{"Instance":{"slot":3,"service":"web","instance":"instance1","wanted":true,"mood":"good","backoff":{"respawns":1,"mood":2}}}"#,
        );
        assert!(rich.wanted);
        assert_eq!(rich.backoff.respawns(), 1);
    }
}
