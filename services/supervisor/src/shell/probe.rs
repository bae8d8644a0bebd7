//! Looks whether an instance can serve, for services that don't say so themselves: a connection that is accepted, or a
//! command that succeeds.

use std::{path::Path, process::Stdio, time::Duration};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use tokio::{net::TcpStream, process::Command, sync::mpsc, task::JoinHandle};

use super::{
    Inbound,
    notify::{Line, Notification},
    prepared::Prepared,
};
use crate::{machine::Notice, settings::ReadinessKind};

/// The first look comes at once, then after this, doubling up to [`INTERVAL_MAX`].
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// One look may take this long; a listener that accepts nothing for so long isn't ready.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Looks until ready; ends when dropped.
#[derive(Debug)]
pub(crate) struct Probe(JoinHandle<()>);

impl Probe {
    pub(crate) fn new(looking: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(looking))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts looking; a command is run as the instance's user.
pub(crate) fn start(
    prepared: &Prepared,
    slot: u32,
    generation: u32,
    kind: ReadinessKind,
    inbox: mpsc::Sender<Inbound>,
) -> Probe {
    let mut command = match &kind {
        ReadinessKind::Command(command) => prepared.command(command),
        _ => Command::new(""),
    };
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Probe(tokio::spawn(async move {
        let mut interval = INTERVAL_MIN;
        while !tokio::time::timeout(LOOK_MAX, is_ready(&kind, &mut command)).await.unwrap_or(false)
        {
            tokio::time::sleep(interval).await;
            interval = INTERVAL_MAX.min(interval * 2);
        }
        let lines = vec![Line::Notice(Notice::Ready)];
        let notification =
            Notification { generation: Some(generation), lines, descriptors: Vec::new() };
        // Nobody listens where the supervisor is leaving.
        let _ = inbox.send(Inbound::Notification { slot, notification }).await;
    }))
}

async fn is_ready(kind: &ReadinessKind, command: &mut Command) -> bool {
    match kind {
        ReadinessKind::Tcp(address) => TcpStream::connect(address).await.is_ok(),
        ReadinessKind::Unix(path) => accepts(path),
        ReadinessKind::Command(_) => command.status().await.is_ok_and(|status| status.success()),
        // These say it themselves, or the registry does; the machine asks for no probe.
        ReadinessKind::Exec
        | ReadinessKind::Notify
        | ReadinessKind::Fd(_)
        | ReadinessKind::Object(_) => false,
    }
}

/// A full backlog counts as ready: somebody listens.
fn accepts(path: &Path) -> bool {
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM].into_iter().any(|kind| {
        socket_with(AddressFamily::UNIX, kind, flags, None)
            .is_ok_and(|socket| matches!(connect(&socket, &address), Ok(()) | Err(Errno::AGAIN)))
    })
}
