//! One connection to an endpoint: its handshake, and one call after the other. Blocks at most until the time it is given.
//!
//! It never tries anything twice; [`crate::repeat`] decides about that.

use std::{
    io::{self, Read as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use protocol::{
    driver::RESULT,
    failure::{Code, Failure},
    frame::{self, HEADER, PAYLOAD_MAX},
    message::{Call, Hello, Message, Reply},
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};

use crate::{clock, repeat::Trouble};

/// What a server takes for a call without a deadline.
const FOREVER_MS: u32 = u32::MAX;
/// The server says itself that a deadline is over; who waits for that waits a little longer.
const GRACE: Duration = Duration::from_millis(500);
/// How much is read at once.
const PIECE: usize = 64 << 10;
/// Bytes of an answer in chunks.
const ANSWER_MAX: usize = PAYLOAD_MAX + RESULT;

/// A connection on which an object is served.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    token: u32,
    generation: u32,
    last_id: u32,
    received: Vec<u8>,
    sent: Vec<u8>,
}

/// What a frame means for who waits for the answer of a call.
enum Heard {
    Answer(Vec<u8>),
    Refused(Failure),
    Nothing,
}

impl Connection {
    /// Connects, greets and looks for the object.
    pub(crate) fn open(path: &Path, object: &str, until: Option<Instant>) -> Result<Self, Trouble> {
        let stream = connect(path, until).map_err(|error| match late(&error) {
            true => Trouble::Late,
            false => Trouble::Unreachable(error),
        })?;
        Self::greet(stream, object, until)
    }

    /// The handshake on a stream that is connected.
    pub(crate) fn greet(
        stream: UnixStream,
        object: &str,
        until: Option<Instant>,
    ) -> Result<Self, Trouble> {
        let mut connection = Self {
            stream,
            token: 0,
            generation: 0,
            last_id: 0,
            received: Vec::new(),
            sent: Vec::new(),
        };
        connection.send(0, &Message::Hello(Hello::OURS), until)?;
        loop {
            let taken = match frame::decode(&connection.received) {
                Err(error) => return Err(Trouble::Violation(error.to_string())),
                Ok(None) => None,
                Ok(Some((_, Message::Welcome(welcome), length))) => {
                    let place = welcome.objects.iter().find(|served| served.name == object);
                    Some((place.map(|served| (served.token, served.generation)), length))
                }
                Ok(Some((_, Message::Goodbye(goodbye), _))) => {
                    return Err(left(goodbye.code, goodbye.text));
                }
                Ok(Some((_, other, _))) => {
                    let text = format!("{:?} came where Welcome was expected", other.kind());
                    return Err(Trouble::Violation(text));
                }
            };
            match taken {
                None => connection.receive(until)?,
                Some((None, _)) => return Err(Trouble::Absent),
                Some((Some((token, generation)), length)) => {
                    connection.received.drain(..length);
                    (connection.token, connection.generation) = (token, generation);
                    return Ok(connection);
                }
            }
        }
    }

    /// A second hold of the socket, for who wants to end a call that waits.
    pub(crate) fn stream(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// One call. After any trouble but a refusal the connection is of no use any more.
    pub(crate) fn call(
        &mut self,
        method: &str,
        args: &[u8],
        until: Option<Instant>,
    ) -> Result<Vec<u8>, Trouble> {
        self.last_id = self.last_id.wrapping_add(1).max(1);
        let id = self.last_id;
        let message = Message::Call(Call {
            token: self.token,
            generation: self.generation,
            method,
            deadline_ms: until.map_or(FOREVER_MS, |until| {
                let left = until.saturating_duration_since(clock::now()).as_millis();
                u32::try_from(left).unwrap_or(FOREVER_MS).max(1)
            }),
            credit: u32::try_from(ANSWER_MAX).unwrap_or(u32::MAX),
            args,
            ..Call::default()
        });
        let until = until.map(|until| until + GRACE);
        self.send(id, &message, until)?;
        let mut joined = Vec::new();
        loop {
            let (length, pong, heard) = match frame::decode(&self.received) {
                Err(error) => return Err(Trouble::Violation(error.to_string())),
                Ok(None) => {
                    self.receive(until)?;
                    continue;
                }
                Ok(Some((ping, Message::Ping, length))) => (length, Some(ping), Heard::Nothing),
                Ok(Some((of, message, length))) => {
                    (length, None, heard(of == id, &message, &mut joined)?)
                }
            };
            self.received.drain(..length);
            if let Some(ping) = pong {
                self.send(ping, &Message::Pong, until)?;
            }
            match heard {
                Heard::Nothing => {}
                Heard::Answer(answer) => return Ok(answer),
                Heard::Refused(failure) => return Err(Trouble::Refused(failure)),
            }
        }
    }

    fn send(
        &mut self,
        id: u32,
        message: &Message<'_>,
        until: Option<Instant>,
    ) -> Result<(), Trouble> {
        self.sent.clear();
        frame::encode(&mut self.sent, id, message)
            .map_err(|error| Trouble::Violation(error.to_string()))?;
        let mut rest = &self.sent[..];
        while !rest.is_empty() {
            self.stream.set_write_timeout(left_of(until)?).map_err(|_| Trouble::Lost)?;
            // Without a signal: the program that calls may not expect SIGPIPE.
            match rustix::net::send(&self.stream, rest, SendFlags::NOSIGNAL) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                // A server that says goodbye closes; what it said can still be read.
                Err(Errno::PIPE) => return Ok(()),
                Err(_) => return Err(Trouble::Lost),
            }
        }
        Ok(())
    }

    /// Waits for more bytes.
    fn receive(&mut self, until: Option<Instant>) -> Result<(), Trouble> {
        let before = self.received.len();
        let missing = frame_length(&self.received).map_or(PIECE, |length| length - before);
        self.received.resize(before + missing.max(HEADER), 0);
        let read = loop {
            self.stream.set_read_timeout(left_of(until)?).map_err(|_| Trouble::Lost)?;
            match self.stream.read(&mut self.received[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted || late(&error) => {}
                read => break read,
            }
        };
        let count = read.unwrap_or(0);
        self.received.truncate(before + count);
        if count == 0 { Err(Trouble::Lost) } else { Ok(()) }
    }
}

/// How long the first frame of these bytes is, as far as they say it: never longer than a frame may be.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    let header = frame::Header::decode(header).ok()?;
    Some(HEADER + header.length).filter(|length| *length > bytes.len())
}

fn heard(ours: bool, message: &Message<'_>, joined: &mut Vec<u8>) -> Result<Heard, Trouble> {
    match message {
        Message::Goodbye(goodbye) => Err(left(goodbye.code, goodbye.text)),
        Message::Reply(_) | Message::Chunk(_) if !ours => Ok(Heard::Nothing),
        Message::Chunk(piece) => {
            if joined.len() + piece.len() > ANSWER_MAX {
                let text = format!("an answer exceeds the limit of {ANSWER_MAX} bytes");
                return Err(Trouble::Violation(text));
            }
            joined.extend_from_slice(piece);
            Ok(Heard::Nothing)
        }
        Message::Reply(Reply::Done { result, .. }) => Ok(Heard::Answer(result.to_vec())),
        Message::Reply(Reply::Joined { .. }) => Ok(Heard::Answer(std::mem::take(joined))),
        Message::Reply(Reply::Failed { failure }) => serde_json::from_slice(failure)
            .map(Heard::Refused)
            .map_err(|error| Trouble::Violation(format!("a failure is not understood: {error}"))),
        Message::Event(_) | Message::Pong => Ok(Heard::Nothing),
        other => {
            let text = format!("{:?} came where an answer was expected", other.kind());
            Err(Trouble::Violation(text))
        }
    }
}

/// A server that leaves is looked for again, unless it is us whom it doesn't understand.
fn left(code: &str, text: &str) -> Trouble {
    match code {
        "protocol" | "unsupported" | "limit" => {
            Trouble::Violation(format!("it ended the connection: {text}"))
        }
        "denied" => Trouble::Refused(Failure::new(Code::Denied, text)),
        _ => Trouble::Lost,
    }
}

fn connect(path: &Path, until: Option<Instant>) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Where many wait to be taken, connecting blocks: until then.
    let time = left_of(until).map_err(|_| io::ErrorKind::TimedOut)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, time)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Err(Errno::INTR) => {}
            connected => break connected?,
        }
    }
    Ok(socket.into())
}

/// How long may still be waited; never zero, which would be for ever.
fn left_of(until: Option<Instant>) -> Result<Option<Duration>, Trouble> {
    let Some(until) = until else { return Ok(None) };
    let left = until.saturating_duration_since(clock::now());
    if left.is_zero() { Err(Trouble::Late) } else { Ok(Some(left)) }
}

fn late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
