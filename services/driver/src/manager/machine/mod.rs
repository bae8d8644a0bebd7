//! What the manager decides: whether a version may be tried, what the record says next, and what to do where the record and the
//! host say different things. Pure: it reads no file and asks nobody.
//!
//! An upgrade writes in this order, and may be cut off after each step:
//!
//! | cut off after               | record             | host                | the next manager                        |
//! |-----------------------------|--------------------|---------------------|-----------------------------------------|
//! | the object is stored        | old                | old                 | removes the object                      |
//! | the record is written       | new, on probation  | old                 | puts the record back                    |
//! | the host refused            | new, on probation  | old                 | puts the record back                    |
//! | the host took it            | new, on probation  | new, on probation   | waits until it is settled               |
//! | it was confirmed            | new, on probation  | new                 | writes that it is confirmed             |
//! | it was rolled back          | new, on probation  | old, says why       | puts the record back, with the reason   |
//! | the host died on probation  | new, on probation  | old, says why       | puts the record back, with the reason   |
//! | the host died when confirmed, before that was written | new, on probation | old | puts the record back: whoever is in doubt goes back |
//! | a rollback by hand          | new                | old                 | takes the host's version into the record |
//!
//! A host changes its code only when it is told to or goes back by itself; so where the record is not on probation and the host
//! serves another version that is known here, the host is right.

pub(crate) mod privilege;
#[cfg(test)]
mod tests;

use protocol::{
    driver::{Outcome, Settled, Upgrade, Version},
    failure::{Code, Failure},
};

use crate::record::{Record, factory, is_hash, shown};

/// A version's text is printed and compared by people.
const VERSION_MAX: usize = 128;

/// What an upgrade that may be done leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Offer {
    /// This very object serves, or is on probation: nothing has to be done.
    Runs,
    /// The record to write before the host is asked.
    Try(Box<Record>),
}

/// May this version be tried? `dev`: the driver's settings allow objects without a bundle.
///
/// # Errors
/// Why not, with the reason for programs in `details.reason`.
pub(crate) fn offer(record: &Record, upgrade: &Upgrade, dev: bool) -> Result<Offer, Failure> {
    let Upgrade { name, hash, version, rollback_index, .. } = upgrade;
    check(upgrade)?;
    if upgrade.dev && !dev {
        let text = format!(
            "{name} takes signed bundles only; write dev = true under [drivers.{name}] in driver.toml to allow an object without one"
        );
        return Err(refusal(Code::Denied, "dev", text));
    }
    if record.current.hash == *hash {
        return Ok(Offer::Runs);
    }
    if record.probation {
        let text = format!(
            "{name}: version {} is on probation; wait for `driver settled`, or roll it back",
            shown(&record.current)
        );
        return Err(refusal(Code::Busy, "probation", text));
    }
    // The way back stays open, whatever was confirmed since.
    let is_way_back = record.previous.as_ref().is_some_and(|previous| previous.hash == *hash);
    let goes_below = upgrade.dev || upgrade.permitted || is_way_back;
    if !goes_below && *rollback_index < record.floor {
        let text = format!(
            "{name}: version {version} has the rollback index {rollback_index}, and a version with {} was confirmed already; \
             build it with an index of at least that, or install it with a permission to go back",
            record.floor
        );
        return Err(refusal(Code::Denied, "rollback-index", text));
    }
    Ok(Offer::Try(Box::new(Record {
        current: Version {
            version: version.clone(),
            hash: hash.clone(),
            rollback_index: *rollback_index,
        },
        previous: Some(record.current.clone()),
        probation: true,
        lowers: upgrade.permitted,
        ..record.clone()
    })))
}

fn check(upgrade: &Upgrade) -> Result<(), Failure> {
    let wrong = |text| Err(Failure::new(Code::InvalidArgument, text));
    if !is_hash(&upgrade.hash) {
        return wrong(format!(
            "hash: {:.80?} is not a SHA-256 in 64 lower-case hexadecimal digits",
            upgrade.hash
        ));
    }
    let printable = upgrade.version.chars().all(|letter| !letter.is_control());
    if upgrade.version.is_empty() || upgrade.version.len() > VERSION_MAX || !printable {
        return wrong(format!(
            "version: {:.80?} is not one; write 1 to {VERSION_MAX} printable characters",
            upgrade.version
        ));
    }
    Ok(())
}

/// May the version before serve again, by hand? Which one that is.
///
/// # Errors
/// Where there is none.
pub(crate) fn way_back<'r>(name: &str, record: &'r Record) -> Result<&'r Version, Failure> {
    record.previous.as_ref().ok_or_else(|| {
        let text = format!(
            "{name}: no version is kept before {}; upgrade to the one that should serve",
            shown(&record.current)
        );
        refusal(Code::NotFound, "no-previous", text)
    })
}

/// What a host says of itself, as far as it counts here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'s> {
    pub(crate) serves: &'s Version,
    pub(crate) on_probation: bool,
    /// How the last version ended that this host tried, or that it found on probation when it started.
    pub(crate) last: Option<&'s Settled>,
}

/// What follows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    Agreed,
    /// The version has to prove itself: `settled` of the host will tell.
    Wait,
    /// The probation is over: to be written, and told to whoever waits.
    Settle(Record),
    /// The host is right: to be written, with a note.
    Adopt(Record, String),
    /// The host serves something that nobody here knows.
    Foreign(String),
}

/// Brings the record and a host that serves together. `known`: whether the object of this hash is at hand.
pub(crate) fn compare(record: &Record, seen: Seen<'_>, known: impl Fn(&str) -> bool) -> Next {
    let serves_current = seen.serves.hash == record.current.hash;
    match &record.previous {
        _ if serves_current && seen.on_probation => Next::Wait,
        _ if serves_current && record.probation => Next::Settle(confirmed(record)),
        _ if serves_current => Next::Agreed,
        Some(previous)
            if record.probation && seen.serves.hash == previous.hash && !seen.on_probation =>
        {
            Next::Settle(rolled_back(record, seen.last))
        }
        _ if known(&seen.serves.hash) => {
            let record = adopted(record, seen);
            let note =
                format!("its host serves {}, which the record did not say", shown(seen.serves));
            Next::Adopt(record, note)
        }
        _ => Next::Foreign(format!(
            "its host serves {}, whose object is not kept here; its next start loads {}",
            shown(seen.serves),
            shown(&record.current)
        )),
    }
}

/// Whether a host that answered an upgrade with an error has certainly not taken the version that this record tries: then the
/// record before it is right. Else how it ended has to be written down.
pub(crate) fn never_taken(record: &Record, seen: Seen<'_>) -> bool {
    let is_before =
        record.previous.as_ref().is_some_and(|previous| previous.hash == seen.serves.hash);
    let was_tried = seen.last.is_some_and(|last| last.tried.hash == record.current.hash);
    is_before && !seen.on_probation && !was_tried
}

fn confirmed(record: &Record) -> Record {
    let current = record.current.clone();
    let settled = Settled {
        name: String::new(),
        outcome: Outcome::Confirmed,
        tried: current.clone(),
        serves: current,
        reason: None,
    };
    let index = record.current.rollback_index;
    let floor = if record.lowers { index } else { record.floor.max(index) };
    Record { probation: false, lowers: false, floor, last: Some(settled), ..record.clone() }
}

/// The record before, as far as it is known: what was before that was given up when this upgrade began.
pub(crate) fn rolled_back(record: &Record, last: Option<&Settled>) -> Record {
    let Some(previous) = record.previous.clone() else { return record.clone() };
    let told = last.filter(|last| {
        last.outcome == Outcome::RolledBack && last.tried.hash == record.current.hash
    });
    let otherwise = || "the upgrade ended before its host had taken the version".to_owned();
    let settled = Settled {
        name: String::new(),
        outcome: Outcome::RolledBack,
        tried: record.current.clone(),
        serves: previous.clone(),
        reason: Some(told.and_then(|told| told.reason.clone()).unwrap_or_else(otherwise)),
    };
    Record {
        current: previous,
        previous: None,
        probation: false,
        lowers: false,
        last: Some(settled),
        ..record.clone()
    }
}

fn adopted(record: &Record, seen: Seen<'_>) -> Record {
    let known = record.versions().find(|version| version.hash == seen.serves.hash);
    let current = known.unwrap_or(seen.serves).clone();
    let trusted =
        if record.probation { record.previous.clone() } else { Some(record.current.clone()) };
    // After a way back nothing leads forward again by itself.
    let previous = trusted.filter(|trusted| seen.on_probation && trusted.hash != current.hash);
    let probation = previous.is_some();
    Record { current, previous, probation, lowers: false, ..record.clone() }
}

/// What a manager makes of a driver when it starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Begin {
    /// The record holds.
    Keep(Record),
    /// To be written: there was none that could be used.
    Fresh(Record, Option<String>),
    /// Another factory object is installed. Its host, if one runs, has to stop before this is written.
    Renew(Record, String),
}

/// Compares what is on disk with what is installed. `found` is the record; `installed` the hash of the factory object; `kept` says
/// whether the object of a hash lies beside the record.
///
/// The root file system with the factory object has an anti-rollback counter of its own, and the object has no index. So a new
/// factory object serves whatever the floor is, and the floor goes on to hold for versions that come in bundles.
///
/// # Errors
/// Where there is neither a record nor a factory object.
pub(crate) fn begin(
    found: Result<Option<Record>, String>,
    installed: Result<&str, String>,
    kept: impl Fn(&str) -> bool,
) -> Result<Begin, String> {
    let (record, why) = match found {
        Ok(record) => (record, None),
        Err(why) => (None, Some(why)),
    };
    match (record, installed) {
        (None, Err(error)) => Err(error),
        (None, Ok(hash)) => {
            let note = why.map(|why| {
                format!("{why}; the factory version serves, and which rollback index was confirmed is forgotten")
            });
            Ok(Begin::Fresh(Record::of_factory(hash), note))
        }
        (Some(record), Ok(hash)) if record.factory != hash => {
            let note = format!(
                "another factory object is installed; it serves instead of {}",
                shown(&record.current)
            );
            Ok(Begin::Renew(renewed(record, hash, kept), note))
        }
        (Some(record), _) => Ok(Begin::Keep(record)),
    }
}

fn renewed(record: Record, hash: &str, kept: impl Fn(&str) -> bool) -> Record {
    let serves = factory(hash);
    let mut renewed = Record { factory: hash.to_owned(), ..record };
    let before = if renewed.probation {
        renewed.last = Some(Settled {
            name: String::new(),
            outcome: Outcome::RolledBack,
            tried: renewed.current.clone(),
            serves: serves.clone(),
            reason: Some("another factory object was installed meanwhile".to_owned()),
        });
        renewed.previous.take()
    } else {
        Some(renewed.current.clone())
    };
    renewed.previous = before.filter(|before| before.hash != serves.hash && kept(&before.hash));
    renewed.current = serves;
    renewed.probation = false;
    renewed.lowers = false;
    renewed
}

/// A refusal with its reason for programs.
pub(crate) fn refusal(code: Code, reason: &str, text: impl Into<String>) -> Failure {
    Failure::new(code, text).with_details(serde_json::json!({ "reason": reason }))
}
