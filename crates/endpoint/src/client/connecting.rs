//! How a client comes to its connection: by a socket's path, or by a way of its user's own.

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, MutexGuard},
};

use tokio::{
    net::UnixStream,
    time::{Instant, timeout_at},
};

use super::{
    BACKOFF, BACKOFF_MAX, Client, FAR, Subject,
    connection::{Connection, End, OpenError},
};
use crate::error::CallError;

/// Makes a connection: a pair's one end, say, whose other end somebody carries over a network.
pub type Dial =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<UnixStream>> + Send>> + Send + Sync>;

impl Client {
    /// The connection in use, or a new one.
    pub(super) async fn connected(
        &self,
        subject: Subject<'_>,
    ) -> Result<Arc<Connection>, CallError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let started = Instant::now();
        let give_up = subject.until.min(started + self.shared.options.patience.min(FAR));
        let lock = timeout_at(subject.until, self.shared.connecting.lock()).await;
        let Ok(_connecting) = lock else { return Err(subject.timeout()) };
        let mut backoff = BACKOFF;
        loop {
            if let Some(connection) = self.current() {
                return Ok(connection);
            }
            let events = self.shared.events.clone();
            // Nobody listening is fine.
            let deliver = Box::new(move |event| drop(events.send(event)));
            let opening = async {
                let stream = self.dial().await.map_err(OpenError::Io)?;
                Connection::over(stream, deliver).await
            };
            let error = match timeout_at(subject.until, opening).await {
                Err(_) => return Err(subject.timeout()),
                Ok(Ok(connection)) => {
                    *self.kept() = Some(Arc::clone(&connection));
                    self.shared.made.send_modify(|made| *made += 1);
                    return Ok(connection);
                }
                Ok(Err(OpenError::Io(source))) => {
                    CallError::Unreachable { path: self.shared.path.clone(), source }
                }
                Ok(Err(OpenError::Ended(end))) => turned_away(&self.shared.path, end)?,
            };
            if Instant::now() + backoff > give_up {
                return Err(error);
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn current(&self) -> Option<Arc<Connection>> {
        let mut kept = self.kept();
        if kept.as_ref().is_some_and(|connection| !connection.is_usable()) {
            *kept = None;
        }
        kept.clone()
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.shared.connection.lock().expect("nothing panics while it holds the connection")
    }

    /// Until the socket is there; the handshake comes next.
    async fn dial(&self) -> io::Result<UnixStream> {
        match &self.shared.dial {
            Some(dial) => dial().await,
            None => UnixStream::connect(&self.shared.path).await,
        }
    }
}

/// A handshake that failed: an error that more attempts may cure (`Ok`), or one that they can't.
pub(crate) fn turned_away(path: &Path, end: End) -> Result<CallError, CallError> {
    let path = path.to_owned();
    match end {
        End::Violation(text) => Err(CallError::Violation { path, text }),
        End::Goodbye { code, text } if matches!(&*code, "unsupported" | "protocol") => {
            Err(CallError::Violation { path, text })
        }
        End::Goodbye { text, .. } | End::Io(text) => {
            let source = io::Error::new(io::ErrorKind::ConnectionReset, text);
            Ok(CallError::Unreachable { path, source })
        }
    }
}
