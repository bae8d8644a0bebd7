//! Whom to report to, as whom, and how patiently.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use protocol::heartbeat::{Key, PORT};

use crate::{Error, key};

/// Whom to report to, as whom, and how patiently.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The application's number in the service's `[heartbeat]`, or in the broker's `heartbeat.toml`.
    pub app_id: i32,
    /// The broker.
    pub server: SocketAddr,
    /// UDP port of our own; 0 takes any.
    pub local_port: u16,
    /// `None`: the broker must be configured to listen to this application without one, and then only tells of it.
    pub key: Option<Key>,
    /// Which start of the application this is, as it was handed over with the key; 0 without one.
    pub generation: u32,
    /// How often we mean to report; zero leaves it to the broker, who has the last word anyway.
    pub period: Duration,
    /// How many reports in a row may be missed before the transport gives up its connection; the broker judges by its own.
    pub misses: u32,
    /// How long [`crate::Client::report`] waits for the acknowledgement, and sends again; `None` is half a period.
    /// Zero for a program that calls [`crate::Client::service`] itself: nobody else sends again what was lost.
    pub block: Option<Duration>,
    /// How long [`crate::Client::register`] waits for the broker's answer.
    pub timeout: Duration,
}

/// A period before anybody said one.
pub(crate) const DEFAULT_PERIOD: Duration = Duration::from_secs(1);

impl Settings {
    /// For the broker on this machine, without a key.
    #[must_use]
    pub fn new(app_id: i32) -> Self {
        Self {
            app_id,
            server: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT),
            local_port: 0,
            key: None,
            generation: 0,
            period: Duration::ZERO,
            misses: 3,
            block: None,
            timeout: Duration::from_secs(3),
        }
    }

    /// With the key, generation, port and period that the supervisor handed over; as [`Settings::new`] where it didn't.
    /// The first call reads and closes the descriptor and clears `GMI_KEY_FD`, so call it before other threads read the environment.
    ///
    /// # Errors
    /// [`Error::Key`] where the descriptor yields something else, [`Error::Settings`] where the key is for another application.
    pub fn inherited(app_id: i32) -> Result<Self, Error> {
        let mut settings = Self::new(app_id);
        let Some(block) = key::inherited()? else { return Ok(settings) };
        if block.app_id != app_id {
            return Err(Error::Settings(format!(
                "application {app_id} was handed the key of application {}: use the app-id of the service's definition",
                block.app_id
            )));
        }
        settings.key = Some(block.key);
        settings.generation = block.generation;
        settings.period = Duration::from_millis(u64::from(block.period_ms));
        settings.misses = block.misses;
        if let Some(port) = u16::try_from(block.port).ok().filter(|port| *port != 0) {
            settings.server.set_port(port);
        }
        Ok(settings)
    }
}
