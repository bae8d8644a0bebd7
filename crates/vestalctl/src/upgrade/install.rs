//! `vestalctl upgrade install`: sends a bundle to the agent of this device, and waits for what becomes of it.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, BufReader, Seek as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::Path,
    time::Duration,
};

use bundle::{Reader, hex, push::Outcome, sha256};
use daemon::files::open_plain;
use protocol::upgrade::{self, ALLOW_UNSIGNED, DRY_RUN, State, Status};
use rustix::fs::OFlags;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    approval::Approval,
    ask,
    bar::{Bar, json_line},
    file_error,
    sending::{Order, send},
    show,
};
use crate::{
    bus::{Bus, How},
    cli::{Common, Install},
    error::{Error, Exit},
    output::Output,
};

/// How often it is asked what became of it: soon at first, then ever more seldom.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(500);

pub(crate) async fn run(
    bus: &Bus,
    common: &Common,
    out: Output,
    given: &Install,
) -> Result<(), Error> {
    let file = if given.bundle == Path::new("-") {
        standard_input()?
    } else {
        open_plain(&given.bundle).map_err(|error| file_error(&given.bundle, &error))?
    };
    let read = || {
        let input = file.try_clone().map_err(|error| file_error(&given.bundle, &error))?;
        Reader::open(BufReader::new(At { file: input, at: 0 }))
            .map_err(|error| Error::failed(format!("{}: {error}", given.bundle.display())))
    };
    let bundle = read()?;
    let id = hex::encode(&sha256(bundle.manifest_bytes())[..8]);
    let approval = match given.allow_unsigned {
        true => Some(unsigned(bus, common, &bundle)?),
        false => None,
    };
    drop(bundle);
    // Each beginning uses an approval up.
    let open = async || {
        if let Some(approval) = &approval {
            approval.give().await?;
        }
        read()
    };
    let mut flags = 0;
    flags |= if given.allow_unsigned { ALLOW_UNSIGNED } else { 0 };
    flags |= if given.dry_run { DRY_RUN } else { 0 };
    let order = Order { flags, activate: given.no_activate.then_some(false) };
    let client = bus.client_of("upgrade");
    let mut bar = Bar::new(out);
    let outcome = send(&client, open, order, &mut |sent, progress| bar.heard(sent, progress)).await;
    drop(approval);
    let status: Status = match outcome? {
        Outcome::Current => {
            drop(bar);
            return say(out, "current", "all of it runs already: nothing to do\n");
        }
        Outcome::Acceptable => {
            drop(bar);
            return say(out, "acceptable", "the device would take it; nothing was written\n");
        }
        Outcome::Finished(answer) => serde_json::from_slice(&answer).map_err(|error| {
            Error::failed(format!("the answer of upgrade.finish is not understood: {error}"))
        })?,
    };
    let status = follow(bus, &id, status, given, &mut bar).await?;
    drop(bar);
    if out.json {
        json_line(&json!({ "outcome": "finished", "status": status }))?;
    } else {
        Output::text(&show::status(&status))?;
    }
    verdict(&status)
}

/// Root's word for a bundle whoever signed it: for what `begin` sends of it.
fn unsigned<'b, R: io::Read + io::Seek>(
    bus: &'b Bus,
    common: &Common,
    bundle: &Reader<R>,
) -> Result<Approval<'b>, Error> {
    let header = bundle.header().encode();
    let offer = [&header[..], bundle.signatures(), bundle.manifest_bytes()].concat();
    Approval::of(bus, common, upgrade::Approval::Unsigned, &offer)
}

fn say(out: Output, outcome: &str, text: &str) -> Result<(), Error> {
    if out.json { json_line(&json!({ "outcome": outcome })) } else { Output::text(text) }
}

/// Whether it ended well, as far as it has ended.
fn verdict(status: &Status) -> Result<(), Error> {
    match status.state {
        State::RolledBack | State::Failed => {
            let reason = status.reason.as_deref().unwrap_or("see vestalctl upgrade history");
            Err(Error::failed(format!("the upgrade is {}: {reason}", show::name(status.state))))
        }
        _ => Ok(()),
    }
}

/// Until everything is verified and in use, or with `--wait` until it is known to be good or bad.
async fn follow(
    bus: &Bus,
    id: &str,
    mut status: Status,
    given: &Install,
    bar: &mut Bar,
) -> Result<Status, Error> {
    let until = Instant::now() + given.timeout;
    let mut before = State::Unknown;
    let mut look = LOOK_MIN;
    loop {
        if status.transaction.as_ref().is_some_and(|transaction| transaction.id != id) {
            let text = "another upgrade was begun meanwhile; see vestalctl upgrade history";
            return Err(Error::failed(text));
        }
        let has_ended = match status.state {
            State::Confirmed | State::RolledBack | State::Failed | State::Idle => true,
            State::Receiving | State::Verifying => false,
            // What is to be activated is written first, for a moment.
            State::Written => given.no_activate || (before == State::Written && look == LOOK_MAX),
            _ => !given.wait,
        };
        if has_ended {
            return Ok(status);
        }
        if Instant::now() + look > until {
            let state = show::name(status.state);
            let text = format!("the upgrade is still {state}; ask vestalctl upgrade status later");
            return Err(Error::new(Exit::TimedOut, text));
        }
        before = status.state;
        sleep(look).await;
        look = (look * 2).min(LOOK_MAX);
        match ask::<_, Status>(bus, "status", &json!({}), How::READ).await {
            Ok(now) => {
                bar.verifies(now.progress.as_ref());
                status = now;
            }
            // The agent may be restarted by the upgrade itself.
            Err(error) if error.exit == Exit::Unreachable => {}
            Err(error) => return Err(error),
        }
    }
}

/// What is on standard input, as a file: itself where it is one, else a copy without a name.
fn standard_input() -> Result<File, Error> {
    let failed = |error: io::Error| Error::failed(format!("read standard input: {error}"));
    let input = io::stdin();
    let input = File::from(input.as_fd().try_clone_to_owned().map_err(failed)?);
    if input.metadata().map_err(failed)?.is_file() {
        return Ok(input);
    }
    let folder = env::temp_dir();
    let copied = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::TMPFILE.bits().cast_signed())
        .open(&folder)
        .and_then(|mut copy| {
            io::copy(&mut &input, &mut copy)?;
            copy.rewind()?;
            Ok(copy)
        });
    copied.map_err(|error| {
        let folder = folder.display();
        Error::failed(format!(
            "copy standard input to {folder}: {error}; set TMPDIR to a folder with room for the whole bundle"
        ))
    })
}

/// A file read from a place of its own, so that one that is shared is not moved.
struct At {
    file: File,
    at: u64,
}

impl io::Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl io::Seek for At {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let base = match to {
            io::SeekFrom::Start(at) => {
                self.at = at;
                return Ok(at);
            }
            io::SeekFrom::End(by) => (self.file.metadata()?.len(), by),
            io::SeekFrom::Current(by) => (self.at, by),
        };
        let moved = base.0.checked_add_signed(base.1);
        self.at = moved.ok_or_else(|| io::Error::other("a place before the file's beginning"))?;
        Ok(self.at)
    }
}
