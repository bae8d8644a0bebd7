//! Every byte that crosses a socket between the suite's processes. Types only: no socket, no clock, no tokio.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`frame`], [`message`], [`hello`] | the envelope on a Unix socket: header, kinds, bodies, versions |
//! | [`failure`] | the one error type: a code to branch on, a sentence to print |
//! | [`objects`] | which object is served where, until a registry says so; how an object describes itself |
//! | [`policy`] | who may call, own and publish what |
//! | [`service`], [`system`], [`registry`], [`log`], [`heartbeat`], [`config`], [`upgrade`], [`driver`] | arguments and replies of these objects |
//! | [`keeper`] | the private channel between keeper and supervisor, and the spawn plan |
//! | [`name`], [`time`] | service and instance names; monotonic moments that can be stored |
//!
//! `docs/PROTOCOL.md` specifies the bytes; `tests/golden.rs` checks every example printed there.

pub mod autorun;
pub mod config;
pub mod driver;
pub mod failure;
pub mod frame;
pub mod heartbeat;
pub mod hello;
pub mod keeper;
pub mod log;
pub mod message;
pub mod name;
pub mod objects;
pub mod policy;
pub mod registry;
pub mod service;
pub mod system;
pub mod time;
pub mod upgrade;
