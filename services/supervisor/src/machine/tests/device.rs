//! A device: the machine, the keeper's model, the journal, the shell's part, and the clock. Checks on every action what
//! must always hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use protocol::{
    failure::{Code, Failure},
    keeper::{Exit, Phase, ShutdownKind},
    name::Name,
    time::Moment,
};

use super::{super::*, keeper::Keeper, name};
use crate::settings::Service;

pub(super) struct Device {
    pub(super) machine: Supervisor,
    pub(super) keeper: Keeper,
    pub(super) now: Moment,
    pub(super) journal: Vec<Record>,
    pub(super) files: Vec<Arc<Service>>,
    pub(super) messages: BTreeMap<Name, Arc<Service>>,
    /// Remembered definitions that the next supervisor can't read.
    pub(super) unreadable: Vec<Name>,
    /// What was done, in words: `spawn a`, `signal a 15`.
    pub(super) log: Vec<String>,
    pub(super) topics: Vec<(&'static str, serde_json::Value)>,
    pub(super) replies: BTreeMap<u64, Result<(), Failure>>,
    pub(super) asked: BTreeSet<u64>,
    pub(super) left: Option<(ShutdownKind, u8)>,
    /// Why everything ends, as the next boot will be told.
    pub(super) endings: Vec<(ShutdownKind, Ending)>,
    /// What goes on where something fails that must not; empty: the keeper is not PID 1.
    pub(super) rescue_set: Vec<Arc<Service>>,
    last_id: u64,
    /// Throw the machine away before this many more actions were carried out.
    pub(super) cut_after: Option<usize>,
    names: BTreeMap<u32, String>,
    /// What the shell would find when it looks at the machine's pressure.
    pub(super) starved: bool,
    /// What comes of freezing; nothing at all for `None`.
    pub(super) freezer: Option<Result<Means, String>>,
    /// Numbers of scripts and of validations, in the order in which they were asked for.
    pub(super) scripts: Vec<u64>,
    /// What each script waited for before it began.
    pub(super) waited_for: Vec<Option<ScriptProcess>>,
    pub(super) validations: Vec<u64>,
    /// Up to which generation of a slot no heartbeats are expected.
    pub(super) unexpected: BTreeMap<u32, u32>,
}

impl Device {
    /// Boots with these files; reports of the keeper are delivered until all is quiet.
    pub(super) fn with(files: impl IntoIterator<Item = Arc<Service>>) -> Self {
        let mut device = Self {
            machine: Supervisor::new(Moment(1)),
            keeper: Keeper::default(),
            now: Moment(1_000_000_000),
            journal: Vec::new(),
            files: files.into_iter().collect(),
            messages: BTreeMap::new(),
            unreadable: Vec::new(),
            log: Vec::new(),
            topics: Vec::new(),
            replies: BTreeMap::new(),
            asked: BTreeSet::new(),
            left: None,
            endings: Vec::new(),
            rescue_set: Vec::new(),
            last_id: 0,
            cut_after: None,
            names: BTreeMap::new(),
            starved: false,
            freezer: Some(Ok(Means::Group)),
            scripts: Vec::new(),
            waited_for: Vec::new(),
            validations: Vec::new(),
            unexpected: BTreeMap::new(),
        };
        device.take_over();
        device.calm();
        device
    }

    /// A new machine on the old journal and keeper. Who was waiting hears no more.
    pub(super) fn take_over(&mut self) {
        self.asked.retain(|id| self.replies.contains_key(id));
        self.keeper.changed.clear();
        self.machine = Supervisor::new(self.now);
        self.machine.restore(self.journal.clone());
        if !self.rescue_set.is_empty() {
            self.machine.allow_rescue();
        }
        if self.journal.is_empty() {
            self.begin_boot();
        }
        self.machine.handle_event(Event::Definitions { services: self.files.clone() }, self.now);
        for service in self.messages.values() {
            let request = Request::Set { service: service.clone() };
            self.machine.handle_event(Event::Request { id: 0, request }, self.now);
        }
        for name in &self.unreadable {
            self.machine.keep(name.clone());
        }
        for slot in self.keeper.slots.values() {
            self.machine.handle_event(Event::Slot(slot.state), self.now);
        }
        self.machine.handover_complete(self.now);
        self.perform();
    }

    /// The first supervisor of a boot.
    fn begin_boot(&mut self) {
        let boot = BootRecord { supervisor_at: Some(self.now), ..BootRecord::default() };
        self.journal.push(Record::Boot(Box::new(boot.clone())));
        self.machine.boot_began(boot);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.machine.handle_event(event, self.now);
        self.perform();
    }

    pub(super) fn request(&mut self, request: Request) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.asked.insert(id);
        // The shell's part: the journal of definitions comes first.
        match &request {
            Request::Set { service } | Request::Add { service } => {
                self.messages.insert(service.name.clone(), service.clone());
            }
            Request::Delete { name, instance: None, .. } => {
                self.messages.remove(name);
                self.files.retain(|service| service.name != *name);
            }
            _ => {}
        }
        self.event(Event::Request { id, request });
        id
    }

    pub(super) fn start(&mut self, service: &str, wait: bool) -> u64 {
        let id = self.request(Request::Start { name: name(service), instance: None, wait });
        self.calm();
        id
    }

    pub(super) fn stop(&mut self, service: &str, wait: bool) -> u64 {
        let id = self.request(Request::Stop { name: name(service), instance: None, wait });
        self.calm();
        id
    }

    pub(super) fn answer(&self, id: u64) -> Option<Result<(), Code>> {
        self.replies.get(&id).map(|result| result.clone().map_err(|failure| failure.code))
    }

    /// Carries out all actions, as the shell does.
    pub(super) fn perform(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            if let Some(left) = &mut self.cut_after {
                if *left == 0 {
                    self.cut_after = None;
                    self.take_over();
                    return;
                }
                *left -= 1;
            }
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Define { slot, service, instance, disposition, .. } => {
                let short = service.name.to_string();
                self.names.insert(slot, short);
                self.keeper.define(slot, identity(&service.name, &instance), disposition);
            }
            Action::Dispose { slot, disposition } => self.keeper.dispose(slot, disposition),
            Action::Spawn { slot, expected } => {
                self.check_recorded(slot, expected);
                self.log.push(format!("spawn {}", self.names[&slot]));
                self.keeper.spawn(slot, expected, self.now);
            }
            Action::Signal { slot, generation, signal, tree } => {
                let tree = if tree { " tree" } else { "" };
                let whose = self.names.get(&slot).map_or("?", String::as_str);
                self.log.push(format!("signal {whose} {signal}{tree}"));
                self.keeper.signal(slot, generation, signal, self.now);
            }
            Action::Forget { slot } => {
                self.log.push(format!("forget {slot}"));
                self.unexpected.remove(&slot);
                self.keeper.forget(slot);
            }
            Action::Freeze { slot, generation, disposition } => {
                self.log.push(format!("freeze {}", self.names[&slot]));
                self.keeper.dispose(slot, disposition);
                let there = self.keeper.slots.get_mut(&slot).unwrap();
                assert_eq!(disposition.armed_after_ms.or(disposition.alone_after_ms), None);
                // As the shell does: it is about that very start, or about nothing any more.
                if there.state.generation != generation {
                    return;
                }
                there.kept = true;
                if let Some(result) = self.freezer.clone() {
                    let event = Event::Frozen { slot, generation, result };
                    self.machine.handle_event(event, self.now);
                }
            }
            Action::Thaw { slot, .. } => {
                self.log.push(format!("thaw {}", self.names[&slot]));
                if let Some(there) = self.keeper.slots.get_mut(&slot) {
                    there.kept = false;
                }
            }
            Action::Expect { slot, .. } => self.log.push(format!("expect {}", self.names[&slot])),
            Action::Unexpect { slot, generation } => {
                let before = self.unexpected.insert(slot, generation).unwrap_or(0);
                assert!(before <= generation, "slot {slot}: {generation} after {before}");
            }
            Action::Release { slot } => self.log.push(format!("release {}", self.names[&slot])),
            Action::LookAtPressure { slot } => {
                let starved = self.starved;
                self.machine.handle_event(Event::Pressure { slot, starved }, self.now);
            }
            Action::Check { slot, .. } => self.log.push(format!("check {slot}")),
            Action::Probe { slot, .. } => self.log.push(format!("probe {}", self.names[&slot])),
            Action::ReloadCommand { slot, .. } => {
                self.log.push(format!("reload {}", self.names[&slot]))
            }
            Action::RunScript { run, service, command, after, .. } => {
                self.waited_for.push(after);
                self.log.push(format!("run {service} {}", command.join(" ")));
                self.scripts.push(run);
            }
            Action::Validate { run, service, packages } => {
                let packages: Vec<String> = packages.into_iter().collect();
                self.log.push(format!("validate {} {}", service.name, packages.join(" ")));
                self.validations.push(run);
            }
            Action::AwaitObject { slot, object, .. } => {
                self.log.push(format!("await {object} {}", self.names[&slot]));
            }
            Action::Record(record) => self.journal.push(record),
            Action::Reply { id: 0, .. } => {}
            Action::Reply { id, result } => {
                assert!(self.asked.contains(&id), "nobody asked {id}");
                assert_eq!(
                    self.replies.insert(id, result),
                    None,
                    "request {id} was answered twice"
                );
            }
            Action::Publish(happening) => self.topics.push((happening.topic, happening.data)),
            Action::Ending { kind, ending, limit } => {
                assert!(self.left.is_none() && limit >= Duration::from_secs(60));
                self.endings.push((kind, ending));
            }
            Action::Rescue { reason } => {
                self.log.push(format!("rescue {reason}"));
                self.files.clone_from(&self.rescue_set);
                self.messages.clear();
                let services = self.files.clone();
                self.machine.handle_event(Event::Rescue { services }, self.now);
            }
            Action::Leave { kind, exit_code } => {
                assert_eq!(self.left.replace((kind, exit_code)), None, "left twice");
            }
        }
    }

    /// The journal knows of a spawn before it happens.
    fn check_recorded(&self, slot: u32, expected: u32) {
        let record = self.journal.iter().rev().find_map(|record| match record {
            Record::Instance(record) if record.slot == slot => Some(record),
            _ => None,
        });
        let record = record.expect("a spawn comes after its record");
        assert!(
            record.wanted && record.generation == expected,
            "spawn {expected} after {record:?}"
        );
    }

    /// Hands over one report of the keeper.
    pub(super) fn deliver_one(&mut self, slot: u32) {
        if self.keeper.changed.remove(&slot) {
            let state = self.keeper.slots[&slot].state;
            self.event(Event::Slot(state));
        }
    }

    /// Hands over reports until there are none.
    pub(super) fn calm(&mut self) {
        loop {
            while let Some(slot) = self.keeper.changed.first().copied() {
                self.deliver_one(slot);
            }
            let messy: Vec<u32> = self
                .keeper
                .slots
                .iter()
                .filter(|(_, there)| there.messy)
                .map(|(slot, _)| *slot)
                .collect();
            if !messy.into_iter().fold(false, |any, slot| self.keeper.step(slot, self.now) | any) {
                break;
            }
        }
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(at) = self.machine.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            self.perform();
            self.calm();
        }
        self.now = end;
    }

    /// The clock jumps, and nobody looked meanwhile.
    pub(super) fn jump(&mut self, by: Duration) {
        self.now += by;
        self.machine.handle_timeout(self.now);
        self.perform();
        self.calm();
    }

    pub(super) fn slot(&self, service: &str) -> u32 {
        self.machine.view(Some(&name(service)))[0].slot.slot
    }

    pub(super) fn crash(&mut self, service: &str) {
        self.end(service, Exit::Signal { signal: 11, core: false });
    }

    pub(super) fn end(&mut self, service: &str, exit: Exit) {
        let slot = self.slot(service);
        self.keeper.end(slot, exit, self.now);
        self.calm();
    }

    pub(super) fn notify(&mut self, service: &str, notice: Notice) {
        let slot = self.slot(service);
        let generation = self.keeper.slots[&slot].state.generation;
        self.event(Event::Notify { slot, generation, notice });
        self.calm();
    }

    pub(super) fn ready(&mut self, service: &str) {
        self.notify(service, Notice::Ready);
    }

    pub(super) fn state(&self, service: &str) -> &'static str {
        self.machine.view(Some(&name(service))).first().map_or("gone", |view| view.state)
    }

    pub(super) fn runs(&self, service: &str) -> bool {
        self.machine.view(Some(&name(service))).iter().any(|view| {
            self.keeper
                .slots
                .get(&view.slot.slot)
                .is_some_and(|there| there.state.phase == Phase::Running)
        })
    }

    /// What was done since the last look.
    pub(super) fn done(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// The spawns since the last look, without what lies between.
    pub(super) fn spawned(&mut self) -> Vec<String> {
        let mut log = self.done();
        log.retain(|entry| entry.starts_with("spawn"));
        log
    }

    pub(super) fn heard(&self, topic: &str) -> usize {
        self.topics.iter().filter(|(other, _)| *other == topic).count()
    }
}
