//! The simulated device, and the tests that cut its power. Development only.

mod checker;
mod code;
mod cuts;
mod device;
mod trust;
mod world;
