//! Says to whoever started us how we are: the sd_notify(3) protocol, and inherited sockets as in sd_listen_fds(3).

use std::{
    env, io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// First descriptor of the inherited sockets (`SD_LISTEN_FDS_START`).
const LISTEN_FDS_START: i32 = 3;
/// More than this many inherited sockets are a broken environment.
const LISTEN_FDS_MAX: i32 = 64;

/// Sends `state` (for example `READY=1`) to the supervisor; does nothing where nobody wants to know.
///
/// # Errors
/// Where `NOTIFY_SOCKET` is set but can't be reached.
pub(crate) fn notify(state: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
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
