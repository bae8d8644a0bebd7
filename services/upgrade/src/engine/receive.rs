//! The calls of a push: begin, pages, chunk, finish, abort. One transfer at a time.

use bundle::Manifest;
use protocol::{
    failure::{Code, Failure},
    upgrade::{Begun, DRY_RUN, SlotState, State},
};

use super::{
    Engine, Work,
    content::Lookup,
    contract::{Access, Activation, Caller, Fact, Letter, Now, Platform, Rules, SlotId, Start},
    failed,
    journal::{Note, Position},
    ledger::{Known, Ledger},
    offer::{Device, examine, in_use, refused},
    pass::Task,
    plan::Plan,
    state::{self, Step},
    transfer::{Due, Part, Transfer, Trouble},
};

/// Calls of `chunk` that may be under way: two megabytes of chunks.
const WINDOW: u32 = 8;

impl<P: Platform> Engine<P> {
    /// Header, signatures and manifest of a bundle, without what stands before them in the call.
    ///
    /// # Errors
    /// Busy with another upgrade, or the first thing about the bundle that is not in order. Nothing was changed then, unless
    /// the state could not be kept.
    pub(crate) fn begin(
        &mut self,
        bytes: &[u8],
        flags: u32,
        caller: Caller,
        now: Now,
    ) -> Result<Begun, Failure> {
        self.check_free()?;
        let device = Device {
            rules: &self.rules,
            start: &self.start,
            ledger: &self.ledger,
            keyring: self.keyring.as_ref(),
            permissions: &self.permissions,
            bootable: self.platform.boot().is_some(),
        };
        let offer = examine(&device, bytes, flags, &caller, now.wall)?;
        let (manifest, mut plan) = (offer.manifest, offer.plan);
        let mut begun =
            Begun { session: 0, window: WINDOW, components: Vec::new(), current: false };
        if plan.components.is_empty() {
            begun.current = true;
            return Ok(begun);
        }
        let mut parts = self.parts(&manifest, &plan)?;
        begun.components = parts.iter().map(|part| part.number).collect();
        if flags & DRY_RUN != 0 {
            return Ok(begun);
        }
        invalidate_image(&mut self.platform, &self.rules, &plan)?;
        self.settle_now(now)?;
        let from = self.resumes_at(&plan);
        if let (Some(_), Some(old)) = (from, &self.plan) {
            plan.transaction.since = old.transaction.since;
        }
        self.take(plan, from, now)?;
        for part in &mut parts {
            let at = from.unwrap_or_default();
            part.fresh = self.journal.note.fresh;
            part.trusted = match part.planned.cmp(&at.component) {
                std::cmp::Ordering::Less => u32::MAX,
                std::cmp::Ordering::Equal => at.chunk,
                std::cmp::Ordering::Greater => 0,
            };
        }
        self.session += 1;
        begun.session = self.session;
        self.copied = 0;
        self.transfer = Some(Transfer::new(self.session, caller, now.wall, parts, self.limits));
        Ok(begun)
    }

    fn check_free(&self) -> Result<(), Failure> {
        if let Some(transfer) = &self.transfer {
            let who = &transfer.caller.who;
            let (done, total) = (transfer.counts.done, transfer.counts.total);
            let text = format!("{who} installs an upgrade: {done} of {total} bytes are there");
            let details = serde_json::json!({ "who": who, "since": transfer.since, "done": done });
            return Err(Failure::new(Code::Busy, text).with_details(details));
        }
        if self.switching > 0 {
            let text = "services are being switched; try again in a moment";
            return Err(Failure::new(Code::Busy, text));
        }
        if !self.passes.is_empty() {
            let text = "slots are being verified; try again when the status says written";
            return Err(Failure::new(Code::Busy, text));
        }
        if state::after(self.state(), Step::Begin).is_none() {
            let text = format!(
                "the last upgrade is {} and not confirmed: confirm it or roll it back first",
                state::name(self.state())
            );
            return Err(Failure::new(Code::Busy, text));
        }
        Ok(())
    }

    /// Opens all slots that are written, which nobody else can then.
    fn parts(&mut self, manifest: &Manifest, plan: &Plan) -> Result<Vec<Part>, Failure> {
        let mut parts = Vec::new();
        for (at, planned) in plan.components.iter().enumerate() {
            let slot = planned.slot(&self.rules).ok_or_else(|| gone(&planned.component))?;
            let disk = self.open_slot(slot, Access::Write)?;
            let room = disk.len();
            if room < planned.fact.size {
                let text = format!(
                    "slot {} of {} has {room} bytes, the image {}",
                    planned.letter.as_char(),
                    planned.component,
                    planned.fact.size
                );
                return Err(refused(bundle::Refusal::new(bundle::Code::SlotTooSmall, text)));
            }
            let found = manifest.components.iter().enumerate();
            let found =
                found.filter(|_| planned.carried).find(|(_, one)| one.id == planned.component);
            let Some((number, component)) = found else { continue };
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let mut part = Part::new(at, number, planned.letter, component.clone(), disk);
            part.source = self.source(slot);
            parts.push(part);
        }
        Ok(parts)
    }

    /// The slot in use and what is known of where its chunks are. Without it everything comes from the caller.
    fn source(&mut self, target: SlotId) -> Option<(Box<dyn crate::disk::Disk>, Lookup)> {
        let used = self.in_use(target.component)?;
        if used == target {
            return None;
        }
        let name = &self.rules.components.get(target.component)?.name;
        let hash = self.ledger.slot(name, used.letter).fact.hash;
        let lookup = Lookup::load(&mut self.platform, name, used.letter, &hash);
        let disk = self.platform.open(used, Access::Read).ok()?;
        Some((disk, lookup))
    }

    pub(super) fn open_slot(
        &mut self,
        slot: SlotId,
        access: Access,
    ) -> Result<Box<dyn crate::disk::Disk>, Failure> {
        let name = self.rules.components.get(slot.component).map_or("?", |rules| &rules.name);
        let letter = slot.letter.as_char();
        let why = |error| failed(format!("open slot {letter} of {name}: {error}"));
        self.platform.open(slot, access).map_err(why)
    }

    /// Where a transfer of the same bundle to the same slots was broken off.
    fn resumes_at(&self, plan: &Plan) -> Option<Position> {
        let old = self.plan.as_ref()?;
        if old.id != plan.id || old.components != plan.components {
            return None;
        }
        match self.state() {
            State::Receiving => Some(self.journal.note.at),
            State::Verifying | State::Written => Some(Position { component: usize::MAX, chunk: 0 }),
            _ => None,
        }
    }

    /// Writes down what will be done, and takes the slots out of everybody's reach, in this order.
    fn take(&mut self, plan: Plan, from: Option<Position>, now: Now) -> Result<(), Failure> {
        let file = self.journal.note.plan.other();
        let lost = |what: &str, error| failed(format!("write {what}: {error}"));
        plan.save(&mut self.platform, file).map_err(|error| lost(file.name(), error))?;
        let (id, at) = (plan.id.clone(), from.unwrap_or_default());
        let set = plan.set(&self.rules);
        self.plan = Some(plan);
        let boot = self.start.boot_id.clone();
        let fresh = self.journal.note.fresh && self.journal.note.boot == boot;
        let begun = self.step(Step::Begin, |note| {
            *note = Note { state: note.state, plan: file, id, at, fresh, boot, ..Note::default() };
        });
        if let Err(failure) = begun {
            self.plan = None;
            return Err(failure);
        }
        let plan = self.plan.as_ref().expect("it was put there just now");
        let writing = Known { state: SlotState::Writing, fact: Fact::default() };
        let slots = plan.components.iter();
        let slots = slots.map(|one| (one.component.as_str(), one.letter, writing.clone()));
        let slots = from_factory(&self.ledger, &self.start, &self.rules).into_iter().chain(slots);
        let slots: Vec<_> = slots.collect();
        let noted = self.ledger.note_slots(&mut self.platform, slots);
        let taken = match noted {
            Err(error) => Err(lost("what is in the slots", error)),
            Ok(()) => match set {
                Some(letter) => self.choose(|choice| choice.without(letter)),
                None => Ok(()),
            },
        };
        taken.inspect_err(|failure| self.fail(&failure.text, now))
    }

    /// One page of an index, or the table of its pages. Answers a bitmap of the chunks that are wanted.
    ///
    /// # Errors
    /// Where it is not what was signed, or not due; where a slot fails, which ends the transfer.
    pub(crate) fn pages(
        &mut self,
        session: u64,
        component: u32,
        page: u32,
        data: &[u8],
        now: Now,
    ) -> Result<Vec<u8>, Failure> {
        let wanted = self.transfer(session)?.pages(component, page, data);
        let wanted = wanted.map_err(|trouble| self.trouble(trouble, now))?;
        self.advance(now)?;
        Ok(wanted)
    }

    /// The raw bytes of a chunk that was wanted.
    ///
    /// # Errors
    /// As [`pages`](Self::pages).
    pub(crate) fn chunk(
        &mut self,
        session: u64,
        component: u32,
        number: u32,
        raw: &[u8],
        now: Now,
    ) -> Result<(), Failure> {
        let taken = self.transfer(session)?.chunk(component, number, raw);
        taken.map_err(|trouble| self.trouble(trouble, now))?;
        self.advance(now)
    }

    /// Checkpoints, and notes where what is in slots that are complete.
    fn advance(&mut self, now: Now) -> Result<(), Failure> {
        let Some(transfer) = &mut self.transfer else { return Ok(()) };
        match transfer.due() {
            Ok(Due::Nothing) => {}
            Ok(Due::Checkpoint(at)) => self.note(Note { at, ..self.journal.note.clone() })?,
            Err(trouble) => return Err(self.trouble(trouble, now)),
        }
        let Some(transfer) = &mut self.transfer else { return Ok(()) };
        while let Some(part) = transfer.take_complete() {
            let (id, image) = (&part.component.id, &part.component.image_hash);
            // A hint that can't be kept costs bytes at the next upgrade, and nothing else.
            let _ = part.content.save(&mut self.platform, id, part.letter, image);
        }
        Ok(())
    }

    /// All chunks were sent. Reading back is done by [`work`](Self::work); after that it is activated, if that is wanted.
    ///
    /// # Errors
    /// Where something is missing yet.
    pub(crate) fn finish(
        &mut self,
        session: u64,
        activate: Option<bool>,
        now: Now,
    ) -> Result<Work, Failure> {
        let transfer = self.transfer(session)?;
        if !transfer.is_complete() {
            let (done, total) = (transfer.counts.done, transfer.counts.total);
            let text = format!("{done} of {total} bytes are there; send the rest first");
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        transfer.checkpoint().map_err(|trouble| self.trouble(trouble, now))?;
        self.activate = activate.unwrap_or(self.rules.activate);
        let activate = self.activate;
        self.step(Step::Finish, |note| {
            note.at = Position { component: usize::MAX, chunk: 0 };
            note.activate = activate;
        })?;
        self.transfer = None;
        self.queue_verification();
        Ok(Work::More)
    }

    /// What makes a plan's slots whole and proves it.
    pub(super) fn queue_verification(&mut self) {
        let Some(plan) = &self.plan else { return };
        let copies = plan.components.iter().enumerate().filter(|(_, planned)| !planned.carried);
        let copies = copies.map(|(at, _)| Task::Copy(at));
        let verified = (0..plan.components.len()).map(Task::Verify);
        self.passes.clear();
        self.passes.queue = copies.chain(verified).collect();
    }

    /// Gives a transfer up, for good. What was written is used by the next one.
    ///
    /// # Errors
    /// Where there is none, or the journal can't be written.
    pub(crate) fn abort(&mut self, now: Now) -> Result<(), Failure> {
        match self.state() {
            State::Receiving | State::Verifying | State::Written => {
                self.give_up("given up", false, now)
            }
            state => {
                let text = format!("there is no transfer: the upgrade is {}", state::name(state));
                Err(Failure::new(Code::NotFound, text))
            }
        }
    }

    /// The connection of a session is gone. The transfer may be taken up again where it was.
    pub(crate) fn leave(&mut self, session: u64) {
        let Some(transfer) = self.transfer.as_mut().filter(|one| one.session == session) else {
            return;
        };
        // As much as can be kept is kept; what can't be is sent again.
        if let Ok(at) = transfer.checkpoint() {
            let note = Note { at, ..self.journal.note.clone() };
            let _ = self.note(note);
        }
        self.transfer = None;
        self.actions.push_back(super::contract::Action::Changed);
    }

    fn transfer(&mut self, session: u64) -> Result<&mut Transfer, Failure> {
        let transfer = self.transfer.as_mut().filter(|transfer| transfer.session == session);
        transfer.ok_or_else(|| {
            let text = format!("session {session} is over; begin again, what was written is used");
            Failure::new(Code::Gone, text)
        })
    }

    fn trouble(&mut self, trouble: Trouble, now: Now) -> Failure {
        match trouble {
            Trouble::Refused(refusal) => refused(refusal),
            Trouble::Broken(text) => {
                self.fail(&text, now);
                failed(text)
            }
        }
    }

    /// Ends an upgrade of which nothing is in use. `broken`: because storage failed.
    pub(super) fn give_up(&mut self, reason: &str, broken: bool, now: Now) -> Result<(), Failure> {
        self.transfer = None;
        self.passes.clear();
        let boot = self.start.boot_id.clone();
        self.step(Step::Fail, |note| {
            note.reason = reason.to_owned();
            note.pending = true;
            if broken {
                (note.fresh, note.boot) = (true, boot);
            }
        })?;
        self.settle(now)
    }

    /// As [`give_up`](Self::give_up), where it can't be told to anybody: then the journal says that it was never finished,
    /// which is as true.
    pub(super) fn fail(&mut self, reason: &str, now: Now) {
        let _ = self.give_up(reason, true, now);
    }

    /// Slots of the plan that are switched while the device runs.
    pub(super) fn planned_live(&self) -> Vec<SlotId> {
        let Some(plan) = &self.plan else { return Vec::new() };
        let live = plan.with(&self.rules, Activation::is_live);
        live.filter_map(|one| one.slot(&self.rules)).collect()
    }
}

/// What runs and was never recorded: what the factory installed. It is what one goes back to.
fn from_factory<'a>(
    ledger: &Ledger,
    start: &'a Start,
    rules: &'a Rules,
) -> Vec<(&'a str, Letter, Known)> {
    let unknown = rules.components.iter().filter_map(|component| {
        let letter = in_use(ledger, start, component)?;
        let known = ledger.slot(&component.name, letter);
        (known.state == SlotState::Empty).then_some((component.name.as_str(), letter))
    });
    let fact = |name: &str| start.factory.iter().find(|(known, _)| known == name);
    let good = |fact: Option<&(String, Fact)>| Known {
        state: SlotState::Good,
        fact: fact.map(|(_, fact)| fact.clone()).unwrap_or_default(),
    };
    unknown.map(|(name, letter)| (name, letter, good(fact(name)))).collect()
}

/// At each beginning of a transfer, also where it is taken up again, and before what was written is used: an image may have been
/// taken in between.
pub(super) fn invalidate_image(
    platform: &mut impl Platform,
    rules: &Rules,
    plan: &Plan,
) -> Result<(), Failure> {
    if !plan.changes_boot(rules) {
        return Ok(());
    }
    let reason = format!("version {} is installed", plan.transaction.version);
    platform.invalidate_image(&reason).map_err(|error| {
        failed(format!(
            "an image of the running system may be resumed when its slots have changed, so nothing is written: {error}; `vestalctl autorun invalidate` tells more"
        ))
    })
}

pub(super) fn gone(component: &str) -> Failure {
    let text = format!("upgrade.toml no longer has the component {component}: begin again");
    failed(text)
}
