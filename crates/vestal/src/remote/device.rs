//! A device on the network: TCP, TLS with its pinned key, and a client for the object `upgrade`. When something goes wrong,
//! it says whether that is the network, the device's key or the operator's.

use std::{
    fmt, io,
    net::Ipv6Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bundle::{PublicKey, SecretKey, hex};
use endpoint::{
    CallError, CallOptions, Client, Code, Dial, Options,
    tls::{Carrier, Connector, KeyPair, Known},
};
use rustix::net::sockopt::set_tcp_user_timeout;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::error::{Error, Exit};

/// The port of the shipped configuration.
const PORT: u16 = 7421;
/// How long a connection, and then its handshake, may take.
const CONNECT: Duration = Duration::from_secs(10);
/// A device that acknowledges nothing for so long is gone.
const UNHEARD_MS: u32 = 20_000;
/// Nothing is said between two commands of a person.
const IDLE: Duration = Duration::from_secs(3600);

/// Where a device is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// `host`, `host:port`, `10.0.0.7`, `fe80::1`, `[fe80::1]:7421`.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            let text =
                format!("{text:?} is no device: write a name or an address, and perhaps :PORT");
            Error::failed(text)
        };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("")))
            }
            None if text.parse::<Ipv6Addr>().is_ok() => (text, Some("")),
            None => {
                text.split_once(':').map_or((text, Some("")), |(host, port)| (host, Some(port)))
            }
        };
        let port = match port.ok_or_else(wrong)? {
            "" => PORT,
            port => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
        };
        let plain = |letter: char| letter.is_ascii_alphanumeric() || ".-_:%".contains(letter);
        if host.is_empty() || host.len() > 255 || !host.chars().all(plain) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What was seen of the other side.
#[derive(Debug, Default)]
struct Seen {
    /// The key that it showed.
    key: Option<[u8; 32]>,
    /// It was shaken hands with, so that only our own key can be what it does not like.
    shaken: bool,
}

/// A device that is spoken with.
pub(super) struct Device {
    pub(super) address: Address,
    pinned: PublicKey,
    operator: PublicKey,
    pair: KeyPair,
    seen: Arc<Mutex<Seen>>,
}

impl Device {
    pub(super) fn new(
        address: Address,
        pinned: PublicKey,
        operator: &SecretKey,
    ) -> Result<Self, Error> {
        let pair = KeyPair::from_seed(operator.seed())
            .map_err(|error| Error::failed(format!("the operator's key: {error}")))?;
        let (operator, seen) = (operator.public(), Arc::default());
        Ok(Self { address, pinned, operator, pair, seen })
    }

    /// A client that connects when it is needed, and again where it was cut.
    pub(super) fn client(&self) -> Result<Client, Error> {
        let pinned = *self.pinned.octets();
        let connector = connector(&self.pair, &self.seen, move |shown| *shown == pinned)?;
        let (address, seen) = (self.address.clone(), Arc::clone(&self.seen));
        let dial: Dial = Arc::new(move || {
            let (connector, address) = (connector.clone(), address.clone());
            let seen = Arc::clone(&seen);
            Box::pin(async move {
                let carrier = connect(&address, &connector).await?;
                lock(&seen).shaken = true;
                let (here, there) = UnixStream::pair()?;
                // Whoever calls hears of its end by the end of its calls.
                tokio::spawn(carrier.carry(there, IDLE));
                Ok(here)
            })
        });
        let options = Options { patience: Duration::ZERO, ..Options::default() };
        Ok(Client::over(self.address.to_string(), dial, options))
    }

    /// Calls a method that answers JSON.
    pub(super) async fn ask<A: Serialize, T: DeserializeOwned>(
        &self,
        client: &Client,
        method: &str,
        args: &A,
        options: CallOptions<'_>,
    ) -> Result<T, Error> {
        let answer = client.call("upgrade", method, args, options).await;
        let answer = answer.map_err(|error| self.error(error))?;
        answer.parse().map_err(|error| {
            let text = format!(
                "{}: the answer of upgrade.{method} is not understood: {error}",
                self.address
            );
            Error::failed(text)
        })
    }

    /// Why a call failed, in the words of whoever can do something about it.
    pub(super) fn error(&self, error: CallError) -> Error {
        let seen = lock(&self.seen);
        let foreign = seen.key.filter(|key| key != self.pinned.octets());
        match error {
            CallError::Unreachable { .. } if foreign.is_some() => {
                let shown = foreign.and_then(PublicKey::new);
                let shown = shown.map(|key| hex::encode(&key.fingerprint())).unwrap_or_default();
                Error::failed(format!(
                    "{} shows the key {shown} and not the one that is known, {}: if the device was given a new one, \
                     compare it and use vestal trust remove and add; if not, somebody is between you",
                    self.address,
                    hex::encode(&self.pinned.fingerprint())
                ))
            }
            CallError::Unreachable { source, .. } if seen.shaken => Error::failed(format!(
                "{} ended the connection ({source}): it does not know the operator key {}; \
                 name that key in its keyring, or give another --key",
                self.address,
                self.operator.id()
            )),
            CallError::Unreachable { source, .. } => Error::new(
                Exit::Unreachable,
                format!(
                    "cannot reach {}: {source}; is it on, does it listen (upgrade.toml: listen), and does its keyring name an operator?",
                    self.address
                ),
            ),
            CallError::Timeout { .. } => Error::new(Exit::TimedOut, error.to_string()),
            CallError::Refused(failure) => {
                let reason =
                    failure.details.as_ref().and_then(|details| details["reason"].as_str());
                let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                let exit = match failure.code {
                    Code::NotFound | Code::UnknownMethod => Exit::NotFound,
                    Code::Timeout => Exit::TimedOut,
                    _ => Exit::Failed,
                };
                Error::new(exit, format!("{}{reason}", failure.text))
            }
            other => Error::failed(other.to_string()),
        }
    }

    /// The last connection was welcomed: what ends it from now on is the network.
    pub(super) fn is_welcome(&self) {
        lock(&self.seen).shaken = false;
    }
}

/// The key that a device shows, whatever it is; nothing is believed, and nothing is sent.
pub(super) async fn shown_key(address: &Address) -> Result<PublicKey, Error> {
    let mut seed = [0; 32];
    crate::keys::fill(&mut seed)?;
    let pair = KeyPair::from_seed(&seed)
        .map_err(|error| Error::failed(format!("a key for one connection: {error}")))?;
    let seen = Arc::default();
    let connector = connector(&pair, &seen, |_| true)?;
    let connected = connect(address, &connector).await;
    let key = lock(&seen).key.and_then(PublicKey::new);
    match (key, connected) {
        (Some(key), _) => Ok(key),
        (None, Ok(_)) => Err(Error::failed(format!("{address} shows no key"))),
        (None, Err(error)) => Err(Error::new(
            Exit::Unreachable,
            format!(
                "cannot reach {address}: {error}; is it on, does it listen (upgrade.toml: listen), and does its keyring name an operator?"
            ),
        )),
    }
}

fn connector(
    pair: &KeyPair,
    seen: &Arc<Mutex<Seen>>,
    is_known: impl Fn(&[u8; 32]) -> bool + Send + Sync + 'static,
) -> Result<Connector, Error> {
    let seen = Arc::clone(seen);
    let known: Known = Arc::new(move |shown| {
        lock(&seen).key = Some(*shown);
        is_known(shown)
    });
    Connector::new(pair, known).map_err(|error| Error::failed(format!("set up TLS: {error}")))
}

async fn connect(address: &Address, connector: &Connector) -> io::Result<Carrier> {
    let late = |what: &str| {
        let text = format!("no {what} within {} s", CONNECT.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    let stream = timeout(CONNECT, TcpStream::connect((&*address.host, address.port))).await;
    let stream = stream.map_err(|_| late("answer"))??;
    // Both only make it faster to see how things stand.
    let _ = stream.set_nodelay(true);
    let _ = set_tcp_user_timeout(&stream, UNHEARD_MS);
    let shaken = timeout(CONNECT, connector.connect(stream)).await;
    Ok(shaken.map_err(|_| late("handshake"))??.0)
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().expect("nothing panics while it holds what was seen")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_with_or_without_a_port() {
        let named = |text: &str| Address::parse(text).map(|address| address.to_string()).ok();
        assert_eq!(named("Board"), Some("board:7421".to_owned()));
        assert_eq!(named("10.0.0.7:99"), Some("10.0.0.7:99".to_owned()));
        assert_eq!(named("fe80::1"), Some("[fe80::1]:7421".to_owned()));
        assert_eq!(named("[fe80::1]:8"), Some("[fe80::1]:8".to_owned()));
        assert_eq!(named("[fe80::1]"), Some("[fe80::1]:7421".to_owned()));
        for wrong in ["", ":7", "a:b", "a:0", "a:65536", "[::1", "[::1]x", "a b", "a\u{1b}"] {
            assert_eq!(named(wrong), None, "{wrong:?}");
        }
    }
}
