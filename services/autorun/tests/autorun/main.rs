//! The real engine on a machine that is a folder: it sleeps when its image's writer waits at a FIFO, and wakes up when that is
//! read. An image is resumed again by making the same one again: nothing in it is drawn at random that decides anything.

mod device;
mod failures;
mod kills;
mod lives;
mod programs;
mod snapshot;
