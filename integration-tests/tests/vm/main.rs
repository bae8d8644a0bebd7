//! A device that really boots: a kernel, the keeper as its PID 1, the suite's own image (`scripts/image` with the overlay of this
//! folder), in a virtual machine.
//!
//! `VESTAL_IMAGE` names the built image; without it these tests say so and pass.

mod autorun;
mod booting;
mod drivers;
mod lab;
mod limits;
mod livepatch;
mod loaders;
mod rescue;
mod support;
mod upgrades;
mod watchdog;
