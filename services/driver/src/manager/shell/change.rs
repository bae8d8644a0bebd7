//! Upgrade, rollback, load and unload of one driver: the order of their steps is the table in `machine`. Whatever fails before the
//! host has taken the new code leaves the old one serving, and the record as it was.

use std::{io, os::fd::OwnedFd, sync::Arc};

use endpoint::CallError;
use hotpatch::{Image, Refusal, Sealed};
use protocol::{
    driver::{self, OBJECT_MAX, Outcome, Report, Rollback, Settled, Standing, Status, Upgrade},
    failure::{Code, Failure},
};

use super::{
    Desk,
    attend::{begin_with, brought_together, settle},
    canary,
    charge::{Charge, blocking},
    folders,
};
use crate::{
    manager::machine::{Offer, Seen, never_taken, offer, refusal, rolled_back, way_back},
    record::{self, Record},
};

/// Replaces a driver's code; returns when the new one serves, on probation.
///
/// # Errors
/// Why the old one serves on, with the reason for programs in `details.reason`.
pub(super) async fn upgrade(
    desk: &Desk,
    charge: &Charge,
    upgrade: Upgrade,
    object: OwnedFd,
) -> Result<Report, Failure> {
    let _permit = charge.permit()?;
    let sealed = seal(object, upgrade.hash.clone()).await?;
    let _turn = charge.turn.lock().await;
    let (before, status) = fresh(desk, charge).await?;
    let next = match offer(&before, &upgrade, charge.settings.dev)? {
        Offer::Runs => return Ok(runs_already(charge, &before)),
        Offer::Try(mut next) => {
            // The factory's version has no name but what its host says.
            if let Some(previous) =
                next.previous.as_mut().filter(|previous| previous.version.is_empty())
            {
                previous.version.clone_from(&status.version.version);
            }
            next
        }
    };
    let trial = charge.host.trial().await;
    let sealed = check(charge, sealed, trial).await?;
    keep(charge, &before, &upgrade.hash, &sealed).await?;
    charge.write((*next).clone()).await.map_err(|error| storage(charge, &error))?;
    replace(desk, charge, before, &next, &upgrade, &sealed).await
}

/// The last steps: the record says already that the version is on probation.
async fn replace(
    desk: &Desk,
    charge: &Charge,
    before: Record,
    next: &Record,
    upgrade: &Upgrade,
    sealed: &Sealed,
) -> Result<Report, Failure> {
    let replaced = charge.host.replace(sealed.fd(), upgrade, charge.settings.drain).await;
    // Whatever follows is the attendant's.
    charge.poke();
    match replaced {
        Ok(report) => {
            let report = Report {
                name: charge.name.clone(),
                from: next.previous.clone().unwrap_or_default(),
                to: next.current.clone(),
                ..report
            };
            if let Err(why) = desk.bus.publish(driver::UPGRADED, &report, false) {
                tracing::warn!(driver = charge.name, "tell of the upgrade: {why}");
            }
            Ok(report)
        }
        Err(error) => {
            let unsent = matches!(error, CallError::Unreachable { .. } | CallError::Invalid { .. });
            if unsent || took_nothing(charge, next).await {
                charge.write(before).await.map_err(|error| storage(charge, &error))?;
                charge.sweep().await;
            }
            Err(told(charge, error))
        }
    }
}

/// Whether the host has certainly not taken the version, so that the record may be what it was before.
async fn took_nothing(charge: &Charge, next: &Record) -> bool {
    let status = charge.host.status().await;
    status.is_ok_and(|status| {
        let on_probation = status.standing != Standing::Serving;
        let last = status.last.as_ref();
        never_taken(next, Seen { serves: &status.version, on_probation, last })
    })
}

/// Record and host as they are now, and agreed.
async fn fresh(desk: &Desk, charge: &Charge) -> Result<(Record, Status), Failure> {
    let record = charge.record_or_fail()?;
    let status = charge.host.status().await.map_err(|error| {
        let text = format!("{}: its host does not answer: {error}", charge.name);
        refusal(Code::Gone, "host-away", text)
    })?;
    brought_together(desk, charge, record, &status)
        .await
        .map_err(|why| refusal(Code::Failed, "storage", why))?;
    Ok((charge.record_or_fail()?, status))
}

/// Takes an object that nobody can change any more, and makes sure that it is the one that was meant.
async fn seal(object: OwnedFd, hash: String) -> Result<Sealed, Failure> {
    let checked = tokio::task::spawn_blocking(move || {
        let sealed = Sealed::adopt(object, OBJECT_MAX).map_err(refused)?;
        let found = record::hash_of(sealed.bytes());
        if found == hash {
            return Ok(sealed);
        }
        let text = format!(
            "the object has the hash {found}, and {hash:.80?} was meant; it was changed on its way"
        );
        Err(refusal(Code::InvalidArgument, "hash", text))
    });
    checked.await.unwrap_or_else(|error| Err(refusal(Code::Failed, "system", error.to_string())))
}

/// What can be known of an object without the driver noticing: its form, and what it does in a process of its own.
async fn check(charge: &Charge, sealed: Sealed, trial: Option<OwnedFd>) -> Result<Sealed, Failure> {
    let user = charge.user().map_err(|why| refusal(Code::Failed, "user", why))?;
    let checked = tokio::task::spawn_blocking(move || {
        Image::check(sealed.bytes()).map_err(refused)?;
        canary::try_out(sealed.fd(), trial, user.as_ref())?;
        Ok(sealed)
    });
    checked.await.unwrap_or_else(|error| Err(refusal(Code::Failed, "system", error.to_string())))
}

/// Stores the new object, and the one that serves where it only lies in the root file system: without it there is no way back.
async fn keep(
    charge: &Charge,
    before: &Record,
    hash: &str,
    sealed: &Sealed,
) -> Result<(), Failure> {
    let (folder, factory) = (charge.folder.clone(), charge.settings.object.clone());
    let (old, hash) = (before.current.hash.clone(), hash.to_owned());
    let bytes = sealed.bytes().to_vec();
    let kept = blocking(move || {
        if record::object(&folder, &old).is_err() {
            let found = record::read_object(&factory)?;
            if record::hash_of(&found) != old {
                return Err(io::Error::other(format!(
                    "the object {old} of the version that serves is gone"
                )));
            }
            record::store(&folder, &old, &found)?;
        }
        record::store(&folder, &hash, &bytes)
    });
    kept.await.map_err(|error| storage(charge, &error))
}

fn runs_already(charge: &Charge, record: &Record) -> Report {
    let left = if record.probation { charge.settings.probation } else { std::time::Duration::ZERO };
    Report {
        name: charge.name.clone(),
        from: record.current.clone(),
        to: record.current.clone(),
        notes: vec!["it runs already".to_owned()],
        probation_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        ..Report::default()
    }
}

/// Back to the version before, by hand.
///
/// # Errors
/// Why the version that serves goes on to.
pub(super) async fn rollback(
    desk: &Desk,
    charge: &Charge,
    wanted: Rollback,
) -> Result<Report, Failure> {
    let _permit = charge.permit()?;
    let _turn = charge.turn.lock().await;
    let (record, _) = fresh(desk, charge).await?;
    let back = way_back(&charge.name, &record)?.clone();
    let reason = wanted.reason.clone().unwrap_or_else(|| "by hand".to_owned());
    let report = charge.host.rollback(&wanted, charge.settings.drain).await;
    charge.poke();
    let report = report.map_err(|error| told(charge, error))?;
    let settled = Settled {
        name: charge.name.clone(),
        outcome: Outcome::RolledBack,
        tried: record.current.clone(),
        serves: back.clone(),
        reason: Some(reason),
    };
    let from = record.current.clone();
    settle(desk, charge, rolled_back(&record, Some(&settled)))
        .await
        .map_err(|why| refusal(Code::Failed, "storage", why))?;
    Ok(Report { name: charge.name.clone(), from, to: back, ..report })
}

/// Starts the host, and defines it where that did not work before.
///
/// # Errors
/// What is in the way.
pub(super) async fn load(desk: &Desk, charge: &Charge) -> Result<Status, Failure> {
    let _permit = charge.permit()?;
    begin_with(desk, charge).await.map_err(|why| refusal(Code::Failed, "begin", why))?;
    desk.services.start(&charge.name).await.map_err(|error| told(charge, error))?;
    charge.poke();
    Ok(charge.status().await)
}

/// Stops the host; its handles are gone.
///
/// # Errors
/// Where it doesn't stop.
pub(super) async fn unload(desk: &Desk, charge: &Charge) -> Result<(), Failure> {
    let _permit = charge.permit()?;
    desk.services.stop(&charge.name).await.map_err(|error| told(charge, error))?;
    charge.set_cuse(None, None);
    let own = charge.own.clone();
    blocking(move || folders::empty(&own)).await.map_err(|error| storage(charge, &error))
}

/// Returns when no version is on probation.
///
/// # Errors
/// Where the manager looks after the driver no longer.
pub(super) async fn settled(charge: Arc<Charge>) -> Result<Settled, Failure> {
    let mut changes = charge.changes();
    loop {
        changes.mark_unchanged();
        match charge.record() {
            Some(record) if !record.probation => {
                let current = record.current.clone();
                let untried =
                    Settled { tried: current.clone(), serves: current, ..Settled::default() };
                return Ok(Settled { name: charge.name.clone(), ..record.last.unwrap_or(untried) });
            }
            _ => {}
        }
        if changes.changed().await.is_err() {
            return Err(Failure::new(Code::Gone, format!("{} is no driver any more", charge.name)));
        }
    }
}

/// A refusal of hotpatch, as it travels.
fn refused(Refusal { code, text }: Refusal) -> Failure {
    refusal(Code::InvalidArgument, code.name(), text)
}

fn storage(charge: &Charge, error: &io::Error) -> Failure {
    refusal(Code::Failed, "storage", format!("write in {}: {error}", charge.folder.display()))
}

/// What a host or the supervisor answered.
fn told(charge: &Charge, error: CallError) -> Failure {
    match error {
        CallError::Refused(failure) => failure,
        CallError::Unreachable { .. } => {
            refusal(Code::Gone, "host-away", format!("{}: {error}", charge.name))
        }
        CallError::Lost { .. } => refusal(
            Code::Failed,
            "host-ended",
            format!(
                "{}: its host ended while it took the version; it is started again with the one before",
                charge.name
            ),
        ),
        CallError::Timeout { .. } => {
            refusal(Code::Timeout, "host-slow", format!("{}: {error}", charge.name))
        }
        other => refusal(Code::Failed, "host", format!("{}: {other}", charge.name)),
    }
}
