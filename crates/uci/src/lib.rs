//! The UCI language, canonical forms of configuration files, and the data types that validate them. Pure: bytes in, values
//! out; no file, no clock.

pub mod datatype;
