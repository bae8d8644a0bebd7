//! The file that a driver comes in: taken once, sealed, checked before anything of it is mapped.
//!
//! Nothing here runs a byte of it. What is checked is what is loaded: [`Sealed`] keeps the bytes, and they can't change.

mod dynamic;
mod image;
mod sealed;
mod segments;

pub(crate) use self::{
    image::{COMPARED, MACHINE},
    segments::{Access, Segment},
};
pub use self::{
    image::{Image, Symbol},
    sealed::Sealed,
};

#[cfg(test)]
mod tests;
