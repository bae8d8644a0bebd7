//! The keys that say how a service is reached and how it says that it can serve: sockets, readiness, watchdog.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use daemon::places::SOCKET_PATH_MAX;
use protocol::{
    hello::OBJECT_NAME_MAX,
    keeper::plan::{READY_FD_MAX, SOCKETS_FD, SOCKETS_MAX},
};

use super::{
    process::Surroundings,
    table::{Item, Table},
};
use crate::settings::{Listen, Readiness, ReadinessKind, Socket, UnixKind, units};

/// How long a service that has something to say may take to say it, where the definition doesn't tell.
const READINESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Mode of a Unix socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;
/// What takes descriptors from [`SOCKETS_FD`] upward.
#[derive(Clone, Copy)]
pub(super) struct Inherited {
    pub(super) sockets: usize,
    /// The key of a heartbeat comes after the sockets.
    pub(super) key: bool,
}

/// `LISTEN_FDNAMES` (sd_listen_fds(3)).
const SOCKET_NAME_MAX: usize = 64;

pub(super) fn sockets(table: &Table<'_>, surroundings: &Surroundings<'_>) -> Vec<Socket> {
    let items = table.list("sockets").unwrap_or_default();
    if let Some(one_too_many) = items.get(SOCKETS_MAX) {
        one_too_many.wrong(format!("at most {SOCKETS_MAX} sockets are allowed"));
    }
    let mut sockets: Vec<Socket> = Vec::new();
    for item in items.iter().take(SOCKETS_MAX) {
        let Some(socket) = socket(item, surroundings) else { continue };
        if sockets.iter().any(|other| other.listen == socket.listen) {
            item.wrong("this address is listened on twice");
        }
        sockets.push(socket);
    }
    sockets
}

fn socket(item: &Item<'_>, surroundings: &Surroundings<'_>) -> Option<Socket> {
    let table = item.table()?;
    table.refuse_others(&["name", "listen", "mode"], |_| None);
    let name = table.get("name").and_then(|item| {
        item.parsed(|text| {
            let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
            match text.len() {
                1..=SOCKET_NAME_MAX if plain => Ok(text.to_owned()),
                _ => Err(format!(
                    "{text:?} is not a socket's name; write 1 to {SOCKET_NAME_MAX} visible ASCII characters without \":\""
                )),
            }
        })
    });
    let Some(address) = table.get("listen") else {
        item.wrong("a socket needs listen = \"...\"");
        return None;
    };
    let written = surroundings.expanded(&address)?;
    let listen = match listen(&written, surroundings) {
        Ok(listen) => listen,
        Err(why) => {
            address.wrong(why);
            return None;
        }
    };
    let mode = table.get("mode").and_then(|item| item.mode()).unwrap_or(SOCKET_MODE);
    Some(Socket { name: name.unwrap_or_else(|| "socket".to_owned()), listen, mode })
}

/// `unix:PATH`, `unix-dgram:PATH`, `unix-seqpacket:PATH`, `run:NAME.sock`, `tcp:ADDRESS`, `udp:ADDRESS`.
fn listen(text: &str, surroundings: &Surroundings<'_>) -> Result<Listen, String> {
    let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
    let unix = |kind| Ok(Listen::Unix { path: unix_path(rest.into())?, kind });
    match scheme {
        "unix" => unix(UnixKind::Stream),
        "unix-dgram" => unix(UnixKind::Datagram),
        "unix-seqpacket" => unix(UnixKind::SeqPacket),
        "run" if rest.is_empty() || rest.contains('/') || rest.starts_with('.') => {
            Err(format!("{rest:?} is not a name in the run directory; write \"run:NAME.sock\""))
        }
        "run" => {
            let path = unix_path(surroundings.context.run.join(rest))?;
            Ok(Listen::Unix { path, kind: UnixKind::Stream })
        }
        "tcp" => Ok(Listen::Tcp(address(rest)?)),
        "udp" => Ok(Listen::Udp(address(rest)?)),
        _ => Err(format!(
            "{text:?} is not an address to listen on; write \"unix:/path\", \"unix-dgram:/path\", \"unix-seqpacket:/path\", \"run:NAME.sock\", \"tcp:127.0.0.1:80\" or \"udp:[::]:53\""
        )),
    }
}

fn unix_path(path: PathBuf) -> Result<PathBuf, String> {
    let length = path.as_os_str().len();
    if !path.is_absolute() {
        return Err(format!("{path:?} is not an absolute path"));
    }
    if length > SOCKET_PATH_MAX {
        return Err(format!(
            "{path:?} has {length} bytes, a socket's path at most {SOCKET_PATH_MAX}; choose a shorter one"
        ));
    }
    Ok(path)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an IP address with a port; write \"127.0.0.1:80\" or \"[::]:80\"")
    })
}

pub(super) fn readiness(
    table: &Table<'_>,
    surroundings: &Surroundings<'_>,
    inherited: Inherited,
) -> Readiness {
    const KINDS: [&str; 7] = ["exec", "notify", "fd", "tcp", "unix", "command", "object"];
    let Some(item) = table.get("readiness") else { return Readiness::default() };
    let Some(table) = item.table() else { return Readiness::default() };
    let known: Vec<&str> = KINDS.into_iter().chain(["timeout"]).collect();
    table.refuse_others(&known, |_| None);
    let given: Vec<&str> = KINDS.into_iter().filter(|key| table.get(key).is_some()).collect();
    let kind = match *given {
        [key] => table.get(key).and_then(|item| kind(key, &item, surroundings, inherited)),
        [] => {
            item.wrong(format!("no kind is given; write exactly one of {}", KINDS.join(", ")));
            None
        }
        _ => {
            item.wrong(format!("{} contradict each other; write exactly one", given.join(" and ")));
            None
        }
    };
    let kind = kind.unwrap_or_default();
    let default = (kind != ReadinessKind::Exec).then_some(READINESS_TIMEOUT);
    let timeout = table.get("timeout").map_or(default, |item| optional(&item));
    Readiness { kind, timeout }
}

fn kind(
    key: &str,
    item: &Item<'_>,
    surroundings: &Surroundings<'_>,
    inherited: Inherited,
) -> Option<ReadinessKind> {
    match key {
        "exec" | "notify" => {
            if !item.boolean()? {
                item.wrong("false means nothing here; leave the key out");
                return None;
            }
            Some(if key == "exec" { ReadinessKind::Exec } else { ReadinessKind::Notify })
        }
        "fd" => {
            let fd: u32 = item.integer(i64::from(SOCKETS_FD)..=i64::from(READY_FD_MAX))?;
            let Inherited { sockets, key } = inherited;
            let count = u32::try_from(sockets).unwrap_or(u32::MAX - SOCKETS_FD - 1);
            let first_free = SOCKETS_FD + count + u32::from(key);
            if fd < SOCKETS_FD + count {
                item.wrong(format!(
                    "descriptor {fd} is one of the {sockets} sockets, which begin at {SOCKETS_FD}; choose one from {first_free} to {READY_FD_MAX}"
                ));
            } else if fd < first_free {
                item.wrong(format!(
                    "descriptor {fd} is the heartbeat's key; choose one from {first_free} to {READY_FD_MAX}"
                ));
            }
            Some(ReadinessKind::Fd(fd))
        }
        "command" => surroundings.command(item).map(ReadinessKind::Command),
        "object" => item.parsed(object).map(ReadinessKind::Object),
        _ => {
            let written = surroundings.expanded(item)?;
            let read = match key {
                "tcp" => address(&written).map(ReadinessKind::Tcp),
                _ => unix_path(written.into()).map(ReadinessKind::Unix),
            };
            read.map_err(|why| item.wrong(why)).ok()
        }
    }
}

/// The name of an object in the registry.
pub(super) fn object(text: &str) -> Result<String, String> {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
    };
    if text.len() > OBJECT_NAME_MAX || !text.split('/').all(part) {
        return Err(format!(
            "{text:?} is not an object's name; write at most {OBJECT_NAME_MAX} of the characters a-z A-Z 0-9 - _ . @, parts divided by /"
        ));
    }
    Ok(text.to_owned())
}

/// A duration above zero, or `none`.
pub(super) fn optional(item: &Item<'_>) -> Option<Duration> {
    item.parsed(|text| match text {
        "none" => Ok(None),
        _ => match units::duration(text)? {
            Duration::ZERO => {
                Err("0 would be over before it began; write \"none\" for no limit".to_owned())
            }
            duration => Ok(Some(duration)),
        },
    })?
}
