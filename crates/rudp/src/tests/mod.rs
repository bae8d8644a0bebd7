//! Scenarios on a link and a clock that the tests own.

mod endpoint;
mod golden;
mod hostile;
mod java;
mod lifecycle;
mod network;
mod recovery;
mod seeds;
mod wire;
mod wire_peer;

pub(crate) use self::network::{Dice, start};
