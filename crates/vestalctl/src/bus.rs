//! Finds the socket of an object and calls it. The one place that knows where daemons listen.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon::{options::Options, places::Places};
use endpoint::{CallError, CallOptions, Client, Code, Failure};
use protocol::objects::{self, DESCRIBE, Description, nearest};
use serde_json::Value;

use crate::{
    cli::Common,
    error::{Error, Exit},
};

/// How long a call takes that nobody gave a time for.
pub(crate) const USUAL: Duration = Duration::from_secs(30);
/// Driver sockets that are looked at; a device has a few.
const DRIVERS_MAX: usize = 256;

/// Where to ask.
enum Place {
    /// `DIR/NAME.sock` by the table of objects.
    Run(PathBuf),
    /// This socket serves everything.
    Socket(PathBuf),
}

/// The device's objects, as far as they are reached from here.
pub(crate) struct Bus {
    place: Place,
    /// One connection a socket.
    clients: RefCell<BTreeMap<PathBuf, Client>>,
}

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) within: Duration,
    /// It only reads: repeat it where a connection ended meanwhile.
    pub(crate) safe: bool,
}

impl How {
    /// It changes something.
    pub(crate) const ONCE: Self = Self { within: USUAL, safe: false };
    /// It only reads.
    pub(crate) const READ: Self = Self { within: USUAL, safe: true };
}

impl Bus {
    /// The bus of the device whose places these options and the environment name.
    pub(crate) fn new(common: &Common) -> Result<Self, Error> {
        Ok(Self::at(Place::Run(run_directory(common)?)))
    }

    /// A bus of one socket.
    pub(crate) fn of_socket(path: PathBuf) -> Self {
        Self::at(Place::Socket(path))
    }

    fn at(place: Place) -> Self {
        Self { place, clients: RefCell::default() }
    }

    /// The bytes that a method answers.
    pub(crate) async fn call_bytes(
        &self,
        object: &str,
        method: &str,
        args: &Value,
        how: How,
    ) -> Result<Vec<u8>, CallError> {
        let options = CallOptions {
            deadline: how.within,
            safe_to_repeat: how.safe,
            ..CallOptions::default()
        };
        let client = self.client(&self.socket(object)?);
        Ok(client.call(object, method, args, options).await?.result)
    }

    /// The JSON that a method answers; `null` where it answers nothing.
    pub(crate) async fn call(
        &self,
        object: &str,
        method: &str,
        args: &Value,
        how: How,
    ) -> Result<Value, CallError> {
        let result = self.call_bytes(object, method, args, how).await?;
        if result.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&result).map_err(|error| CallError::Violation {
            path: self.socket(object).unwrap_or_default(),
            text: format!("{object}.{method} answered no JSON: {error}"),
        })
    }

    /// Every socket that exists, in the order of the table, drivers last.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let run = match &self.place {
            Place::Socket(path) => return vec![path.clone()],
            Place::Run(run) => run,
        };
        let mut sockets: Vec<PathBuf> = Vec::new();
        for (_, short) in objects::TABLE {
            let path = run.join(format!("{short}.sock"));
            if !sockets.contains(&path) && path.exists() {
                sockets.push(path);
            }
        }
        let mut drivers: Vec<PathBuf> = std::fs::read_dir(run)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.starts_with("driver.") && name.ends_with(".sock") && !sockets.contains(path)
            })
            .take(DRIVERS_MAX)
            .collect();
        drivers.sort();
        sockets.extend(drivers);
        sockets
    }

    /// What the endpoint at a socket serves, by object name.
    pub(crate) async fn describe(
        &self,
        socket: &Path,
        within: Duration,
    ) -> Result<BTreeMap<String, Description>, CallError> {
        let options = CallOptions { deadline: within, ..CallOptions::safe() };
        let answer = self.client(socket).call("", DESCRIBE, &Value::Null, options).await?;
        answer.parse().map_err(|error| CallError::Violation {
            path: socket.to_owned(),
            text: format!("its description is not understood: {error}"),
        })
    }

    /// Whether somebody serves the object now.
    pub(crate) async fn serves(&self, object: &str) -> Result<bool, CallError> {
        let served = self.client(&self.socket(object)?).objects().await?;
        Ok(served.iter().any(|served| served.name == object))
    }

    /// Where an object is served.
    fn socket(&self, object: &str) -> Result<PathBuf, CallError> {
        let run = match &self.place {
            Place::Socket(path) => return Ok(path.clone()),
            Place::Run(run) => run,
        };
        if let Some(short) = objects::served_by(object) {
            return Ok(run.join(format!("{short}.sock")));
        }
        let near = nearest(object, objects::TABLE.iter().map(|(name, _)| *name));
        let hint = near.map_or_else(
            || "`vestalctl list` shows all".to_owned(),
            |name| format!("did you mean {name:?}?"),
        );
        Err(Failure::new(Code::NotFound, format!("there is no object {object:?}; {hint}")).into())
    }

    fn client(&self, socket: &Path) -> Client {
        let mut clients = self.clients.borrow_mut();
        let client = clients.entry(socket.to_owned()).or_insert_with(|| {
            // Who can't be reached now is reported at once: a person or a script decides about more attempts.
            let options = endpoint::Options { patience: Duration::ZERO, ..Default::default() };
            Client::new(socket, options)
        });
        client.clone()
    }
}

/// The run directory by option, environment and user. One that was named is not made here.
fn run_directory(common: &Common) -> Result<PathBuf, Error> {
    let variable = std::env::var_os("VESTAL_RUN_DIR").filter(|value| !value.is_empty());
    if let Some(run) = common.run_dir.clone().or_else(|| variable.map(PathBuf::from))
        && !run.is_dir()
    {
        let text = format!(
            "cannot reach the device: its run directory {} does not exist; start vestal-keeper, or give another --run-dir",
            run.display()
        );
        return Err(Error::new(Exit::Unreachable, text));
    }
    let mut options = Options::default();
    options.run_dir.clone_from(&common.run_dir);
    Places::locate(&options)
        .map(|places| places.run)
        .map_err(|error| Error::usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_object_is_not_found_and_its_neighbour_is_named() {
        let bus = Bus::at(Place::Run("/r".into()));
        let error = Error::from(bus.socket("sevice").unwrap_err());
        assert_eq!(error.exit, Exit::NotFound);
        assert!(error.text.contains("did you mean \"service\"?"), "{}", error.text);
    }

    #[test]
    fn objects_are_found_by_the_table() {
        let bus = Bus::at(Place::Run("/r".into()));
        assert_eq!(bus.socket("system").unwrap(), Path::new("/r/supervisor.sock"));
        assert_eq!(bus.socket("driver/can0").unwrap(), Path::new("/r/driver.can0.sock"));
    }
}
