//! What a device finds after its power was cut, at every single write.
//!
//! [`written`] needs no guest: disks and logs are made here, to see that the replay finds what is unsafe and nothing else.
//! [`guest`] records a booted image (`VESTAL_IMAGE`; without it these tests say so and pass).

mod guest;
mod written;
