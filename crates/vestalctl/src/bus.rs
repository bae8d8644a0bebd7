//! Finds the socket of an object and calls it: by the registry where one answers, else by the suite's table. The one
//! place that knows where daemons listen.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon::{options::Options, places::Places};
use endpoint::{CallError, CallOptions, Client, Code, Failure, Stream};
use protocol::{
    objects::{self, DESCRIBE, Description, nearest},
    registry::{Found, Lookup, Matching},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cli::Common,
    error::{Error, Exit},
};

/// How long a call takes that nobody gave a time for.
pub(crate) const USUAL: Duration = Duration::from_secs(30);
/// A registry that hangs must not hide the daemons whose place is known without it.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(1);
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
    /// Where the registry said that objects are.
    found: RefCell<BTreeMap<String, PathBuf>>,
}

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) within: Duration,
    /// It only reads: repeat it where a connection ended meanwhile.
    pub(crate) safe: bool,
}

impl How {
    fn options(self) -> CallOptions<'static> {
        CallOptions { deadline: self.within, safe_to_repeat: self.safe, ..CallOptions::default() }
    }

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
        Self { place, clients: RefCell::default(), found: RefCell::default() }
    }

    /// The bytes that a method answers.
    pub(crate) async fn call_bytes<A: Serialize + ?Sized>(
        &self,
        object: &str,
        method: &str,
        args: &A,
        how: How,
    ) -> Result<Vec<u8>, CallError> {
        let started = Instant::now();
        let client = self.client(&self.find(object, how.within).await?);
        // Looking for it is a part of the call, for whoever waits.
        let left = how.within.saturating_sub(started.elapsed());
        if left.is_zero() {
            let (object, method) = (object.to_owned(), method.to_owned());
            return Err(CallError::Timeout { object, method, after: how.within });
        }
        let answer = client.call(object, method, args, How { within: left, ..how }.options()).await;
        Ok(self.remembering(object, answer)?.result)
    }

    /// The JSON that a method answers; `null` where it answers nothing.
    pub(crate) async fn call<A: Serialize + ?Sized>(
        &self,
        object: &str,
        method: &str,
        args: &A,
        how: How,
    ) -> Result<Value, CallError> {
        self.ask(object, method, args, how).await
    }

    /// What a method answers, as a type; nothing at all counts as `null`.
    pub(crate) async fn ask<A: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        object: &str,
        method: &str,
        args: &A,
        how: How,
    ) -> Result<T, CallError> {
        let result = self.call_bytes(object, method, args, how).await?;
        let json = if result.is_empty() { b"null".as_slice() } else { &result };
        serde_json::from_slice(json).map_err(|error| CallError::Violation {
            path: self.found.borrow().get(object).cloned().unwrap_or_default(),
            text: format!("the answer of {object}.{method} is not understood: {error}"),
        })
    }

    /// An answer in pieces, for as long as it takes.
    pub(crate) async fn follow<A: Serialize + ?Sized>(
        &self,
        object: &str,
        method: &str,
        args: &A,
    ) -> Result<Stream, CallError> {
        let client = self.client(&self.find(object, USUAL).await?);
        let begun = stream(&client, object, method, args).await;
        self.remembering(object, begun)
    }

    /// What the endpoint itself at `RUN_DIR/SHORT.sock` answers.
    pub(crate) async fn call_daemon<A: Serialize + ?Sized>(
        &self,
        short: &str,
        method: &str,
        args: &A,
    ) -> Result<Value, CallError> {
        let socket = self.socket(short);
        let answer = self.client(&socket).call("", method, args, How::ONCE.options()).await?;
        answer.parse().map_err(|error| CallError::Violation {
            path: socket,
            text: format!("the answer of {method} is no JSON: {error}"),
        })
    }

    /// Everything the registry knows; an error where there is none.
    pub(crate) async fn registered(&self) -> Result<Vec<Found>, CallError> {
        let socket = self.socket("registry");
        let options = How { within: Duration::from_secs(3), safe: true }.options();
        let args = Matching::default();
        let answer = self.client(&socket).call("registry", "list", &args, options).await?;
        answer.parse().map_err(|error| CallError::Violation {
            path: socket,
            text: format!("the answer of registry.list is not understood: {error}"),
        })
    }

    /// Forgets where an object was, when it is there no longer: the next call looks again.
    fn remembering<T>(&self, object: &str, answer: Result<T, CallError>) -> Result<T, CallError> {
        let moved = match &answer {
            Err(CallError::Unreachable { .. } | CallError::Lost { .. }) => true,
            Err(CallError::Refused(failure)) => matches!(failure.code, Code::NotFound | Code::Gone),
            _ => false,
        };
        if moved {
            self.found.borrow_mut().remove(object);
        }
        answer
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

    /// Whether objects may be found that no table knows.
    pub(crate) fn has_registry(&self) -> bool {
        matches!(self.place, Place::Run(_))
    }

    /// What the endpoints at these sockets serve, by object name; all are asked at once.
    pub(crate) async fn describe(
        &self,
        sockets: &[PathBuf],
        within: Duration,
    ) -> Vec<(PathBuf, Result<BTreeMap<String, Description>, CallError>)> {
        let asked: Vec<_> = sockets
            .iter()
            .map(|socket| {
                let client = self.client(socket);
                tokio::spawn(async move {
                    let options = CallOptions { deadline: within, ..CallOptions::safe() };
                    let answer = client.call("", DESCRIBE, &Value::Null, options).await?;
                    answer.parse().map_err(|error| CallError::Violation {
                        path: client.path().to_owned(),
                        text: format!("its description is not understood: {error}"),
                    })
                })
            })
            .collect();
        let mut answers = Vec::with_capacity(asked.len());
        for (socket, asked) in sockets.iter().zip(asked) {
            let answer = asked.await.expect("nothing in a question panics");
            answers.push((socket.clone(), answer));
        }
        answers
    }

    /// Whether somebody serves the object now.
    pub(crate) async fn serves(&self, object: &str) -> Result<bool, CallError> {
        let socket = match self.find(object, USUAL).await {
            Err(CallError::Refused(failure)) if failure.code == Code::NotFound => return Ok(false),
            found => found?,
        };
        let served = self.client(&socket).objects().await;
        Ok(self.remembering(object, served)?.iter().any(|served| served.name == object))
    }

    /// Where a daemon of the suite listens.
    pub(crate) fn socket(&self, short: &str) -> PathBuf {
        match &self.place {
            Place::Socket(path) => path.clone(),
            Place::Run(run) => run.join(format!("{short}.sock")),
        }
    }

    /// Where an object is served: the registry is asked first, then the table.
    async fn find(&self, object: &str, within: Duration) -> Result<PathBuf, CallError> {
        if let Place::Socket(path) = &self.place {
            return Ok(path.clone());
        }
        if let Some(path) = self.found.borrow().get(object) {
            return Ok(path.clone());
        }
        let known = objects::served_by(object).map(|short| self.socket(&short));
        let registry = self.socket("registry");
        if let Some(path) = known.as_ref().filter(|path| **path == registry) {
            return Ok(path.clone());
        }
        let patience = if known.is_some() { within.min(REGISTRY_PATIENCE) } else { within };
        let asked = Lookup { object: object.to_owned(), activate: true, ..Lookup::default() };
        let options = How { within: patience, safe: true }.options();
        let answer = self.client(&registry).call("registry", "lookup", &asked, options).await;
        let refused = match answer {
            Ok(answer) => match answer.parse::<Found>() {
                Ok(found) => {
                    let path = PathBuf::from(found.socket);
                    self.found.borrow_mut().insert(object.to_owned(), path.clone());
                    return Ok(path);
                }
                Err(error) => CallError::Violation {
                    path: registry,
                    text: format!("the answer of registry.lookup is not understood: {error}"),
                },
            },
            Err(error) => error,
        };
        match (known, refused) {
            // It may be served by a daemon that is not registered, or not yet.
            (Some(path), _) => Ok(path),
            (None, CallError::Unreachable { .. }) => Err(unknown(object, &[])),
            (None, CallError::Refused(failure)) if failure.code == Code::NotFound => {
                let names = self.registered().await.unwrap_or_default();
                let names: Vec<_> = names.into_iter().map(|found| found.object.name).collect();
                Err(unknown(object, &names))
            }
            (None, refused) => Err(refused),
        }
    }

    /// The connection to a daemon of the suite that its calls go over.
    pub(crate) fn client_of(&self, short: &str) -> Client {
        self.client(&self.socket(short))
    }

    fn client(&self, socket: &Path) -> Client {
        let mut clients = self.clients.borrow_mut();
        clients.entry(socket.to_owned()).or_insert_with(|| connect(socket)).clone()
    }
}

/// Who can't be reached now is reported at once: a person or a script decides about more attempts.
fn connect(socket: &Path) -> Client {
    Client::new(socket, endpoint::Options { patience: Duration::ZERO, ..Default::default() })
}

/// Begins an answer in pieces that ends when the other side ends it, or the reader.
async fn stream<A: Serialize + ?Sized>(
    client: &Client,
    object: &str,
    method: &str,
    args: &A,
) -> Result<Stream, CallError> {
    let args = serde_json::to_vec(args).map_err(|error| CallError::Invalid {
        object: object.to_owned(),
        method: method.to_owned(),
        text: format!("the arguments are no JSON: {error}"),
    })?;
    let options = CallOptions { deadline: Duration::MAX, ..CallOptions::default() };
    client.call_stream(object, method, &args, options).await
}

/// Nobody serves it; the name that was perhaps meant.
fn unknown(object: &str, registered: &[String]) -> CallError {
    let names = objects::TABLE.iter().map(|(name, _)| *name);
    let hint = nearest(object, names.chain(registered.iter().map(String::as_str))).map_or_else(
        || "`vestalctl list` shows all".to_owned(),
        |name| format!("did you mean {name:?}?"),
    );
    Failure::new(Code::NotFound, format!("there is no object {object:?}; {hint}")).into()
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
        let error = Error::from(unknown("sevice", &[]));
        assert_eq!(error.exit, Exit::NotFound);
        assert!(error.text.contains("did you mean \"service\"?"), "{}", error.text);
        let error = Error::from(unknown("camrea", &["camera".to_owned()]));
        assert!(error.text.contains("did you mean \"camera\"?"), "{}", error.text);
    }

    #[test]
    fn daemons_listen_below_the_run_directory_unless_one_socket_serves_all() {
        let bus = Bus::at(Place::Run("/r".into()));
        assert_eq!(bus.socket("supervisor"), Path::new("/r/supervisor.sock"));
        assert_eq!(Bus::of_socket("/s".into()).socket("log"), Path::new("/s"));
    }
}
