//! `vestalctl driver ...`: from the command line to the manager (object `driver`) and to the hosts (`driver/NAME`).

mod call;
mod probe;
mod show;
mod upgrade;

use std::time::Duration;

use endpoint::{CallError, Code};
use protocol::driver::{Field, Function, Named, Report, Rollback, Status};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    bus::{Bus, How},
    cli::{Common, DriverCommand},
    error::{Error, Exit},
    output::Output,
};

/// Starting a host, draining its calls and stopping it take their time.
const CHANGE: How = How { within: Duration::from_secs(60), safe: false };

pub(crate) async fn run(
    bus: &Bus,
    common: &Common,
    out: Output,
    command: DriverCommand,
) -> Result<(), Error> {
    match command {
        DriverCommand::List => {
            let list = list(bus).await?;
            if out.json {
                return Output::json(&list);
            }
            out.table(&show::list(&list))?;
            Output::text(&show::remarks(&list))
        }
        DriverCommand::Load { name } => {
            let status: Status = manager(bus, "load", &name, &Named { name: name.clone() }).await?;
            if out.json { Output::json(&status) } else { out.table(&show::list(&[status])) }
        }
        DriverCommand::Unload { name } => {
            let named = Named { name: name.clone() };
            out.answer(&manager(bus, "unload", &name, &named).await?)
        }
        DriverCommand::Upgrade(given) => upgrade::run(bus, common, out, given).await,
        DriverCommand::Rollback { name, reason } => {
            let wanted = Rollback { name: name.clone(), reason };
            let report: Report = manager(bus, "rollback", &name, &wanted).await?;
            if out.json { Output::json(&report) } else { Output::text(&show::report(&report)) }
        }
        DriverCommand::Probe(given) if given.state => probe::state(bus, out, &given).await,
        DriverCommand::Probe(given) => probe::calls(bus, out, &given).await,
        DriverCommand::Map { name } => {
            let functions: Vec<Function> = host(bus, &name, "map").await?;
            if out.json { Output::json(&functions) } else { out.table(&show::map(&functions)) }
        }
        DriverCommand::Call(given) => call::run(bus, out, &given).await,
        DriverCommand::State { name } => {
            let fields: Vec<Field> = host(bus, &name, "state").await?;
            if out.json { Output::json(&fields) } else { Output::text(&show::state(&fields)) }
        }
    }
}

async fn list(bus: &Bus) -> Result<Vec<Status>, Error> {
    let listed = bus.ask("driver", "list", &json!({}), How::READ).await;
    listed.map_err(|error| explained(error, None))
}

/// Asks the manager something about one driver.
async fn manager<A: Serialize, T: DeserializeOwned>(
    bus: &Bus,
    method: &str,
    name: &str,
    args: &A,
) -> Result<T, Error> {
    let answer = bus.ask("driver", method, args, CHANGE).await;
    answer.map_err(|error| explained(error, Some(name)))
}

/// Asks the host of a driver something that only reads.
async fn host<T: DeserializeOwned>(bus: &Bus, name: &str, method: &str) -> Result<T, Error> {
    let answer = bus.ask(&object(name), method, &json!({}), How::READ).await;
    answer.map_err(|error| explained(error, Some(name)))
}

fn object(name: &str) -> String {
    format!("driver/{name}")
}

/// With what can be done about it. `name`: a driver was meant, not all of them.
fn explained(error: CallError, name: Option<&str>) -> Error {
    let cure = match (&error, name) {
        (CallError::Unreachable { .. }, None) => {
            "the driver manager does not run: `vestalctl status driver` says why".to_owned()
        }
        (CallError::Unreachable { .. }, Some(name)) => {
            format!(
                "`vestalctl driver list` shows whether {name} is loaded, `vestalctl driver load {name}` loads it"
            )
        }
        (CallError::Refused(failure), Some(_)) if failure.code == Code::NotFound => {
            "`vestalctl driver list` shows all".to_owned()
        }
        (CallError::Refused(failure), _) if failure.code == Code::Denied => {
            "only root with CAP_SYS_ADMIN may, or the owner of the run directory".to_owned()
        }
        _ => String::new(),
    };
    let mut error = crate::upgrade::error(error);
    if !cure.is_empty() && !error.text.contains(&cure) {
        error.text = format!("{}; {cure}", error.text);
    }
    error
}

/// A driver that the manager does not know.
fn unknown(name: &str) -> Error {
    Error::new(
        Exit::NotFound,
        format!("there is no driver {name:?} in driver.toml; `vestalctl driver list` shows all"),
    )
}
