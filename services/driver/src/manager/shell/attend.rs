//! Looks after one driver: brings its record, its host and its device together when the manager starts and whenever the host is
//! another one, and writes down how a probation ended.

use std::{fs::OpenOptions, os::fd::OwnedFd, sync::Arc, time::Duration};

use protocol::driver::{self, Outcome, Settled, Status};

use super::{
    Desk,
    charge::{Charge, blocking},
    folders,
    services::{Definition, may_hurry},
};
use crate::{
    manager::machine::{Begin, Next, Seen, begin, compare},
    record::{self, Record, shown},
};

const CUSE: &str = "/dev/cuse";
/// The first pause after something could not be reached; it doubles.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// After so many pauses only an event leads to another attempt.
const TRIES: u32 = 60;

/// What was found.
enum Found {
    /// Its host can't be asked now.
    Away,
    /// A version is on probation.
    Probation,
    Settled,
}

/// Runs for as long as the driver is one.
pub(super) async fn attend(desk: Arc<Desk>, charge: Arc<Charge>) {
    let mut pause = Pause::default();
    while let Err(why) = begin_with(&desk, &charge).await {
        charge.say("begin", Some(why));
        pause.next(&charge).await;
    }
    charge.say("begin", None);
    pause = Pause::default();
    loop {
        let found = {
            let _turn = charge.turn.lock().await;
            look(&desk, &charge).await
        };
        match found {
            Found::Away => pause.next(&charge).await,
            Found::Settled => {
                pause = Pause::default();
                charge.poked().await;
            }
            Found::Probation => tokio::select! {
                settled = charge.host.settled() => match settled {
                    Ok(_) => pause = Pause::default(),
                    // It ended: the next one tells why.
                    Err(_) => pause.next(&charge).await,
                },
                () = charge.poked() => {}
            },
        }
    }
}

/// The pauses between attempts; an event ends one.
#[derive(Default)]
struct Pause {
    tries: u32,
}

impl Pause {
    async fn next(&mut self, charge: &Charge) {
        let pause = PAUSE.saturating_mul(1 << self.tries.min(16)).min(PAUSE_MAX);
        self.tries += 1;
        tokio::select! {
            () = tokio::time::sleep(pause), if self.tries <= TRIES => {}
            () = charge.poked() => self.tries = 0,
        }
    }
}

/// Reads the record, compares it with the factory object, and defines the host.
///
/// # Errors
/// What is in the way; it is tried again.
pub(super) async fn begin_with(desk: &Desk, charge: &Charge) -> Result<(), String> {
    let _turn = charge.turn.lock().await;
    let (folder, factory) = (charge.folder.clone(), charge.settings.object.clone());
    let begun = blocking(move || {
        record::make_folder(&folder)?;
        let installed =
            record::read_object(&factory).map(|bytes| record::hash_of(&bytes)).map_err(|error| {
                format!("the factory object {}: {error}; install it", factory.display())
            });
        let found = record::read(&folder);
        let installed = installed.as_deref().map_err(Clone::clone);
        Ok(begin(found, installed, |hash| record::object(&folder, hash).is_ok()))
    });
    let begun = begun.await.map_err(|error| format!("{}: {error}", charge.folder.display()))??;
    let user = charge.user()?;
    folders::make(&charge.own, user.as_ref())
        .map_err(|error| format!("make {}: {error}", charge.own.display()))?;
    let in_the_way = |error: &dyn std::fmt::Display| format!("define its host: {error}");
    match begun {
        Begin::Keep(record) => charge.set_record(record),
        Begin::Fresh(record, note) => {
            write(charge, record).await?;
            charge.say("record", note);
        }
        Begin::Renew(record, note) => {
            tracing::info!(driver = charge.name, "{note}");
            let hosts = desk.services.hosts().await.map_err(|error| in_the_way(&error))?;
            let runs = hosts.contains_key(&charge.name);
            if runs {
                desk.services.stop(&charge.name).await.map_err(|error| in_the_way(&error))?;
            }
            write(charge, record).await?;
            if runs {
                desk.services.start(&charge.name).await.map_err(|error| in_the_way(&error))?;
            }
        }
    }
    charge.sweep().await;
    let definition = Definition::new(
        &charge.name,
        &charge.settings,
        user.as_ref().map(|user| user.name.as_str()),
        may_hurry(),
    );
    desk.services.define(&charge.name, &definition).await.map_err(|error| in_the_way(&error))
}

async fn write(charge: &Charge, record: Record) -> Result<(), String> {
    let written = charge.write(record).await;
    written.map_err(|error| format!("write the record in {}: {error}", charge.folder.display()))
}

/// Asks the host how it stands and does what follows. Whoever calls has the turn.
async fn look(desk: &Desk, charge: &Charge) -> Found {
    let Some(record) = charge.record() else { return Found::Away };
    let Ok(status) = charge.host.status().await else { return Found::Away };
    if let Some(device) = &charge.settings.device {
        let note = hand_over(charge, &status).await.err();
        charge.say("cuse", note.map(|why| format!("there is no /dev/{device}: {why}")));
    }
    match brought_together(desk, charge, record, &status).await {
        Ok(true) => Found::Probation,
        Ok(false) => Found::Settled,
        Err(why) => {
            charge.say("settle", Some(why));
            Found::Away
        }
    }
}

/// Whether a version is on probation, after the record is right. Whoever calls has the turn.
///
/// # Errors
/// Where the record can't be written.
pub(super) async fn brought_together(
    desk: &Desk,
    charge: &Charge,
    record: Record,
    status: &Status,
) -> Result<bool, String> {
    let seen = Seen {
        serves: &status.version,
        on_probation: status.standing == driver::Standing::Probation,
        last: status.last.as_ref(),
    };
    let known = |hash: &str| {
        hash == record.factory
            || (record::is_hash(hash) && charge.folder.join(format!("{hash}.so")).exists())
    };
    let mut foreign = None;
    match compare(&record, seen, known) {
        Next::Agreed => {}
        Next::Wait => return Ok(true),
        Next::Settle(next) => settle(desk, charge, next).await?,
        Next::Adopt(next, note) => {
            tracing::warn!(driver = charge.name, "{note}; the record says so now");
            let probation = next.probation;
            write(charge, next).await?;
            return Ok(probation);
        }
        Next::Foreign(note) => foreign = Some(note),
    }
    charge.say("foreign", foreign);
    charge.say("settle", None);
    Ok(false)
}

/// Writes how a probation ended, and tells it.
pub(super) async fn settle(desk: &Desk, charge: &Charge, mut record: Record) -> Result<(), String> {
    if let Some(last) = &mut record.last {
        last.name.clone_from(&charge.name);
    }
    let settled = record.last.clone();
    write(charge, record).await?;
    charge.sweep().await;
    if let Some(settled) = settled {
        tell(desk, &settled);
    }
    Ok(())
}

fn tell(desk: &Desk, settled: &Settled) {
    let Settled { name, tried, serves, reason, .. } = settled;
    let (tried, serves) = (shown(tried), shown(serves));
    let rolled_back = settled.outcome == Outcome::RolledBack;
    if rolled_back {
        let reason = reason.as_deref().unwrap_or_default();
        tracing::warn!(driver = name, tried, serves, reason, "rolled back");
    } else {
        tracing::info!(driver = name, serves, "confirmed");
    }
    let topics = [Some(driver::SETTLED), rolled_back.then_some(driver::ROLLED_BACK)];
    for topic in topics.into_iter().flatten() {
        if let Err(why) = desk.bus.publish(topic, settled, false) {
            tracing::warn!(driver = name, topic, "tell it: {why}");
        }
    }
}

/// Sees that manager and host both have the descriptor of the device, so that it outlives either of them.
///
/// # Errors
/// Why there is none.
async fn hand_over(charge: &Charge, status: &Status) -> Result<(), String> {
    if charge.has_cuse(status.pid) {
        return Ok(());
    }
    let failed = |error: endpoint::CallError| format!("hand {CUSE} to its host: {error}");
    let device = match charge.cuse() {
        Some(device) => device,
        // A manager before this one may have opened it.
        None => match charge.host.cuse(None).await.map_err(failed)? {
            Some(device) => {
                charge.set_cuse(Some(Arc::new(device)), status.pid);
                return Ok(());
            }
            None => Arc::new(open_cuse().await?),
        },
    };
    charge.host.cuse(Some(&device)).await.map_err(failed)?;
    charge.set_cuse(Some(device), status.pid);
    Ok(())
}

async fn open_cuse() -> Result<OwnedFd, String> {
    let opened = blocking(|| OpenOptions::new().read(true).write(true).open(CUSE)).await;
    opened.map(OwnedFd::from).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("this kernel has no {CUSE}; load it: modprobe cuse")
        }
        std::io::ErrorKind::PermissionDenied => format!("{CUSE} is for root only"),
        _ => format!("open {CUSE}: {error}"),
    })
}
