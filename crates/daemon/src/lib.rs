//! What every daemon's `main` needs from the operating system: options, places, one copy a run directory, tracing,
//! readiness, inherited sockets, termination signals and the clock. Knows nothing of any service.
//!
//! Without the feature `runtime` only the parts without tokio are there; the keeper takes those.

pub mod accounts;
pub mod checksum;
pub mod clock;
pub mod files;
pub mod lock;
pub mod options;
pub mod places;
#[cfg(feature = "runtime")]
mod readiness;
#[cfg(feature = "runtime")]
mod runtime;
#[cfg(feature = "settings")]
pub mod table;
#[cfg(feature = "runtime")]
mod trace;

#[cfg(feature = "runtime")]
pub use runtime::{Context, Shutdown, Wrong, main};
#[cfg(feature = "runtime")]
pub use trace::LogLevel;
