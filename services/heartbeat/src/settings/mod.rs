//! Valid settings: where the broker listens, who may register without the supervisor, and the limits. Made in [`file`].

mod address;
mod file;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use protocol::heartbeat::{Key, PORT};

pub(crate) use self::file::load;

/// What the broker was told by file, option and environment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// UDP; never empty.
    pub(crate) listen: Vec<SocketAddr>,
    /// Somebody chose these addresses, and no others will do.
    pub(crate) chosen: bool,
    pub(crate) rules: Rules,
}

/// What the machine goes by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rules {
    /// An application that nobody named may register from this host, without a key.
    pub(crate) allow_unexpected: bool,
    /// The detector of those for whom nobody chose.
    pub(crate) adaptive: bool,
    /// The suspicion at which the adaptive detector takes somebody for hung.
    pub(crate) phi_threshold: f64,
    pub(crate) limits: Limits,
    /// By application id.
    pub(crate) apps: BTreeMap<i32, App>,
}

/// What the broker may be made to keep.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Limits {
    /// In all.
    pub(crate) applications: usize,
    /// Of these, such as nobody named.
    pub(crate) unexpected: usize,
    /// Connections of one address that isn't this host's.
    pub(crate) sessions_per_address: usize,
    pub(crate) period_min: Duration,
    pub(crate) period_max: Duration,
    /// Granted to those who ask for no period of their own.
    pub(crate) period: Duration,
    pub(crate) misses: u8,
}

/// An application that the configuration names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct App {
    /// Without it, whatever it says is unauthenticated.
    pub(crate) key: Option<Key>,
    pub(crate) period: Option<Duration>,
    pub(crate) misses: Option<u8>,
    /// A progress counter that stands still so long is a miss.
    pub(crate) progress: Option<Duration>,
    /// `None`: the default.
    pub(crate) adaptive: Option<bool>,
    /// Where it may register from; empty is anywhere with a key, this host without one.
    pub(crate) remote: Vec<IpAddr>,
    /// A peer that speaks plain Reliable UDP: all it says is a report.
    pub(crate) legacy: Option<Legacy>,
}

/// The address of a peer that knows nothing of our messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Legacy {
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))];
        Self { listen, chosen: false, rules: Rules::default() }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            allow_unexpected: false,
            adaptive: false,
            phi_threshold: 8.0,
            limits: Limits::default(),
            apps: BTreeMap::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            applications: 16_384,
            unexpected: 64,
            sessions_per_address: 32,
            period_min: Duration::from_millis(50),
            period_max: Duration::from_secs(3_600),
            period: Duration::from_secs(1),
            misses: 3,
        }
    }
}

/// 32 hexadecimal digits.
pub(crate) fn key_of_digits(text: &str) -> Option<Key> {
    let digits = text.as_bytes();
    let mut key = [0; 16];
    if digits.len() != 2 * key.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (octet, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *octet = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(Key(key))
}

impl App {
    /// Whether one who proves nothing may speak for this application from there.
    pub(crate) fn admits(&self, from: SocketAddr) -> bool {
        let from = from.ip().to_canonical();
        match self.remote.is_empty() {
            true => self.key.is_some() || from.is_loopback(),
            false => self.remote.contains(&from),
        }
    }
}

impl Legacy {
    pub(crate) fn is(&self, from: SocketAddr) -> bool {
        self.address == from.ip().to_canonical() && self.port.is_none_or(|port| port == from.port())
    }
}
