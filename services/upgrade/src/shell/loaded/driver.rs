//! The code of drivers: their manager is given a sealed copy of what lies in a slot, and told to go back. It keeps a copy and a
//! record of its own, and goes back by itself where a version is no good, or where its host ended while it was on probation.

use std::{os::fd::AsFd as _, time::Duration};

use daemon::clock;
use endpoint::{Bus, CallError, CallOptions, Code};
use protocol::driver::{Named, Outcome, Report, Rollback, Settled, Standing, Status, Upgrade};

use super::{Trouble, image::Image};
use crate::engine::contract::{Fact, Use};

const LIST: Duration = Duration::from_secs(10);
/// How long the manager may take to try a version in a canary, and to exchange it.
const EXCHANGE: Duration = Duration::from_secs(60);
/// How long a look at a driver on probation may take: less than that, and it is on probation still.
const SETTLED: Duration = Duration::from_secs(2);
/// How long the manager may be away.
const AWAY: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// Why the code of a driver is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose<'r> {
    /// A new version is tried.
    Try,
    /// It is taken back, for a reason.
    Back(&'r str),
    /// This program has started: what serves should be what lies in the slot.
    Start,
}

/// What is to be done about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Nothing,
    /// Hand over what lies in the slot.
    Upgrade,
    /// The manager has the version itself.
    Rollback,
    /// It stays as it is, and that is worth saying.
    Leave(String),
}

/// Decides what is to be done, from what serves and what lies in the slots.
pub(crate) fn next(status: &Status, using: &Use, purpose: Purpose<'_>) -> Step {
    let served = &status.version.hash;
    let Some(wanted) = &using.fact else {
        // What the factory brought is the manager's own.
        let ours = using.other.as_ref().is_some_and(|other| other.hash == *served);
        let back = purpose != Purpose::Try && ours && status.previous.is_some();
        return if back { Step::Rollback } else { Step::Nothing };
    };
    if wanted.hash == *served {
        return Step::Nothing;
    }
    if purpose == Purpose::Try {
        return Step::Upgrade;
    }
    let failed =
        |last: &&Settled| last.outcome == Outcome::RolledBack && last.tried.hash == wanted.hash;
    if purpose == Purpose::Start
        && !using.first
        && let Some(last) = status.last.as_ref().filter(failed)
    {
        let why = last.reason.as_deref().unwrap_or("its manager did not say why");
        return Step::Leave(format!(
            "version {} serves, and not {} of its slot, which was tried: {why}",
            status.version.version, wanted.version
        ));
    }
    match &status.previous {
        // It is not on probation again, and no rollback floor is in its way.
        Some(previous) if previous.hash == wanted.hash => Step::Rollback,
        _ => Step::Upgrade,
    }
}

/// The manager of drivers.
pub(crate) struct Manager {
    bus: Bus,
}

impl Manager {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Lets a driver serve what lies in a slot. Returns what the history should say.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) async fn bring<F: Future<Output = Result<Image, String>>>(
        &self,
        driver: &str,
        using: &Use,
        purpose: Purpose<'_>,
        image: impl Fn() -> F,
    ) -> Result<Vec<String>, String> {
        let begun = clock::now();
        loop {
            let done = match self.status(driver).await {
                Ok(status) => match next(&status, using, purpose) {
                    Step::Nothing => return Ok(Vec::new()),
                    Step::Leave(why) => return Err(why),
                    Step::Rollback => self.rollback(driver, purpose).await,
                    // Here, so that what is never handed over is not read.
                    Step::Upgrade => self.upgrade(driver, &image().await?, using.permitted).await,
                },
                Err(error) => Err(error),
            };
            match done {
                Ok(report) => return told(using, &report),
                Err(error) if is_final(&error, purpose) || clock::now().since(begun) >= AWAY => {
                    return Err(format!("the driver {driver}: {error}"));
                }
                // Whether it was done is seen from what serves then.
                Err(error) => tracing::warn!("the driver {driver}: {error}; it is tried again"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether a driver serves this version, and its probation is over.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn settled(&self, driver: &str, fact: &Fact) -> Result<(), Trouble> {
        let options = CallOptions { deadline: SETTLED, ..CallOptions::safe() };
        let named = Named { name: driver.to_owned() };
        let answer = self.bus.call("driver", "settled", &named, options).await;
        let answer = answer.map_err(|error| {
            let late = match &error {
                CallError::Refused(failure) => failure.code == Code::Timeout,
                error => matches!(error, CallError::Timeout { .. }),
            };
            Trouble::Yet(match late {
                true => format!("the driver {driver} is still on probation"),
                false => format!("the driver {driver}: {error}"),
            })
        })?;
        let settled: Settled = answer.parse().map_err(|error| not_understood(driver, &error))?;
        let tried = settled.tried.hash == fact.hash;
        if settled.outcome == Outcome::RolledBack && tried {
            let why = settled.reason.as_deref().unwrap_or("its manager did not say why");
            return Err(Trouble::Final(format!("the driver {driver} went back: {why}")));
        }
        if settled.serves.hash != fact.hash {
            return Err(Trouble::Final(format!(
                "the driver {driver} serves version {}, and not {}",
                settled.serves.version, fact.version
            )));
        }
        match settled.outcome {
            Outcome::Unknown => {
                Err(Trouble::Yet(format!("the driver {driver}: its manager knows other words")))
            }
            Outcome::Confirmed | Outcome::RolledBack => Ok(()),
        }
    }

    async fn status(&self, driver: &str) -> Result<Status, CallError> {
        let options = CallOptions { deadline: LIST, ..CallOptions::safe() };
        let answer = self.bus.call("driver", "list", &(), options).await?;
        let rows: Vec<Status> = parsed(&answer)?;
        let found = rows.into_iter().find(|row| row.name == driver);
        let text = || format!("the drivers' manager knows no {driver:?}: name it in driver.toml");
        let status = found.ok_or_else(|| endpoint::Failure::new(Code::NotFound, text()))?;
        match status.standing {
            // It says soon what serves.
            Standing::Starting => {
                Err(endpoint::Failure::new(Code::Busy, format!("{driver} starts")).into())
            }
            _ => Ok(status),
        }
    }

    async fn upgrade(
        &self,
        driver: &str,
        image: &Image,
        permitted: bool,
    ) -> Result<Report, CallError> {
        let fact = &image.fact;
        let upgrade = Upgrade {
            name: driver.to_owned(),
            hash: fact.hash.clone(),
            version: fact.version.clone(),
            rollback_index: fact.rollback_index,
            mode: None,
            dev: false,
            permitted,
        };
        let fds = [image.sealed.as_fd()];
        let options = CallOptions { deadline: EXCHANGE, fds: &fds, ..CallOptions::default() };
        parsed(&self.bus.call("driver", "upgrade", &upgrade, options).await?)
    }

    async fn rollback(&self, driver: &str, purpose: Purpose<'_>) -> Result<Report, CallError> {
        let reason = match purpose {
            Purpose::Back(reason) => reason,
            _ => "its slot was given up",
        };
        let rollback = Rollback { name: driver.to_owned(), reason: Some(reason.to_owned()) };
        let options = CallOptions { deadline: EXCHANGE, ..CallOptions::default() };
        parsed(&self.bus.call("driver", "rollback", &rollback, options).await?)
    }
}

fn parsed<T: serde::de::DeserializeOwned>(answer: &endpoint::Received) -> Result<T, CallError> {
    let parsed = answer.parse();
    let text = |error| format!("what the drivers' manager says makes no sense: {error}");
    parsed.map_err(|error| endpoint::Failure::new(Code::Failed, text(error)).into())
}

fn not_understood(driver: &str, error: &serde_json::Error) -> Trouble {
    Trouble::Yet(format!("what the manager says of the driver {driver} makes no sense: {error}"))
}

/// It would be answered the same once more.
fn is_final(error: &CallError, purpose: Purpose<'_>) -> bool {
    match error {
        CallError::Refused(failure) => match failure.code {
            Code::Busy | Code::Gone | Code::Timeout => false,
            // While a device starts its manager may not be there yet.
            Code::NotFound => purpose != Purpose::Start,
            _ => true,
        },
        CallError::Violation { .. } | CallError::Invalid { .. } => true,
        CallError::Unreachable { .. } | CallError::Timeout { .. } | CallError::Lost { .. } => false,
    }
}

/// What the history should say of an exchange, if it is the one that was asked for.
fn told(using: &Use, report: &Report) -> Result<Vec<String>, String> {
    let name = &report.name;
    if let Some(wanted) = using.fact.as_ref().filter(|wanted| wanted.hash != report.to.hash) {
        return Err(format!(
            "the driver {name} serves {} after the exchange, and not {}",
            report.to.version, wanted.version
        ));
    }
    if report.from.hash == report.to.hash {
        return Ok(Vec::new());
    }
    let mut remarks = vec![format!("{name} stood still for {} us", report.pause_us)];
    remarks.extend(report.notes.iter().cloned());
    Ok(remarks)
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
