//! Listens to the kernel for network interfaces that go up and down, and hands what changed to the loop. Nothing waits for
//! it: where it can't be had, there are no such events.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recvfrom,
        sendto, socket_with,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

use super::Inbound;
use crate::machine::Links;

/// `on` or `off`: whether there are interface events. Without it: as root.
const SWITCH: &str = "VESTAL_INTERFACE_EVENTS";
/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// The kernel makes no longer datagrams for a reader that doesn't ask for them.
const DATAGRAM_MAX: usize = 32 * 1024;

/// Begins to listen, if it is wanted.
pub(super) fn start(inbox: mpsc::Sender<Inbound>) {
    let wanted = match std::env::var(SWITCH).as_deref() {
        Ok("on") => true,
        Ok("off") => false,
        Ok(other) => {
            tracing::warn!("{SWITCH}={other:?} is not known; write on or off");
            rustix::process::geteuid().is_root()
        }
        Err(_) => rustix::process::geteuid().is_root(),
    };
    if !wanted {
        return;
    }
    match open() {
        Ok(socket) => {
            tokio::spawn(async move {
                if let Err(error) = listen(&socket, &inbox).await {
                    tracing::warn!("no more events of network interfaces: {error}");
                }
            });
        }
        Err(error) => tracing::warn!("there are no events of network interfaces: {error}"),
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, flags, None)?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, GROUPS))?;
    watched(socket, Interest::READABLE)
}

/// A descriptor that is waited for.
#[expect(
    deprecated,
    reason = "what follows it is unsafe, for descriptors that others may close; this owns its own"
)]
pub(super) fn watched(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, interest)
}

async fn listen(socket: &AsyncFd<OwnedFd>, inbox: &mpsc::Sender<Inbound>) -> io::Result<()> {
    let mut links = Links::default();
    let mut datagram = vec![0; DATAGRAM_MAX];
    ask(socket, &mut links)?;
    loop {
        let mut ready = socket.readable().await?;
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        let length = match recvfrom(socket, &mut datagram[..], RecvFlags::empty()) {
            Ok((_, length, Some(sender)))
                if netlink::SocketAddrNetlink::try_from(sender.clone())
                    .is_ok_and(|sender| sender.pid() == kernel.pid()) =>
            {
                length.min(DATAGRAM_MAX)
            }
            // Not the kernel's.
            Ok(_) => continue,
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                continue;
            }
            Err(Errno::INTR) => continue,
            // More happened than we could read: everything is looked at again.
            Err(Errno::NOBUFS) => {
                ask(socket, &mut links)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for change in links.take(&datagram[..length]) {
            if inbox.send(Inbound::Seen(change)).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn ask(socket: &AsyncFd<OwnedFd>, links: &mut Links) -> io::Result<()> {
    let kernel = netlink::SocketAddrNetlink::new(0, 0);
    sendto(socket, &links.ask_for_all(), SendFlags::empty(), &kernel)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_lists_its_interfaces_without_any_being_news() {
        // A sandbox may have no netlink.
        let Ok(socket) = open() else { return };
        let (inbox, mut changes) = mpsc::channel(16);
        let listening = tokio::spawn(async move { listen(&socket, &inbox).await });
        let quiet = std::time::Duration::from_millis(100);
        if let Ok(Some(Inbound::Seen(change))) = tokio::time::timeout(quiet, changes.recv()).await {
            // Another test, or the machine itself, may change something: what came has a name.
            assert!(change.event().1.contains_key("interface"));
        }
        assert!(!listening.is_finished(), "{:?}", listening.await);
        listening.abort();
    }
}
