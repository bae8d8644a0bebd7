//! The keeper's end of the channel: sequence numbers, what the supervisor has acknowledged, how far the hand-over is.
//!
//! Reports say what is, so nothing is queued: a message that doesn't fit now is made again from the table when it does.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use protocol::{
    keeper::{HANDOVER_BATCH, MESSAGE_SIZE, Malformed, Outcome, Report, Request},
    time::Moment,
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};

/// Most descriptors of one request: the plan and the cgroup.
pub(crate) const DESCRIPTORS_MAX: usize = 2;
/// A supervisor that has acknowledged nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far the hand-over is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Handover {
    Welcome,
    Slots {
        next: u32,
    },
    /// The log ring, if anything is in it.
    Ring,
    Deposits {
        next: u32,
    },
    /// Everything was sent; acknowledged with this sequence number.
    Sent {
        end: u32,
    },
    Acknowledged,
}

/// What came in.
pub(crate) enum Incoming {
    Request {
        sequence: u32,
        request: Request,
        descriptors: [Option<OwnedFd>; DESCRIPTORS_MAX],
    },
    Malformed(Malformed),
    /// Nothing more for now.
    Nothing,
    /// The supervisor has closed its end.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) socket: OwnedFd,
    /// Sequence number of the last report.
    pub(crate) sent: u32,
    /// The last one that the supervisor has seen.
    pub(crate) seen: u32,
    /// Since when something is unacknowledged without any sign of progress.
    pub(crate) waiting_since: Option<Moment>,
    pub(crate) handover: Handover,
    /// An answer that did not fit; nothing more is read until it has.
    pub(crate) answer: Option<(u32, Outcome)>,
}

impl Channel {
    /// A new channel, and the supervisor's end of it.
    pub(crate) fn open() -> Result<(Self, OwnedFd), Errno> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::with(ours), theirs))
    }

    /// A channel that was open before a re-execution starts where it was.
    pub(crate) fn with(socket: OwnedFd) -> Self {
        Self {
            socket,
            sent: 0,
            seen: 0,
            waiting_since: None,
            handover: Handover::Welcome,
            answer: None,
        }
    }

    /// Sends one report. `false`: it does not fit now, or the other end is gone.
    pub(crate) fn send(
        &mut self,
        report: &Report,
        fd: Option<BorrowedFd<'_>>,
        now: Moment,
    ) -> bool {
        let sequence = self.sent.wrapping_add(1);
        let message = report.encode(sequence);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_slice();
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return false;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(&self.socket, &[IoSlice::new(&message)], &mut control, flags) {
            Ok(_) => {
                self.sent = sequence;
                self.waiting_since.get_or_insert(now);
                true
            }
            Err(_) => false,
        }
    }

    /// Takes one request, without waiting.
    pub(crate) fn receive(&self) -> Incoming {
        // One byte more than a message has, so that a longer one is seen to be longer.
        let mut message = [0; MESSAGE_SIZE + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut message)];
        let received = match recvmsg(&self.socket, &mut parts, &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Incoming::Nothing,
            Err(_) => return Incoming::Closed,
        };
        let mut descriptors = [const { None }; DESCRIPTORS_MAX];
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for (place, fd) in descriptors.iter_mut().zip(fds) {
                    *place = Some(fd);
                }
            }
        }
        // A packet of no bytes and the end of file look alike; neither is of use.
        if received.bytes == 0 {
            return Incoming::Closed;
        }
        match Request::decode(&message[..received.bytes]) {
            Ok((sequence, request)) => Incoming::Request { sequence, request, descriptors },
            Err(malformed) => Incoming::Malformed(malformed),
        }
    }

    /// The supervisor has taken everything up to here. `true`: that ended the hand-over.
    pub(crate) fn seen(&mut self, sequence: u32, now: Moment) -> bool {
        // A number that was not sent yet, or was seen before, changes nothing.
        let advance = sequence.wrapping_sub(self.seen);
        if advance == 0 || advance > self.unseen() {
            return false;
        }
        self.seen = sequence;
        self.waiting_since = (self.unseen() > 0).then_some(now);
        match self.handover {
            Handover::Sent { end } if self.sent.wrapping_sub(end) >= self.unseen() => {
                self.handover = Handover::Acknowledged;
                true
            }
            _ => false,
        }
    }

    /// Reports that the supervisor has not acknowledged.
    pub(crate) fn unseen(&self) -> u32 {
        self.sent.wrapping_sub(self.seen)
    }

    /// The hand-over may go on.
    pub(crate) fn has_room_for_handover(&self) -> bool {
        self.unseen() < HANDOVER_BATCH
    }

    /// When a supervisor that says nothing is taken to hang.
    pub(crate) fn hangs_at(&self) -> Option<Moment> {
        self.waiting_since.map(|since| since + PATIENCE)
    }

    /// Raw number, for epoll and for the state of a re-execution.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(channel: &mut Channel, reports: u32) {
        for _ in 0..reports {
            assert!(channel.send(&Report::HandoverEnd, None, Moment(5)));
        }
    }

    #[test]
    fn the_hand_over_is_acknowledged_by_its_last_message_and_pauses_after_a_batch() {
        let (mut channel, _other) = Channel::open().unwrap();
        sent(&mut channel, HANDOVER_BATCH);
        assert!(!channel.has_room_for_handover());
        assert!(!channel.seen(1, Moment(6)));
        assert!(channel.has_room_for_handover());
        sent(&mut channel, 1);
        channel.handover = Handover::Sent { end: channel.sent };
        sent(&mut channel, 1);
        assert!(!channel.seen(HANDOVER_BATCH, Moment(7)));
        assert!(channel.seen(HANDOVER_BATCH + 1, Moment(8)));
        assert_eq!(channel.handover, Handover::Acknowledged);
    }

    #[test]
    fn patience_begins_anew_with_every_sign_of_life_and_ends_when_all_is_seen() {
        let (mut channel, _other) = Channel::open().unwrap();
        assert_eq!(channel.hangs_at(), None);
        sent(&mut channel, 2);
        assert_eq!(channel.hangs_at(), Some(Moment(5) + PATIENCE));
        channel.seen(9, Moment(6));
        assert_eq!(channel.hangs_at(), Some(Moment(5) + PATIENCE), "9 was never sent");
        channel.seen(1, Moment(7));
        assert_eq!(channel.hangs_at(), Some(Moment(7) + PATIENCE));
        channel.seen(2, Moment(8));
        assert_eq!(channel.hangs_at(), None);
    }
}
