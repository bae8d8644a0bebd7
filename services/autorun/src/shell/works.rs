//! What takes time: a thread for what may wait for a disk, a task for programs and calls. Each ends with one result, unless it
//! was given up; what was given up and is done all the same is taken back.

use std::{
    collections::HashMap,
    io::Read as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use endpoint::{Bus, Client};
use protocol::autorun::Sleep;
use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    backend::{self, Chosen},
    hands::Hands,
    probe::probe,
    programs::{self, Owner, Program, command},
    services::Services,
    snapshot,
    world::World,
};
use crate::{
    machine::{Action, Outcome, Step, WorkId},
    settings::{BackEnd, Work},
};

/// More is never under way.
const RESULTS: usize = 256;
/// What is read of a failed writer's last words.
const WORDS: u64 = 1024;
/// A call to the supervisor that a target makes is ended by the target's own limit, which the machine keeps.
const LONG: Duration = Duration::from_secs(3_700);

type Result<T> = std::result::Result<T, String>;

/// A piece of work, and what came of it.
type Ended = (WorkId, Result<Outcome>);

pub(super) struct Works {
    running: HashMap<WorkId, Handle>,
    results: (mpsc::Sender<Ended>, mpsc::Receiver<Ended>),
    supervisor: Client,
    bus: Bus,
    run: PathBuf,
    group: Option<PathBuf>,
}

enum Handle {
    Thread(Arc<AtomicBool>),
    Call(AbortHandle),
    Program(AbortHandle, mpsc::Sender<bool>),
}

impl Works {
    pub(super) fn new(world: &World, supervisor: Client, bus: Bus, run: PathBuf) -> Self {
        let group = programs::own_group(world);
        Self {
            running: HashMap::new(),
            results: mpsc::channel(RESULTS),
            supervisor,
            bus,
            run,
            group,
        }
    }

    pub(super) fn supervisor(&self) -> &Client {
        &self.supervisor
    }

    /// What came of the next one that ends.
    pub(super) async fn next(&mut self) -> Ended {
        match self.results.1.recv().await {
            Some((work, result)) => {
                self.running.remove(&work);
                (work, result)
            }
            // We hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    pub(super) fn begin(&mut self, hands: &Hands, action: Action) {
        match action {
            Action::Check { work, kind, back_end } => {
                self.thread(hands, work, move |hands| {
                    Ok(Outcome::Checked(hands.check(kind, back_end)))
                });
            }
            Action::Do { work, step: Step::Service { name, how } } => {
                let services = self.services(hands.settings.step_timeout);
                self.call(work, async move { services.put_away(&name, how).await });
            }
            Action::Undo { work, step: Step::Service { name, how } } => {
                let services = self.services(hands.settings.step_timeout);
                self.call(work, async move { services.bring_back(&name, how).await });
            }
            Action::Do { work, step } => self.step(hands, work, step),
            Action::Undo { work, step } => {
                self.thread(hands, work, move |hands| hands.take_back(&step))
            }
            Action::Save { work, record, to } => {
                self.thread(hands, work, move |hands| Ok(hands.save(&record, to)));
            }
            Action::ReadJournal { work } => self.thread(hands, work, |hands| {
                let record = hands.with_journal(|journal| journal.read())?;
                Ok(Outcome::Journal(record.map(Box::new)))
            }),
            Action::Reseed { work, entropy } => {
                self.thread(hands, work, move |hands| hands.reseed(&entropy));
            }
            Action::Guard { work } => self.thread(hands, work, Hands::guard),
            Action::SetClock { work } => self.thread(hands, work, Hands::set_clock),
            Action::Mount { work, path } => {
                self.thread(hands, work, move |hands| hands.mount(&path))
            }
            Action::WriteImage { work, kind, back_end, image } => {
                self.write_image(hands, work, (kind, back_end), &image);
            }
            Action::Network { work, command: at } => self.network(hands, work, at),
            Action::Start { work, target, attempt } => self.start(hands, work, target, attempt),
            Action::Probe { work, target } => {
                let target = &hands.settings.targets[target];
                let Some(wanted) = target.probe.clone() else { return };
                let looks = probe(wanted, target.identity.clone(), self.bus.clone());
                self.call(work, looks);
            }
            // The loop's own.
            _ => {}
        }
    }

    /// TERM, or KILL for all of it.
    pub(super) fn stop(&mut self, work: WorkId, kill: bool) {
        match self.running.get(&work) {
            Some(Handle::Program(_, stops)) => {
                // It has been told so often only if it is ending.
                let _ = stops.try_send(kill);
            }
            Some(Handle::Call(task)) => {
                task.abort();
                self.running.remove(&work);
                let sender = self.results.0.clone();
                tokio::spawn(async move {
                    let _ = sender.send((work, Err("the call was given up".to_owned()))).await;
                });
            }
            _ => {}
        }
    }

    pub(super) fn abandon(&mut self, work: WorkId) {
        match self.running.remove(&work) {
            Some(Handle::Thread(abandoned)) => abandoned.store(true, Ordering::SeqCst),
            Some(Handle::Call(task) | Handle::Program(task, _)) => task.abort(),
            None => {}
        }
    }

    pub(super) fn sweep(&self, hands: &Hands, targets: &[usize]) {
        let targets = targets.iter().filter_map(|at| hands.settings.targets.get(*at));
        let owners: Vec<Owner> = targets.map(|target| self.owner(&target.name)).collect();
        programs::sweep_targets(&owners);
    }

    fn owner(&self, target: &protocol::name::Name) -> Owner {
        Owner { run: self.run.clone(), own: self.group.clone(), target: target.clone() }
    }

    fn services(&self, limit: Duration) -> Services {
        Services { client: self.supervisor.clone(), limit }
    }

    /// A step of arming, which is taken back if it ends after it was given up.
    fn step(&mut self, hands: &Hands, work: WorkId, step: Step) {
        let abandoned = Arc::new(AtomicBool::new(false));
        self.running.insert(work, Handle::Thread(Arc::clone(&abandoned)));
        self.spawn(hands, work, move |hands| {
            let done = hands.carry_out(&step);
            if abandoned.load(Ordering::SeqCst) && matches!(done, Ok(Outcome::Done)) {
                tracing::warn!(?step, "done too late; taken back");
                if let Err(why) = hands.take_back(&step) {
                    tracing::error!("{why}");
                }
            }
            done
        });
    }

    fn thread(
        &mut self,
        hands: &Hands,
        work: WorkId,
        what: impl FnOnce(&Hands) -> Result<Outcome> + Send + 'static,
    ) {
        self.running.insert(work, Handle::Thread(Arc::default()));
        self.spawn(hands, work, what);
    }

    fn spawn(
        &self,
        hands: &Hands,
        work: WorkId,
        what: impl FnOnce(&Hands) -> Result<Outcome> + Send + 'static,
    ) {
        let (hands, results) = (hands.clone(), self.results.0.clone());
        let run = move || {
            // Nobody is left to hear it only when the engine stops.
            let _ = results.blocking_send((work, what(&hands)));
        };
        let started = std::thread::Builder::new().name("work".to_owned()).spawn(run);
        if let Err(error) = started {
            let results = self.results.0.clone();
            tokio::spawn(async move {
                let _ = results.send((work, Err(format!("start a thread: {error}")))).await;
            });
        }
    }

    fn call(&mut self, work: WorkId, what: impl Future<Output = Result<Outcome>> + Send + 'static) {
        let results = self.results.0.clone();
        let task = tokio::spawn(async move {
            let result = what.await;
            let _ = results.send((work, result)).await;
        });
        self.running.insert(work, Handle::Call(task.abort_handle()));
    }

    /// A program whose exit status counts.
    fn program(
        &mut self,
        work: WorkId,
        program: Result<Program>,
        outcome: impl FnOnce(i32) -> Result<Outcome> + Send + 'static,
    ) {
        let (stops, mut stopped) = mpsc::channel(4);
        let results = self.results.0.clone();
        let task = tokio::spawn(async move {
            let result = match program {
                Ok(program) => program.finish(&mut stopped).await.and_then(outcome),
                Err(why) => Err(why),
            };
            let _ = results.send((work, result)).await;
        });
        self.running.insert(work, Handle::Program(task.abort_handle(), stops));
    }

    fn write_image(
        &mut self,
        hands: &Hands,
        work: WorkId,
        (kind, wanted): (Sleep, Option<BackEnd>),
        image: &[u8; 32],
    ) {
        let chosen = match hands.choose(kind, wanted) {
            Ok(Chosen { back_end, why }) => {
                tracing::info!("back end {}: {why}", backend::name(back_end));
                back_end
            }
            Err(why) => return self.program(work, Err(why), |_| Ok(Outcome::Done)),
        };
        let world = hands.world.clone();
        let woke = move || Ok(Outcome::Woke(world.samples()));
        match chosen {
            BackEnd::Exec => {
                let mut command = command(&hands.settings.exec);
                let kind = if kind == Sleep::Hibernate { "hibernate" } else { "suspend" };
                command.env("VESTAL_SLEEP", kind);
                let program = Program::start(command, None, None);
                self.program(work, program, move |status| match status {
                    0 => woke(),
                    status => Err(format!("{} ended with {status}", "the fast boot command")),
                });
            }
            BackEnd::Sysfs | BackEnd::Auto => self.writer(work, backend::writer(kind), "", woke),
            BackEnd::Snapshot => match &hands.settings.image {
                Some(path) => {
                    let writer = snapshot::writer(&hands.world.device(path), image);
                    self.writer(work, writer, snapshot::WOKE, woke);
                }
                None => {
                    let why = "back end snapshot: no device; set image in autorun.toml";
                    self.program(work, Err(why.to_owned()), |_| Ok(Outcome::Done));
                }
            },
            BackEnd::None => {
                let why = "back end none: another program writes the image; arm instead";
                self.program(work, Err(why.to_owned()), |_| Ok(Outcome::Done));
            }
        }
    }

    /// Our own child, whose last words tell this life from a failure.
    fn writer(
        &mut self,
        work: WorkId,
        command: Command,
        last: &'static str,
        woke: impl FnOnce() -> Result<Outcome> + Send + 'static,
    ) {
        let mut program = Program::start(command, None, None);
        let words = program.as_mut().ok().and_then(Program::output);
        self.program(work, program, move |status| {
            let mut said = String::new();
            // What can't be read was not said.
            let _ = words.map(|words| words.take(WORDS).read_to_string(&mut said));
            match status {
                0 if said == last => woke(),
                _ if said.is_empty() => Err(format!("the writer of the image ended with {status}")),
                _ => Err(said),
            }
        });
    }

    fn network(&mut self, hands: &Hands, work: WorkId, at: usize) {
        let Some(words) = hands.settings.network.get(at) else { return };
        let name = words.first().cloned().unwrap_or_default();
        let program = Program::start(command(words), None, None);
        self.program(work, program, move |status| match status {
            0 => Ok(Outcome::Done),
            status => Err(format!("{name} ended with {status}")),
        });
    }

    fn start(&mut self, hands: &Hands, work: WorkId, at: usize, attempt: u32) {
        let target = &hands.settings.targets[at];
        tracing::info!(target = %target.name, attempt, "run");
        let services = self.services(LONG);
        match target.work.clone() {
            Work::Program(words) => {
                let mut command = command(&words);
                command.envs(&target.environment);
                let owner = self.owner(&target.name);
                let program = Program::start(command, target.identity.as_ref(), Some(&owner));
                self.program(work, program, |status| Ok(Outcome::Exited(status)));
            }
            Work::Start(name) => {
                self.call(
                    work,
                    async move { services.start(&name).await.map(|()| Outcome::Exited(0)) },
                )
            }
            Work::Restart(name) => self.call(work, async move {
                services.restart(&name).await.map(|()| Outcome::Exited(0))
            }),
            Work::Signal(name, signal) => self.call(work, async move {
                services.signal(&name, signal).await.map(|()| Outcome::Exited(0))
            }),
            Work::Nothing => self.call(work, async { Ok(Outcome::Exited(0)) }),
        }
    }
}
