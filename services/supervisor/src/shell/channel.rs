//! The private channel to the keeper: requests out, reports in, nothing decided.

use std::{
    collections::VecDeque,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, bail, ensure};
use protocol::keeper::{CHANNEL_FD, MESSAGE_SIZE, Report, Request};
use rustix::{
    io::{Errno, FdFlags, fcntl_setfd},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use tokio::{io::Interest, net::UnixDatagram};

/// Reports taken in one go, so that a burst of exits costs one pass.
pub(crate) const REPORTS_PER_PASS: usize = 64;
/// Requests that the queue keeps room for when it is empty.
const QUEUE_KEPT: usize = 32;
/// A request carries at most a plan and a cgroup folder.
const DESCRIPTORS_MAX: usize = 2;

/// Our end of the channel.
pub(crate) struct Channel {
    socket: UnixDatagram,
    next: u32,
    /// What the socket had no room for. Bounded by what the machine can want at once: a few requests a slot.
    queue: VecDeque<([u8; MESSAGE_SIZE], Vec<OwnedFd>)>,
}

/// One report, with what came beside it.
pub(crate) struct Received {
    pub(crate) sequence: u32,
    pub(crate) report: Report,
    pub(crate) descriptor: Option<OwnedFd>,
}

/// The keeper is gone: whoever is next decides, we change nothing more.
#[derive(Debug, thiserror::Error)]
#[error("the keeper is gone")]
pub(crate) struct KeeperGone;

impl Channel {
    /// Takes over descriptor 3. Call it once, before anything else is opened.
    ///
    /// # Errors
    /// Where descriptor 3 is no sequential-packet socket: we were not started by a keeper.
    #[expect(unsafe_code, reason = "the keeper hands the channel over as a number")]
    pub(crate) fn inherited() -> anyhow::Result<OwnedFd> {
        // SAFETY: only borrowed, to ask the kernel what it is; a closed descriptor answers EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(CHANNEL_FD) };
        let kind = rustix::net::sockopt::socket_type(borrowed);
        ensure!(
            kind == Ok(rustix::net::SocketType::SEQPACKET),
            "descriptor {CHANNEL_FD} is not the keeper's channel: start vestal-keeper, which starts the supervisor"
        );
        // SAFETY: it is open, it is the channel, and by contract with the keeper it is ours alone.
        let socket = unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) };
        fcntl_setfd(&socket, FdFlags::CLOEXEC).context("keep the channel from children")?;
        Ok(socket)
    }

    pub(crate) fn new(socket: OwnedFd) -> anyhow::Result<Self> {
        // Any packet socket will do for readiness; what is sent and received goes through sendmsg and recvmsg below.
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true).context("make the channel non-blocking")?;
        let socket = UnixDatagram::from_std(socket).context("watch the channel")?;
        Ok(Self { socket, next: 1, queue: VecDeque::new() })
    }

    /// Queues a request and returns its number; [`Channel::flush`] sends it.
    pub(crate) fn send(&mut self, request: &Request, descriptors: Vec<OwnedFd>) -> u32 {
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        self.queue.push_back((request.encode(sequence), descriptors));
        sequence
    }

    /// Sends what is queued, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        while let Some((message, descriptors)) = self.queue.front() {
            let sent = self
                .socket
                .try_io(Interest::WRITABLE, || send_one(self.socket.as_fd(), message, descriptors));
            match sent {
                Ok(()) => drop(self.queue.pop_front()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // The keeper's end is closed; the reading side says so, and says it once.
                Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {
                    bail!(KeeperGone)
                }
                Err(error) => return Err(error).context("write to the keeper"),
            }
        }
        // A start of everything queues a few requests a service; what that took is not needed again soon.
        if self.queue.capacity() > QUEUE_KEPT {
            self.queue.shrink_to(QUEUE_KEPT);
        }
        Ok(())
    }

    /// Waits until reports can be read, or until queued requests can be sent.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let interest = match self.queue.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        self.socket.ready(interest).await.map(drop).context("wait for the keeper")
    }

    /// Takes the reports that are there, at most [`REPORTS_PER_PASS`].
    pub(crate) fn receive(&mut self, into: &mut Vec<Received>) -> anyhow::Result<()> {
        for _ in 0..REPORTS_PER_PASS {
            let mut message = [0; MESSAGE_SIZE + 1];
            let received = self
                .socket
                .try_io(Interest::READABLE, || receive_one(self.socket.as_fd(), &mut message));
            match received {
                Ok((0, _)) => bail!(KeeperGone),
                Ok((length, descriptor)) => {
                    let (sequence, report) = Report::decode(&message[..length])
                        .map_err(|error| anyhow::anyhow!("report of the keeper: {error}"))?;
                    into.push(Received { sequence, report, descriptor });
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::CONNRESET.raw_os_error()) => {
                    bail!(KeeperGone)
                }
                Err(error) => return Err(error).context("read from the keeper"),
            }
        }
        Ok(())
    }
}

fn send_one(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptors: &[OwnedFd],
) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    if !borrowed.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(std::io::Error::other("too many descriptors for one request"));
    }
    match sendmsg(socket, &[IoSlice::new(message)], &mut beside, SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        // More descriptors are on their way than an ordinary user may have (unix(7)): there is room when the keeper has read.
        Err(Errno::TOOMANYREFS) => Err(Errno::AGAIN.into()),
        Err(error) => Err(error.into()),
    }
}

fn receive_one(
    socket: BorrowedFd<'_>,
    message: &mut [u8],
) -> std::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(message)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut descriptor = None;
    for part in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            descriptor = descriptors.last();
        }
    }
    Ok((got.bytes, descriptor))
}
