//! The keeper: parent of every process of the device. Spawns, reaps, holds descriptors; knows no policy.
//!
//! `main` only wires. Read [`keeper`] for the loop, [`table`] for what is decided, `protocol::keeper` for the channel.

mod channel;
mod deposits;
mod keeper;
mod lock;
mod pid1;
mod proc;
mod reap;
mod record;
mod reexec;
mod requests;
mod say;
mod spawn;
mod start;
mod supervisor;
#[expect(unsafe_code, reason = "the system calls that no safe wrapper has")]
mod sys;
mod table;
mod talk;
mod tree;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(start::main())
}
