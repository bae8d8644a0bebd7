//! The real binary in a folder of its own, as its peers see it.

mod fixture;
mod registering;
mod rules;
