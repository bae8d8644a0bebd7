//! Doing what is due: one thing of each service at a time, not too many scripts of all services, and each result is told.

use std::time::Duration;

use protocol::{
    failure::{Code, Failure},
    name::Name,
    time::Moment,
};
use serde_json::{Value, json};

use super::{
    super::{Action, Due, Supervisor},
    queue::{Queue, ScriptProcess, Stage},
    trigger::Work,
};
use crate::settings::Service;

/// A script that takes longer is ended: SIGTERM for its process group, later SIGKILL.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);
/// So many scripts of all services run at the same time.
const SCRIPTS_MAX: usize = 16;

/// How a script ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
    /// It was ended, because it took too long.
    Timeout,
    /// It could not be started, and why.
    NotStarted(String),
}

impl Ended {
    fn text(&self) -> String {
        match self {
            Self::Code(code) => format!("exit {code}"),
            Self::Signal(signal) => format!("signal {signal}"),
            Self::Timeout => {
                format!("ended after {} s, which is the limit", SCRIPT_TIMEOUT.as_secs())
            }
            Self::NotStarted(why) => format!("not started: {why}"),
        }
    }
}

impl Supervisor {
    /// Begins with what is due, one thing of each service.
    pub(crate) fn begin_due(&mut self, now: Moment) {
        if self.scripts.queues.is_empty() || self.shutdown.is_some() {
            return;
        }
        let names: Vec<Name> = self.scripts.queues.keys().cloned().collect();
        for name in names {
            // What needs no script is over at once, and the next one follows.
            while self.begin_one(&name, now) {}
        }
        self.set_script_timer();
    }

    /// Begins with one thing of this service. True where it is over already.
    fn begin_one(&mut self, name: &Name, now: Moment) -> bool {
        let gone = self.services.get(name).is_none_or(|entry| entry.leaving);
        let Some(queue) = self.scripts.queues.get_mut(name) else { return false };
        let is_room = self.scripts.running < SCRIPTS_MAX;
        let Some(job) = queue.due(now) else { return false };
        if !is_room && matches!(job.work, Work::Run(_)) {
            return false;
        }
        let (work, event) = (job.work.clone(), job.event.clone());
        if gone {
            let dropped = queue.clear();
            let why = format!("the service is gone: {dropped} things to do for it are dropped");
            self.happen_trigger(name, &event, &[("result", json!(why))]);
            self.job_touched(name);
            return false;
        }
        let ruled =
            |service: &Service| service.rules().any(|rules| job.packages.contains(&rules.package));
        if let Some(entry) = self.services.get(name).filter(|entry| ruled(&entry.service)) {
            self.scripts.runs += 1;
            let run = self.scripts.runs;
            job.stage = Stage::Validating { run };
            let (service, packages) = (entry.service.clone(), job.packages.clone());
            self.actions.push_back(Action::Validate { run, service, packages });
            return false;
        }
        self.carry_out_work(name, work, &event, now)
    }

    /// True where it is over already.
    pub(super) fn carry_out_work(
        &mut self,
        name: &Name,
        work: Work,
        event: &str,
        now: Moment,
    ) -> bool {
        if let Work::Run(command) = &work {
            self.scripts.runs += 1;
            let run = self.scripts.runs;
            let command = command.clone();
            let mut after = None;
            if let Some(queue) = self.scripts.queues.get_mut(name) {
                queue.begun(&work, run, now);
                after = queue.process;
            }
            self.scripts.running += 1;
            let (service, timeout) = (name.clone(), SCRIPT_TIMEOUT);
            self.actions.push_back(Action::RunScript { run, service, command, timeout, after });
            return false;
        }
        let result = match &work {
            Work::Reload => self.reload_triggered(name, now),
            Work::Restart => self.restart_triggered(name, now),
            Work::Signal(signal) => self.signal_triggered(name, *signal),
            Work::Run(_) => Ok(()),
        };
        let result = result.map_or_else(|failure| failure.text, |()| "done".to_owned());
        self.happen_work(name, &work, event, &result, None);
        if let Some(queue) = self.scripts.queues.get_mut(name) {
            queue.over(&work, now);
        }
        self.job_touched(name);
        true
    }

    /// A script runs: the next supervisor has to know which process it is.
    pub(crate) fn script_started(&mut self, run: u64, process: ScriptProcess) {
        let mut queues = self.scripts.queues.iter_mut();
        let found =
            queues.find_map(|(name, queue)| queue.job(run).is_some().then_some((name, queue)));
        let Some((name, queue)) = found else { return };
        queue.process = Some(process);
        self.scripts.touched.insert(name.clone());
    }

    /// A script ended.
    pub(crate) fn script_ended(&mut self, run: u64, ended: &Ended, now: Moment) {
        let mut queues = self.scripts.queues.iter_mut();
        let found = queues.find_map(|(name, queue)| Some((name.clone(), queue.job(run)?.clone())));
        let Some((name, job)) = found else { return };
        self.scripts.running = self.scripts.running.saturating_sub(1);
        let since = match job.stage {
            Stage::Running { since, .. } => Some(since),
            _ => None,
        };
        let ran = since.map(|since| now.since(since));
        self.happen_work(&name, &job.work, &job.event, &ended.text(), ran);
        if let Some(queue) = self.scripts.queues.get_mut(&name) {
            queue.process = None;
            queue.over(&job.work, now);
        }
        self.job_touched(&name);
    }

    /// Where a running service is to be reloaded; one that rests reads its settings when it is started.
    fn reload_triggered(&mut self, name: &Name, now: Moment) -> Result<(), Failure> {
        self.reload(name, None, false, now).map(drop)
    }

    /// A trigger starts nothing that nobody wants.
    fn restart_triggered(&mut self, name: &Name, now: Moment) -> Result<(), Failure> {
        let slots = self.targets(name, None)?;
        let wanted = slots.iter().filter_map(|slot| self.lives.get(slot)).any(|life| life.wanted);
        match wanted {
            true => self.restart(name, None, false, now).map(drop),
            false => {
                let text = format!("service {name} is not wanted up: nothing is restarted");
                Err(Failure::new(Code::Failed, text))
            }
        }
    }

    fn signal_triggered(&mut self, name: &Name, signal: i32) -> Result<(), Failure> {
        self.signal(Some(name), None, signal).map(drop)
    }

    fn set_script_timer(&mut self) {
        let crowded = self.scripts.running >= SCRIPTS_MAX;
        let due = self.scripts.queues.values().filter_map(Queue::next_due).min();
        // Where there is no room, the end of a script comes first.
        let due = due.filter(|_| !crowded);
        if due == self.scripts.deadline {
            return;
        }
        if let Some(old) = self.scripts.deadline {
            self.deadlines.remove(&(old, Due::Scripts));
        }
        self.scripts.deadline = due;
        if let Some(at) = due {
            self.deadlines.insert((at, Due::Scripts));
        }
    }

    /// The time of the queues has come: [`Self::begin_due`] follows.
    pub(crate) fn scripts_due(&mut self) {
        self.scripts.deadline = None;
    }

    pub(super) fn happen_work(
        &mut self,
        name: &Name,
        work: &Work,
        event: &str,
        result: &str,
        ran: Option<Duration>,
    ) {
        let mut details = vec![("work", work_text(work)), ("result", json!(result))];
        if let Some(ran) = ran {
            let ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
            details.push(("ran_ms", json!(ms)));
        }
        self.happen_trigger(name, event, &details);
    }
}

/// As it is shown: a command as a list, anything else as a word.
pub(super) fn work_text(work: &Work) -> Value {
    match work {
        Work::Run(command) => json!(command),
        Work::Reload => json!("reload"),
        Work::Restart => json!("restart"),
        Work::Signal(signal) => json!(format!("signal {signal}")),
    }
}
