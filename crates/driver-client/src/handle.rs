//! A driver that is open: its operations as calls that block.
//!
//! A call is made exactly once as far as anybody can know: after an upgrade, a restart or a crash of the host it is made again
//! with the same sequence, and the host answers what it did already. The one call that was inside the driver when it crashed is `EIO`.

use std::time::Duration;

use protocol::{
    driver::{Answer, HEAD, Head, Open, Opened, RESULT, Status},
    frame::PAYLOAD_MAX,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    clock,
    error::Error,
    lane::{Lane, Target},
    settings::Settings,
};

/// Most bytes that one call carries to the driver.
pub const WRITE_MAX: usize = PAYLOAD_MAX - HEAD;
/// Most bytes that one call brings back.
pub const READ_MAX: usize = PAYLOAD_MAX - RESULT;
/// Longest time that the host is asked to wait in one go; a longer poll asks again.
const POLL_MAX: Duration = Duration::from_secs(30);
/// How long closing may take where nobody waits for it.
const DROP_TIME: Duration = Duration::from_secs(1);

/// Events of [`Handle::poll`], as in poll(2).
pub mod events {
    pub const IN: u32 = 0x01;
    pub const OUT: u32 = 0x04;
    pub const ERR: u32 = 0x08;
    pub const HUP: u32 = 0x10;
}

/// An open driver; dropping it closes it. All methods may be called by several threads: calls of one handle follow one another,
/// but `poll` waits beside them, and `close` ends them.
#[derive(Debug)]
pub struct Handle {
    target: Target,
    number: u64,
    /// Calls in their order.
    data: Lane,
    /// Polls, which would hold those up.
    polls: Lane,
    opened_by: u32,
    closed: std::sync::atomic::AtomicBool,
}

/// A driver by its name.
#[derive(Debug)]
pub struct Driver;

impl Driver {
    /// Opens a driver. The handle lives until it is closed, or this process ends.
    ///
    /// # Errors
    /// Where the name is none, nobody serves it, we may not, or the driver does not want to.
    pub fn open(name: &str, flags: u32, settings: Settings) -> Result<Handle, Error> {
        let target = Target::new(name, settings)?;
        let data = Lane::default();
        let args = json_bytes(&Open { flags });
        let answer = data.call(&target, "open", &args, target.timeout())?;
        let opened: Opened = parsed(&target, "open", &answer)?;
        if opened.result < 0 {
            return Err(driver_error(opened.result));
        }
        Ok(Handle {
            target,
            number: opened.handle,
            data,
            polls: Lane::default(),
            opened_by: std::process::id(),
            closed: false.into(),
        })
    }
}

impl Handle {
    /// The host's number for it.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Reads at most [`READ_MAX`] bytes.
    ///
    /// # Errors
    /// What the driver answered, or why it was not reached.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        let room = buffer.len().min(READ_MAX);
        let bytes = self.data("read", 0, room, &[])?;
        let (result, data) = self.answer(&bytes)?;
        let length = usize::try_from(result).unwrap_or(usize::MAX);
        if length > room || length != data.len() {
            return Err(self.violation(format!(
                "read of {room} bytes answered {result} with {} bytes",
                data.len()
            )));
        }
        buffer[..length].copy_from_slice(data);
        Ok(length)
    }

    /// Writes at most [`WRITE_MAX`] bytes, and answers how many the driver took.
    ///
    /// # Errors
    /// As [`Handle::read`].
    pub fn write(&self, data: &[u8]) -> Result<usize, Error> {
        let data = &data[..data.len().min(WRITE_MAX)];
        let bytes = self.data("write", 0, 0, data)?;
        let (result, _) = self.answer(&bytes)?;
        match usize::try_from(result) {
            Ok(count) if count <= data.len() => Ok(count),
            _ => Err(self.violation(format!("write of {} bytes answered {result}", data.len()))),
        }
    }

    /// An ioctl: answers the driver's number, and writes the bytes it gave, as many as there is room, into `answer`.
    ///
    /// # Errors
    /// As [`Handle::read`]; the argument has at most [`WRITE_MAX`] bytes.
    pub fn ioctl(&self, command: u32, argument: &[u8], answer: &mut [u8]) -> Result<i64, Error> {
        self.operation_with("ioctl", command, argument, answer)
    }

    /// Calls an operation of the driver's own by its number, as [`Handle::ioctl`].
    ///
    /// # Errors
    /// As [`Handle::ioctl`].
    pub fn call(&self, operation: u32, argument: &[u8], answer: &mut [u8]) -> Result<i64, Error> {
        self.operation_with("call", operation, argument, answer)
    }

    /// The number of an operation of the driver's own. A later version of the driver has the same number for it.
    ///
    /// # Errors
    /// Where the driver names no such operation, or its host does not answer.
    pub fn operation(&self, name: &str) -> Result<u32, Error> {
        self.check()?;
        let answer = self.polls.call(&self.target, "status", b"{}", self.target.timeout())?;
        let status: Status = parsed(&self.target, "status", &answer)?;
        let place = status.own.iter().position(|own| own == name && !own.is_empty());
        place.and_then(|place| u32::try_from(place).ok()).ok_or_else(|| {
            Error::Invalid(format!(
                "driver {} has no operation {name:?}; it has {}",
                self.target.name,
                if status.own.is_empty() {
                    "none of its own".to_owned()
                } else {
                    status.own.join(", ")
                }
            ))
        })
    }

    /// Waits for one of these events, at most this long (`None`: for ever), and answers those that are there; 0 when the time is over.
    ///
    /// # Errors
    /// As [`Handle::read`].
    pub fn poll(&self, events: u32, timeout: Option<Duration>) -> Result<u32, Error> {
        self.check()?;
        let until = timeout.and_then(|timeout| clock::now().checked_add(timeout));
        loop {
            let left = until.map(|until| until.saturating_duration_since(clock::now()));
            let wait = left.unwrap_or(POLL_MAX).min(POLL_MAX);
            // Rounded up, so that the time is over when it was waited for.
            let ms = u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
            let head = Head { handle: self.number, sequence: 0, word: events, length: ms };
            let within = self.target.timeout().map(|timeout| timeout + wait);
            let bytes = self.polls.call(&self.target, "poll", &head.encode(&[]), within)?;
            let (result, _) = self.answer(&bytes)?;
            let there = u32::try_from(result)
                .map_err(|_| self.violation(format!("poll answered {result}")))?;
            if there != 0 || left.is_some_and(|left| left <= wait) {
                return Ok(there);
            }
        }
    }

    /// Closes it. Calls of other threads that wait end with [`Error::Closed`].
    ///
    /// # Errors
    /// Where it was closed already, or the host was not reached: the handle then ends with this process.
    pub fn close(&self) -> Result<(), Error> {
        self.close_within(self.target.timeout())
    }

    fn close_within(&self, within: Option<Duration>) -> Result<(), Error> {
        use std::sync::atomic::Ordering;
        self.check()?;
        if self.closed.swap(true, Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        self.data.close();
        self.polls.close();
        let args = json_bytes(&json!({ "handle": self.number }));
        let answer = Lane::default().call(&self.target, "close", &args, within)?;
        let closed: Closed = parsed(&self.target, "close", &answer)?;
        // Made twice because the connection ended, the second one finds nothing.
        match closed.result {
            result if result >= 0 || driver_error(result).errno() == Error::Closed.errno() => {
                Ok(())
            }
            result => Err(driver_error(result)),
        }
    }

    fn operation_with(
        &self,
        method: &'static str,
        word: u32,
        argument: &[u8],
        answer: &mut [u8],
    ) -> Result<i64, Error> {
        if argument.len() > WRITE_MAX {
            return Err(Error::TooLong { length: argument.len(), limit: WRITE_MAX });
        }
        let bytes = self.data(method, word, answer.len().min(READ_MAX), argument)?;
        let (result, data) = self.answer(&bytes)?;
        if data.len() > answer.len() {
            let (room, length) = (answer.len(), data.len());
            return Err(
                self.violation(format!("{method} with room for {room} bytes answered {length}"))
            );
        }
        answer[..data.len()].copy_from_slice(data);
        Ok(result)
    }

    fn data(
        &self,
        method: &'static str,
        word: u32,
        room: usize,
        data: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.check()?;
        let length = u32::try_from(room).expect("no room is larger than a frame");
        let handle = self.number;
        let head = |sequence| Head { handle, sequence, word, length }.encode(data);
        self.data.call_once(&self.target, method, head, self.target.timeout())
    }

    /// The driver's answer: its number and its bytes, or its error.
    fn answer<'b>(&self, bytes: &'b [u8]) -> Result<(i64, &'b [u8]), Error> {
        let answer = Answer::parse(bytes);
        let answer =
            answer.ok_or_else(|| self.violation(format!("an answer of {} bytes", bytes.len())))?;
        if answer.result < 0 {
            return Err(driver_error(answer.result));
        }
        Ok((answer.result, answer.data))
    }

    fn check(&self) -> Result<(), Error> {
        let (opened_by, used_by) = (self.opened_by, std::process::id());
        if opened_by != used_by {
            return Err(Error::Forked { opened_by, used_by });
        }
        match self.closed.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(Error::Closed),
            false => Ok(()),
        }
    }

    fn violation(&self, text: String) -> Error {
        Error::Violation { name: self.target.name.clone(), text }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A child that forked must not close what its parent has; all else that can go wrong ends with the process.
        let _ = self.close_within(Some(DROP_TIME));
    }
}

#[derive(serde::Deserialize)]
struct Closed {
    #[serde(default)]
    result: i64,
}

/// The driver's -errno; what is none is EIO.
fn driver_error(result: i64) -> Error {
    const ERRNO_MAX: i32 = 511;
    let errno = result.checked_neg().and_then(|errno| i32::try_from(errno).ok());
    Error::Driver(errno.filter(|errno| *errno <= ERRNO_MAX).unwrap_or(5))
}

fn json_bytes<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("numbers are JSON")
}

fn parsed<T: DeserializeOwned>(target: &Target, method: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Violation {
        name: target.name.clone(),
        text: format!("the answer of {method} is not understood: {error}"),
    })
}
