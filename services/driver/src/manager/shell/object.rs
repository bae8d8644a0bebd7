//! The object `driver`: who asks for what, and the audit of whoever wants to change code.

use std::{os::fd::OwnedFd, sync::Arc};

use endpoint::{Incoming, Serve};
use protocol::{
    driver::{Named, Place, Rollback, Upgrade, description},
    failure::{Code, Failure},
    objects::{Description, nearest},
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Desk,
    caller::{self, Attempt},
    change,
    charge::Charge,
};
use crate::record::shown;

/// Calls that run at one time, whoever makes them; most of them wait in `settled`.
const CALLS_MAX: usize = 256;

/// See the header.
pub(super) struct DriverObject {
    desk: Arc<Desk>,
    calls: Arc<Semaphore>,
}

impl DriverObject {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self { desk, calls: Arc::new(Semaphore::new(CALLS_MAX)) }
    }
}

impl Serve for DriverObject {
    fn describe(&self) -> Description {
        description()
    }

    async fn call(&mut self, call: Incoming) {
        if &*call.method == "open" {
            let place = call.parse().and_then(|Named { name }| open(&self.desk, &name));
            return call.responder.finish(place);
        }
        let Ok(permit) = Arc::clone(&self.calls).try_acquire_owned() else {
            let text = format!("{CALLS_MAX} calls run already; try again later");
            let details = serde_json::json!({ "retry_after_ms": 1000, "not_started": true });
            return call.responder.fail(Failure::new(Code::Busy, text).with_details(details));
        };
        let desk = Arc::clone(&self.desk);
        tokio::spawn(async move {
            run(&desk, call).await;
            drop(permit);
        });
    }
}

async fn run(desk: &Arc<Desk>, mut call: Incoming) {
    match &*call.method {
        "list" => list(desk, call).await,
        "settled" => settled(desk, call).await,
        "upgrade" => {
            let fds = std::mem::take(&mut call.fds);
            match call.parse::<Upgrade>() {
                Ok(wanted) => {
                    let outcome = upgrade(desk, &call, wanted, fds).await;
                    call.responder.finish(outcome);
                }
                Err(failure) => {
                    attempt(&call, "upgrade", "", "").audit(Err(&failure));
                    call.responder.fail(failure);
                }
            }
        }
        "rollback" => {
            let outcome = match call.parse::<Rollback>() {
                Ok(wanted) => {
                    let name = wanted.name.clone();
                    let done = change(desk, &call, "rollback", &name, async |charge| {
                        change::rollback(desk, charge, wanted).await
                    });
                    done.await
                }
                Err(failure) => Err(failure),
            };
            call.responder.finish(outcome);
        }
        "load" => {
            let outcome = match call.parse::<Named>() {
                Ok(Named { name }) => {
                    let done = change(desk, &call, "load", &name, async |charge| {
                        change::load(desk, charge).await
                    });
                    done.await
                }
                Err(failure) => Err(failure),
            };
            call.responder.finish(outcome);
        }
        "unload" => {
            let outcome = match call.parse::<Named>() {
                Ok(Named { name }) => {
                    let done = change(desk, &call, "unload", &name, async |charge| {
                        change::unload(desk, charge).await
                    });
                    done.await
                }
                Err(failure) => Err(failure),
            };
            call.responder.finish(outcome);
        }
        // The endpoint lets only described methods through; an answer is sent when the call is dropped.
        _ => {}
    }
}

fn attempt<'a>(call: &Incoming, what: &'a str, driver: &'a str, hash: &'a str) -> Attempt<'a> {
    Attempt { peer: call.responder.peer(), what, driver, hash }
}

/// A change by somebody who may make it, with its line in the audit.
async fn change<T>(
    desk: &Desk,
    call: &Incoming,
    what: &str,
    name: &str,
    make: impl AsyncFnOnce(&Charge) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let attempt = attempt(call, what, name, "");
    let outcome = match caller::check(&attempt.peer, &desk.run).and_then(|()| charge(desk, name)) {
        Ok(charge) => make(&charge).await,
        Err(failure) => Err(failure),
    };
    attempt.audit(outcome.as_ref().map(|_| "done"));
    outcome
}

async fn upgrade(
    desk: &Desk,
    call: &Incoming,
    wanted: Upgrade,
    mut fds: Vec<OwnedFd>,
) -> Result<protocol::driver::Report, Failure> {
    let (name, hash) = (wanted.name.clone(), wanted.hash.clone());
    let attempt = attempt(call, "upgrade", &name, &hash);
    let outcome = async {
        caller::check(&attempt.peer, &desk.run)?;
        let charge = charge(desk, &name)?;
        let (Some(object), true) = (fds.pop(), fds.is_empty()) else {
            let text = "upgrade needs one descriptor: the object in a memfd that is sealed against every change";
            return Err(Failure::new(Code::InvalidArgument, text));
        };
        // What is left out is the settings' to say.
        let mode = wanted.mode.or(Some(charge.settings.mode));
        change::upgrade(desk, &charge, Upgrade { mode, ..wanted }, object).await
    };
    let outcome = outcome.await;
    let verdict =
        outcome.as_ref().map(|report| format!("{} -> {}", shown(&report.from), shown(&report.to)));
    attempt.audit(match &verdict {
        Ok(verdict) => Ok(verdict),
        Err(failure) => Err(failure),
    });
    outcome
}

async fn list(desk: &Desk, call: Incoming) {
    let mut asked: JoinSet<_> =
        desk.charges().into_iter().map(|charge| async move { charge.status().await }).collect();
    let mut all = Vec::new();
    while let Some(status) = asked.join_next().await {
        all.extend(status.ok());
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    call.responder.reply(&all);
}

async fn settled(desk: &Desk, call: Incoming) {
    let found = call.parse().and_then(|Named { name }| charge(desk, &name));
    let charge = match found {
        Ok(charge) => charge,
        Err(failure) => return call.responder.fail(failure),
    };
    let outcome = tokio::select! {
        outcome = change::settled(charge) => outcome,
        () = call.responder.cancelled() => return,
    };
    call.responder.finish(outcome);
}

fn open(desk: &Desk, name: &str) -> Result<Place, Failure> {
    let charge = charge(desk, name)?;
    let socket = desk.run.join(format!("driver.{}.sock", charge.name));
    Ok(Place { object: format!("driver/{}", charge.name), socket: socket.display().to_string() })
}

fn charge(desk: &Desk, name: &str) -> Result<Arc<Charge>, Failure> {
    desk.charge(name).ok_or_else(|| {
        let charges = desk.charges();
        let known = || charges.iter().map(|charge| charge.name.as_str());
        let hint = match nearest(name, known()) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None if charges.is_empty() => "driver.toml names none".to_owned(),
            None => format!("driver.toml names {}", known().collect::<Vec<_>>().join(", ")),
        };
        Failure::new(Code::NotFound, format!("no driver {name:.40?}; {hint}"))
    })
}
