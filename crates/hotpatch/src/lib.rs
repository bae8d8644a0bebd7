//! Replaces code while threads call it.
//!
//! A [`Gate`] counts who is inside the code. Closed, it proves that nobody is; then a [`Slot`] is given another [`Table`].
//! Who comes meanwhile waits and is never failed. This crate has all `unsafe` code of driver upgrades; it knows neither
//! the bus nor settings, starts no process, and decides nothing about which code is to be trusted.

mod call;
mod entry;
pub mod fault;
mod functions;
mod gate;
mod inside;
mod module;
mod object;
mod priority;
mod probe;
mod refusal;
mod services;
mod shared;
#[cfg(test)]
mod testing;
mod text;

pub use self::call::{Args, Slot, Table};
pub use self::entry::{Redirect, Room};
pub use self::functions::Function;
pub use self::gate::{Busy, Caller, Change, Closed, Closing, Form, Gate, Opened, Stuck, Ticket};
pub use self::module::Module;
pub use self::object::{Image, Sealed, Symbol};
pub use self::probe::{Hit, Probe, Ring};
pub use self::refusal::{Code, Refusal};
pub use self::services::{Services, host};
pub use self::shared::Shared;
pub use self::text::{Writable, code_writable};
