//! Callers that wait for the effect of their request. Looked at after everything has settled; none waits for ever.

use std::{collections::BTreeSet, time::Duration};

use protocol::{
    failure::{Code, Failure},
    time::Moment,
};

use super::{
    Due, Supervisor,
    instance::{Life, State, UNKILLABLE},
    replace::Role,
};

/// More callers may not wait at the same time.
const WAITERS_MAX: usize = 1024;
/// Nobody waits longer; callers have shorter deadlines of their own.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// What a caller waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Awaited {
    /// Every slot is ready, or done as a oneshot is.
    Up,
    /// Nothing of any slot runs.
    Down,
    /// Nothing of any slot runs, and all of it is there.
    Frozen,
    /// Every slot is forgotten.
    Gone,
    /// Every slot is the instance, ready, and what was there before is gone.
    Replaced,
    /// Every slot's reload command has ended.
    Reloaded { failed: bool },
}

#[derive(Debug)]
pub(super) struct Waiter {
    awaited: Awaited,
    slots: BTreeSet<u32>,
    deadline: Moment,
}

impl Supervisor {
    pub(super) fn wait_for(&mut self, id: u64, awaited: Awaited, slots: Vec<u32>, now: Moment) {
        if self.waiters.len() >= WAITERS_MAX {
            let text = format!(
                "{WAITERS_MAX} callers are waiting already: it was begun, ask for the state later"
            );
            self.replies.push((id, Err(Failure::new(Code::Busy, text))));
            return;
        }
        let slots: BTreeSet<u32> =
            slots.into_iter().filter(|slot| self.lives.contains_key(slot)).collect();
        if slots.is_empty() {
            self.replies.push((id, Ok(())));
            return;
        }
        for slot in &slots {
            if let Some(life) = self.lives.get_mut(slot) {
                life.waiters.push(id);
            }
            self.touched.insert(*slot);
        }
        let deadline = now + WAIT_MAX;
        self.deadlines.insert((deadline, Due::Waiter(id)));
        self.waiters.insert(id, Waiter { awaited, slots, deadline });
    }

    /// Looks whether those who wait for a slot can be answered.
    pub(super) fn check_waiters(&mut self, slot: u32) {
        let Some(life) = self.lives.get(&slot) else { return };
        for id in life.waiters.clone() {
            if let Some(result) = self.waiters.get(&id).and_then(|waiter| self.result(waiter)) {
                self.answer(id, result);
            }
        }
    }

    /// The slot does not exist any more: nothing of it runs, and nothing of it will.
    pub(super) fn forgotten_for_waiters(&mut self, waiters: Vec<u64>) {
        for id in waiters {
            let result = self.waiters.get(&id).and_then(|waiter| self.result(waiter));
            if let Some(result) = result {
                self.answer(id, result);
            }
        }
    }

    /// Whoever waits for this slot waits in vain.
    pub(super) fn fail_waiters(&mut self, slot: u32, failure: &Failure) {
        let Some(life) = self.lives.get(&slot) else { return };
        for id in life.waiters.clone() {
            self.answer(id, Err(failure.clone()));
        }
    }

    /// Whoever waits for this slot to be frozen waits in vain; answers which slots were to be frozen with it, and itself.
    pub(super) fn fail_freezing(&mut self, slot: u32, failure: &Failure) -> BTreeSet<u32> {
        let mut together = BTreeSet::from([slot]);
        let ids = self.lives.get(&slot).map(|life| life.waiters.clone()).unwrap_or_default();
        for id in ids {
            let waits = |waiter: &&Waiter| waiter.awaited == Awaited::Frozen;
            if let Some(waiter) = self.waiters.get(&id).filter(waits) {
                together.extend(&waiter.slots);
                self.answer(id, Err(failure.clone()));
            }
        }
        together
    }

    fn answer(&mut self, id: u64, result: Result<(), Failure>) {
        let Some(waiter) = self.waiters.remove(&id) else { return };
        self.deadlines.remove(&(waiter.deadline, Due::Waiter(id)));
        for slot in waiter.slots {
            if let Some(life) = self.lives.get_mut(&slot) {
                life.waiters.retain(|other| *other != id);
            }
        }
        self.replies.push((id, result));
    }

    pub(super) fn waiter_overdue(&mut self, id: u64) {
        let text = format!("it was not done within {} seconds; it goes on", WAIT_MAX.as_secs());
        self.answer(id, Err(Failure::new(Code::Timeout, text)));
    }

    pub(super) fn cancel_waiters(&mut self) {
        let ids: Vec<u64> = self.waiters.keys().copied().collect();
        for id in ids {
            self.answer(id, Err(Failure::new(Code::Cancelled, "everything is being stopped")));
        }
    }

    /// `None`: not yet.
    fn result(&self, waiter: &Waiter) -> Option<Result<(), Failure>> {
        let mut open = false;
        for slot in &waiter.slots {
            let one = match (self.lives.get(slot), waiter.awaited) {
                (None, Awaited::Gone | Awaited::Down) => Some(Ok(())),
                (None, _) => Some(Err(Failure::new(Code::Cancelled, "the instance was deleted"))),
                (Some(life), Awaited::Up) => self.up(life),
                (Some(life), Awaited::Replaced) => self.replaced(life),
                (Some(life), Awaited::Down) => down(life),
                (Some(life), Awaited::Gone) => gone(life),
                (Some(life), Awaited::Frozen) => frozen(life),
                (Some(life), Awaited::Reloaded { failed }) => reloaded(life, failed),
            };
            match one {
                None => open = true,
                Some(Ok(())) => {}
                Some(Err(failure)) => return Some(Err(failure)),
            }
        }
        (!open).then_some(Ok(()))
    }

    /// The old process has ended, too; that it can't be ended is told.
    fn replaced(&self, life: &Life) -> Option<Result<(), Failure>> {
        match life.role {
            Role::Candidate { .. } => None,
            Role::Heir { of } => {
                let old = self.lives.get(&of)?;
                old.unkillable.then(|| Err(unkillable(old)))
            }
            Role::Only => self.up(life),
        }
    }

    fn up(&self, life: &Life) -> Option<Result<(), Failure>> {
        let failed = |text: String| Some(Err(Failure::new(Code::Failed, text)));
        let name = (&life.service.name, &life.name);
        if !life.wanted || life.leaving || self.shutdown.is_some() {
            let text = format!("a stop of {} {} came in between", name.0, name.1);
            return Some(Err(Failure::new(Code::Cancelled, text)));
        }
        if life.unkillable && !life.spawnable() {
            return Some(Err(unkillable(life)));
        }
        if life.again {
            return None;
        }
        match &life.state {
            State::Held { reason } | State::Failed { reason } => {
                failed(format!("{} {}: {reason}", name.0, name.1))
            }
            State::Pausing { .. } => failed(format!(
                "{} {} ended before it was ready: {}; it is tried again",
                name.0, name.1, life.reason
            )),
            State::Done { fulfilled: false } => {
                failed(format!("{} {} ended before it was ready: {}", name.0, name.1, life.reason))
            }
            _ if life.fulfilled() => Some(Ok(())),
            _ if life.busy() => None,
            _ => {
                let other = self.missing_requirement(&life.service.name)?;
                failed(format!(
                    "{} requires {other}, which is stopped or has failed: start it first",
                    name.0
                ))
            }
        }
    }

    /// The reload command of a slot ended.
    pub(super) fn reload_done(&mut self, slot: u32, generation: u32, ok: bool) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if life.seen.generation != generation {
            return;
        }
        for id in life.waiters.clone() {
            let Some(waiter) = self.waiters.get_mut(&id) else { continue };
            let Awaited::Reloaded { failed } = &mut waiter.awaited else { continue };
            *failed |= !ok;
            let failed = *failed;
            waiter.slots.remove(&slot);
            let done = waiter.slots.is_empty();
            if let Some(life) = self.lives.get_mut(&slot) {
                life.waiters.retain(|other| *other != id);
            }
            if failed {
                let text = "the reload command failed: its output is in the log";
                self.answer(id, Err(Failure::new(Code::Failed, text)));
            } else if done {
                self.answer(id, Ok(()));
            }
        }
    }
}

fn down(life: &Life) -> Option<Result<(), Failure>> {
    if life.wanted {
        let text = format!("a start of {} {} came in between", life.service.name, life.name);
        return Some(Err(Failure::new(Code::Cancelled, text)));
    }
    ended(life)
}

fn frozen(life: &Life) -> Option<Result<(), Failure>> {
    match life.frozen {
        Some(frozen) => frozen.means().map(|_| Ok(())),
        None => {
            let (service, instance) = (&life.service.name, &life.name);
            let text = format!("{service} {instance} was thawed or ended in between");
            Some(Err(Failure::new(Code::Cancelled, text)))
        }
    }
}

fn gone(life: &Life) -> Option<Result<(), Failure>> {
    if !life.leaving {
        let text = format!("{} {} was defined again in between", life.service.name, life.name);
        return Some(Err(Failure::new(Code::Cancelled, text)));
    }
    ended(life).filter(Result::is_err)
}

fn ended(life: &Life) -> Option<Result<(), Failure>> {
    if life.unkillable {
        return Some(Err(unkillable(life)));
    }
    (!life.busy()).then_some(Ok(()))
}

fn unkillable(life: &Life) -> Failure {
    Failure::new(Code::Failed, format!("{} {}: {UNKILLABLE}", life.service.name, life.name))
}

/// Only what ends without an answer; answers come by `reload_done`.
fn reloaded(life: &Life, failed: bool) -> Option<Result<(), Failure>> {
    let lost = !life.running() || failed;
    lost.then(|| {
        Err(Failure::new(
            Code::Failed,
            format!("{} {} ended while it was reloading", life.service.name, life.name),
        ))
    })
}
