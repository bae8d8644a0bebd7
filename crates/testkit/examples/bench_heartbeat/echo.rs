//! Two servers that send back what they receive: one over bare UDP, one over Reliable UDP, both a blocking call at a time.

use std::net::UdpSocket;

use rudp::{Config, Endpoint, Event, Limits};

use crate::ground::now;

/// Prints its address and serves until it is killed.
pub(crate) fn bare() -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!("{}", socket.local_addr()?);
    let mut octets = [0; 2_048];
    loop {
        let (length, from) = socket.recv_from(&mut octets)?;
        socket.send_to(&octets[..length], from)?;
    }
}

/// The same. It has no timer: a client that lost something asks again.
pub(crate) fn reliable() -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!("{}", socket.local_addr()?);
    let mut endpoint = Endpoint::new(Config::heartbeat(60_000), Limits::default(), [1, 2])?;
    let mut octets = [0; 2_048];
    let (mut message, mut out) = (Vec::new(), Vec::new());
    loop {
        let (length, from) = socket.recv_from(&mut octets)?;
        let time = now();
        endpoint.handle_datagram(from, &octets[..length], time);
        while let Some((handle, event)) = endpoint.poll_event() {
            match event {
                Event::Data(data) => {
                    message.clear();
                    message.extend_from_slice(data);
                    // A client that doesn't read what it asked for gets no more.
                    let _ = endpoint.send(handle, &message, time);
                }
                Event::Opened => endpoint.verify(handle),
                _ => {}
            }
        }
        while let Some((to, _)) = endpoint.poll_transmit(&mut out) {
            socket.send_to(&out, to)?;
            out.clear();
        }
    }
}
