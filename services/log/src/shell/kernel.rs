//! Reads the kernel's messages from /dev/kmsg, and goes on where an earlier log stopped: how far it came is in the store.

use std::{io, sync::Arc};

use protocol::log::Source;
use rustix::fs::{Mode, OFlags};
use tokio::net::unix::pipe;

use super::{Desk, now};
use crate::{
    machine::{
        kernel,
        lines::{Lines, Rest},
    },
    store::record::Entry,
};

const PATH: &str = "/dev/kmsg";
/// The kernel's longest record, and more.
const RECORD_MAX: usize = 16 << 10;
/// Messages that are stored together.
const BATCH: usize = 64;

/// Reads until it can't. `next` is the number of the first message that is not stored yet.
pub(super) async fn read(desk: Arc<Desk>, next: Option<u64>) {
    if let Err(error) = follow(&desk, next.unwrap_or(0)).await {
        let text = format!(
            "kernel messages can't be read from {PATH}: {error}; it takes root or CAP_SYSLOG, or kernel = false in log.toml"
        );
        desk.missing("kernel", text).await;
    }
}

async fn follow(desk: &Desk, mut next: u64) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let kernel = rustix::fs::open(PATH, flags, Mode::empty())?;
    // It is no pipe, but it is read like one.
    let kernel = pipe::Receiver::from_owned_fd_unchecked(kernel)?;
    let mut buffer = vec![0; RECORD_MAX];
    loop {
        kernel.readable().await?;
        let entries = batch(&kernel, &mut buffer, &mut next)?;
        if !entries.is_empty() {
            desk.keep(entries, Some(next)).await;
        }
    }
}

/// What there is, up to [`BATCH`] messages.
fn batch(kernel: &pipe::Receiver, buffer: &mut [u8], next: &mut u64) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let now = now();
    while entries.len() < BATCH {
        let length = match kernel.try_read(buffer) {
            Ok(length) => length,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => break,
                // The kernel has overwritten what came next (EPIPE); it goes on with the oldest it has.
                io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted => continue,
                _ => return Err(error),
            },
        };
        let Some(message) = kernel::parse(&buffer[..length]) else { continue };
        if message.number < *next {
            continue;
        }
        if message.number > *next && *next > 0 {
            let text =
                format!("{} kernel messages were overwritten before", message.number - *next);
            entries.push(now.remark(text));
        }
        *next = message.number + 1;
        let moment = protocol::time::Moment(message.monotonic_us.saturating_mul(1000));
        let blank = now.at(moment).entry(Source::Kernel, message.priority);
        let text = if message.text.is_empty() { b"\n" } else { message.text };
        Lines::plain().take(text, Rest::Ends, |line| {
            entries.push(Entry { text: line.text, more: line.more, ..blank.clone() });
        });
    }
    Ok(entries)
}
