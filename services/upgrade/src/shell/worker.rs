//! The thread that has the engine, and with it the slots: carries out one order after the other, works in between, and tells
//! what changed. It waits for storage; everything that waits for others is done elsewhere.
//!
//! Where the engine can't be opened, orders are answered with the reason, and it is tried again: a device that can't be upgraded
//! now still says why.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::Duration,
};

use bundle::SecretKey;
use daemon::clock;
use protocol::{
    failure::{Code, Failure},
    time::Moment,
    upgrade::{ALLOW_UNSIGNED, Approval, Begun, Progress, State, Status},
};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{approvals::Approvals, facts, images::Images, platform, store::Folder};
use crate::{
    channel::{Device, Order, What, Word},
    disk::Store as _,
    engine::{
        Engine, Limits, Work,
        contract::{Action, Caller, Ended, Now, SlotId, Start, Switched, Use},
    },
    settings::Settings,
};

/// Between two tries to open the engine.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a writer before us may take to leave.
const OTHER: Duration = Duration::from_secs(10);
const OTHER_AGAIN: Duration = Duration::from_millis(100);
/// Between two words of progress.
const PROGRESS: Duration = Duration::from_millis(100);
/// The device's key, by which a permission names it.
const KEY: &str = "tls.key";

/// What comes to the thread.
pub(crate) enum Input {
    Order(Order, Vec<u8>, OwnedSemaphorePermit),
    Switched(Result<Switched, String>),
    /// What is loaded and not what lies in its slot.
    Notes(Vec<String>),
    Verdict(u64, Result<(), String>),
    /// Another life of an image of the machine.
    BornAgain,
    End,
}

/// What comes from it.
#[derive(Debug)]
pub(crate) enum Output {
    Word(Word, Vec<u8>),
    /// Slots in use, to which links must point before anything is started, and those that are loaded into memory.
    Opened(Vec<SlotId>, Vec<Use>),
    /// Upgrades can't be done now. The device goes on with what it has.
    Broken,
    Act(Action),
    /// What runs is good: it was observed, or somebody said so.
    Healthy,
}

type Outcome = Result<(Value, Vec<u8>), Failure>;

/// The thread's own.
pub(crate) struct Worker {
    /// What is wrong with the settings, where something is.
    settings: Result<Settings, String>,
    folder: Folder,
    /// How the last boot ended.
    ended: Option<Ended>,
    images: Arc<Images>,
    lock: Option<File>,
    /// There with the engine.
    approvals: Option<Approvals>,
    engine: Result<Engine<platform::Device>, String>,
    tried: Moment,
    session: u64,
    /// What is loaded and not what lies in its slot, since the start.
    notes: Vec<String>,
    /// How far it is, and what was told of that, when.
    reached: Option<Progress>,
    told: (Option<Progress>, Moment),
    outputs: mpsc::Sender<Output>,
}

/// Nobody listens any more.
struct Alone;

impl Worker {
    pub(crate) fn new(
        settings: Result<Settings, String>,
        folder: Folder,
        ended: Option<Ended>,
        images: Arc<Images>,
        outputs: mpsc::Sender<Output>,
    ) -> Self {
        let (now, engine) = (clock::now(), Err("not opened yet".to_owned()));
        Self {
            settings,
            folder,
            ended,
            images,
            lock: None,
            approvals: None,
            engine,
            tried: now,
            session: 0,
            notes: Vec::new(),
            reached: None,
            told: (None, now),
            outputs,
        }
    }

    /// Works until it is told to end, or nobody listens.
    pub(crate) fn run(mut self, inputs: &Receiver<Input>) {
        let since = clock::now();
        while let Err(error) = self.take_lock() {
            if error.kind() != io::ErrorKind::WouldBlock || clock::now().since(since) > OTHER {
                break;
            }
            std::thread::park_timeout(OTHER_AGAIN);
        }
        let _ = self.open().and_then(|()| self.serve(inputs));
        if let Ok(engine) = &mut self.engine {
            engine.leave(self.session);
        }
    }

    fn take_lock(&mut self) -> io::Result<()> {
        if self.lock.is_none() {
            self.lock = Some(self.folder.lock()?);
        }
        Ok(())
    }

    fn serve(&mut self, inputs: &Receiver<Input>) -> Result<(), Alone> {
        loop {
            match inputs.try_recv() {
                Ok(input) => match self.take(input)? {
                    true => continue,
                    false => return Ok(()),
                },
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {}
            }
            if self.work()? == Work::More {
                continue;
            }
            let waited = match self.pause() {
                Some(pause) => inputs.recv_timeout(pause),
                None => inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match waited {
                Ok(input) => {
                    if !self.take(input)? {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.overdue()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// `false`: that was the end.
    fn take(&mut self, input: Input) -> Result<bool, Alone> {
        match input {
            Input::End => return Ok(false),
            // The permit is given back when the order is carried out.
            Input::Order(order, data, _permit) => {
                let number = order.number;
                let outcome = self.carry_out(order, &data);
                let (outcome, data) = match outcome {
                    Ok((value, data)) => (Ok(value), data),
                    Err(failure) => (Err(failure), Vec::new()),
                };
                self.tell(Output::Word(Word::Answer { number, outcome }, data))?;
            }
            Input::Switched(result) => {
                self.notes.clear();
                self.report(|engine, now| engine.switched(result, now));
            }
            Input::Notes(notes) => {
                self.notes.extend(notes);
                self.tell_status()?;
            }
            Input::BornAgain => self.report(|engine, now| {
                engine.born_again(now);
                Ok(())
            }),
            Input::Verdict(number, verdict) => {
                let healthy = verdict.is_ok();
                self.report(|engine, now| engine.verdict(number, verdict, now));
                if healthy {
                    self.tell(Output::Healthy)?;
                }
            }
        }
        self.drain()?;
        Ok(true)
    }

    fn report(
        &mut self,
        tell: impl FnOnce(&mut Engine<platform::Device>, Now) -> Result<(), Failure>,
    ) {
        if let Ok(engine) = &mut self.engine
            && let Err(failure) = tell(engine, now())
        {
            tracing::error!("{failure}");
        }
    }

    fn work(&mut self) -> Result<Work, Alone> {
        let Ok(engine) = &mut self.engine else { return Ok(Work::Done) };
        let worked = engine.work(now()).unwrap_or_else(|failure| {
            tracing::error!("{failure}");
            Work::Done
        });
        self.drain()?;
        Ok(worked)
    }

    fn overdue(&mut self) -> Result<(), Alone> {
        match &self.engine {
            Ok(_) => {
                self.report(Engine::handle_timeout);
                self.drain()
            }
            Err(_) => self.open(),
        }
    }

    fn pause(&self) -> Option<Duration> {
        let due = match &self.engine {
            Ok(engine) => engine.next_deadline()?,
            // What is wrong with the settings is right only after a restart.
            Err(_) if self.settings.is_err() => return None,
            Err(_) => self.tried + AGAIN,
        };
        Some(due.since(clock::now()))
    }

    /// What the engine wants done, and how far it is.
    fn drain(&mut self) -> Result<(), Alone> {
        while let Ok(engine) = &mut self.engine
            && let Some(action) = engine.poll_action()
        {
            let output = match action {
                Action::Changed => {
                    self.tell_status()?;
                    continue;
                }
                action => Output::Act(action),
            };
            self.tell(output)?;
        }
        let Ok(engine) = &self.engine else { return Ok(()) };
        let (progress, now) = (engine.progress(), clock::now());
        let state = |progress: &Option<Progress>| progress.as_ref().map(|progress| progress.state);
        let ended = state(&progress) != state(&self.reached);
        let last = std::mem::replace(&mut self.reached, progress);
        if ended && last != self.told.0 {
            // The last word of what has ended.
            self.tell_progress(last, now)?;
        }
        let due = ended || now.since(self.told.1) >= PROGRESS;
        match due && self.reached.is_some() && self.reached != self.told.0 {
            true => self.tell_progress(self.reached.clone(), now),
            false => Ok(()),
        }
    }

    fn tell_progress(&mut self, progress: Option<Progress>, now: Moment) -> Result<(), Alone> {
        self.told = (progress.clone(), now);
        match progress {
            Some(progress) => self.tell(Output::Word(Word::Progress(progress), Vec::new())),
            None => Ok(()),
        }
    }

    fn tell_status(&self) -> Result<(), Alone> {
        match &self.engine {
            Ok(engine) => self.tell(Output::Word(Word::Status(self.status(engine)), Vec::new())),
            Err(_) => Ok(()),
        }
    }

    /// The engine's, with what it can't know.
    fn status(&self, engine: &Engine<platform::Device>) -> Status {
        let status = engine.status();
        let told = status.reason.iter().chain(&self.notes).cloned().collect::<Vec<_>>();
        Status { reason: (!told.is_empty()).then(|| told.join("; ")), ..status }
    }

    fn tell(&self, output: Output) -> Result<(), Alone> {
        self.outputs.blocking_send(output).map_err(|_| Alone)
    }

    fn open(&mut self) -> Result<(), Alone> {
        self.tried = clock::now();
        match self.try_open() {
            Ok(engine) => {
                for complaint in engine.complaints() {
                    tracing::warn!("{complaint}");
                }
                let components =
                    self.settings.as_ref().map_or(0, |settings| settings.components.len());
                let used = (0..components).filter_map(|component| engine.in_use(component));
                let (used, loaded) = (used.collect(), engine.loaded());
                self.engine = Ok(engine);
                self.tell(Output::Opened(used, loaded))?;
                self.tell(Output::Word(Word::Device(self.device()), Vec::new()))?;
                self.drain()
            }
            Err(error) => {
                if self.engine.as_ref().err() != Some(&error) {
                    tracing::error!("nothing can be upgraded: {error}");
                }
                self.engine = Err(error);
                self.tell(Output::Broken)
            }
        }
    }

    fn try_open(&mut self) -> Result<Engine<platform::Device>, String> {
        let settings = self.settings.clone()?;
        self.take_lock().map_err(|error| error.to_string())?;
        let approvals = Approvals::open(&self.folder).map_err(|error| error.to_string())?;
        self.approvals = Some(approvals);
        let mut complaints = Vec::new();
        let start = Start { ended: self.ended.clone(), ..facts::start(&mut complaints) };
        let device =
            platform::Device::open(&settings, self.folder.clone(), Arc::clone(&self.images));
        let device = device.map_err(|error| error.to_string())?;
        let engine = Engine::open(device, settings.rules(), start, Limits::REAL, now());
        let mut engine = engine.map_err(|error| error.to_string())?;
        for complaint in complaints {
            tracing::warn!("{complaint}");
        }
        let factory = facts::keyring().unwrap_or_else(|error| {
            tracing::error!("{error}; the factory's keyring is not believed");
            None
        });
        let factory = factory.as_ref().map(|(keyring, signatures)| (&keyring[..], &signatures[..]));
        if let Err(failure) = engine.trust(factory) {
            tracing::error!("no bundle is believed: the keyring: {failure}");
        }
        Ok(engine)
    }

    fn carry_out(&mut self, order: Order, data: &[u8]) -> Outcome {
        if let What::Device = order.what {
            return json(&self.device());
        }
        let local_root = self.is_local_root(&order, data)?;
        let Ok(engine) = &mut self.engine else { return self.without(&order.what) };
        let caller = Caller { who: order.who, local_root };
        let (now, none) = (now(), || Ok((Value::Null, Vec::new())));
        match order.what {
            What::Begin { flags } => {
                let begun: Begun = engine.begin(data, flags, caller, now)?;
                self.session = begun.session;
                return json(&begun);
            }
            What::Pages { session, component, page } => {
                let wanted = engine.pages(session, component, page, data, now)?;
                return Ok((Value::Null, wanted));
            }
            What::Chunk { session, component, chunk } => {
                engine.chunk(session, component, chunk, data, now)?;
                return none();
            }
            What::Finish(finish) => {
                engine.finish(finish.session, finish.activate, now).map(|_| ())?
            }
            What::Activate => engine.activate(now)?,
            What::Abort => {
                engine.abort(now)?;
                return none();
            }
            What::Leave { session } => {
                engine.leave(session);
                return none();
            }
            What::Confirm => {
                engine.confirm(now)?;
                // Nobody waits for it but the limit of the trial.
                let _ = self.outputs.blocking_send(Output::Healthy);
            }
            What::Rollback(rollback) => engine.rollback(rollback.component.as_deref(), now)?,
            What::Status | What::Device => {}
            What::Slots => {
                let target = |slot: SlotId| target(self.settings.as_ref().ok()?, slot);
                return json(&engine.slots(target));
            }
            What::History => return json(engine.history()),
            What::Keyring { length } => {
                let bytes = [&length.to_le_bytes()[..], data].concat();
                let version = engine.install_keyring(&bytes, caller.local_root)?;
                let word = Word::Device(self.device());
                let _ = self.outputs.blocking_send(Output::Word(word, Vec::new()));
                return json(&version);
            }
            What::Permission { length } => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let Some((permission, signatures)) = data.split_at_checked(length) else {
                    let text =
                        format!("{length} bytes of permission were announced, {} came", data.len());
                    return Err(Failure::new(Code::InvalidArgument, text));
                };
                engine.permit(permission, signatures, &fingerprint(&mut self.folder)?)?;
                return none();
            }
        }
        let Ok(engine) = &self.engine else { return none() };
        json(&self.status(engine))
    }

    /// Whether root on the device gives this order, where that matters: the network side's word for it is not enough.
    fn is_local_root(&self, order: &Order, data: &[u8]) -> Result<bool, Failure> {
        let Ok(engine) = &self.engine else { return Ok(false) };
        let approval = match order.what {
            What::Begin { flags } if flags & ALLOW_UNSIGNED != 0 => Approval::Unsigned,
            What::Keyring { .. } if engine.keyring().is_none() => Approval::Keyring,
            _ => return Ok(false),
        };
        let Some(approvals) = self.approvals.as_ref().filter(|_| order.local_root) else {
            return Ok(false);
        };
        approvals.take(approval, data).map(|()| true)
    }

    /// Answers without an engine.
    fn without(&self, what: &What) -> Outcome {
        let why = self.engine.as_ref().err().cloned().unwrap_or_default();
        match what {
            What::Status => {
                let reason = Some(format!("nothing can be upgraded: {why}"));
                json(&Status { state: State::Idle, reason, ..Status::default() })
            }
            What::Slots | What::History => Ok((Value::Array(Vec::new()), Vec::new())),
            What::Leave { .. } => Ok((Value::Null, Vec::new())),
            _ => Err(Failure::new(Code::Failed, format!("nothing can be upgraded: {why}"))),
        }
    }

    fn device(&self) -> Device {
        let (mut device, settings) = (Device::default(), self.settings.as_ref().ok());
        if let Some(settings) = settings {
            device.product.clone_from(&settings.product);
            device.revision.clone_from(&settings.revision);
        }
        if let Ok(engine) = &self.engine {
            device.keyring = engine.keyring().map_or(0, |keyring| keyring.version);
            let operators = engine.operators().into_iter();
            device.operators = operators.map(|key| bundle::hex::encode(key.octets())).collect();
        }
        device
    }
}

fn target(settings: &Settings, slot: SlotId) -> Option<String> {
    let target = settings.components.get(slot.component)?.slots.get(slot.letter.index())?;
    Some(match target.offset {
        0 => target.path.display().to_string(),
        offset => format!("{} from byte {offset} on", target.path.display()),
    })
}

fn fingerprint(folder: &mut Folder) -> Result<[u8; 32], Failure> {
    let lost = |text: String| Failure::new(Code::Failed, format!("the device's key: {text}"));
    let seed = folder.read(KEY, 32).map_err(|error| lost(error.to_string()))?;
    let seed = seed.and_then(|seed| <[u8; 32]>::try_from(seed).ok());
    let seed = seed
        .ok_or_else(|| lost("there is none; vestal-upgrade makes one when it starts".to_owned()))?;
    Ok(SecretKey::new(&seed).public().fingerprint())
}

fn json<T: Serialize + ?Sized>(value: &T) -> Outcome {
    let value = serde_json::to_value(value);
    let value = value.map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
    Ok((value, Vec::new()))
}

fn now() -> Now {
    Now { moment: clock::now(), wall: clock::wall().as_secs() }
}
