//! Which UDP sockets the broker has: the supervisor's, or its own; and the file that says where they are.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::{SocketAddr, UdpSocket},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use anyhow::Context as _;
use daemon::Wrong;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::settings::Settings;

/// Room for all that ten thousand applications say in a tenth of a second, as far as the system allows it.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The name of the supervisor's sockets for us.
const NAME: &str = "heartbeat";

/// The sockets of the broker, and which of them the supervisor doesn't know yet, by the name to leave them under.
pub(super) struct Opened {
    pub(super) sockets: Vec<UdpSocket>,
    pub(super) fresh: Vec<(String, usize)>,
}

/// Takes the supervisor's sockets; without any, those that the last broker left with it, as far as they suit the settings;
/// binds the others.
pub(super) fn sockets(
    inherited: &mut Vec<(String, OwnedFd)>,
    settings: &Settings,
    folder: &Path,
) -> anyhow::Result<Opened> {
    let mut sockets = Vec::new();
    let mut fresh = Vec::new();
    while let Some(at) = inherited.iter().position(|(name, _)| name == NAME) {
        sockets.push(udp(inherited.swap_remove(at).1)?);
    }
    if sockets.is_empty() {
        let before = before(folder);
        for (place, address) in settings.listen.iter().enumerate() {
            let name = format!("{NAME}-{place}");
            if let Some(left) = left(inherited, &name, *address, settings.chosen) {
                sockets.push(left);
                continue;
            }
            fresh.push((name, sockets.len()));
            let socket = match bind(*address, &before) {
                // Nobody asked for this port. Applications are told which one it is, and must be watched.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !settings.chosen => {
                    tracing::warn!(
                        "udp {address} is taken by another program; a free port will do"
                    );
                    bind(SocketAddr::new(address.ip(), 0), &before)
                }
                bound => bound,
            };
            sockets.push(socket.with_context(|| format!("listen on udp {address}"))?);
        }
    }
    for socket in &sockets {
        socket.set_nonblocking(true).context("make a socket non-blocking")?;
        // Less than wanted is no error: then more is lost in a burst, and sent again.
        let _ = sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER);
    }
    Ok(Opened { sockets, fresh })
}

/// The socket that the last broker left under this name, if it is where this one is to listen.
fn left(
    inherited: &mut Vec<(String, OwnedFd)>,
    name: &str,
    wanted: SocketAddr,
    chosen: bool,
) -> Option<UdpSocket> {
    let at = inherited.iter().position(|(known, _)| known == name)?;
    let socket = udp(inherited.swap_remove(at).1).ok()?;
    let address = socket.local_addr().ok()?;
    let any_port = wanted.port() == 0 || !chosen;
    let suits = address.ip() == wanted.ip() && (any_port || address.port() == wanted.port());
    suits.then_some(socket)
}

fn udp(socket: OwnedFd) -> anyhow::Result<UdpSocket> {
    let family =
        sockopt::socket_domain(&socket).context("look at the socket from the supervisor")?;
    let kind = sockopt::socket_type(&socket).context("look at the socket from the supervisor")?;
    let known = matches!(family, AddressFamily::INET | AddressFamily::INET6);
    if !known || kind != SocketType::DGRAM {
        let text = format!(
            "the inherited socket {NAME:?} is not a UDP socket; write listen = \"udp:127.0.0.1:7420\" in the service's definition"
        );
        anyhow::bail!(Wrong(text));
    }
    Ok(UdpSocket::from(socket))
}

/// Port 0 takes the one of last time where it is still free: applications know it already.
fn bind(address: SocketAddr, before: &[SocketAddr]) -> io::Result<UdpSocket> {
    let known = before.iter().find(|known| address.port() == 0 && known.ip() == address.ip());
    match known.map(UdpSocket::bind) {
        Some(Ok(socket)) => Ok(socket),
        _ => UdpSocket::bind(address),
    }
}

fn before(folder: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(folder.join("addr")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Writes `addr`: one address a line, readable by all.
pub(super) fn publish(folder: &Path, addresses: &[SocketAddr]) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let text: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    let fresh = folder.join(".addr");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, folder.join("addr"))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(address: &str, chosen: bool) -> Settings {
        Settings { listen: vec![address.parse().unwrap()], chosen, ..Settings::default() }
    }

    #[test]
    fn a_taken_port_is_an_error_only_where_somebody_chose_it() {
        let folder = tempfile::tempdir().unwrap();
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let bind = |chosen| {
            sockets(&mut Vec::new(), &listening(&address, chosen), folder.path())
                .map(|opened| opened.sockets)
        };
        assert!(format!("{:#}", bind(true).unwrap_err()).contains(&address));
        assert_ne!(bind(false).unwrap()[0].local_addr().unwrap(), taken.local_addr().unwrap());
    }

    #[test]
    fn a_free_port_is_taken_and_kept_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("heartbeat");
        let any = listening("127.0.0.1:0", true);
        let port = |opened: &Opened| opened.sockets[0].local_addr().unwrap();
        let first = sockets(&mut Vec::new(), &any, &folder).unwrap();
        let address = port(&first);
        publish(&folder, &[address]).unwrap();
        assert_eq!(fs::read_to_string(folder.join("addr")).unwrap(), format!("{address}\n"));
        // Taken by somebody: another one will do.
        assert_ne!(port(&sockets(&mut Vec::new(), &any, &folder).unwrap()), address);
        drop(first);
        assert_eq!(port(&sockets(&mut Vec::new(), &any, &folder).unwrap()), address);
    }

    #[test]
    fn a_socket_of_the_supervisor_is_taken_before_any_setting() {
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        let mut inherited = vec![(NAME.to_owned(), OwnedFd::from(bound))];
        let listen = listening("192.0.2.1:1", true);
        let taken = sockets(&mut inherited, &listen, Path::new("/nonexistent")).unwrap();
        assert_eq!(taken.sockets[0].local_addr().unwrap(), address);
        assert!(taken.fresh.is_empty());
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut inherited = vec![(NAME.to_owned(), OwnedFd::from(tcp))];
        let refused = sockets(&mut inherited, &listen, Path::new("/nonexistent"));
        let error = refused.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("udp:127.0.0.1:7420"), "{error}");
    }

    #[test]
    fn what_the_last_broker_left_is_taken_where_it_suits_the_settings() {
        let folder = tempfile::tempdir().unwrap();
        let any = listening("127.0.0.1:0", true);
        let first = sockets(&mut Vec::new(), &any, folder.path()).unwrap();
        assert_eq!(first.fresh, [("heartbeat-0".to_owned(), 0)]);
        let address = first.sockets[0].local_addr().unwrap();
        let left = || {
            vec![("heartbeat-0".to_owned(), OwnedFd::from(first.sockets[0].try_clone().unwrap()))]
        };
        let again = sockets(&mut left(), &any, folder.path()).unwrap();
        assert_eq!(again.sockets[0].local_addr().unwrap(), address);
        assert!(again.fresh.is_empty());
        let elsewhere = listening("127.0.0.2:0", true);
        let moved = sockets(&mut left(), &elsewhere, folder.path()).unwrap();
        assert_eq!(moved.sockets[0].local_addr().unwrap().ip().to_string(), "127.0.0.2");
        assert_eq!(moved.fresh.len(), 1);
    }
}
