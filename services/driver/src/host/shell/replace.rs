//! Other code in the place of the one that serves: an upgrade, and the way back. Whatever can be found out is found out
//! before; while the gate is closed the state goes over, and is compared; only then the new code serves.

use std::sync::Arc;

use daemon::clock;
use driver_abi::State;
use hotpatch::{Form, Image, Module, Refusal, Sealed};
use protocol::{
    driver::{Mode, Outcome, Report, Upgrade, Version},
    failure::{Code, Failure},
};

use super::{
    body::{Body, LAYERS_MAX, Layer, Stack, Trial, cover, uncover},
    memory,
    workshop::{Pause, Shut, Trials, Workshop},
};
use crate::{
    host::machine::probation::{Deeds, Probation},
    record,
};

/// What happened behind the gate.
struct Done {
    mode: Mode,
    notes: Vec<String>,
    state_us: u64,
    states: Vec<Vec<u8>>,
}

/// Loads and checks an object.
///
/// # Errors
/// Why it is refused.
pub(super) fn load(object: &Sealed) -> Result<Module, Refusal> {
    let image = Image::check(object.bytes())?;
    Module::load(object, &image)
}

impl Workshop {
    /// Replaces the code by this object. On an error the one before serves on, and no call has failed.
    pub(super) fn replace(&self, object: &Sealed, upgrade: &Upgrade) -> Result<Report, Failure> {
        let mut body = self.body();
        let hash = record::hash_of(object.bytes());
        if hash != upgrade.hash {
            let text = format!("{}: the object's hash is {hash}, not {}", self.name, upgrade.hash);
            return Err(refused("hash", text));
        }
        let from = body.version().clone();
        if from.hash == hash {
            return Ok(self.report(&from, &from));
        }
        if let Some(trial) = &body.trial {
            let text = format!(
                "{}: version {} is on probation; wait until it is settled, or roll it back",
                self.name, trial.tried.version
            );
            return Err(refused("probation", text).with_code(Code::Busy));
        }
        let risk = self.risk();
        let module = load(object).map_err(|refusal| self.refusal(&refusal))?;
        self.fits(&body, &module, upgrade)?;
        let to = Version {
            version: upgrade.version.clone(),
            hash,
            rollback_index: upgrade.rollback_index,
        };
        let module = Arc::new(module);
        let shut = self.shut(self.settings.drain).map_err(|busy| self.busy(&busy))?;
        let mode = upgrade.mode.unwrap_or_default();
        let done = self.hand_over(&mut body, &module, &to, mode, &shut);
        let mut notes: Vec<String> = shut.closed().real_time().into_iter().collect();
        drop(risk);
        let before = done.is_ok().then(|| self.count_anew());
        let pause = shut.open();
        let done = match done {
            Ok(done) => done,
            Err(failure) => {
                self.put_probes_in(&body);
                return Err(failure);
            }
        };
        if self.desk.gate.form() == Form::Fence {
            notes.push("the kernel has no membarrier(2): each call pays for the gate".to_owned());
        }
        notes.extend(done.notes.iter().cloned());
        self.begin_trial(&mut body, &to, before.unwrap_or_default());
        self.keep(&done.states);
        body.sweep(&self.desk.gate);
        drop(body);
        self.desk.call_keeper();
        let probation = u64::try_from(self.settings.probation.as_millis()).unwrap_or(u64::MAX);
        let report =
            Report { mode: done.mode, notes, probation_ms: probation, ..self.report(&from, &to) };
        tracing::info!(
            "{}: {} serves instead of {}, on probation",
            self.name,
            to.version,
            from.version
        );
        Ok(timed(report, &pause, done.state_us))
    }

    /// Puts the version before in the place of the one that serves.
    pub(super) fn roll_back(&self, reason: Option<String>) -> Result<Report, Failure> {
        let mut body = self.body();
        self.fetch_previous(&mut body)?;
        let Some(previous) = body.previous() else {
            let text =
                format!("{}: no version is kept before {}", self.name, body.version().version);
            return Err(refused("no-previous", text).with_code(Code::NotFound));
        };
        let (from, to) = (body.version().clone(), previous.version.clone());
        let mode = body.mode();
        let shut = self.shut(self.settings.drain).map_err(|busy| self.busy(&busy))?;
        let done = self.go_back(&mut body, &shut);
        if done.is_ok() {
            self.count_anew();
        }
        let pause = shut.open();
        let (state_us, state) = match done {
            Ok(done) => done,
            Err(text) => {
                self.put_probes_in(&body);
                let text = format!("{}: {text}; {} serves on", self.name, from.version);
                return Err(refused("state", text));
            }
        };
        body.trial = None;
        self.serves_now(&body);
        self.keep(&[state]);
        body.sweep(&self.desk.gate);
        self.put_probes_in(&body);
        drop(body);
        self.settle(Outcome::RolledBack, from.clone(), reason);
        let report = Report { mode, ..self.report(&from, &to) };
        Ok(timed(report, &pause, state_us))
    }

    /// Whether it can come in the place of what serves at all.
    fn fits(&self, body: &Body, module: &Module, upgrade: &Upgrade) -> Result<(), Failure> {
        let serves = body.module();
        if module.name() != serves.name() {
            let text = format!(
                "{}: the object is of the driver {:?}, here serves {:?}",
                self.name,
                module.name(),
                serves.name()
            );
            return Err(refused("name", text));
        }
        if module.version() != upgrade.version {
            let text = format!(
                "{}: the object says that it is version {:?}, and {:?} was announced",
                self.name,
                module.version(),
                upgrade.version
            );
            return Err(refused("version", text));
        }
        if module.operations() < serves.operations() {
            let text = format!(
                "{}: version {} has {} operations, {} has {}; a later version never has fewer",
                self.name,
                module.version(),
                module.operations(),
                serves.version(),
                serves.operations()
            );
            return Err(refused("operations", text));
        }
        Ok(())
    }

    /// Behind the closed gate: the state goes over, is compared, and the new code is put in the old one's place.
    fn hand_over(
        &self,
        body: &mut Body,
        module: &Arc<Module>,
        to: &Version,
        mode: Mode,
        shut: &Shut,
    ) -> Result<Done, Failure> {
        let began = clock::now();
        let failed = |reason, text: String| refused(reason, format!("{}: {text}", self.name));
        let old = Arc::clone(body.module());
        let exported = old.export().map_err(|refusal| self.refusal(&refusal))?;
        let result = module.import(self.host, &exported);
        if result < 0 {
            let text = format!("version {} does not take the state: {}", to.version, errno(result));
            return Err(failed("import", text));
        }
        let back = if module.layout() == old.layout() {
            module.export()
        } else {
            module.downgrade(old.layout())
        };
        let back = back.map_err(|refusal| self.refusal(&refusal))?;
        if let Some(lost) = difference(&exported, &back, &old) {
            let text = format!("version {} would lose state on the way back: {lost}", to.version);
            return Err(failed("state-lost", text));
        }
        let result = module.self_test();
        if result < 0 {
            let text = format!("the self test of version {} fails: {}", to.version, errno(result));
            return Err(failed("self-test", text));
        }
        let state_us = u64::try_from(clock::now().since(began).as_micros()).unwrap_or(u64::MAX);
        let mut states = vec![exported];
        if module.layout() != old.layout() {
            states.insert(0, module.export().map_err(|refusal| self.refusal(&refusal))?);
        }
        self.take_probes_out(shut).map_err(|refusal| self.refusal(&refusal))?;
        let (mode, notes) = self.put_in(body, module, to, mode, shut)?;
        Ok(Done { mode, notes, state_us, states })
    }

    /// The new code serves from here on, or nothing was changed.
    fn put_in(
        &self,
        body: &mut Body,
        module: &Arc<Module>,
        to: &Version,
        mode: Mode,
        shut: &Shut,
    ) -> Result<(Mode, Vec<String>), Failure> {
        let mut notes = Vec::new();
        let refusal = |refusal: Refusal| self.refusal(&refusal);
        // All of it or nothing: the watchdog leaves the gate closed until this ends.
        let _change = shut.closed().change().map_err(refusal)?;
        let more = module.operations() > body.serves.base().module.operations();
        if mode == Mode::Jump && body.serves.height() >= LAYERS_MAX {
            notes.push(format!("{LAYERS_MAX} versions lie over one another: by its table"));
        } else if mode == Mode::Jump && more {
            notes.push("it has more operations than the table in use: by its own table".to_owned());
        } else if mode == Mode::Jump {
            match cover(shut.closed(), &body.serves.base().module, module) {
                Ok(redirects) => {
                    let table = self.desk.slot.table();
                    self.desk.slot.swap(shut.closed(), table).map_err(refusal)?;
                    let layer = Layer::new(Arc::clone(module), to.clone(), redirects);
                    body.covered(layer, self.desk.gate.generation());
                    return Ok((Mode::Jump, notes));
                }
                Err(refusal) => {
                    notes.push(format!("by its table, because it can't be by jumps: {refusal}"))
                }
            }
        }
        self.desk.slot.swap(shut.closed(), module.table()).map_err(refusal)?;
        let stack = Stack::new(Arc::clone(module), to.clone());
        body.replaced(stack, self.desk.gate.generation());
        Ok((Mode::Table, notes))
    }

    /// Behind the closed gate: the state goes back, and what served before serves again. How long the state took, and the state.
    fn go_back(&self, body: &mut Body, shut: &Shut) -> Result<(u64, Vec<u8>), String> {
        let began = clock::now();
        let previous = body.previous().map(|layer| Arc::clone(&layer.module));
        let previous = previous.ok_or("there is no version before")?;
        let module = Arc::clone(body.module());
        let state = if previous.layout() == module.layout() {
            module.export()
        } else {
            module.downgrade(previous.layout())
        };
        let state = state.map_err(|refusal| format!("the state can't go back: {refusal}"))?;
        let result = previous.import(self.host, &state);
        if result < 0 {
            return Err(format!(
                "version {} does not take its state back: {}",
                previous.version(),
                errno(result)
            ));
        }
        let state_us = u64::try_from(clock::now().since(began).as_micros()).unwrap_or(u64::MAX);
        let text = |refusal: Refusal| refusal.text;
        let _change = shut.closed().change().map_err(text)?;
        self.take_probes_out(shut).map_err(text)?;
        let table = match body.jumps() {
            Some(redirects) => {
                uncover(shut.closed(), redirects).map_err(text)?;
                self.desk.slot.table()
            }
            None => match &body.before {
                Some(before) => before.table(),
                None => return Err("there is no version before".to_owned()),
            },
        };
        self.desk.slot.swap(shut.closed(), table).map_err(text)?;
        body.went_back(self.desk.gate.generation());
        Ok((state_us, state))
    }

    /// Loads the version before from what the manager keeps, where it is not in memory any more.
    fn fetch_previous(&self, body: &mut Body) -> Result<(), Failure> {
        if body.previous().is_some() {
            return Ok(());
        }
        let failed = |text: String| refused("previous", format!("{}: {text}", self.name));
        let Some(record) = record::read(&self.record).map_err(failed)? else { return Ok(()) };
        let Some(previous) = record.previous.filter(|it| it.hash != body.version().hash) else {
            return Ok(());
        };
        let kept = record::object(&self.record, &previous.hash).or_else(|error| {
            let factory = record::read_object(&self.settings.object)?;
            if record::hash_of(&factory) == previous.hash { Ok(factory) } else { Err(error) }
        });
        let unreadable = |error: std::io::Error| {
            failed(format!("the object of {}: {error}", record::shown(&previous)))
        };
        let object = kept.and_then(|bytes| Sealed::new(&self.name, &bytes)).map_err(unreadable)?;
        let module = load(&object).map_err(|refusal| self.refusal(&refusal))?;
        body.before = Some(Stack::new(Arc::new(module), previous));
        Ok(())
    }

    /// What was counted of the version before; the next one begins at nothing. Only behind the closed gate.
    fn count_anew(&self) -> Deeds {
        let mut state = self.desk.lock();
        state.generation += 1;
        std::mem::take(&mut state.deeds)
    }

    fn begin_trial(&self, body: &mut Body, tried: &Version, before: Deeds) {
        let probation = Probation::new(self.limits(), before, memory::resident(), clock::now());
        body.trial = Some(Trial { probation, tried: tried.clone() });
        self.serves_now(body);
        self.trials.send_modify(|trials: &mut Trials| {
            trials.open = true;
            trials.upgrades += 1;
        });
        self.put_probes_in(body);
    }

    fn refusal(&self, refusal: &Refusal) -> Failure {
        refused(refusal.code.name(), format!("{}: {refusal}", self.name))
    }
}

/// A refusal with its reason for programs.
fn refused(reason: &str, text: String) -> Failure {
    Failure::new(Code::Failed, text).with_details(serde_json::json!({ "reason": reason }))
}

trait WithCode {
    fn with_code(self, code: Code) -> Self;
}

impl WithCode for Failure {
    fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }
}

fn timed(report: Report, pause: &Pause, state_us: u64) -> Report {
    Report {
        pause_us: pause.pause_us,
        drain_us: pause.drain_us,
        state_us,
        held: pause.held,
        ..report
    }
}

/// What of the exported state does not come back, by its fields' names.
fn difference(exported: &[u8], back: &[u8], old: &Module) -> Option<String> {
    let before = match State::parse(exported) {
        Ok(state) => state,
        Err(error) => return Some(format!("the old version's state is none: {error}")),
    };
    let after = match State::parse(back) {
        Ok(state) => state,
        Err(error) => return Some(format!("what comes back is no state: {error}")),
    };
    if before == after {
        return None;
    }
    if before.layout != after.layout {
        return Some(format!(
            "it comes back in layout {} instead of {}",
            after.layout, before.layout
        ));
    }
    let ids: std::collections::BTreeSet<_> =
        before.fields.keys().chain(after.fields.keys()).collect();
    let differ = ids.into_iter().filter(|id| before.fields.get(id) != after.fields.get(id));
    let name = |id: &u16| {
        let known = old.fields().iter().find(|(known, ..)| known == id);
        known.map_or_else(|| format!("field {id}"), |(_, _, name)| name.clone())
    };
    Some(differ.map(name).collect::<Vec<_>>().join(", "))
}

/// A negative answer of a driver, in words.
pub(super) fn errno(result: i64) -> String {
    let number = i32::try_from(result.saturating_neg()).unwrap_or(i32::MAX);
    std::io::Error::from_raw_os_error(number).to_string()
}
