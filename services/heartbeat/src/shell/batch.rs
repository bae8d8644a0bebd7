//! Many datagrams a system call, both ways. Knows nothing of what is in them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::{
    MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, addr::SocketAddrArg as _, sendmmsg,
};

/// Datagrams of one call.
pub(super) const BATCH: usize = 64;
/// Room for one: more than any peer may send us, so that what is cut off is seen.
const ROOM: usize = 1_536;

/// Buffers for receiving.
pub(super) struct Inbox {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Vec<[u8; ROOM]>,
}

/// Datagrams that are to be sent, of which the socket may take some now and others later.
#[derive(Default)]
pub(super) struct Outbox {
    octets: Vec<u8>,
    /// To whom, and where in the octets it begins and ends.
    datagrams: Vec<(SocketAddr, usize, usize)>,
    sent: usize,
}

/// How a batch went.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Received {
    pub(super) datagrams: usize,
    pub(super) oversized: u64,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { headers: MultiHeaders::preallocate(BATCH, None), buffers: vec![[0; ROOM]; BATCH] }
    }

    /// Takes what has come, a batch at most. Nothing left is `WouldBlock`.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        mut take: impl FnMut(SocketAddr, &[u8]),
    ) -> io::Result<Received> {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let messages =
            recvmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter_mut(), flags, None)?;
        let mut received = Received::default();
        for message in messages {
            received.datagrams += 1;
            if message.flags.contains(MsgFlags::MSG_TRUNC) {
                received.oversized += 1;
                continue;
            }
            let from = message.address.as_ref().and_then(address);
            if let (Some(from), Some(octets)) = (from, message.iovs().next()) {
                take(from, octets);
            } else if let Some(from) = from {
                // An empty datagram.
                take(from, &[]);
            }
        }
        Ok(received)
    }
}

fn address(from: &SockaddrStorage) -> Option<SocketAddr> {
    let four = from.as_sockaddr_in().map(|from| SocketAddr::V4((*from).into()));
    four.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::V6((*from).into())))
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.datagrams.len()
    }

    /// Fills it by a function that appends one datagram to the octets and says for whom it is and how long.
    /// What was not sent before goes first.
    pub(super) fn fill(
        &mut self,
        mut next: impl FnMut(&mut Vec<u8>) -> Option<(SocketAddr, usize)>,
    ) {
        if !self.is_empty() {
            return;
        }
        self.octets.clear();
        self.datagrams.clear();
        self.sent = 0;
        while self.datagrams.len() < BATCH {
            let Some((to, length)) = next(&mut self.octets) else { return };
            let end = self.octets.len();
            self.datagrams.push((to, end - length, end));
        }
    }

    /// Sends what it can. A datagram that the system refuses is dropped and counted: it is like one lost on its way, and
    /// says nothing about the others. `WouldBlock` keeps the rest.
    pub(super) fn flush(&mut self, socket: &UdpSocket) -> (io::Result<()>, u64) {
        let mut refused = 0;
        while !self.is_empty() {
            match self.send(socket) {
                Ok(count) => self.sent += count.max(1),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    return (Err(rustix::io::Errno::AGAIN.into()), refused);
                }
                Err(_) => {
                    refused += 1;
                    self.sent += 1;
                }
            }
        }
        (Ok(()), refused)
    }

    fn send(&self, socket: &UdpSocket) -> rustix::io::Result<usize> {
        let datagrams = &self.datagrams[self.sent..];
        let addresses: Vec<SocketAddrAny> = datagrams.iter().map(|(to, ..)| to.as_any()).collect();
        let slices: Vec<[IoSlice<'_>; 1]> = datagrams
            .iter()
            .map(|(_, start, end)| [IoSlice::new(&self.octets[*start..*end])])
            .collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            datagrams.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let parts = addresses.iter().zip(&slices).zip(&mut controls);
        let mut messages: Vec<MMsgHdr<'_>> = parts
            .map(|((to, slice), control)| MMsgHdr::new_with_addr(to, slice, control))
            .collect();
        sendmmsg(socket, &mut messages, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        (socket(), socket())
    }

    #[test]
    fn batches_arrive_whole_empty_ones_included_and_long_ones_are_counted() {
        let (one, other) = pair();
        let to = other.local_addr().unwrap();
        let mut outbox = Outbox::default();
        let mut lengths = vec![0_usize, 1, 46, 1_400, 2_000, 7];
        lengths.reverse();
        outbox.fill(|octets| {
            let length = lengths.pop()?;
            octets.extend(std::iter::repeat_n(9, length));
            Some((to, length))
        });
        assert_eq!(outbox.flush(&one).1, 0);
        let mut inbox = Inbox::new();
        let mut taken = Vec::new();
        let received = inbox
            .receive(&other, |from, octets| {
                assert_eq!(from, one.local_addr().unwrap());
                taken.push(octets.len());
            })
            .unwrap();
        assert_eq!(taken, [0, 1, 46, 1_400, 7]);
        assert_eq!(received, Received { datagrams: 6, oversized: 1 });
        let nothing = inbox.receive(&other, |_, _| panic!("nothing was sent")).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn one_that_can_not_be_sent_and_a_dead_peer_do_not_keep_the_others_back() {
        let (one, other) = pair();
        let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let to = other.local_addr().unwrap();
        // Port 0 is refused by the system at once; the dead peer is answered by ICMP.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut all = vec![to, dead, nowhere, to, dead, to];
        for _ in 0..2 {
            let mut outbox = Outbox::default();
            outbox.fill(|octets| {
                octets.push(1);
                all.pop().map(|to| (to, 1))
            });
            let refused = outbox.flush(&one).1;
            assert!(refused <= 1 && outbox.is_empty());
            let mut count = 0;
            let _ = Inbox::new().receive(&other, |_, _| count += 1);
            assert_eq!(count, 3);
            let error = Inbox::new().receive(&one, |_, _| {}).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            all = vec![to, dead, to, to];
        }
    }
}
