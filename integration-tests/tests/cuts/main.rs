//! What a device finds after its power was cut, at every single write.
//!
//! [`written`] needs no guest: disks and logs are made here, to see that the replay finds what is unsafe and nothing else.
//! The others record a booted image (`VESTAL_IMAGE`; without it these tests say so and pass). Of their cuts a part is tried, evenly;
//! all of them with `VESTAL_FULL`.

mod daemons;
mod guest;
mod support;
mod upgrades;
mod written;
