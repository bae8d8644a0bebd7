//! The UCI language, canonical forms of configuration files, and the data types that validate them. Pure: bytes in, values
//! out; no file, no clock.
//!
//! [`parse`] reads a file into a [`Package`], [`export`] and [`show`] print it byte for byte as libuci does, [`edit`] and
//! [`delta`] are the commands of `uci` and what they leave in `/tmp/.uci`. [`canonical`] says when two files are the same
//! configuration. Whatever the bytes are: an error names the line, nothing panics.

mod address;
pub mod canonical;
pub mod datatype;
pub mod delta;
pub mod edit;
mod package;
mod parse;
mod print;
mod problem;
mod reader;
#[cfg(test)]
mod tests;

pub use address::{Address, Refused};
pub use delta::{Delta, Operation, apply_delta, parse_delta, print_changes, print_delta};
pub use package::{Found, Opt, Package, Section, Value, is_kind, is_name, is_package_name};
pub use parse::{Mode, Parsed, merge, parse, parse_all};
pub use print::{Show, export, file_text, get, show, show_option, show_section};
pub use problem::Problem;

/// A file may be so long.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// A package may have so many sections: each named one is looked for among those before it.
pub const MAX_SECTIONS: usize = 16_384;
/// A section may have so many options: each is looked for among those before it.
pub const MAX_OPTIONS: usize = 4_096;
/// A package may have so many values, options and items of lists together: they bound the memory that a file costs.
pub const MAX_VALUES: usize = 262_144;
