//! The real watcher as a process, with a supervisor that is none.

mod device;
mod editing;
mod faults;
mod killing;
mod orders;
