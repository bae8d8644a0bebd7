//! The keeper: parent of every process of the device. Spawns, reaps, holds descriptors; knows no policy.
//!
//! `main` only wires. Read [`keeper`] for the loop, [`slot`] for what is decided, `protocol::keeper` for the channel.

mod adopt;
mod block;
mod channel;
mod deposits;
mod drain;
mod keeper;
mod lock;
mod machine;
#[expect(unsafe_code, reason = "mappings")]
mod memory;
mod oom;
mod pid1;
mod proc;
mod reap;
mod record;
mod reexec;
mod requests;
mod say;
mod slot;
mod spawn;
mod start;
mod state;
mod stop;
mod supervisor;
#[expect(unsafe_code, reason = "the system calls that no safe wrapper has")]
mod sys;
mod table;
mod talk;
mod tree;

use std::process::ExitCode;

/// Runs the keeper until it is told to stop; returns its exit code.
pub fn main() -> ExitCode {
    ExitCode::from(start::main())
}
