//! One connection to a host that is made anew when it ends, and the calls on it, one after the other.

use std::{
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use protocol::driver::{Named, Place};

use crate::{
    clock,
    connection::Connection,
    error::Error,
    repeat::{Next, Tries, Trouble},
    settings::Settings,
};

/// A host, as it is found.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// `driver/NAME`.
    object: String,
    settings: Settings,
}

impl Target {
    pub(crate) fn new(name: &str, settings: Settings) -> Result<Self, Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(Error::Invalid(format!(
                "{name:?} is no driver's name: 1 to 64 letters, digits, \"-\", \"_\" and \".\", the first one not a dot"
            )));
        }
        let object = format!("driver/{name}");
        Ok(Self { name: name.to_owned(), object, settings })
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.settings.timeout
    }

    fn socket(&self) -> PathBuf {
        self.settings.run_dir.join(format!("driver.{}.sock", self.name))
    }

    /// Where it is: at the place that its name gives, else the manager is asked. A host needs no manager, and neither does who
    /// knows the way.
    fn connect(&self, until: Option<Instant>) -> Result<Connection, Trouble> {
        let socket = self.socket();
        match Connection::open(&socket, &self.object, until) {
            Err(Trouble::Unreachable(error)) if error.kind() == io::ErrorKind::NotFound => {
                let manager = self.settings.run_dir.join("driver.sock");
                let place = self.ask(&manager, until)?.ok_or(Trouble::Unreachable(error))?;
                Connection::open(Path::new(&place.socket), &place.object, until)
            }
            connected => connected,
        }
    }

    /// What the manager says; nothing where there is none.
    fn ask(&self, manager: &Path, until: Option<Instant>) -> Result<Option<Place>, Trouble> {
        let Ok(mut connection) = Connection::open(manager, "driver", until) else {
            return Ok(None);
        };
        let named = Named { name: self.name.clone() };
        let args = serde_json::to_vec(&named).expect("a name is JSON");
        let answer = connection.call("open", &args, until)?;
        let place = serde_json::from_slice(&answer)
            .map_err(|error| Trouble::Violation(format!("the answer of driver.open: {error}")))?;
        Ok(Some(place))
    }

    fn error(&self, trouble: Trouble, method: &'static str, after: Duration) -> Error {
        let name = self.name.clone();
        match trouble {
            Trouble::Unreachable(source) => {
                Error::Unreachable { name, path: self.socket(), source }
            }
            Trouble::Lost => {
                let source = io::ErrorKind::ConnectionReset.into();
                Error::Unreachable { name, path: self.socket(), source }
            }
            Trouble::Absent => {
                let source = io::Error::other(format!("nobody serves {} there", self.object));
                Error::Unreachable { name, path: self.socket(), source }
            }
            Trouble::Refused(failure) => Error::Refused { name, failure: Box::new(failure) },
            Trouble::Late => Error::Timeout { name, method, after_ms: after.as_millis() },
            Trouble::Violation(text) => Error::Violation { name, text },
        }
    }
}

/// What is said over one connection at a time.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    state: Mutex<State>,
    /// The socket that is waited on, for who closes the lane meanwhile.
    waiting: Mutex<Option<UnixStream>>,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    /// Of the last call that has one.
    sequence: u64,
}

impl Lane {
    /// A call with a sequence of its own, which stays the same however often it has to be made.
    pub(crate) fn call_once(
        &self,
        target: &Target,
        method: &'static str,
        args: impl FnOnce(u64) -> Vec<u8>,
        within: Option<Duration>,
    ) -> Result<Vec<u8>, Error> {
        let mut state = lock(&self.state);
        state.sequence += 1;
        let args = args(state.sequence);
        self.repeat(&mut state, target, method, &args, within)
    }

    /// A call that may be made any number of times.
    pub(crate) fn call(
        &self,
        target: &Target,
        method: &'static str,
        args: &[u8],
        within: Option<Duration>,
    ) -> Result<Vec<u8>, Error> {
        self.repeat(&mut lock(&self.state), target, method, args, within)
    }

    /// Ends the call that waits, and every later one.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(stream) = lock(&self.waiting).take() {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn repeat(
        &self,
        state: &mut State,
        target: &Target,
        method: &'static str,
        args: &[u8],
        within: Option<Duration>,
    ) -> Result<Vec<u8>, Error> {
        let began = clock::now();
        let until = within.map(|within| began + within);
        let mut tries = Tries::new(target.settings.patience);
        let mut last_there = began;
        loop {
            if self.closed.load(Ordering::SeqCst) {
                return Err(Error::Closed);
            }
            let trouble = match self.once(state, target, method, args, until) {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            // After a no the connection goes on, unless what was meant there is gone.
            let gone = |code| code == protocol::failure::Code::Gone;
            if !matches!(&trouble, Trouble::Refused(failure) if !gone(failure.code)) {
                state.connection = None;
                *lock(&self.waiting) = None;
            }
            if self.closed.load(Ordering::SeqCst) {
                return Err(Error::Closed);
            }
            let now = clock::now();
            if matches!(trouble, Trouble::Lost) {
                last_there = now;
            }
            let pause = match tries.after(trouble, now.saturating_duration_since(last_there)) {
                Next::Again(pause) => pause,
                Next::End(trouble) => return Err(target.error(trouble, method, now - began)),
            };
            match until.map(|until| until.saturating_duration_since(now)) {
                Some(left) if left <= pause => {
                    return Err(target.error(Trouble::Late, method, now - began));
                }
                _ => clock::pause(pause),
            }
        }
    }

    fn once(
        &self,
        state: &mut State,
        target: &Target,
        method: &str,
        args: &[u8],
        until: Option<Instant>,
    ) -> Result<Vec<u8>, Trouble> {
        let connection = match &mut state.connection {
            Some(connection) => connection,
            none => {
                let connection = target.connect(until)?;
                *lock(&self.waiting) = Some(connection.stream().map_err(|_| Trouble::Lost)?);
                // Who closed the lane before it had this socket could not end what waits on it.
                if self.closed.load(Ordering::SeqCst) {
                    return Err(Trouble::Lost);
                }
                none.insert(connection)
            }
        };
        connection.call(method, args, until)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
