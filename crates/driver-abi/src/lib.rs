//! What a driver and its host agree on: the table of operations, the host's services, and how state travels between two
//! versions. The same as `include/vestal_driver.h`, which has the rules that a driver follows; a test compares the two.
//!
//! It contains types and their checks only: nothing here calls into a driver, that is `hotpatch`'s.

mod raw;
mod state;

pub use self::{
    raw::{Driver, Field, Host, OPS, Op, Ops, Own, Text, kind},
    state::{State, StateError},
};

/// A driver with another major version is refused.
pub const ABI_MAJOR: u32 = 1;
/// Grows when members are added at the end of a structure.
pub const ABI_MINOR: u32 = 0;
/// The symbol that a driver exports.
pub const SYMBOL: &str = "vestal_driver_v1";
/// What an operation answers that has to be made again in the new version (`-ERESTARTSYS`).
pub const RESTART: i64 = -512;
/// Flag of `open`: the host was started again and gives the driver a handle back.
pub const REOPEN: u32 = 0x8000_0000;
/// Most bytes of exported state.
pub const STATE_MAX: usize = 1 << 20;
/// Most operations of a driver, the seven common ones included.
pub const OPS_MAX: u32 = 64;
/// Most named fields of a driver's state.
pub const FIELDS_MAX: u32 = 4096;
/// Most bytes of a name or version of a driver, of a field or of an operation.
pub const TEXT_MAX: usize = 64;
/// Most bytes that one read, write, ioctl or own operation carries.
pub const DATA_MAX: usize = 1 << 20;

/// Events of `poll` and `watch`, as in poll(2).
pub mod events {
    pub const IN: u32 = 0x01;
    pub const OUT: u32 = 0x04;
    pub const ERR: u32 = 0x08;
    pub const HUP: u32 = 0x10;
}
