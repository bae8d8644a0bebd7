//! Calls a driver's operations from a task: as read(2), write(2), ioctl(2) and poll(2) are, without a device node.
//!
//! No thread, no async runtime, nothing that works in the background: a call blocks until the driver answered, however often
//! its code was replaced or its host restarted meanwhile.
//!
//! ```no_run
//! use driver_client::{Driver, Settings, events};
//!
//! let line = Driver::open("serial0", 0, Settings::default())?;
//! line.write(b"hello\n")?;
//! let mut buffer = [0; 256];
//! if line.poll(events::IN, None)? & events::IN != 0 {
//!     let count = line.read(&mut buffer)?;
//! #   let _ = count;
//! }
//! line.close()?;
//! # Ok::<(), driver_client::Error>(())
//! ```
//!
//! C programs use `include/vestal_driver_client.h`; [`c_interface`] is what it declares.

pub mod c_interface;
mod clock;
mod connection;
mod error;
mod handle;
mod lane;
mod repeat;
mod settings;

pub use crate::{
    error::Error,
    handle::{Driver, Handle, READ_MAX, WRITE_MAX, events},
    settings::Settings,
};
