//! An example driver in Rust: a serial line on a pseudo-terminal. What is written comes out at the terminal whose name the own
//! operation `peer` answers, and the other way round.
//!
//! [`line`] is the driver and knows nothing of C; [`edge`] is what the host calls, and the only place with `unsafe`. An
//! upgrade in the same process goes on with the same pair; a host that was started anew makes a new one, with the same speed.

mod edge;
mod line;
