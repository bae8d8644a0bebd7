//! The image's root file system in a container of plain namespaces: `vestal-keeper` is PID 1, everything else as on a device.
//!
//! `VESTAL_IMAGE` names the built image, and it takes root to make namespaces; without either these tests say so and pass.

mod configuration;
mod container;
mod heartbeats;
mod killing;
mod lifetime;
mod upgrading;
