//! A private dbus-daemon, and the few bytes of D-Bus that asking it for its id takes.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::Instant,
};

use crate::{Outcome, Process, SEQUENTIAL, WARM, connect, summary};

const BUS: &str = "org.freedesktop.DBus";

pub(crate) async fn sequential(directory: &Path, name: &str, core: usize) -> Outcome<(f64, f64)> {
    let path = directory.join(format!("dbus.{name}"));
    let child = Command::new("taskset")
        .args(["-c", &core.to_string(), "dbus-daemon", "--session", "--nofork", "--nopidfile"])
        .arg(format!("--address=unix:path={}", path.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let _process = Process(child);
    let mut stream = connect(&path).await?;
    log_in(&mut stream).await?;
    ask(&mut stream, "Hello", 1).await?;
    let mut times = Vec::with_capacity(SEQUENTIAL);
    for at in 0..WARM + SEQUENTIAL {
        let before = Instant::now();
        ask(&mut stream, "GetId", u32::try_from(at)? + 2).await?;
        if at >= WARM {
            times.push(before.elapsed());
        }
    }
    Ok(summary(times))
}

async fn log_in(stream: &mut UnixStream) -> Outcome<()> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the bus closed the connection".into());
        }
    }
    if !answer.starts_with(b"OK") {
        return Err(String::from_utf8_lossy(&answer).into());
    }
    stream.write_all(b"BEGIN\r\n").await?;
    Ok(())
}

/// Calls a method of the bus itself and waits for the reply to it.
async fn ask(stream: &mut UnixStream, member: &str, serial: u32) -> Outcome<()> {
    stream.write_all(&call(member, serial)?).await?;
    let mut buffer = Vec::with_capacity(1024);
    loop {
        while let Some(length) = length_of(&buffer)?.filter(|length| buffer.len() >= *length) {
            // Signals (NameAcquired) come in between; 2 is a reply, 3 an error.
            let kind = buffer[1];
            buffer.drain(..length);
            match kind {
                2 => return Ok(()),
                3 => return Err("the bus answered with an error".into()),
                _ => {}
            }
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err("the bus closed the connection".into());
        }
    }
}

fn length_of(message: &[u8]) -> Outcome<Option<usize>> {
    let number = |at: usize| {
        let bytes = message.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let (Some(body), Some(fields)) = (number(4), number(12)) else { return Ok(None) };
    Ok(Some((16 + fields).next_multiple_of(8) + body))
}

/// A method call without arguments: the fixed header, then the fields path, destination, interface and member.
fn call(member: &str, serial: u32) -> Outcome<Vec<u8>> {
    let mut fields = Vec::new();
    let path = "/org/freedesktop/DBus";
    for (code, kind, text) in [(1, b'o', path), (6, b's', BUS), (2, b's', BUS), (3, b's', member)] {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([code, 1, kind, 0]);
        fields.extend(u32::try_from(text.len())?.to_le_bytes());
        fields.extend(text.as_bytes());
        fields.push(0);
    }
    let mut message = vec![b'l', 1, 0, 1, 0, 0, 0, 0];
    message.extend(serial.to_le_bytes());
    message.extend(u32::try_from(fields.len())?.to_le_bytes());
    message.extend(fields);
    message.resize(message.len().next_multiple_of(8), 0);
    Ok(message)
}
