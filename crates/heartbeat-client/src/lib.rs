//! Heartbeats from an application to the broker: that it is alive is said by a report whose tag only it can make.
//!
//! No thread, no async runtime, nothing that works in the background: what has to be sent again is sent inside a call.
//!
//! ```no_run
//! use heartbeat_client::{Client, Settings};
//!
//! let mut client = Client::open(Settings::inherited(7)?)?; // the app-id of the definition; the key came with us
//! client.register()?; // until the broker has answered
//! loop {
//!     // ... one round of the program's work ...
//!     client.report()?; // at least once a period
//! #   break;
//! }
//! # Ok::<(), heartbeat_client::Error>(())
//! ```
//!
//! A program with a loop of its own sets [`Settings::block`] to zero, watches the socket ([`std::os::fd::AsFd`]), calls
//! [`Client::service`] when it is readable or [`Client::next_timeout`] is over, and [`Client::report`] once a period.
//!
//! C programs use `include/gmi_daemon.h`; [`c_interface`] is what it declares.

pub mod c_interface;
mod client;
mod clock;
mod error;
mod key;
mod session;
mod settings;

pub use crate::{
    client::{Client, Reported},
    error::Error,
    settings::Settings,
};
pub use protocol::heartbeat::{Key, PORT, ResultCode};
