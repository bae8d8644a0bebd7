//! `vestalctl driver call`: opens a driver, makes one call, and closes it.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Read as _},
    path::Path,
};

use bundle::hex;
use endpoint::{CallOptions, Client};
use protocol::{
    driver::{Answer, HEAD, Head, Open, Opened, RESULT, Status},
    frame::PAYLOAD_MAX,
};
use serde_json::json;

use super::{explained, host, object};
use crate::{
    bus::{Bus, How},
    cli::DriverCall,
    error::{Error, Exit},
    output::Output,
    upgrade,
};

/// Bytes on a line of the answer.
const LINE: usize = 16;
/// Most bytes that one call carries, and brings back.
const ARGUMENT_MAX: usize = PAYLOAD_MAX - HEAD;
const ROOM_MAX: usize = PAYLOAD_MAX - RESULT;
/// What `poll` asks for: readable, writable.
const EVENTS: u32 = 0x01 | 0x04;

/// A call, as the host takes it.
#[derive(Debug, Eq, PartialEq)]
struct Asked {
    method: &'static str,
    word: u32,
    length: u32,
}

pub(super) async fn run(bus: &Bus, out: Output, given: &DriverCall) -> Result<(), Error> {
    let argument = argument(given)?;
    let asked = match asked(given)? {
        Ok(asked) => asked,
        Err(own) => {
            let status: Status = host(bus, &given.name, "status").await?;
            Asked { method: "call", word: number(&status, own)?, length: given.room }
        }
    };
    let (client, object) = (bus.client_of(&format!("driver.{}", given.name)), object(&given.name));
    let how = How { within: given.within.timeout, safe: false };
    let opened = bus.ask::<_, Opened>(&object, "open", &Open::default(), how).await;
    let opened = opened.map_err(|error| explained(error, Some(&given.name)))?;
    if opened.result < 0 {
        return Err(refused("open", opened.result));
    }
    let handle = opened.handle;
    let made = made(&client, &object, given, &asked, handle, &argument).await;
    // It would end with this process, too.
    let _ = bus.call(&object, "close", &json!({ "handle": handle }), How::ONCE).await;
    let bytes = made?;
    let answer = Answer::parse(&bytes)
        .ok_or_else(|| Error::failed(format!("an answer of {} bytes is none", bytes.len())))?;
    if answer.result < 0 {
        return Err(refused(&given.operation, answer.result));
    }
    print(out, &asked, &answer)
}

async fn made(
    client: &Client,
    object: &str,
    given: &DriverCall,
    asked: &Asked,
    handle: u64,
    argument: &[u8],
) -> Result<Vec<u8>, Error> {
    // A call by hand is never made again: who typed it sees whether it was done.
    let head = Head { handle, sequence: 0, word: asked.word, length: asked.length };
    let options = CallOptions { deadline: given.within.timeout, ..CallOptions::default() };
    let answer = client.call_bytes(object, asked.method, &head.encode(argument), options).await;
    answer.map(|answer| answer.result).map_err(|error| explained(error, Some(&given.name)))
}

/// What the words mean; an operation of the driver's own is known by its host only.
fn asked(given: &DriverCall) -> Result<Result<Asked, &str>, Error> {
    let room = usize::try_from(given.room).unwrap_or(usize::MAX);
    if room > ROOM_MAX {
        return Err(Error::usage(format!("--room {room} exceeds the limit of {ROOM_MAX} bytes")));
    }
    if given.ioctl.is_some() && given.operation != "ioctl" {
        return Err(Error::usage(format!("--ioctl belongs to ioctl, not to {}", given.operation)));
    }
    let (word, length) = (given.ioctl.unwrap_or(0), given.room);
    let asked = match &*given.operation {
        "ioctl" if given.ioctl.is_none() => {
            return Err(Error::usage("ioctl needs its command: --ioctl N"));
        }
        "ioctl" => Asked { method: "ioctl", word, length },
        "read" => Asked { method: "read", word, length },
        "write" => Asked { method: "write", word, length: 0 },
        "poll" => Asked { method: "poll", word: EVENTS, length: 0 },
        own => return Ok(Err(own)),
    };
    Ok(Ok(asked))
}

fn number(status: &Status, own: &str) -> Result<u32, Error> {
    let named = status.own.iter().position(|name| name == own && !own.is_empty());
    if let Some(number) = named.and_then(|place| u32::try_from(place).ok()) {
        return Ok(number);
    }
    own.parse().map_err(|_| {
        let all =
            [&["read", "write", "ioctl", "poll"].map(str::to_owned)[..], &status.own[..]].concat();
        let text =
            format!("driver {} has no operation {own:?}; it has {}", status.name, all.join(", "));
        Error::new(Exit::NotFound, text)
    })
}

fn argument(given: &DriverCall) -> Result<Vec<u8>, Error> {
    let bytes = match (&given.hex, &given.text, &given.file) {
        (Some(digits), _, _) => {
            let digits: String = digits.chars().filter(|letter| !letter.is_whitespace()).collect();
            bytes_of(&digits).ok_or_else(|| {
                Error::usage("--hex takes two hexadecimal digits for each byte, such as 0a1b")
            })?
        }
        (None, Some(text), _) => text.as_bytes().to_vec(),
        (None, None, Some(path)) if path == Path::new("-") => {
            let mut bytes = Vec::new();
            let mut input = io::stdin().lock().take(ARGUMENT_MAX as u64 + 1);
            input
                .read_to_end(&mut bytes)
                .map_err(|error| Error::failed(format!("read standard input: {error}")))?;
            bytes
        }
        (None, None, Some(path)) => upgrade::read(path, ARGUMENT_MAX)?,
        (None, None, None) => Vec::new(),
    };
    if bytes.len() > ARGUMENT_MAX {
        return Err(Error::usage(format!("one call carries at most {ARGUMENT_MAX} bytes")));
    }
    Ok(bytes)
}

/// Two digits a byte; `None` where they are none.
fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| hex::decode::<1>(str::from_utf8(pair).ok()?).map(|[byte]| byte)).collect()
}

fn print(out: Output, asked: &Asked, answer: &Answer<'_>) -> Result<(), Error> {
    if out.json {
        let mut json = json!({ "result": answer.result, "hex": hex::encode(answer.data) });
        if let Ok(text) = std::str::from_utf8(answer.data) {
            json["text"] = text.into();
        }
        return Output::json(&json);
    }
    if asked.method == "poll" {
        return Output::text(&format!("{}\n", events(answer.result)));
    }
    if answer.data.is_empty() {
        return Output::text(&format!("{}\n", answer.result));
    }
    // A program gets the bytes, a person what they look like.
    if io::stdout().is_terminal() {
        Output::text(&dump(answer.data))
    } else {
        Output::bytes(answer.data)
    }
}

fn events(there: i64) -> String {
    let names = [(0x01, "in"), (0x04, "out"), (0x08, "err"), (0x10, "hup")];
    let named: Vec<_> =
        names.iter().filter(|(bit, _)| there & bit != 0).map(|(_, name)| *name).collect();
    if named.is_empty() { "none".to_owned() } else { named.join(" ") }
}

/// Offset, bytes and letters, sixteen a line.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in bytes.chunks(LINE).enumerate() {
        let digits: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let letters: String = line
            .iter()
            .map(
                |byte| {
                    if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }
                },
            )
            .collect();
        let _ = writeln!(text, "{:06x}  {:<47}  {letters}", number * LINE, digits.join(" "));
    }
    text
}

fn refused(operation: &str, result: i64) -> Error {
    let errno =
        result.checked_neg().and_then(|errno| i32::try_from(errno).ok()).unwrap_or(i32::MAX);
    Error::failed(format!(
        "the driver answered {operation} with {}",
        io::Error::from_raw_os_error(errno)
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::Within;

    fn given(operation: &str) -> DriverCall {
        DriverCall {
            name: "can0".to_owned(),
            operation: operation.to_owned(),
            ioctl: None,
            hex: None,
            text: None,
            file: None,
            room: 4096,
            within: Within { timeout: Duration::from_secs(1) },
        }
    }

    #[test]
    fn common_operations_are_known_and_others_are_the_drivers() {
        assert_eq!(
            asked(&given("read")).unwrap(),
            Ok(Asked { method: "read", word: 0, length: 4096 })
        );
        assert_eq!(asked(&given("peek")).unwrap(), Err("peek"));
        assert!(asked(&given("ioctl")).unwrap_err().text.contains("--ioctl N"));
        let ioctl = DriverCall { ioctl: Some(26), ..given("ioctl") };
        assert_eq!(asked(&ioctl).unwrap(), Ok(Asked { method: "ioctl", word: 26, length: 4096 }));
        assert!(asked(&DriverCall { ioctl: Some(26), ..given("read") }).is_err());
        assert!(asked(&DriverCall { room: u32::MAX, ..given("read") }).is_err());
    }

    #[test]
    fn own_operations_have_names_and_numbers() {
        let status = Status {
            name: "can0".to_owned(),
            own: vec!["reset".to_owned(), String::new(), "peek".to_owned()],
            ..Status::default()
        };
        assert_eq!(number(&status, "peek").unwrap(), 2);
        assert_eq!(number(&status, "1").unwrap(), 1);
        let error = number(&status, "pek").unwrap_err();
        assert_eq!(error.exit, Exit::NotFound);
        assert!(error.text.contains("poll, reset"), "{}", error.text);
    }

    #[test]
    fn arguments_are_digits_or_text() {
        let hex = DriverCall { hex: Some("0a 1b".to_owned()), ..given("write") };
        assert_eq!(argument(&hex).unwrap(), [0x0a, 0x1b]);
        let odd = DriverCall { hex: Some("0a1".to_owned()), ..given("write") };
        assert_eq!(argument(&odd).unwrap_err().exit, Exit::Usage);
        let text = DriverCall { text: Some("hé".to_owned()), ..given("write") };
        assert_eq!(argument(&text).unwrap(), "hé".as_bytes());
    }

    #[test]
    fn bytes_are_dumped_sixteen_a_line() {
        let text = dump(b"0123456789abcdef\n");
        assert_eq!(
            text,
            "000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef\n\
             000010  0a                                               .\n"
        );
    }

    #[test]
    fn events_and_errors_have_names() {
        assert_eq!(events(0x15), "in out hup");
        assert_eq!(events(0), "none");
        assert!(refused("write", -28).text.contains("No space"));
    }
}
