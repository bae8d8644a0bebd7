//! Whether a target works, which is more than that it is there. Looks only while somebody waits for the answer, and answers
//! within its limit.

use std::{path::Path, time::Duration};

use daemon::files::read_text;
use endpoint::{Bus, CallOptions};
use protocol::heartbeat::Row;
use tokio::{sync::mpsc, time::timeout};

use super::programs::{Program, command};
use crate::{
    machine::Outcome,
    settings::{Identity, Probe, ProbeBy},
};

/// Between two looks at a number.
const LOOK: Duration = Duration::from_millis(50);
/// The same, where looking is a call.
const ASK: Duration = Duration::from_millis(200);
/// A number that was written once more may be the last breath.
const RISES: u32 = 2;
const NUMBER_MAX: u64 = 4096;

pub(super) async fn probe(
    probe: Probe,
    identity: Option<Identity>,
    bus: Bus,
) -> Result<Outcome, String> {
    let Probe { by, within } = probe;
    let late = || format!("nothing of it within {} ms", within.as_millis());
    match by {
        ProbeBy::Command(words) => {
            let program = Program::start(command(&words), identity.as_ref(), None)?;
            let (_never, mut stops) = mpsc::channel(1);
            match timeout(within, program.finish(&mut stops)).await {
                Ok(Ok(0)) => Ok(Outcome::Done),
                Ok(Ok(status)) => Err(format!("its probe ended with {status}")),
                Ok(Err(why)) => Err(why),
                Err(_) => Err(format!("its probe took longer than {} ms", within.as_millis())),
            }
        }
        ProbeBy::File(path) => {
            let at = path.clone();
            let rises = rises(LOOK, RISES, move || std::future::ready(number(&at)));
            match timeout(within, rises).await {
                Ok(()) => Ok(Outcome::Done),
                Err(_) => Err(format!("{}: {}: its number does not rise", path.display(), late())),
            }
        }
        ProbeBy::Heartbeat(app) => {
            let rises = rises(ASK, 1, move || reports(bus.clone(), app));
            match timeout(within, rises).await {
                Ok(()) => Ok(Outcome::Done),
                Err(_) => Err(format!(
                    "no heartbeat of application {app} within {} ms",
                    within.as_millis()
                )),
            }
        }
    }
}

/// Returns when the number was seen to rise so often; never, where there is none.
async fn rises<F: Future<Output = Option<u64>> + Send>(
    every: Duration,
    often: u32,
    look: impl Fn() -> F,
) {
    let mut last = look().await;
    let mut left = often;
    while left > 0 {
        tokio::time::sleep(every).await;
        let now = look().await;
        match (last, now) {
            (Some(before), Some(now)) if now > before => left -= 1,
            // It began anew.
            (Some(before), Some(now)) if now < before => left = often,
            _ => {}
        }
        last = now.or(last);
    }
}

fn number(path: &Path) -> Option<u64> {
    let text = read_text(path, NUMBER_MAX).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

async fn reports(bus: Bus, app: i32) -> Option<u64> {
    let list = bus.call("heartbeat", "list", &(), CallOptions::safe()).await.ok()?;
    let rows: Vec<Row> = list.parse().ok()?;
    rows.into_iter().find(|row| row.app_id == app).map(|row| row.reports)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_number_that_stands_still_or_is_not_there_never_rises() {
        let still = timeout(SHORT * 30, rises(SHORT, 2, || std::future::ready(Some(7))));
        assert!(still.await.is_err());
        let none = timeout(SHORT * 30, rises(SHORT, 2, || std::future::ready(None)));
        assert!(none.await.is_err());
    }

    #[tokio::test]
    async fn a_number_has_to_rise_twice_since_it_last_began() {
        let (looks, numbers) = (Cell::new(0), [1, 2, 0, 1, 1, 2, 9]);
        let look = || {
            looks.set(looks.get() + 1);
            std::future::ready(Some(numbers[looks.get() - 1]))
        };
        rises(SHORT, 2, look).await;
        assert_eq!(looks.get(), 6);
    }
}
