//! The validation language: rules of data types, and whether a value follows one.
