//! Where the driver's code is changed: replaced, put back, exported, probed. One at a time, each behind the closed gate.
//! Calls that are in the way are waited for, never failed; what can't be done is refused before anything was changed.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use daemon::clock;
use driver_abi::State;
use hotpatch::{Busy, Closed, Gate, Module};
use protocol::{
    driver::{Outcome, Report, Settled, Version},
    failure::{Code, Failure},
    time::Moment,
};
use tokio::sync::watch;

use super::{body::Body, desk::Desk, files, probes::Probes};
use crate::{
    host::machine::{probation::Limits, states},
    settings::Driver,
};

/// Whether a version is on probation, and how the last one ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Trials {
    pub(super) open: bool,
    pub(super) last: Option<Settled>,
    pub(super) upgrades: u64,
    pub(super) rollbacks: u64,
}

/// What serves, and what it would go back to.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) module: Arc<Module>,
    pub(super) version: Version,
    pub(super) previous: Option<Version>,
}

/// The driver's code, and those who change it.
pub(super) struct Workshop {
    pub(super) name: String,
    pub(super) settings: Driver,
    /// `RUN_DIR/driver/NAME`.
    pub(super) folder: PathBuf,
    /// `STATE_DIR/driver/NAME`.
    pub(super) record: PathBuf,
    pub(super) desk: Arc<Desk>,
    /// What drivers get to call.
    pub(super) host: &'static driver_abi::Host,
    pub(super) trials: watch::Sender<Trials>,
    body: Mutex<Body>,
    /// Kept beside the body, so that it can be exported while somebody hangs who holds that.
    serving: Mutex<Serving>,
    pub(super) probes: Mutex<Probes>,
    /// Since when a driver's code that is not yet trusted runs: loading, import, self test.
    risk: Mutex<Option<Moment>>,
    notes: Mutex<Vec<String>>,
}

/// The gate closed for a change, and what opens it again.
pub(super) struct Shut(pub(super) Closed);

/// Held while code runs that may never come back.
pub(super) struct Risk<'w>(&'w Workshop);

/// How long the gate was closed.
pub(super) struct Pause {
    pub(super) pause_us: u64,
    pub(super) drain_us: u64,
    pub(super) held: u64,
}

impl Workshop {
    pub(super) fn new(
        name: &str,
        settings: Driver,
        (folder, record): (PathBuf, PathBuf),
        (desk, host): (Arc<Desk>, &'static driver_abi::Host),
        body: Body,
        (last, notes): (Option<Settled>, Vec<String>),
    ) -> Self {
        let serving = Serving::of(&body);
        let rollbacks = u64::from(last.is_some());
        let trials = Trials { last, rollbacks, ..Trials::default() };
        Self {
            name: name.to_owned(),
            settings,
            folder,
            record,
            desk,
            host,
            trials: watch::Sender::new(trials),
            body: Mutex::new(body),
            serving: Mutex::new(serving),
            probes: Mutex::default(),
            risk: Mutex::new(None),
            notes: Mutex::new(notes),
        }
    }

    pub(super) fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body, unless somebody works at it.
    pub(super) fn idle_body(&self) -> Option<MutexGuard<'_, Body>> {
        self.body.try_lock().ok()
    }

    /// What serves.
    pub(super) fn serving(&self) -> Serving {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            window: self.settings.probation,
            max_errors: self.settings.max_errors,
            max_latency: self.settings.max_latency,
            max_memory: self.settings.max_memory,
        }
    }

    /// Says once what falls short, in the log and in `status`.
    pub(super) fn note(&self, text: impl Into<String>) {
        let text = text.into();
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.contains(&text) {
            tracing::warn!("{}: {text}", self.name);
            notes.push(text);
            // What fell short last counts most.
            let surplus = notes.len().saturating_sub(NOTES_MAX);
            notes.drain(..surplus);
        }
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the gate.
    pub(super) fn shut(&self, limit: Duration) -> Result<Shut, Busy> {
        Gate::close(&self.desk.gate, limit).map(Shut)
    }

    /// From now on code runs that may never come back.
    pub(super) fn risk(&self) -> Risk<'_> {
        *self.risk.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::now());
        self.desk.call_keeper();
        Risk(self)
    }

    pub(super) fn at_risk_since(&self) -> Option<Moment> {
        *self.risk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other code serves: whoever asks for its state gets the new one's.
    pub(super) fn serves_now(&self, body: &Body) {
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Serving::of(body);
        // Whoever polls asks the new code.
        self.desk.notify(0);
    }

    /// How a probation ended.
    pub(super) fn settle(&self, outcome: Outcome, tried: Version, reason: Option<String>) {
        let serves = self.serving().version;
        let name = self.name.clone();
        tracing::info!(
            "{name}: version {} was {}{}",
            tried.version,
            if outcome == Outcome::Confirmed { "confirmed" } else { "rolled back" },
            reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
        );
        self.trials.send_modify(|trials| {
            trials.open = false;
            trials.rollbacks += u64::from(outcome == Outcome::RolledBack);
            trials.last = Some(Settled { name, outcome, tried, serves, reason });
        });
    }

    /// The state of what serves, exported behind the closed gate, and in the layout of what may come back, where that is another one.
    pub(super) fn export(&self, body: &Body, _shut: &Shut) -> Result<Vec<Vec<u8>>, String> {
        let module = body.module();
        let mut states = vec![module.export().map_err(|refusal| refusal.text)?];
        if let Some(previous) = body.previous().map(|layer| &layer.module)
            && previous.layout() != module.layout()
        {
            match module.downgrade(previous.layout()) {
                Ok(state) => states.push(state),
                Err(refusal) => self.note(format!(
                    "the state can't be written in the layout of {}: {refusal}",
                    previous.version()
                )),
            }
        }
        Ok(states)
    }

    /// Writes the state down for the next host.
    pub(super) fn keep(&self, states: &[Vec<u8>]) {
        if let Err(error) = files::write_state(&self.folder, &states::encode(states)) {
            self.note(format!(
                "the state can't be written to {}: {error}; a crash loses it",
                self.folder.display()
            ));
        }
    }

    /// Exports the state and writes it down. `false` where somebody is inside for too long, or the export took so long that calls
    /// ran beside it.
    pub(super) fn checkpoint(&self, body: &Body) -> bool {
        let Ok(shut) = self.shut(self.settings.drain) else { return false };
        let states = self.export(body, &shut);
        let Some(states) = shut.end(states) else {
            self.note(
                "the export of the state takes too long: calls ran beside it, and it is not kept",
            );
            return false;
        };
        match states {
            Ok(states) => self.keep(&states),
            Err(text) => self.note(format!("the state can't be exported: {text}")),
        }
        true
    }

    /// The state by the names of its fields.
    pub(super) fn state(&self) -> Result<State, Failure> {
        let body = self.body();
        let shut = self.shut(self.settings.drain).map_err(|busy| self.busy(&busy))?;
        let state = body.module().export();
        let failed = |text: String| Failure::new(Code::Failed, format!("{}: {text}", self.name));
        let state = shut.end(state).ok_or_else(|| {
            failed(
                "the export of its state takes too long: calls ran beside it; try again".to_owned(),
            )
        })?;
        let state = state.map_err(|refusal| failed(refusal.text))?;
        State::parse(&state).map_err(|error| failed(format!("its state is none: {error}")))
    }

    pub(super) fn busy(&self, busy: &Busy) -> Failure {
        let stuck: Vec<_> = busy
            .stuck
            .iter()
            .map(|stuck| {
                serde_json::json!({
                    "tid": stuck.tid,
                    "operation": stuck.operation.to_string(),
                    "handle": stuck.handle,
                })
            })
            .collect();
        let text = format!("{}: {busy}; nothing was changed, try again later", self.name);
        Failure::new(Code::Busy, text).with_details(serde_json::json!({
            "reason": "inside",
            "waited_ms": u64::try_from(busy.waited.as_millis()).unwrap_or(u64::MAX),
            "stuck": stuck,
            "retry_after_ms": 1000,
        }))
    }

    /// What is reported of a change that began here.
    pub(super) fn report(&self, from: &Version, to: &Version) -> Report {
        Report { name: self.name.clone(), from: from.clone(), to: to.clone(), ..Report::default() }
    }
}

impl Serving {
    fn of(body: &Body) -> Self {
        Self {
            module: Arc::clone(body.module()),
            version: body.version().clone(),
            previous: body.previous().map(|layer| layer.version.clone()),
        }
    }
}

/// Notes that `status` shows.
const NOTES_MAX: usize = 32;

impl Shut {
    pub(super) fn closed(&self) -> &Closed {
        &self.0
    }

    /// Opens the gate, and gives what was made behind it: nothing where the watchdog opened it before, and calls may have run beside.
    pub(super) fn end<T>(self, made: T) -> Option<T> {
        (!self.0.open().revoked).then_some(made)
    }

    /// Opens the gate, and says how it was.
    pub(super) fn open(self) -> Pause {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let opened = self.0.open();
        Pause { pause_us: micros(opened.pause), drain_us: micros(opened.drain), held: opened.held }
    }
}

impl Drop for Risk<'_> {
    fn drop(&mut self) {
        *self.0.risk.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
