//! The least that answers heartbeats: receives 46 octets and sends 6, up to 64 of each in a system call, and does nothing else.

use std::{
    io::{IoSlice, IoSliceMut},
    net::UdpSocket,
    os::fd::AsRawFd as _,
};

use anyhow::Context as _;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use rustix::net::sockopt;

/// As many as the broker takes.
const BATCH: usize = 64;
/// As much as the broker asks for.
const RECEIVE_BUFFER: usize = 4 << 20;
const ANSWER: [u8; 6] = [0x40, 6, 0, 0, 0, 0];

/// Prints its address and serves until it is killed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    // Less than wanted is what the broker gets, too.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
    println!("{}", socket.local_addr()?);
    let mut buffers = vec![[0; 64]; BATCH];
    let mut received = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut sent = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let answers = [[IoSlice::new(&ANSWER)]; BATCH];
    let mut peers: Vec<Option<SockaddrIn>> = Vec::with_capacity(BATCH);
    loop {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let messages = recvmmsg(socket.as_raw_fd(), &mut received, slices.iter_mut(), flags, None)?;
        peers.clear();
        peers.extend(messages.map(|message| message.address));
        let answers = &answers[..peers.len()];
        sendmmsg(socket.as_raw_fd(), &mut sent, answers, &peers, [], MsgFlags::empty())
            .context("send answers")?;
    }
}
