//! What the kernel says of the process at the other end of a Unix socket, beyond its pid, user and group. Two socket
//! options that no safe library offers; this file is the crate's only unsafe code, and it knows nothing else.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// Most supplementary groups a process can have (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;
/// Most people have fewer.
const GROUPS_USUAL: usize = 64;

/// A pidfd of the process that connected (SO_PEERPIDFD, kernel 6.5).
pub(super) fn pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd = [-1_i32];
    let length = option(socket, libc::SO_PEERPIDFD, &mut fd)?;
    if length != size_of_val(&fd) || fd[0] < 0 {
        return Err(io::Error::other("the kernel answered no descriptor"));
    }
    // SAFETY: the kernel has just opened this descriptor for us; nobody else knows its number.
    #[expect(unsafe_code, reason = "getsockopt hands the descriptor over as a number")]
    Ok(unsafe { OwnedFd::from_raw_fd(fd[0]) })
}

/// The supplementary groups it had when it connected (SO_PEERGROUPS).
pub(super) fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    for room in [GROUPS_USUAL, GROUPS_MAX] {
        let mut groups = vec![0_u32; room];
        match option(socket, libc::SO_PEERGROUPS, &mut groups) {
            Ok(length) => {
                groups.truncate(length / size_of::<u32>());
                return Ok(groups);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("more than {GROUPS_MAX} groups")))
}

/// Reads a socket option of plain numbers; how many bytes it has.
fn option<T: Number>(socket: BorrowedFd<'_>, name: i32, into: &mut [T]) -> io::Result<usize> {
    let room = size_of_val(into);
    let mut length = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
    // SAFETY: `into` is writable for `length` bytes, the kernel writes no more than that, and any bytes are a `Number`.
    #[expect(unsafe_code, reason = "no safe library reads this option")]
    let outcome = unsafe {
        let into = into.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, into, &raw mut length)
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(length).map_or(0, |length| length.min(room)))
}

/// Types for which all bytes are valid.
trait Number {}
impl Number for i32 {}
impl Number for u32 {}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd as _, unix::net::UnixStream};

    use super::*;

    #[test]
    fn the_peer_of_a_pair_is_this_process_with_its_groups() {
        let (one, _two) = UnixStream::pair().unwrap();
        let fd = pidfd(one.as_fd()).unwrap();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
        let pid = format!("Pid:\t{}", std::process::id());
        assert!(info.unwrap().lines().any(|line| line == pid));

        let mut ours: Vec<u32> =
            rustix::process::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        let mut seen = groups(one.as_fd()).unwrap();
        ours.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, ours);
    }

    #[test]
    fn a_socket_without_a_peer_is_an_error() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(pidfd(socket.as_fd()).is_err());
        assert!(groups(socket.as_fd()).is_err());
    }
}
