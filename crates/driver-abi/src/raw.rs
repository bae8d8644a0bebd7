//! The structures of `vestal_driver.h`, byte for byte.

use std::ffi::{c_char, c_int, c_long, c_void};

/// A text that ends with NUL, or null.
pub type Text = *const c_char;

/// What the host does for a driver.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub size: u32,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub zero: u32,
    pub wait: extern "C" fn(fd: c_int, events: u32, timeout_ms: c_int) -> c_long,
    pub watch: extern "C" fn(handle: u64, fd: c_int, events: u32) -> c_long,
    pub notify: extern "C" fn(handle: u64),
    pub log: unsafe extern "C" fn(level: c_int, text: Text),
}

/// An operation of the driver's own.
pub type Own =
    unsafe extern "C" fn(handle: u64, arg: *mut c_void, in_len: usize, out_cap: usize) -> c_long;

/// The seven common operations; own ones follow in memory, as many as [`Driver::ops_len`] says beyond [`OPS`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ops {
    pub open: Option<unsafe extern "C" fn(handle: u64, flags: u32) -> c_long>,
    pub close: Option<unsafe extern "C" fn(handle: u64) -> c_long>,
    pub read:
        Option<unsafe extern "C" fn(handle: u64, buffer: *mut c_void, length: usize) -> c_long>,
    pub write:
        Option<unsafe extern "C" fn(handle: u64, buffer: *const c_void, length: usize) -> c_long>,
    pub ioctl: Option<
        unsafe extern "C" fn(
            handle: u64,
            command: u32,
            arg: *mut c_void,
            in_len: usize,
            out_cap: usize,
        ) -> c_long,
    >,
    pub poll: Option<unsafe extern "C" fn(handle: u64, events: u32) -> c_long>,
    pub interrupt: Option<unsafe extern "C" fn(handle: u64) -> c_long>,
}

/// How many common operations there are.
pub const OPS: u32 = 7;

/// An operation by its place in the table.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Op {
    Open,
    Close,
    Read,
    Write,
    Ioctl,
    Poll,
    Interrupt,
    /// An operation of the driver's own, counted from 0.
    Own(u32),
}

impl Op {
    /// Its place in the table.
    #[must_use]
    pub fn index(self) -> u32 {
        match self {
            Self::Open => 0,
            Self::Close => 1,
            Self::Read => 2,
            Self::Write => 3,
            Self::Ioctl => 4,
            Self::Poll => 5,
            Self::Interrupt => 6,
            Self::Own(number) => OPS.saturating_add(number),
        }
    }

    /// The operation at this place.
    #[must_use]
    pub fn at(index: u32) -> Self {
        match index {
            0 => Self::Open,
            1 => Self::Close,
            2 => Self::Read,
            3 => Self::Write,
            4 => Self::Ioctl,
            5 => Self::Poll,
            6 => Self::Interrupt,
            own => Self::Own(own - OPS),
        }
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Read => "read",
            Self::Write => "write",
            Self::Ioctl => "ioctl",
            Self::Poll => "poll",
            Self::Interrupt => "interrupt",
            Self::Own(number) => return write!(f, "own[{number}]"),
        })
    }
}

/// What a field of the exported state is.
pub mod kind {
    pub const BYTES: u16 = 0;
    /// 1, 2, 4 or 8 bytes, little-endian.
    pub const UNSIGNED: u16 = 1;
    pub const SIGNED: u16 = 2;
    pub const TEXT: u16 = 3;
}

/// The name of a field of the exported state.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub id: u16,
    pub kind: u16,
    pub zero: u32,
    pub name: Text,
}

/// The structure behind [`crate::SYMBOL`]. Members after `size` bytes are not there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    pub size: u32,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub state_layout: u32,
    pub name: Text,
    pub version: Text,
    pub ops: *const Ops,
    pub ops_len: u32,
    pub zero: u32,
    pub export_state: Option<unsafe extern "C" fn(buffer: *mut c_void, cap: usize) -> c_long>,
    pub import_state: Option<
        unsafe extern "C" fn(host: *const Host, state: *const c_void, length: usize) -> c_long,
    >,
    pub downgrade_state:
        Option<unsafe extern "C" fn(layout: u32, buffer: *mut c_void, cap: usize) -> c_long>,
    pub self_test: Option<unsafe extern "C" fn() -> c_long>,
    pub fields: *const Field,
    pub fields_len: u32,
    pub own_names_len: u32,
    pub own_names: *const Text,
}
