//! The real binaries in a scratch folder, as a test or a benchmark needs them. Development only: nothing that ships uses it.

pub mod cuts;
mod device;
pub mod drivers;
mod groups;
pub mod machine;
mod processes;
mod wait;

pub use device::{Device, Reply, binary};
pub use groups::{own_group, remove_groups};
pub use processes::{Process, alive, children_of, environment_of, processes_of};
pub use wait::{LIMIT, until, within};
