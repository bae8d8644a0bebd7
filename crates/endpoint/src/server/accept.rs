//! Accepting: who may come in, and what happens when the process has no descriptor left.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use protocol::{
    failure::Code,
    frame,
    message::{Goodbye, Message},
};
use rustix::{io::Errno, net::SendFlags};
use tokio::{
    net::{UnixListener, UnixStream},
    time::Instant,
};

use super::{
    Shared,
    connection::Connection,
    link::{Caller, Link},
};

/// How often a lack of descriptors is logged at most.
const WARN_EVERY: Duration = Duration::from_secs(1);
/// How long accepting rests when not even the reserve helped.
const REST: Duration = Duration::from_millis(100);

/// A descriptor that is given up when there is no other, to take one caller and tell it so.
pub(super) struct Reserve {
    held: Option<OwnedFd>,
    warned: Option<Instant>,
}

pub(super) fn nonce() -> io::Result<[u8; 16]> {
    let mut nonce = [0; 16];
    let filled = rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())?;
    if filled != nonce.len() {
        return Err(io::Error::other("the kernel gave too few random bytes"));
    }
    Ok(nonce)
}

/// Accepts until the server drains.
pub(super) async fn run(shared: Arc<Shared>, listener: UnixListener, mut reserve: Reserve) {
    loop {
        let changed = shared.changed.notified();
        if shared.lock().draining {
            return;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = changed => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                // Who is gone before we know him needs no answer.
                let _ = admit(&shared, stream);
            }
            Err(error) if is_exhausted(&error) => {
                shared.counters.out_of_descriptors.fetch_add(1, Relaxed);
                reserve.turn_away(&listener, &error);
                if reserve.held.is_none() {
                    tokio::time::sleep(REST).await;
                    reserve.held = spare();
                }
            }
            // The caller left the backlog before it was accepted; anything else would come again at once.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!("accept: {error}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

impl Reserve {
    /// Opened before the first caller comes: later may be too late.
    pub(super) fn new() -> Self {
        Self { held: spare(), warned: None }
    }

    /// Takes one caller with the reserve, tells it the server is full, and closes it again.
    fn turn_away(&mut self, listener: &UnixListener, error: &io::Error) {
        let now = Instant::now();
        if self.warned.is_none_or(|before| now - before >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!("cannot accept: {error}; raise the limit of open files (nofile)");
        }
        self.held = None;
        if let Ok(socket) = rustix::net::accept(listener) {
            say_goodbye(
                &socket,
                Code::Limit,
                "the service has no descriptor left; try again later",
            );
            drop(socket);
        }
        self.held = spare();
    }
}

fn spare() -> Option<OwnedFd> {
    File::open("/dev/null").ok().map(OwnedFd::from)
}

fn is_exhausted(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Starts a connection's task, or turns it away.
pub(super) fn admit(shared: &Arc<Shared>, stream: UnixStream) -> io::Result<()> {
    let credentials = match stream.peer_cred() {
        Ok(credentials) => credentials,
        Err(error) => {
            say_goodbye(
                &stream,
                Code::Failed,
                &format!("the kernel does not say who calls: {error}"),
            );
            return Err(error);
        }
    };
    let caller = Caller {
        pid: credentials.pid().unwrap_or(0),
        uid: credentials.uid(),
        gid: credentials.gid(),
    };
    let mut connections = shared.lock();
    let of_user = connections.per_user.get(&caller.uid).copied().unwrap_or(0);
    let settings = &shared.settings;
    let full = if of_user >= settings.connections_per_user {
        Some(format!(
            "user {} has {of_user} connections already, at most {} are allowed",
            caller.uid, settings.connections_per_user
        ))
    } else if connections.open.len() >= settings.connections {
        Some(format!("{} connections are open, no more are allowed", settings.connections))
    } else {
        None
    };
    if let Some(text) = full {
        drop(connections);
        shared.counters.connections_refused.fetch_add(1, Relaxed);
        say_goodbye(&stream, Code::Limit, &text);
        return Ok(());
    }
    shared.counters.connections.fetch_add(1, Relaxed);
    connections.next += 1;
    let stream = Arc::new(stream);
    let link = Link::new(
        connections.next,
        caller,
        shared.is_trusted(caller.uid),
        settings.identify.clone(),
        Arc::clone(&stream),
    );
    let link = Arc::new(link);
    connections.open.insert(link.id, Arc::clone(&link));
    *connections.per_user.entry(caller.uid).or_default() += 1;
    let draining = connections.draining;
    shared.usage.send_replace(connections.open.len());
    drop(connections);
    if draining {
        link.drain();
    }
    tokio::spawn(Connection::new(Arc::clone(shared), link, stream, Instant::now()));
    Ok(())
}

/// One attempt to say why, without waiting.
fn say_goodbye(socket: impl std::os::fd::AsFd, code: Code, text: &str) {
    let mut bytes = Vec::new();
    let goodbye = Message::Goodbye(Goodbye { code: code.as_str(), text });
    if frame::encode(&mut bytes, 0, &goodbye).is_ok() {
        // A socket that takes nothing belongs to someone who will notice by its end.
        let _ = rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}
