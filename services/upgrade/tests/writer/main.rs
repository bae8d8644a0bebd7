//! The writing process itself, on real files, with a supervisor that is played: what it installs, what it refuses, and what is
//! left of it when it is killed.

mod approvals;
mod faults;
mod images;
mod installs;
mod kills;
mod support;
