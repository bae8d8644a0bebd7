//! Whole bundles: built, read, damaged and sent.

mod building;
mod damaged;
mod golden;
mod large;
mod pushing;
mod support;
