//! The thread that looks after the workers and the code: writes the state down, judges a version on probation, finds calls that
//! hang, hires workers where all wait. It sleeps while nothing is called.

use std::{sync::Arc, time::Duration};

use daemon::clock;
use protocol::{driver::Outcome, time::Moment};
use rustix::process::{Signal, getpid, kill_process};

use super::{
    desk::{Desk, Inside, Seen},
    files, memory, worker,
    workshop::Workshop,
};
use crate::host::machine::{checkpoint::Checkpoint, probation::Verdict};

/// How often a version on probation is judged.
const TICK: Duration = Duration::from_millis(50);
/// All workers are inside for so long while others wait: another one is hired.
const STARVED: Duration = Duration::from_millis(10);
/// A call that was seen inside so often, and has not waited meanwhile, hangs: one look may come after this process stood still.
const SEEN: u32 = 3;
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
        let hanging = calls.filter_map(|call| next_look(call, hang)).min();
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

    /// A call that is inside for longer than it may be, and does not wait.
    fn hanging(&self, now: Moment) -> Option<String> {
        let hang = self.shop.settings.hang;
        let mut state = self.desk.lock();
        let workers = state.workers.iter_mut().flatten();
        let (tid, op, handle, since) = workers
            .filter_map(|worker| Some((worker.tid, worker.call.as_mut()?)))
            .find_map(|(tid, call)| {
                let since = hangs(call, now, hang)?;
                Some((tid, call.op, call.handle, since))
            })?;
        drop(state);
        Some(format!(
            "thread {tid} is in {op} of handle {handle} in version {} for {} ms and waits for nothing; hang is {} ms",
            self.shop.serving().version.version,
            now.since(since).as_millis(),
            hang.as_millis()
        ))
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
            let state = serving.module.export();
            // Nobody gets in any more, unless somebody has already.
            let _change = shut.closed().change();
            if let (Ok(state), Ok(_)) = (state, &_change) {
                self.shop.keep(&[state]);
            }
            end_behind(&self.shop, why, &shut);
        }
        end(&self.shop, why);
    }
}

/// When this call has to be looked at, if it stays where it is. One that waits tells when it is back.
fn next_look(call: &Inside, hang: Duration) -> Option<Moment> {
    let since = call.ticket.inside_since(call.began)?;
    let seen = call.seen.filter(|seen| seen.since == since);
    Some(seen.map_or(since + hang / 2, |seen| seen.next))
}

/// Looks at a call: since when it is inside, if that is too long.
fn hangs(call: &mut Inside, now: Moment, hang: Duration) -> Option<Moment> {
    let next = next_look(call, hang)?;
    let since = call.ticket.inside_since(call.began)?;
    if next > now {
        return None;
    }
    let before = call.seen.filter(|seen| seen.since == since).map_or(0, |seen| seen.times);
    call.seen = Some(Seen { since, times: before + 1, next: now + hang / 4 });
    (before + 1 >= SEEN && now.since(since) >= hang).then_some(since)
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
fn end_behind(shop: &Workshop, why: &str, _shut: &super::workshop::Shut) -> ! {
    end(shop, why)
}
