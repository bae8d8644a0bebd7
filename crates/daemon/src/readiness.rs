//! Says to whoever started us how we are: the sd_notify(3) protocol, and inherited sockets as in sd_listen_fds(3).

use std::{
    env,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, FromRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// First descriptor of the inherited sockets (`SD_LISTEN_FDS_START`).
const LISTEN_FDS_START: i32 = 3;
/// More than this many inherited sockets are a broken environment.
const LISTEN_FDS_MAX: i32 = 64;

/// Sends `state` (for example `READY=1`) to the supervisor; does nothing where nobody wants to know.
///
/// # Errors
/// Where `NOTIFY_SOCKET` is set but can't be reached.
pub(crate) fn notify(state: &str) -> io::Result<()> {
    send(state, &[])
}

/// Gives the supervisor a descriptor to keep: the next start of this instance inherits it under this name, behind its sockets.
///
/// # Errors
/// As [`notify`].
pub(crate) fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    send(&format!("FDSTORE=1\nFDNAME={name}"), &[descriptor])
}

fn send(state: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("more than one descriptor beside a message"));
    }
    let text = [IoSlice::new(state.as_bytes())];
    sendmsg(&socket, &text, &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The sockets that the supervisor bound for us, with their names. Call it once, before anything else is opened.
pub(crate) fn inherited_sockets() -> Vec<(String, OwnedFd)> {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<i32>().ok());
    if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, LISTEN_FDS_MAX);
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    (LISTEN_FDS_START..LISTEN_FDS_START + count)
        .filter_map(|number| {
            let name = names.next().unwrap_or_default().to_owned();
            adopt(number).map(|socket| (name, socket))
        })
        .collect()
}

#[expect(unsafe_code, reason = "inherited descriptors are known by number only")]
fn adopt(number: i32) -> Option<OwnedFd> {
    // SAFETY: LISTEN_PID says that this descriptor was opened for us, and nobody else in this process has taken it:
    // the caller is asked to call once, first.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC) {
        Ok(()) => Some(socket),
        Err(_) => {
            // Not open at all: dropping it would close somebody else's later descriptor.
            std::mem::forget(socket);
            None
        }
    }
}
