//! `vestal push`: sends a bundle to a device, and waits for what becomes of it.

use std::{
    io::{self, BufReader},
    time::Duration,
};

use bundle::{
    Reader, hex,
    push::{Outcome, Sent},
    sha256,
};
use daemon::clock;
use endpoint::CallOptions;
use protocol::{
    time::Moment,
    upgrade::{DRY_RUN, Progress as Told, State, Status},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    cli::Push,
    device::Device,
    sending::{Order, send},
    show,
};
use crate::{
    error::{Error, Exit},
    files,
    output::{self, Output},
    progress::Progress,
};

/// How often a device is asked what became of it.
const LOOK: Duration = Duration::from_millis(500);
/// Milliseconds between two lines of JSON.
const TELL_MS: u128 = 1000;

pub(super) async fn run(out: Output, device: &Device, given: &Push) -> Result<(), Error> {
    let path = &given.bundle;
    let open = || {
        Reader::open(BufReader::new(files::open(path)?)).map_err(|error| Error::file(path, error))
    };
    let bundle = open()?;
    let id = hex::encode(&sha256(bundle.manifest_bytes())[..8]);
    let mut bar = Bar::new(out, bundle.manifest().size());
    let flags = if given.dry_run { DRY_RUN } else { 0 };
    let order = Order { flags, activate: given.no_activate.then_some(false) };
    let outcome = send(device, open, order, &mut |sent, told| bar.heard(sent, told)).await;
    let sent = bar.sent;
    let status: Status = match outcome? {
        Outcome::Current => {
            drop(bar);
            return say(out, "current", "the device runs all of it already\n");
        }
        Outcome::Acceptable => {
            drop(bar);
            return say(out, "acceptable", "the device would take it; nothing was written\n");
        }
        Outcome::Finished(answer) => serde_json::from_slice(&answer).map_err(|error| {
            Error::failed(format!("the answer of upgrade.finish is not understood: {error}"))
        })?,
    };
    let status = follow(device, &id, status, given, &mut bar).await?;
    drop(bar);
    if out.json {
        line(&json!({ "outcome": "finished", "sent": sent.sent, "status": status }))?;
    } else {
        let sizes = (output::size(sent.sent), output::size(sent.total));
        output::write(&format!(
            "{} were sent for images of {}\n{}",
            sizes.0,
            sizes.1,
            show::status(&status)
        ))?;
    }
    match status.state {
        State::RolledBack | State::Failed => {
            let reason = status.reason.as_deref().unwrap_or("vestal history says more");
            Err(Error::failed(format!("the upgrade is {}: {reason}", show::name(status.state))))
        }
        _ => Ok(()),
    }
}

fn say(out: Output, outcome: &str, text: &str) -> Result<(), Error> {
    if out.json { line(&json!({ "outcome": outcome })) } else { output::write(text) }
}

/// Until everything is verified and in use, or with `--wait` until it is known to be good or bad. The device may be away for a
/// while: it reboots.
async fn follow(
    device: &Device,
    id: &str,
    mut status: Status,
    given: &Push,
    bar: &mut Bar,
) -> Result<Status, Error> {
    let until = Instant::now() + given.timeout;
    let mut client = device.client()?;
    let mut before = State::Unknown;
    loop {
        if status.transaction.as_ref().is_some_and(|transaction| transaction.id != id) {
            let text = "another upgrade was begun meanwhile; vestal history says more";
            return Err(Error::failed(text));
        }
        let has_ended = match status.state {
            State::Confirmed | State::RolledBack | State::Failed | State::Idle => true,
            State::Receiving | State::Verifying => false,
            // What is to be activated is written first, for a moment.
            State::Written => given.no_activate || before == State::Written,
            _ => !given.wait,
        };
        if has_ended {
            return Ok(status);
        }
        if Instant::now() + LOOK > until {
            let state = show::name(status.state);
            let text = format!("the upgrade is still {state}; ask vestal status later");
            return Err(Error::new(Exit::TimedOut, text));
        }
        before = status.state;
        sleep(LOOK).await;
        let options = CallOptions { deadline: 10 * LOOK, ..CallOptions::safe() };
        match device.ask::<_, Status>(&client, "status", &json!({}), options).await {
            Ok(now) => {
                bar.verifies(now.progress.as_ref());
                status = now;
            }
            Err(_) => {
                device.is_welcome();
                client = device.client()?;
            }
        }
    }
}

/// How far it is, on a terminal or as lines of JSON.
struct Bar {
    json: bool,
    terminal: Progress,
    told: Option<Moment>,
    sent: Sent,
}

impl Bar {
    fn new(out: Output, total: u64) -> Self {
        let terminal = Progress::new("push", total);
        Self { json: out.json, terminal, told: None, sent: Sent::default() }
    }

    fn heard(&mut self, sent: Sent, told: Option<&Told>) {
        // What was cut counts too: it went over the wire.
        self.sent = Sent { sent: self.sent.sent.max(sent.sent), ..sent };
        self.tell(told.map_or(State::Receiving, |told| told.state), sent.settled, sent.total);
    }

    /// Everything was sent, and the device reads it back.
    fn verifies(&mut self, told: Option<&Told>) {
        if let Some(told) = told {
            self.tell(told.state, told.done, told.total);
        }
    }

    fn tell(&mut self, state: State, done: u64, total: u64) {
        if !self.json {
            return self.terminal.reach(done);
        }
        let now = clock::now();
        if self.told.is_some_and(|told| now.since(told).as_millis() < TELL_MS) {
            return;
        }
        self.told = Some(now);
        let sent = self.sent.sent;
        // A reader who left changes nothing about the work.
        let _ = line(&json!({ "state": state, "done": done, "total": total, "sent": sent }));
    }
}

/// One line of JSON.
fn line<T: Serialize>(value: &T) -> Result<(), Error> {
    let text = serde_json::to_string(value).map_err(io::Error::other);
    let text = text.map_err(|error| Error::failed(format!("write JSON: {error}")))?;
    output::write(&format!("{text}\n"))
}
