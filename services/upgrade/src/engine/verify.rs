//! The long part: copies what the bundle does not carry, reads back what was written, and on activation writes mirrors. One
//! slice a call, so that calls are answered in between.

use protocol::{failure::Failure, upgrade::SlotState};

use super::{
    Engine, Work, content,
    contract::{Access, Activation, Fact, Letter, Now, Platform, SlotId},
    failed,
    ledger::Known,
    pass::{Pass, Task},
    plan::Planned,
    receive::gone,
    state::Step,
};

impl<P: Platform> Engine<P> {
    /// Does a slice of what is to be done; to be called again while there is more.
    ///
    /// # Errors
    /// Why the upgrade ended, or could not be activated.
    pub(crate) fn work(&mut self, now: Now) -> Result<Work, Failure> {
        let worked = self.slice(now);
        if let Err(failure) = &worked {
            self.passes.clear();
            match self.state() {
                // Nothing is in use of what failed. A mirror that failed is tried again.
                protocol::upgrade::State::Verifying => self.fail(&failure.text, now),
                _ => self.try_again(now),
            }
        }
        worked
    }

    fn slice(&mut self, now: Now) -> Result<Work, Failure> {
        if self.passes.current.is_none() {
            let Some(task) = self.passes.queue.pop_front() else { return Ok(Work::Done) };
            self.passes.current = Some(self.start_pass(task)?);
        }
        let Some(pass) = &mut self.passes.current else { return Ok(Work::Done) };
        let task = pass.task;
        let stepped = pass.step();
        self.copied += pass.take_written();
        let hash = stepped.map_err(|error| failed(format!("{}: {error}", self.what(task))))?;
        let Some(hash) = hash else { return Ok(Work::More) };
        self.passes.current = None;
        self.end_pass(task, &bundle::hex::encode(&hash))?;
        if !self.passes.queue.is_empty() {
            return Ok(Work::More);
        }
        match self.state() {
            protocol::upgrade::State::Verifying => self.verified(now)?,
            _ => self.settle(now)?,
        }
        Ok(if self.passes.is_empty() { Work::Done } else { Work::More })
    }

    fn start_pass(&mut self, task: Task) -> Result<Pass, Failure> {
        let planned = self.at(task)?;
        let target = planned.slot(&self.rules).ok_or_else(|| gone(&planned.component))?;
        let other = SlotId { letter: target.letter.other(), ..target };
        let (size, slice) = (planned.fact.size, self.limits.slice);
        let fresh = self.journal.note.fresh;
        Ok(match task {
            Task::Copy(_) => {
                let from = self.open_slot(other, Access::Read)?;
                let to = self.open_slot(target, Access::Write)?;
                let size = if size == 0 { from.len() } else { size };
                if to.len() < size {
                    let text = format!(
                        "slot {} of {} has {} bytes; the {size} of the other slot don't fit",
                        target.letter.as_char(),
                        planned.component,
                        to.len()
                    );
                    return Err(failed(text));
                }
                Pass::copy(task, from, to, size, slice, fresh)
            }
            Task::Verify(_) => Pass::read(task, self.open_slot(target, Access::Read)?, size, slice),
            Task::Mirror(_) => {
                let from = self.open_slot(target, Access::Read)?;
                Pass::copy(task, from, self.open_slot(other, Access::Write)?, size, slice, fresh)
            }
            Task::VerifyMirror(_) => {
                Pass::read(task, self.open_slot(other, Access::Read)?, size, slice)
            }
        })
    }

    /// A pass over a whole slot said this hash.
    fn end_pass(&mut self, task: Task, hash: &str) -> Result<(), Failure> {
        let planned = self.at(task)?;
        if let Task::Copy(at) = task {
            if planned.fact.hash.is_empty() {
                // From the factory: nobody said what it is, so that it is read back is all that can be asked.
                return self.complete_fact(at, hash);
            }
            if planned.fact.hash != hash {
                let text = format!(
                    "{} can't be copied to the other set: it was changed since it was written; let the bundle carry it",
                    planned.component
                );
                return Err(failed(text));
            }
            let (name, to) = (&planned.component, planned.letter);
            // A hint that can't be kept costs bytes at the next upgrade, and nothing else.
            let _ = content::copy(&mut self.platform, name, to.other(), to);
            return Ok(());
        }
        if planned.fact.hash != hash {
            let text = format!(
                "{}: {hash} was read back, but {} was written: the storage is failing, or somebody else writes to it",
                self.what(task),
                planned.fact.hash
            );
            let slot = (planned.component.as_str(), planned.letter, bad());
            // It is failing anyway; what the slot is good for is known from the journal too.
            let _ = self.ledger.note_slots(&mut self.platform, [slot]);
            return Err(failed(text));
        }
        Ok(())
    }

    fn complete_fact(&mut self, at: usize, hash: &str) -> Result<(), Failure> {
        let Some(plan) = &mut self.plan else { return Err(failed("there is no plan".to_owned())) };
        let planned = &mut plan.components[at];
        planned.fact.hash = hash.to_owned();
        let target = planned.slot(&self.rules).ok_or_else(|| gone(&planned.component))?;
        let other = SlotId { letter: target.letter.other(), ..target };
        if planned.fact.size == 0 {
            let disk = self.platform.open(other, Access::Read);
            planned.fact.size = disk.map_err(|error| failed(error.to_string()))?.len();
        }
        let (plan, file) = (plan.clone(), self.journal.note.plan);
        let saved = plan.save(&mut self.platform, file);
        saved.map_err(|error| failed(format!("write {}: {error}", file.name())))
    }

    /// Every slot is what it shall be.
    fn verified(&mut self, now: Now) -> Result<(), Failure> {
        let components = self.plan.as_ref().map(|plan| plan.components.clone()).unwrap_or_default();
        for planned in &components {
            let slot = planned.slot(&self.rules).ok_or_else(|| gone(&planned.component))?;
            let sealed = self.platform.seal(slot, planned.fact.size);
            sealed.map_err(|error| failed(format!("unpack {}: {error}", planned.component)))?;
        }
        let good = |fact: &Fact| Known { state: SlotState::Good, fact: fact.clone() };
        let slots =
            components.iter().map(|one| (one.component.as_str(), one.letter, good(&one.fact)));
        let noted = self.ledger.note_slots(&mut self.platform, slots);
        noted.map_err(|error| failed(format!("write what is in the slots: {error}")))?;
        self.step(Step::Verified, |_| {})?;
        match self.activate {
            true => self.activate(now),
            false => Ok(()),
        }
    }

    /// Mirrors that are to be written before what was written is used.
    pub(super) fn queue_mirrors(&mut self) {
        let Some(plan) = &self.plan else { return };
        let mirrored = |planned: &&Planned| {
            let rules = self.rules.component(&planned.component).map(|(_, rules)| rules);
            rules.is_some_and(|rules| rules.activation == Activation::Mirror && !rules.single)
        };
        let places = plan.components.iter().enumerate().filter(|(_, planned)| mirrored(planned));
        let tasks = places.flat_map(|(at, _)| [Task::Mirror(at), Task::VerifyMirror(at)]);
        self.passes.queue = tasks.collect();
    }

    fn at(&self, task: Task) -> Result<Planned, Failure> {
        let planned = self.plan.as_ref().and_then(|plan| plan.components.get(task.planned()));
        planned.cloned().ok_or_else(|| failed("the plan of the upgrade is lost".to_owned()))
    }

    fn what(&self, task: Task) -> String {
        let planned = self.plan.as_ref().and_then(|plan| plan.components.get(task.planned()));
        let (name, letter) =
            planned.map_or(("?", Letter::A), |one| (one.component.as_str(), one.letter));
        match task {
            Task::Copy(_) => format!("copy {name} to slot {}", letter.as_char()),
            Task::Verify(_) => format!("read back slot {} of {name}", letter.as_char()),
            Task::Mirror(_) => format!("copy {name} to slot {}", letter.other().as_char()),
            Task::VerifyMirror(_) => {
                format!("read back slot {} of {name}", letter.other().as_char())
            }
        }
    }
}

fn bad() -> Known {
    Known { state: SlotState::Bad, fact: Fact::default() }
}
