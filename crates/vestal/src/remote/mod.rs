//! The commands that speak with a device: over TLS, with a key the device was told of, to a key that this host was told of.

mod cli;
mod device;
mod known;
mod push;
mod sending;
mod show;
mod trust;

use std::{future::Future, time::Duration};

use bundle::{PERMISSION_MAX, SIGNATURE, SIGNATURES_MAX, hex};
use endpoint::CallOptions;
use protocol::upgrade::{self, Entry, Rollback, Slot, Status};
use serde_json::json;

pub(crate) use self::cli::RemoteCommand;
use self::{
    cli::{Permit, Target},
    device::{Address, Device},
    known::Known,
};
use crate::{error::Error, files, keys, output::Output};

/// Stopping services, switching and starting them takes its time.
const SWITCH: Duration = Duration::from_secs(300);

pub(crate) fn run(out: Output, command: RemoteCommand) -> Result<(), Error> {
    let switching = CallOptions { deadline: SWITCH, ..CallOptions::default() };
    match command {
        RemoteCommand::Trust(command) => block_on(trust::run(out, command)),
        RemoteCommand::Push(given) => {
            let device = device(&given.target)?;
            block_on(push::run(out, &device, &given))
        }
        RemoteCommand::Status(target) => {
            ask(&target, "status", &json!({}), CallOptions::safe(), |status: Status| {
                out.either(&status, || show::status(&status))
            })
        }
        RemoteCommand::Confirm(target) => {
            ask(&target, "confirm", &json!({}), switching, |status: Status| {
                out.either(&status, || show::status(&status))
            })
        }
        RemoteCommand::Rollback(given) => {
            let rollback = Rollback { component: given.component };
            ask(&given.target, "rollback", &rollback, switching, |status: Status| {
                out.either(&status, || show::status(&status))
            })
        }
        RemoteCommand::Permit(given) => permit(out, &given),
        RemoteCommand::Slots(target) => {
            ask(&target, "slots", &json!({}), CallOptions::safe(), |slots: Vec<Slot>| {
                out.either(&slots, || show::slots(&slots))
            })
        }
        RemoteCommand::History(target) => {
            ask(&target, "history", &json!({}), CallOptions::safe(), |history: Vec<Entry>| {
                out.either(&history, || show::history(&history))
            })
        }
    }
}

fn ask<A: serde::Serialize, T: serde::de::DeserializeOwned>(
    target: &Target,
    method: &str,
    args: &A,
    options: CallOptions<'_>,
    shown: impl FnOnce(T) -> Result<(), Error>,
) -> Result<(), Error> {
    let device = device(target)?;
    let answer = block_on(async {
        let client = device.client()?;
        device.ask(&client, method, args, options).await
    });
    shown(answer?)
}

fn permit(out: Output, given: &Permit) -> Result<(), Error> {
    let permission = files::read(&given.file, PERMISSION_MAX as u64)?;
    let beside = files::beside(&given.file, "sig");
    let signatures = files::read(&beside, (SIGNATURES_MAX * SIGNATURE) as u64)?;
    let device = device(&given.target)?;
    block_on(async {
        let client = device.client()?;
        let args = upgrade::permission(&permission, &signatures);
        let answer = client.call_bytes("upgrade", "permission", &args, CallOptions::default());
        answer.await.map_err(|error| device.error(error))
    })?;
    out.either(&json!({ "permitted": true }), || {
        "its bundle may be pushed now, once; the permission is forgotten when the agent is restarted\n".to_owned()
    })
}

/// A device's fingerprint: 64 hexadecimal digits, perhaps in groups, or that of a device that is known.
pub(crate) fn fingerprint(text: &str) -> Result<[u8; 32], Error> {
    let digits: String =
        text.chars().filter(|letter| !letter.is_whitespace() && *letter != ':').collect();
    if let Some(fingerprint) = hex::decode(&digits.to_ascii_lowercase()) {
        return Ok(fingerprint);
    }
    let address = Address::parse(text)?;
    Ok(Known::load()?.pinned(&address.to_string())?.fingerprint())
}

fn device(target: &Target) -> Result<Device, Error> {
    let address = Address::parse(&target.device)?;
    let pinned = Known::load()?.pinned(&address.to_string())?;
    let path = match &target.operator.key {
        Some(path) => path.clone(),
        None => known::operator()?,
    };
    let operator = keys::secret(&path).map_err(|mut error| {
        if target.operator.key.is_none() {
            error.text.push_str("; give an operator's key with --key FILE, or put it there");
        }
        error
    })?;
    Device::new(address, pinned, &operator)
}

fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::failed(format!("start the runtime: {error}")))?;
    runtime.block_on(work)
}
