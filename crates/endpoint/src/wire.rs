//! Frames over a tokio Unix socket: many frames a read, many frames a write, descriptors beside them.
//!
//! An idle connection holds no buffer: reads go through one scratch area a thread, and only the beginning of a frame
//! that is not complete yet is kept. Nothing here knows what the messages mean.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll, ready},
};

use protocol::{
    frame::{self, BODY_MAX, FDS_MAX, FrameError, HEADER},
    message::Message,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use thiserror::Error;
use tokio::{io::Interest, net::UnixStream};

/// What one read takes at most.
const SCRATCH: usize = 64 << 10;
/// An outbox keeps no larger buffer than this while it is empty.
const KEEP: usize = 1024;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// What a peer did that the protocol forbids.
#[derive(Debug, Error)]
pub(crate) enum Violation {
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Descriptors that no frame announced, or fewer or more than it did.
    #[error("{0}")]
    Descriptors(String),
    /// A message that has no place here.
    #[error("{0}")]
    Unexpected(String),
}

/// Why reading ended.
#[derive(Debug)]
pub(crate) enum ReadError {
    Violation(Violation),
    Io(io::Error),
    Eof,
}

impl From<Violation> for ReadError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// Takes the messages of a peer.
pub(crate) trait Sink {
    fn message(
        &mut self,
        id: u32,
        message: Message<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Violation>;
}

/// The reading half.
pub(crate) struct Inbox {
    /// The beginning of a frame that is not complete.
    partial: Vec<u8>,
    /// As much of an incomplete frame is kept; a longer one ends the connection.
    partial_max: usize,
    /// As much is read at once.
    read_max: usize,
    /// How many bytes of the stream came before `partial`.
    consumed: u64,
    /// Descriptors no frame has claimed yet, and where in the stream the read ended that brought them.
    fds: VecDeque<(u64, Vec<OwnedFd>)>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::keeping(HEADER + BODY_MAX)
    }
}

impl Inbox {
    /// An inbox that keeps at most so many bytes of a frame that isn't complete.
    pub(crate) fn keeping(partial_max: usize) -> Self {
        Self {
            partial: Vec::new(),
            partial_max,
            read_max: SCRATCH,
            consumed: 0,
            fds: VecDeque::new(),
        }
    }

    /// Reads at most so many bytes at once from now on: the fewer, the sooner others have their turn.
    pub(crate) fn read_at_most(&mut self, bytes: usize) {
        self.read_max = bytes.clamp(1, SCRATCH);
    }

    /// Reads once and gives every complete frame to `sink`. Pending when the socket has nothing.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &UnixStream,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), ReadError>> {
        loop {
            ready!(stream.poll_read_ready(cx)).map_err(ReadError::Io)?;
            let read = READ.with_borrow_mut(|scratch| {
                let scratch = &mut scratch[..self.read_max];
                let mut received = None;
                let outcome = stream.try_io(Interest::READABLE, || {
                    let got = receive(stream.as_fd(), scratch)?;
                    // A short read without descriptors emptied the socket: saying so to tokio saves the
                    // read that would only answer EAGAIN. (A read stops early behind descriptors.)
                    let short = got.length > 0 && got.length < scratch.len();
                    let drained = short && got.fds.is_empty() && !got.cut;
                    received = Some(got);
                    if drained { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
                });
                match (received, outcome) {
                    (Some(got), _) if got.cut => Some(Err(lost_descriptors().into())),
                    (Some(got), _) => Some(self.take(&scratch[..got.length], got.fds, sink)),
                    (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
                    (None, Err(error)) => Some(Err(ReadError::Io(error))),
                    (None, Ok(())) => None,
                }
            });
            if let Some(result) = read {
                return Poll::Ready(result);
            }
        }
    }

    /// Whether a frame has begun and not ended.
    pub(crate) fn is_inside_frame(&self) -> bool {
        !self.partial.is_empty()
    }

    fn take(
        &mut self,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
        sink: &mut impl Sink,
    ) -> Result<(), ReadError> {
        if bytes.is_empty() {
            return Err(ReadError::Eof);
        }
        if !fds.is_empty() {
            let end = self.consumed + (self.partial.len() + bytes.len()) as u64;
            self.fds.push_back((end, fds));
        }
        if self.partial.is_empty() {
            let used = self.split(bytes, sink)?;
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            let mut partial = std::mem::take(&mut self.partial);
            partial.extend_from_slice(bytes);
            let used = self.split(&partial, sink)?;
            if used == partial.len() {
                partial = Vec::new();
            } else {
                partial.drain(..used);
            }
            self.partial = partial;
        }
        if self.partial.len() > self.partial_max {
            let text = format!(
                "a frame of more than {} bytes is not taken from this user",
                self.partial_max
            );
            return Err(Violation::Unexpected(text).into());
        }
        if self.fds.len() > 1 {
            return Err(unannounced(self.fds.len()).into());
        }
        Ok(())
    }

    /// Hands on every complete frame; how many bytes these were.
    fn split(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Violation> {
        let mut used = 0;
        while let Some((id, message, length)) = frame::decode(&bytes[used..])? {
            let fds = self.claim(message.fds())?;
            used += length;
            self.consumed += length as u64;
            sink.message(id, message, fds)?;
        }
        self.refuse_unclaimed()?;
        Ok(used)
    }

    /// The descriptors of the frame that begins at `consumed`.
    fn claim(&mut self, announced: usize) -> Result<Vec<OwnedFd>, Violation> {
        self.refuse_unclaimed()?;
        if announced == 0 {
            return Ok(Vec::new());
        }
        match self.fds.pop_front() {
            Some((_, fds)) if fds.len() == announced => Ok(fds),
            other => Err(Violation::Descriptors(format!(
                "frame announces {announced} descriptors, {} came with it",
                other.map_or(0, |(_, fds)| fds.len())
            ))),
        }
    }

    /// Descriptors that came before the frame at `consumed` belong to a frame that didn't announce them.
    fn refuse_unclaimed(&self) -> Result<(), Violation> {
        match self.fds.front() {
            Some((end, fds)) if *end <= self.consumed => Err(unannounced(fds.len())),
            _ => Ok(()),
        }
    }
}

fn lost_descriptors() -> Violation {
    Violation::Descriptors(format!(
        "descriptors were lost on the way: more than {FDS_MAX} came at once, or the descriptor table is full"
    ))
}

fn unannounced(count: usize) -> Violation {
    Violation::Descriptors(format!("{count} descriptors came that no frame announced"))
}

/// What one read brought.
struct Received {
    length: usize,
    fds: Vec<OwnedFd>,
    /// The kernel closed descriptors that didn't fit: too many, or our table is full.
    cut: bool,
}

/// One recvmsg: bytes and the descriptors beside them.
fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Received { length: got.bytes, fds, cut: got.flags.contains(ReturnFlags::CTRUNC) })
}

/// The writing half: encoded frames that the kernel hasn't taken yet.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// How much of `bytes` is written.
    sent: usize,
    /// How many bytes of the stream came before `bytes`.
    base: u64,
    /// Where in the stream a frame with descriptors begins.
    marks: VecDeque<(u64, Vec<OwnedFd>)>,
}

impl Outbox {
    /// Appends a frame; its end in the stream, to be compared with [`Outbox::written`].
    pub(crate) fn push(
        &mut self,
        id: u32,
        message: &Message<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<u64, FrameError> {
        let start = self.base + self.bytes.len() as u64;
        frame::encode(&mut self.bytes, id, message)?;
        if !fds.is_empty() {
            self.marks.push_back((start, fds));
        }
        Ok(self.base + self.bytes.len() as u64)
    }

    /// Bytes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Bytes that the kernel took, since the connection began.
    pub(crate) fn written(&self) -> u64 {
        self.base + self.sent as u64
    }

    /// Writes until nothing waits (ready) or the socket is full (pending).
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &UnixStream,
    ) -> Poll<io::Result<()>> {
        while self.queued() > 0 {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, || self.write_once(stream.as_fd())) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.base += self.bytes.len() as u64;
        self.sent = 0;
        if self.bytes.capacity() > KEEP {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
        Poll::Ready(Ok(()))
    }

    /// One send: up to the next frame with descriptors, or such a frame with what follows it.
    fn write_once(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let at = self.written();
        let begins_with_fds = self.marks.front().is_some_and(|(start, _)| *start == at);
        let next = self.marks.get(usize::from(begins_with_fds));
        let limit = next.map_or(self.bytes.len() as u64, |(start, _)| start - self.base);
        let limit = usize::try_from(limit).unwrap_or(self.bytes.len());
        let bytes = &self.bytes[self.sent..limit];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if begins_with_fds {
            let fds: Vec<_> = self.marks[0].1.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            self.sent += rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
            self.marks.pop_front();
        } else {
            self.sent += rustix::net::send(socket, bytes, flags)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_frame_is_kept_up_to_its_limit_only() {
        struct Nobody;
        impl Sink for Nobody {
            fn message(
                &mut self,
                _: u32,
                _: Message<'_>,
                _: Vec<OwnedFd>,
            ) -> Result<(), Violation> {
                Ok(())
            }
        }
        // A call of 1,000 bytes, of which only the beginning comes.
        let mut begun = b"VE\x01\x04\x01\0\0\0\xe8\x03\0\0".to_vec();
        begun.resize(100, 0);
        assert!(Inbox::keeping(100).take(&begun, Vec::new(), &mut Nobody).is_ok());
        let refused = Inbox::keeping(99).take(&begun, Vec::new(), &mut Nobody);
        assert!(matches!(refused, Err(ReadError::Violation(Violation::Unexpected(_)))));
    }
}
