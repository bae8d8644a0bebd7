//! The client against a host in the test's own process, from Rust and from C.

mod c_interface;
mod client;
mod fake;
mod header;
