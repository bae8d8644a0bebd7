//! `vestalctl upgrade ...`: from the command line to calls of the object `upgrade`, and its answers for people.

mod approval;
mod bar;
mod install;
mod sending;
mod show;

use std::{io::Read as _, path::Path, time::Duration};

use bundle::{MANIFEST_MAX, PERMISSION_MAX, SIGNATURE, SIGNATURES_MAX};
use daemon::files::open_plain;
use endpoint::{CallError, CallOptions};
use protocol::upgrade::{self, Entry, Identity, Rollback, Slot, Status};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use self::approval::Approval;
pub(crate) use self::install::run as install;
use crate::{
    bus::{Bus, How},
    cli::{Common, KeyringCommand, UpgradeCommand},
    error::{Error, Exit},
    output::Output,
};

/// Stopping services, switching and starting them takes its time.
const SWITCH: How = How { within: Duration::from_secs(300), safe: false };

pub(crate) async fn run(
    bus: &Bus,
    common: &Common,
    out: Output,
    command: UpgradeCommand,
) -> Result<(), Error> {
    let nothing = json!({});
    match command {
        UpgradeCommand::Install(given) => install::run(bus, common, out, &given).await,
        UpgradeCommand::Status => status(out, &ask(bus, "status", &nothing, How::READ).await?),
        UpgradeCommand::Confirm => status(out, &ask(bus, "confirm", &nothing, SWITCH).await?),
        UpgradeCommand::Rollback { component } => {
            status(out, &ask(bus, "rollback", &Rollback { component }, SWITCH).await?)
        }
        UpgradeCommand::Slots => {
            let slots: Vec<Slot> = ask(bus, "slots", &nothing, How::READ).await?;
            if out.json { Output::json(&slots) } else { out.table(&show::slots(&slots)) }
        }
        UpgradeCommand::History => {
            let history: Vec<Entry> = ask(bus, "history", &nothing, How::READ).await?;
            if out.json { Output::json(&history) } else { out.table(&show::history(&history)) }
        }
        UpgradeCommand::Identity => {
            let identity: Identity = ask(bus, "identity", &nothing, How::READ).await?;
            if out.json {
                Output::json(&identity)
            } else {
                Output::text(&show::identity(&identity))
            }
        }
        UpgradeCommand::Abort => out.answer(&ask(bus, "abort", &nothing, How::ONCE).await?),
        UpgradeCommand::Keyring(KeyringCommand::Install { file }) => {
            keyring(bus, common, out, &file).await
        }
        UpgradeCommand::Permit { file } => permit(bus, out, &file).await,
    }
}

fn status(out: Output, status: &Status) -> Result<(), Error> {
    if out.json { Output::json(status) } else { Output::text(&show::status(status)) }
}

async fn ask<A: Serialize, T: DeserializeOwned>(
    bus: &Bus,
    method: &str,
    args: &A,
    how: How,
) -> Result<T, Error> {
    bus.ask("upgrade", method, args, how).await.map_err(error)
}

/// With the reason code that a refused bundle or driver comes with.
pub(crate) fn error(error: CallError) -> Error {
    let details = match &error {
        CallError::Refused(failure) => failure.details.as_ref(),
        _ => None,
    };
    let reason = details.and_then(|details| details["reason"].as_str()).map(str::to_owned);
    let mut error = Error::from(error);
    if let Some(reason) = reason {
        error.text = format!("{} ({reason})", error.text);
    }
    error
}

async fn keyring(bus: &Bus, common: &Common, out: Output, file: &Path) -> Result<(), Error> {
    let bytes = [read(file, MANIFEST_MAX)?, signatures(file)?].concat();
    // The first one of a device is believed because root brings it.
    let approval = Approval::of(bus, common, upgrade::Approval::Keyring, &bytes)?;
    approval.give().await?;
    let answer = bus
        .client_of("upgrade")
        .call_bytes("upgrade", "keyring", &bytes, CallOptions::default())
        .await
        .map_err(error)?;
    let version: Value = answer.parse().unwrap_or_default();
    if out.json {
        return Output::json(&json!({ "version": version }));
    }
    Output::text(&format!("keyring version {version} is believed from now on\n"))
}

async fn permit(bus: &Bus, out: Output, file: &Path) -> Result<(), Error> {
    let permission = read(file, PERMISSION_MAX)?;
    let bytes = upgrade::permission(&permission, &signatures(file)?);
    let answer = bus
        .client_of("upgrade")
        .call_bytes("upgrade", "permission", &bytes, CallOptions::default())
        .await
        .map_err(error)?;
    if out.json {
        return out.answer(&answer.parse::<Value>().unwrap_or_default());
    }
    Output::text(
        "its bundle may be installed now, once; the permission is forgotten when the agent is restarted\n",
    )
}

/// Those in `FILE.sig`.
fn signatures(file: &Path) -> Result<Vec<u8>, Error> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".sig");
    read(Path::new(&beside), SIGNATURES_MAX * SIGNATURE)
}

pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = open_plain(path).and_then(|file| {
        file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        Ok(())
    });
    read.map_err(|error| file_error(path, &error))?;
    if bytes.len() > limit {
        let text = format!("{}: longer than {limit} bytes, which no such file is", path.display());
        return Err(Error::failed(text));
    }
    Ok(bytes)
}

pub(crate) fn file_error(path: &Path, error: &std::io::Error) -> Error {
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let exit = if missing { Exit::NotFound } else { Exit::Failed };
    Error::new(exit, format!("{}: {error}", path.display()))
}
