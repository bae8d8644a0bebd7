//! The socket of syslog(3): datagrams, with what the kernel says of who sent them.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixDatagram},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred,
};
use tokio::io::Interest;

use super::{Desk, now};

/// A longer datagram is cut off.
const DATAGRAM_MAX: usize = 64 << 10;

/// Receives until it can't. The inherited socket is taken first, else one is bound at the path.
pub(super) async fn receive(desk: Arc<Desk>, inherited: Option<OwnedFd>, path: Option<PathBuf>) {
    let place = path.as_ref().map_or("the inherited socket".into(), |path| path.to_string_lossy());
    let socket = match (inherited, &path) {
        (Some(socket), _) => Ok(socket),
        (None, Some(path)) => bind(path),
        (None, None) => return,
    };
    let result = match socket {
        Ok(socket) => follow(&desk, socket).await,
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        let text = format!(
            "syslog messages are not received at {place}: {error}; a [[sockets]] named \"syslog\" in log's definition lets the supervisor bind it"
        );
        desk.missing("syslog", text).await;
    }
}

/// Only we are left when there is a socket already: the lock says so. Anything else is somebody's, and stays.
fn bind(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() || found.is_symlink() => {
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is no socket")),
        Err(_) => {}
    }
    let socket = UnixDatagram::bind(path)?;
    // Everybody may log; our umask says otherwise.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(socket.into())
}

async fn follow(desk: &Desk, socket: OwnedFd) -> io::Result<()> {
    let socket = UnixDatagram::from(socket);
    socket.set_nonblocking(true)?;
    set_socket_passcred(&socket, true)?;
    let socket = tokio::net::UnixDatagram::from_std(socket)?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let one = || receive_one(socket.as_fd(), &mut buffer);
        let (length, sender) = match socket.async_io(Interest::READABLE, one).await {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        let entries = desk.intake().datagram(&buffer[..length], sender, now());
        desk.keep(entries, None).await;
    }
}

/// A datagram's length, and pid and user of its sender.
fn receive_one(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<(i32, u32)>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut sender = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmCredentials(of) = message {
            sender = Some((of.pid.as_raw_nonzero().get(), of.uid.as_raw()));
        }
    }
    Ok((received.bytes, sender))
}
