//! The thread that looks after the workers and the code: writes the state down, judges a version on probation, finds calls that
//! hang, hires workers where all wait. It sleeps while nothing is called.

use std::{sync::Arc, time::Duration};

use daemon::clock;
use driver_abi::Op;
use protocol::{driver::Outcome, time::Moment};
use rustix::process::{Signal, getpid, kill_process};

use super::{
    desk::{Desk, State},
    files, memory, worker,
    workshop::Workshop,
};
use crate::host::machine::{checkpoint::Checkpoint, probation::Verdict};

/// How often a version on probation is judged.
const TICK: Duration = Duration::from_millis(50);
/// All workers are inside for so long while others wait: another one is hired.
const STARVED: Duration = Duration::from_millis(10);
/// How long the gate may be closed only to see who is inside.
const GLANCE: Duration = Duration::from_millis(1);
/// A call that was seen inside so often, and waited never, hangs.
const SEEN: u32 = 3;
/// Whoever was found waiting is looked at again after so many times as long, at most.
const AWAY_MAX: u32 = 6;
/// How long an import and a self test may take beyond the gate's own limit before the process gives up.
const RISK_MAX: Duration = Duration::from_secs(4);

pub(super) struct Keeper {
    desk: Arc<Desk>,
    shop: Arc<Workshop>,
    checkpoint: Checkpoint,
}

impl Keeper {
    /// Starts the thread. It ends when the desk stops.
    ///
    /// # Errors
    /// Where there can be no further thread.
    pub(super) fn start(shop: &Arc<Workshop>) -> std::io::Result<std::thread::JoinHandle<()>> {
        let keeper = Self {
            desk: Arc::clone(&shop.desk),
            shop: Arc::clone(shop),
            checkpoint: Checkpoint::new(shop.settings.checkpoint, clock::now()),
        };
        std::thread::Builder::new().name("keeper".to_owned()).spawn(move || keeper.run())
    }

    fn run(mut self) {
        loop {
            let next = self.next();
            let time = next.map(|next| next.since(clock::now()));
            if self.desk.rest(time) {
                return;
            }
            self.look(clock::now());
        }
    }

    /// When there is something to look at, if nobody calls.
    fn next(&self) -> Option<Moment> {
        let now = clock::now();
        let trial = self.shop.trials.borrow().open.then(|| now + TICK);
        let risk = self.shop.at_risk_since().map(|since| since + RISK_MAX);
        let state = self.desk.lock();
        let hang = self.shop.settings.hang;
        let calls = state.workers.iter().flatten().filter_map(|worker| worker.call.as_ref());
        let hanging = calls.map(|call| call.look.unwrap_or(call.began + hang / 2)).min();
        let starving = state.starving.map(|since| since + STARVED);
        let checkpoint = self.checkpoint.next(state.calls);
        // At most as often as a version is judged, whatever is due and can't be done.
        let least = |at: Moment| if at <= now { now + Duration::from_millis(5) } else { at };
        [trial, risk, hanging, starving, checkpoint].into_iter().flatten().min().map(least)
    }

    fn look(&mut self, now: Moment) {
        self.hire(now);
        if let Some(since) = self.shop.at_risk_since()
            && now.since(since) > RISK_MAX
        {
            self.give_up("the new version does not come back from taking over the state");
        }
        if let Some(why) = self.hanging(now) {
            end(&self.shop, &why);
        }
        if self.shop.trials.borrow().open {
            self.judge(now);
        }
        let calls = self.desk.lock().calls;
        if self.checkpoint.is_due(calls, now) {
            let body = self.shop.idle_body();
            let written = body.is_some_and(|body| self.shop.checkpoint(&body));
            self.checkpoint.tried(written.then_some(calls), clock::now());
        }
    }

    /// Another worker, where others wait and all are inside.
    fn hire(&self, now: Moment) {
        let state = self.desk.lock();
        let since = state.starving.filter(|since| now.since(*since) >= STARVED);
        let calls = state.workers.iter().flatten().map(|worker| worker.call.as_ref());
        let all_inside =
            calls.into_iter().flatten().filter(|call| now.since(call.began) >= STARVED).count();
        let room = state.hired < self.desk.threads + worker::EXTRA_MAX;
        let wanted =
            since.is_some() && state.handles.is_ready() && all_inside >= state.hired && room;
        drop(state);
        if wanted {
            if let Err(error) = worker::hire(&self.desk) {
                self.shop.note(format!("no further worker can be started: {error}"));
            }
            self.desk.lock().starving = None;
        } else {
            let mut state = self.desk.lock();
            if !state.handles.is_ready() {
                state.starving = None;
            } else if state.starving.is_some() {
                // Somebody got on meanwhile; whoever waits from here on counts anew.
                state.starving = Some(now);
            }
        }
    }

    /// A call that is inside for longer than it may be, and does not wait: the gate, closed for a moment, says who is inside.
    fn hanging(&self, now: Moment) -> Option<String> {
        let hang = self.shop.settings.hang;
        if !suspects(&mut self.desk.lock(), now, hang, &self.desk) {
            return None;
        }
        let inside = match self.shop.shut(GLANCE) {
            Ok(shut) => {
                drop(shut);
                Vec::new()
            }
            Err(busy) => busy.stuck,
        };
        let mut state = self.desk.lock();
        for worker in state.workers.iter_mut().flatten() {
            let tid = worker.tid;
            let Some(call) =
                worker.call.as_mut().filter(|call| is_due(call.look, call.began, now, hang))
            else {
                continue;
            };
            let is_inside =
                inside.iter().any(|stuck| stuck.tid == tid && stuck.handle == call.handle);
            if is_inside {
                call.found += 1;
                call.look = Some(now + hang / 4);
            } else {
                call.found = 0;
                call.away = (call.away + 1).min(AWAY_MAX);
                call.look = Some(now + hang * (1 << call.away) / 2);
            }
            if call.found >= SEEN && now.since(call.began) >= hang {
                let version = self.shop.serving().version.version;
                return Some(format!(
                    "thread {tid} is in {} of handle {} in version {version} for {} ms and waits for nothing; hang is {} ms",
                    call.op,
                    call.handle,
                    now.since(call.began).as_millis(),
                    hang.as_millis()
                ));
            }
        }
        None
    }

    fn judge(&self, now: Moment) {
        let Some(mut body) = self.shop.idle_body() else { return };
        let Some(trial) = &body.trial else { return };
        let deeds = self.desk.lock().deeds.clone();
        let verdict = trial.probation.judge(&deeds, memory::resident(), now);
        let tried = trial.tried.clone();
        match verdict {
            Verdict::Open => {}
            Verdict::Proven => {
                body.trial = None;
                drop(body);
                self.shop.settle(Outcome::Confirmed, tried, None);
            }
            Verdict::Failed(reason) => {
                drop(body);
                tracing::warn!("{}: version {}: {reason}", self.shop.name, tried.version);
                if let Err(failure) = self.shop.roll_back(Some(reason.clone())) {
                    end(&self.shop, &format!("{reason}; it can't be rolled back: {failure}"));
                }
            }
        }
    }

    /// Ends the process where the new code holds who put it in, but nobody else: the state is written down before, so that no
    /// call is lost.
    fn give_up(&self, why: &str) {
        let serving = self.shop.serving();
        if let Ok(shut) = self.shop.shut(self.shop.settings.drain) {
            if let Ok(state) = serving.module.export() {
                self.shop.keep(&[state]);
            }
            end_behind(&self.shop, why, &shut);
        }
        end(&self.shop, why);
    }
}

fn is_due(look: Option<Moment>, began: Moment, now: Moment, hang: Duration) -> bool {
    look.unwrap_or(began + hang / 2) <= now
}

/// Whether some call is inside for so long that it has to be looked at. Who stands at the closed gate is not inside.
fn suspects(state: &mut State, now: Moment, hang: Duration, desk: &Desk) -> bool {
    use std::sync::atomic::Ordering::Relaxed;
    if desk.closed.load(Relaxed) {
        return false;
    }
    let opened = Moment(desk.opened_at.load(Relaxed));
    let mut found = false;
    for call in state.workers.iter_mut().flatten().filter_map(|worker| worker.call.as_mut()) {
        if call.op != Op::Interrupt && is_due(call.look, call.began, now, hang) {
            // The glance itself opens the gate, too: that it was closed for a moment is no excuse.
            let held = opened > call.began && now.since(opened) < hang / 2 && call.found == 0;
            if held && call.away == 0 && call.look.is_none() {
                call.look = Some(opened + hang / 2);
            } else {
                found = true;
            }
        }
    }
    found
}

/// Ends this process with its last words, in a way that no code of the driver has a say in; the supervisor starts the next one.
pub(super) fn end(shop: &Workshop, why: &str) -> ! {
    tracing::error!("{}: this host ends: {why}", shop.name);
    if let Err(error) = files::write_last_words(&shop.folder, why) {
        tracing::error!("{}: {error}", shop.folder.display());
    }
    loop {
        // A process can always kill itself; should it not, it tries again.
        let _ = kill_process(getpid(), Signal::KILL);
        std::thread::yield_now();
    }
}

/// The same while nobody is inside: no call is lost.
fn end_behind(shop: &Workshop, why: &str, _shut: &super::workshop::Shut<'_>) -> ! {
    end(shop, why)
}
