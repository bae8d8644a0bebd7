//! Drives a device through an upgrade however often its power fails, and checks the invariants at every boot:
//!
//! I1 the loader always boots a set that is whole; I2 the old slots are untouched; I3 a rollback floor is never above what was
//! confirmed; I4 a resumed transfer sends little again; I5 the history says what happened; I6 a set, and all components of one
//! bundle, are all old or all new; I7 what is loaded in the end is what lies in the slots in use.

use protocol::upgrade::{ALLOW_UNSIGNED, Begun, PAGE_TABLE, State};

use super::{
    code::{self, Code, DRIVER, PATCH},
    device::{LIMITS, NOW, Parcel, SimBoot, SimPlatform, images, kept_image, rules, start},
    world::{Shared, World},
};
use crate::{
    engine::{
        Engine, Work,
        contract::{Action, Caller, Letter, Switch, Switched, Use},
    },
    shell::loaded::Purpose,
};

/// How a run goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Story {
    /// What is carried comes up and is healthy.
    pub(crate) boots: bool,
    pub(crate) healthy: bool,
    /// The operation after the first loss of power at which it is lost again.
    pub(crate) again_at: Option<u64>,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) received: u64,
    pub(crate) state: State,
    pub(crate) world: World,
}

/// More boots than any run needs.
const BOOTS_MAX: u32 = 16;
/// Calls of a user in one boot.
const STEPS_MAX: u32 = 12;

pub(crate) struct Device<'p> {
    world: Shared,
    parcel: &'p Parcel,
    names: Vec<&'p str>,
    story: Story,
    received: u64,
    boots: u32,
    /// The boot in which what is loaded was last tried.
    tried_in: Option<u32>,
}

fn is_loaded(using: &Use) -> bool {
    rules().components[using.slot.component].activation.is_loaded()
}

/// What a boot ended with.
enum End {
    Reboot,
    Settled(State),
}

pub(crate) fn caller() -> Caller {
    Caller { who: "uid 0".to_owned(), local_root: true }
}

/// Runs until the upgrade is confirmed, or rolled back where that is what must come.
pub(crate) fn run(world: World, parcel: &Parcel, story: Story) -> Result<Run, String> {
    let names = parcel.manifest.components.iter().map(|component| component.id.as_str()).collect();
    let world = Shared::new(world);
    let mut device = Device { world, parcel, names, story, received: 0, boots: 0, tried_in: None };
    let faults = device.world.0.borrow().faults.clone();
    let cuts = u64::from(faults.cut_at.is_some()) + u64::from(story.again_at.is_some());
    // After an error of the storage nothing that it shows is believed, and all of it is sent again.
    let errors = u64::from(faults.fail_at.or(faults.fail_read_at).is_some());
    let state = device.drive()?;
    let total: usize = images().map(|(_, size)| size).sum();
    // A checkpoint's worth, one write that was gathered, and a chunk across its end.
    let window = LIMITS.checkpoint + LIMITS.run as u64 + 8192;
    if device.received > total as u64 * (1 + errors) + cuts * window {
        return Err(format!("I4: {} bytes were sent of {total}", device.received));
    }
    let world = device.world.0.borrow().clone();
    Ok(Run { received: device.received, state, world })
}

impl Device<'_> {
    fn drive(&mut self) -> Result<State, String> {
        while self.boots < BOOTS_MAX {
            self.boots += 1;
            let end = self.boot()?;
            {
                let mut world = self.world.0.borrow_mut();
                let was_cut = world.off;
                world.power_cycle();
                if was_cut {
                    let again = self.story.again_at.take();
                    world.faults.cut_at = again.map(|after| world.faults.operations + after);
                }
            }
            if let End::Settled(state) = end {
                self.check_slots()?;
                return Ok(state);
            }
        }
        Err(format!("not at its end after {BOOTS_MAX} boots"))
    }

    /// From the loader to the next loss of power, reboot or end.
    fn boot(&mut self) -> Result<End, String> {
        let letter = {
            // The loader's own write is not cut: it is another program's.
            let before = self.world.0.borrow_mut().pause();
            let letter = SimBoot::boot(&self.world)?;
            self.world.0.borrow_mut().go_on(before);
            letter
        };
        let version = self.set_version(letter)?;
        self.check_slots()?;
        if version == 2 && !self.story.boots {
            return Ok(End::Reboot);
        }
        let platform = SimPlatform::new(&self.world);
        let untold = self.world.0.borrow().untold;
        let start = start(letter, self.boots, untold);
        let engine = Engine::open(platform, rules(), start, LIMITS, NOW);
        // It is started again, as after a loss of power.
        let Ok(mut engine) = engine else { return Ok(End::Reboot) };
        self.load(&engine);
        if self.world.0.borrow().off {
            return Ok(End::Reboot);
        }
        let application = self.application_version(&engine)?;
        let both = ["rootfs", "application"].iter().all(|name| self.names.contains(name));
        if both && application != version {
            return Err(format!("I6: set {version} runs with application {application}"));
        }
        for _ in 0..STEPS_MAX {
            match self.step(&mut engine)? {
                Some(end) => return Ok(end),
                None if self.world.0.borrow().off => return Ok(End::Reboot),
                None => {}
            }
        }
        Err(format!("nothing comes of {STEPS_MAX} steps: {:?}", engine.status()))
    }

    /// What a user and the shell do next; errors are looked at through the status.
    fn step(&mut self, engine: &mut Engine<SimPlatform>) -> Result<Option<End>, String> {
        while let Ok(Work::More) = engine.work(NOW) {}
        while let Some(action) = engine.poll_action() {
            if self.world.0.borrow().off {
                return Ok(Some(End::Reboot));
            }
            if let Some(end) = self.act(engine, action)? {
                return Ok(Some(end));
            }
        }
        if self.world.0.borrow().off {
            return Ok(Some(End::Reboot));
        }
        if let Some(at) = engine.next_deadline() {
            let _ = engine.handle_timeout(crate::engine::contract::Now { moment: at, ..NOW });
        }
        self.check_floor(engine)?;
        let status = engine.status();
        match status.state {
            State::Activated => return Ok(Some(End::Reboot)),
            State::Written => drop(engine.activate(NOW)),
            State::Trial | State::Verifying => {}
            State::Confirmed if status.reason.is_none() => {
                self.check_history(engine, State::Confirmed)?;
                self.check_loaded(engine)?;
                return Ok(Some(End::Settled(State::Confirmed)));
            }
            State::RolledBack if !self.succeeds() => {
                self.check_history(engine, State::RolledBack)?;
                self.check_loaded(engine)?;
                return Ok(Some(End::Settled(State::RolledBack)));
            }
            State::Confirmed => {}
            _ => self.push(engine),
        }
        Ok(None)
    }

    fn succeeds(&self) -> bool {
        self.story.boots && self.story.healthy
    }

    fn act(
        &mut self,
        engine: &mut Engine<SimPlatform>,
        action: Action,
    ) -> Result<Option<End>, String> {
        match action {
            Action::Changed => {}
            Action::Switch(switch) => {
                for using in &switch.uses {
                    if engine.in_use(using.slot.component) != Some(using.slot) {
                        return Err(format!("{using:?} is switched to and not in use"));
                    }
                }
                self.application_version(engine)?;
                self.check_try(&switch)?;
                let purpose = switch.back.as_deref().map_or(Purpose::Try, Purpose::Back);
                let loaded = switch.uses.iter().map(|using| self.load_one(using, purpose));
                // On the way back all of it is tried.
                let loaded: Vec<_> = loaded.collect();
                let loaded: Result<Vec<()>, String> = loaded.into_iter().collect();
                let switched = loaded.map(|_| Switched { outage_ms: 120, remarks: Vec::new() });
                let _ = engine.switched(switched, NOW);
            }
            Action::Observe(observe) => {
                self.check_tried(engine, &observe.uses)?;
                let verdict = match self.story.healthy {
                    true => self.look(&observe.uses),
                    false => Err("the camera does not answer".to_owned()),
                };
                let found_out = !self.story.healthy && self.world.0.borrow().keep % 4 < 2;
                if found_out && self.world.0.borrow().code.probation {
                    // The manager has seen it first.
                    let _ = self.world.happen(Code::go_back);
                }
                let trial = engine.status().state == State::Trial;
                let verdict = if trial { verdict } else { Ok(()) };
                let _ = engine.verdict(observe.number, verdict, NOW);
            }
            Action::Reboot { .. } => return Ok(Some(End::Reboot)),
        }
        Ok(None)
    }

    /// What the shell loads before anything is observed.
    fn load(&self, engine: &Engine<SimPlatform>) {
        for using in engine.loaded() {
            // Storage that fails once does not fail for ever.
            let loaded = self.load_one(&using, Purpose::Start);
            let _ = loaded.or_else(|_| self.load_one(&using, Purpose::Start));
        }
    }

    fn load_one(&self, using: &Use, purpose: Purpose<'_>) -> Result<(), String> {
        let name = &rules().components[using.slot.component].name;
        match name.as_str() {
            DRIVER => code::bring(&self.world, using, purpose),
            PATCH => {
                let known = using.fact.as_ref();
                let version = known.and_then(|_| self.version(PATCH, using.slot.letter));
                code::patch(&self.world, version)
            }
            _ => Ok(()),
        }
    }

    /// The manager ends the probation, and the shell sees what is loaded.
    fn look(&self, uses: &[Use]) -> Result<(), String> {
        if self.world.0.borrow().code.probation {
            let settled = self.world.happen(|code| code.probation = false);
            settled.map_err(|error| error.to_string())?;
        }
        for using in uses {
            self.check_one(using, |name| format!("{name} is not what was switched to"))?;
        }
        Ok(())
    }

    fn check_one(&self, using: &Use, text: impl Fn(&str) -> String) -> Result<(), String> {
        let name = &rules().components[using.slot.component].name;
        let (code, lies) = (self.world.0.borrow().code, self.version(name, using.slot.letter));
        let is = match name.as_str() {
            DRIVER => code.serves == lies.unwrap_or(0),
            PATCH => code.patch == using.fact.as_ref().and(lies),
            _ => true,
        };
        if is { Ok(()) } else { Err(text(name)) }
    }

    fn check_loaded(&self, engine: &Engine<SimPlatform>) -> Result<(), String> {
        let Code { probation, .. } = self.world.0.borrow().code;
        if probation {
            return Err("I7: the driver is on probation in the end".to_owned());
        }
        for using in engine.loaded() {
            let code = self.world.0.borrow().code;
            self.check_one(&using, |name| format!("I7: {name}: {using:?} and {code:?}"))?;
        }
        Ok(())
    }

    /// What was tried is not tried again by itself after a boot.
    fn check_try(&mut self, switch: &Switch) -> Result<(), String> {
        let loaded = switch.uses.iter().any(is_loaded);
        if !loaded || switch.back.is_some() {
            return Ok(());
        }
        let before = self.tried_in.replace(self.boots);
        match before.is_none_or(|before| before == self.boots) {
            true => Ok(()),
            false => Err("I7: what the last boot had on trial is tried again".to_owned()),
        }
    }

    /// What is observed was switched to, unless a set brought it.
    fn check_tried(&self, engine: &Engine<SimPlatform>, uses: &[Use]) -> Result<(), String> {
        let trial = engine.status().state == State::Trial && !self.names.contains(&"rootfs");
        let tried = self.tried_in == Some(self.boots);
        match trial && uses.iter().any(is_loaded) && !tried {
            true => Err("I7: what is observed was never loaded".to_owned()),
            false => Ok(()),
        }
    }

    /// Sends the bundle, until something fails.
    fn push(&mut self, engine: &mut Engine<SimPlatform>) {
        self.tried_in = None;
        let parcel = self.parcel;
        let Ok(begun) = engine.begin(&parcel.begin, ALLOW_UNSIGNED, caller(), NOW) else { return };
        let session = begun.session;
        self.send(engine, begun);
        // Whatever was not finished is left to the next session.
        engine.leave(session);
    }

    fn send(&mut self, engine: &mut Engine<SimPlatform>, begun: Begun) {
        let (parcel, session) = (self.parcel, begun.session);
        for number in begun.components {
            let at = usize::try_from(number).expect("a small number");
            if engine.pages(session, number, PAGE_TABLE, &parcel.tables[at], NOW).is_err() {
                return;
            }
            for (page, (bytes, chunks)) in (0..).zip(&parcel.pages[at]) {
                let Ok(wanted) = engine.pages(session, number, page, bytes, NOW) else { return };
                for (place, raw) in chunks.iter().enumerate() {
                    if wanted[place / 8] & 1 << (place % 8) == 0 {
                        continue;
                    }
                    let chunk = u32::try_from(place).expect("a small number");
                    if engine.chunk(session, number, chunk, raw, NOW).is_err() {
                        return;
                    }
                    self.received += raw.len() as u64;
                }
            }
        }
        let _ = engine.finish(session, None, NOW);
    }

    fn version(&self, name: &str, letter: Letter) -> Option<u64> {
        let world = self.world.0.borrow();
        let seen = world.seen(&format!("{name}-{}", letter.as_char()));
        let size = images().find(|(known, _)| *known == name).map(|(_, size)| size)?;
        (1..=2).find(|version| seen[..size] == *kept_image(name, *version))
    }

    fn set_version(&self, letter: Letter) -> Result<u64, String> {
        let (kernel, rootfs) = (self.version("kernel", letter), self.version("rootfs", letter));
        let (Some(kernel), Some(rootfs)) = (kernel, rootfs) else {
            return Err(format!(
                "I1: set {letter:?} is booted and not whole: {kernel:?}, {rootfs:?}"
            ));
        };
        let carried = |name| self.names.contains(&name);
        let fits = kernel == rootfs || carried("kernel") != carried("rootfs");
        match fits {
            true => Ok(kernel.max(rootfs)),
            false => Err(format!("I6: kernel {kernel} is booted with rootfs {rootfs}")),
        }
    }

    fn application_version(&self, engine: &Engine<SimPlatform>) -> Result<u64, String> {
        let slot = engine.in_use(2).ok_or("no application is in use")?;
        let version = self.version("application", slot.letter);
        version.ok_or_else(|| format!("I1: application {:?} is in use and not whole", slot.letter))
    }

    /// The old slots are as the factory left them.
    fn check_slots(&self) -> Result<(), String> {
        for (name, _) in images() {
            if self.version(name, Letter::A) != Some(1) {
                return Err(format!("I2: slot A of {name} was touched"));
            }
        }
        Ok(())
    }

    fn check_floor(&self, engine: &Engine<SimPlatform>) -> Result<(), String> {
        let state = engine.status().state;
        for (name, _) in images() {
            if engine.floor(name) > 1 && state != State::Confirmed {
                return Err(format!("I3: the floor of {name} is raised while {state:?}"));
            }
        }
        Ok(())
    }

    fn check_history(&self, engine: &Engine<SimPlatform>, state: State) -> Result<(), String> {
        let history = engine.history();
        let ends = history.iter().filter(|entry| entry.state == state).count();
        let last = history.last();
        let fits = last.is_some_and(|last| {
            last.state == state
                && self
                    .names
                    .iter()
                    .all(|name| last.transaction.components.iter().any(|one| one == name))
        });
        if fits && (ends == 1 || state == State::RolledBack) {
            return Ok(());
        }
        Err(format!("I5: the history says {history:?}"))
    }
}
