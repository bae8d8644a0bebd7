//! The autorun engine: arms the device for a hibernation image, and runs targets once, in order, in each life of that image.
//!
//! Read [`machine`] for the decisions, [`journal`] for what is known from one life to the next, [`settings`] for `autorun.toml`
//! and the targets in `autorun.d`.

#![cfg_attr(
    not(test),
    expect(
        dead_code,
        unused_imports,
        reason = "the shell that calls the machine is the next piece"
    )
)]

mod checksum;
pub mod journal;
mod machine;
mod settings;
