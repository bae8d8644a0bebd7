//! The upgrade agent: takes signed bundles, writes slots, confirms or goes back.
//!
//! Read [`engine`] for the decisions and [`settings`] for `upgrade.toml`.
#![expect(dead_code, reason = "the shell that drives the engine is not part of this program yet")]

mod channel;
mod checksum;
mod disk;
mod engine;
mod net;
mod records;
mod settings;
#[cfg(test)]
mod sim;

fn main() {}
