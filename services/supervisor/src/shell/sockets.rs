//! Listening sockets of services: bound here, kept by the keeper, inherited by the service (blocking, as a service expects
//! that binds its own).
//!
//! A Unix socket's file is replaced only when nobody listens behind it: the supervisor holds every socket it made, so a
//! file without a listener is a leftover.

use std::{
    io,
    os::{fd::OwnedFd, unix::fs::FileTypeExt as _},
    path::Path,
};

use rustix::{
    fs::{Mode, fchmod},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, connect,
        listen, socket_with, sockopt,
    },
};

use crate::settings::{Listen, Socket, UnixKind};

/// The most the kernel queues for us while a service restarts; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds and listens.
///
/// # Errors
/// In use, no permission, no such folder ...
pub(crate) fn open(socket: &Socket) -> io::Result<OwnedFd> {
    match &socket.listen {
        Listen::Unix { path, kind } => unix(path, *kind, socket.mode),
        Listen::Tcp(address) => {
            let listener = inet(*address, SocketType::STREAM)?;
            listen(&listener, BACKLOG)?;
            Ok(listener)
        }
        Listen::Udp(address) => inet(*address, SocketType::DGRAM),
    }
}

/// Binds a Unix socket at `path`, in the place of a dead one.
pub(crate) fn unix(path: &Path, kind: UnixKind, mode: u32) -> io::Result<OwnedFd> {
    let kind = match kind {
        UnixKind::Stream => SocketType::STREAM,
        UnixKind::Datagram => SocketType::DGRAM,
        UnixKind::SeqPacket => SocketType::SEQPACKET,
    };
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    if let Err(error) = bind_with(&socket, &address, mode) {
        if error != Errno::ADDRINUSE || !is_dead(path, kind, &address)? {
            return Err(error.into());
        }
        std::fs::remove_file(path)?;
        bind_with(&socket, &address, mode)?;
    }
    if kind != SocketType::DGRAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// Binds so that the file has its mode from the first moment. By its path it could only be given afterwards, and in a folder
/// that somebody else owns the path may be a symbolic link to any file by then.
fn bind_with(socket: &OwnedFd, address: &SocketAddrUnix, mode: u32) -> Result<(), Errno> {
    // The kernel gives the file the mode of the socket's own inode, less the umask. One thread runs here: nobody else makes
    // a file meanwhile.
    fchmod(socket, Mode::from_raw_mode(mode & 0o777))?;
    let umask = rustix::process::umask(Mode::empty());
    let bound = bind(socket, address);
    rustix::process::umask(umask);
    bound
}

/// Removes the file of a Unix socket that is no longer held.
pub(crate) fn unlink(socket: &Socket) {
    if let Listen::Unix { path, .. } = &socket.listen {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(path);
    }
}

/// Accepts and closes what waits in the backlog, so that callers learn now, and not by a time-out, that nobody will come.
pub(crate) fn turn_away(listener: &OwnedFd) {
    // Not by looking first: who waits may be gone, or taken by a process that still has the socket, before we accept.
    if rustix::io::ioctl_fionbio(listener, true).is_err() {
        return;
    }
    for _ in 0..BACKLOG {
        if acceptfrom_with(listener, SocketFlags::CLOEXEC).is_err() {
            return;
        }
    }
}

/// A socket's file behind which nobody is. Anything that is no socket is left alone.
fn is_dead(path: &Path, kind: SocketType, address: &SocketAddrUnix) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    Ok(connect(&probe, address) == Err(Errno::CONNREFUSED))
}

fn inet(address: std::net::SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_its_mode_whatever_the_umask_is() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666] {
            let path = folder.path().join(format!("{mode:o}"));
            let _socket = unix(&path, UnixKind::Stream, mode).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
    }

    #[test]
    fn callers_are_turned_away_and_nobody_is_waited_for() {
        use std::io::Read as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = unix(&path, UnixKind::Stream, 0o600).unwrap();
        let mut caller = std::os::unix::net::UnixStream::connect(&path).unwrap();
        turn_away(&listener);
        assert_eq!(caller.read(&mut [0; 1]).unwrap(), 0);
        // A blocking accept would never come back from here.
        turn_away(&listener);
    }

    #[test]
    fn a_dead_sockets_file_is_replaced_and_a_living_one_is_not() {
        let path = std::env::temp_dir().join(format!("vestal-sock-{}", std::process::id()));
        drop(unix(&path, UnixKind::Stream, 0o600).unwrap());
        let living = unix(&path, UnixKind::Stream, 0o600).unwrap();
        let refused = unix(&path, UnixKind::Stream, 0o600).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(living);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(unix(&path, UnixKind::Stream, 0o600).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
    }
}
