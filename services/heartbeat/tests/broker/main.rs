//! The real binary, with applications that speak through `rudp`, a supervisor that only listens, and attackers.

mod attacks;
mod device;
mod lives;
mod peer;
