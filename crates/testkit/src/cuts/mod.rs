//! Power cuts, replayed: everything that a guest wrote to its disk is recorded once, and then cut off after every single
//! write, on the host, thousands of times a minute. What a device would find then is checked, by the tools it would use itself.
//!
//! ```text
//! record ────▶ log ─────▶ History ──▶ Replay ───▶ Cut ────▶ files, Device, state
//! a guest      what it    in steps,   the disk    one       what a device
//! in QEMU      wrote      thinned     at a step   disk      would find
//! ```
//!
//! Two families of cuts: in order, with a write torn where it may be torn; and with a random part of what was not flushed lost.
//! Nothing here mounts anything, needs to be root, or starts a guest.

mod boot;
mod checksum;
mod ext4;
mod history;
mod layout;
pub mod log;
mod recording;
mod replay;
mod run;
pub mod state;

pub use boot::{Device, Image, Loader, Release};
pub use history::{History, MARK_SECTOR};
pub use layout::{Kind, Layout, Region};
pub use recording::{record, recorded};
pub use run::{Cut, Fault, Plan, Report, run};
