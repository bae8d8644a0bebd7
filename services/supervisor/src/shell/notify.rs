//! What instances say of themselves: datagrams of the sd_notify(3) protocol, and s6's newline on a descriptor.
//!
//! Each instance has a socket of its own, so the sender is known without a pid and nothing can be said for somebody else.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::{
    io::Interest,
    net::{UnixDatagram, unix::pipe},
    sync::mpsc,
    task::JoinHandle,
};

use super::Inbound;
use crate::machine::Notice;

/// systemd's own limit of a notification.
const DATAGRAM_MAX: usize = 4096;
/// More assignments of one message are not looked at: each may cost a request to the keeper.
const LINES_MAX: usize = 16;
/// More descriptors in one message than this are closed (sd_pid_notify_with_fds allows 253).
const DESCRIPTORS_MAX: usize = 32;
/// Longest status text that is kept, in bytes.
const STATUS_MAX: usize = 256;

/// One line of a notification.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    Notice(Notice),
    MainPid(i32),
    /// `FDSTORE=1` with the name (`FDNAME=`, "stored" without).
    Store {
        name: String,
    },
    Remove {
        name: String,
    },
}

impl Line {
    /// Whether it is about the process that sent it, and means nothing for the one before or after it.
    pub(crate) fn is_of_a_generation(&self) -> bool {
        match self {
            Self::Notice(notice) => {
                !matches!(notice, Notice::Watchdog | Notice::Status(_) | Notice::WatchdogPeriod(_))
            }
            Self::MainPid(_) => true,
            Self::Store { .. } | Self::Remove { .. } => false,
        }
    }
}

/// What one datagram held.
#[derive(Debug)]
pub(crate) struct Notification {
    /// Which generation is meant, where the sender knows it; otherwise the one that runs now.
    pub(crate) generation: Option<u32>,
    pub(crate) lines: Vec<Line>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Listens on one instance's notify socket until dropped.
#[derive(Debug)]
pub(crate) struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads notifications of `slot` from its socket.
pub(crate) fn listen(
    slot: u32,
    socket: OwnedFd,
    inbox: mpsc::Sender<Inbound>,
) -> io::Result<Listener> {
    let socket = std::os::unix::net::UnixDatagram::from(socket);
    socket.set_nonblocking(true)?;
    let socket = UnixDatagram::from_std(socket)?;
    Ok(Listener(tokio::spawn(async move {
        while socket.readable().await.is_ok() {
            match socket.try_io(Interest::READABLE, || receive(socket.as_fd())) {
                // Nobody listens any more: the supervisor is leaving.
                Ok(notification) => {
                    if inbox.send(Inbound::Notification { slot, notification }).await.is_err() {
                        return;
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    tracing::error!("notify socket of slot {slot}: {error}");
                    return;
                }
            }
        }
    })))
}

/// Reads newlines from the readiness FIFO of `slot`; anything before a newline is ignored, as s6 does.
pub(crate) fn listen_newline(
    slot: u32,
    fifo: &Path,
    inbox: mpsc::Sender<Inbound>,
) -> io::Result<Listener> {
    let fifo = pipe::OpenOptions::new().read_write(true).open_receiver(fifo)?;
    Ok(Listener(tokio::spawn(async move {
        let mut buffer = [0; 64];
        while fifo.readable().await.is_ok() {
            let Ok(length) = fifo.try_read(&mut buffer) else { continue };
            if buffer[..length].contains(&b'\n') {
                let lines = vec![Line::Notice(Notice::Ready)];
                let notification =
                    Notification { generation: None, lines, descriptors: Vec::new() };
                if inbox.send(Inbound::Notification { slot, notification }).await.is_err() {
                    return;
                }
            }
        }
    })))
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Notification> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; DATAGRAM_MAX];
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut descriptors = Vec::new();
    for part in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    let lines = parse(&bytes[..got.bytes]);
    // Those of a flood would fill our descriptor table while they wait. One without FDSTORE may be a barrier, whose end says
    // that everything before it was read.
    let stored = lines.iter().any(|line| matches!(line, Line::Store { .. }));
    descriptors.truncate(if stored { DESCRIPTORS_MAX } else { 1 });
    Ok(Notification { generation: None, lines, descriptors })
}

/// The lines that mean something to us; others are allowed and ignored (sd_notify(3): "unknown assignments").
fn parse(bytes: &[u8]) -> Vec<Line> {
    let text = String::from_utf8_lossy(bytes);
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let store_name = || value("FDNAME").filter(|name| is_store_name(name));
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            Some(match (name, value) {
                ("READY", "1") => Line::Notice(Notice::Ready),
                ("RELOADING", "1") => Line::Notice(Notice::Reloading),
                ("STOPPING", "1") => Line::Notice(Notice::Stopping),
                ("STATUS", status) => Line::Notice(Notice::Status(shorten(status))),
                ("ERRNO", number) => Line::Notice(Notice::Errno(number.parse().ok()?)),
                ("WATCHDOG", "1") => Line::Notice(Notice::Watchdog),
                ("WATCHDOG", "trigger") => Line::Notice(Notice::WatchdogTrigger),
                ("WATCHDOG_USEC", number) => {
                    Line::Notice(Notice::WatchdogPeriod(microseconds(number)?))
                }
                ("EXTEND_TIMEOUT_USEC", number) => {
                    Line::Notice(Notice::ExtendTimeout(microseconds(number)?))
                }
                ("MAINPID", number) => Line::MainPid(number.parse().ok().filter(|pid| *pid > 0)?),
                ("FDSTORE", "1") => {
                    Line::Store { name: store_name().unwrap_or_else(|| "stored".to_owned()) }
                }
                ("FDSTOREREMOVE", "1") => Line::Remove { name: store_name()? },
                _ => return None,
            })
        })
        .take(LINES_MAX)
        .collect()
}

fn microseconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_micros)
}

/// Names of stored descriptors become part of `LISTEN_FDNAMES` and of a deposit's name.
fn is_store_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

fn shorten(status: &str) -> String {
    let mut end = status.len().min(STATUS_MAX);
    while !status.is_char_boundary(end) {
        end -= 1;
    }
    status[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_assignment_of_the_manual_page_is_understood() {
        let lines = parse(
            b"READY=1\nSTATUS=fine\nMAINPID=12\nWATCHDOG_USEC=5000\nEXTEND_TIMEOUT_USEC=1\nERRNO=2\nWATCHDOG=trigger",
        );
        assert_eq!(
            lines,
            [
                Line::Notice(Notice::Ready),
                Line::Notice(Notice::Status("fine".into())),
                Line::MainPid(12),
                Line::Notice(Notice::WatchdogPeriod(Duration::from_millis(5))),
                Line::Notice(Notice::ExtendTimeout(Duration::from_micros(1))),
                Line::Notice(Notice::Errno(2)),
                Line::Notice(Notice::WatchdogTrigger),
            ]
        );
    }

    #[test]
    fn stored_descriptors_have_safe_names() {
        assert_eq!(parse(b"FDSTORE=1"), [Line::Store { name: "stored".into() }]);
        assert_eq!(parse(b"FDSTORE=1\nFDNAME=a:b"), [Line::Store { name: "stored".into() }]);
        assert_eq!(parse(b"FDSTOREREMOVE=1\nFDNAME=x"), [Line::Remove { name: "x".into() }]);
        assert_eq!(parse(b"FDSTOREREMOVE=1"), []);
    }

    #[test]
    fn only_descriptors_that_are_to_be_stored_are_kept() {
        use std::os::fd::AsFd as _;
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let send = |text: &str| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut beside = rustix::net::SendAncillaryBuffer::new(&mut space);
            let descriptors = [theirs.as_fd(); 3];
            assert!(beside.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors)));
            let text = [io::IoSlice::new(text.as_bytes())];
            rustix::net::sendmsg(&theirs, &text, &mut beside, rustix::net::SendFlags::empty())
                .unwrap();
            receive(ours.as_fd()).unwrap().descriptors.len()
        };
        assert_eq!(send("READY=1"), 1);
        assert_eq!(send("FDSTORE=1"), 3);
    }

    #[test]
    fn one_message_has_a_limit_of_assignments() {
        assert_eq!(parse("MAINPID=1\n".repeat(400).as_bytes()).len(), LINES_MAX);
    }

    #[test]
    fn nonsense_is_ignored() {
        assert_eq!(parse(b"MAINPID=-4\nWATCHDOG_USEC=x\nREADY=2\n\xff\xfe=1\nnothing"), []);
    }
}
