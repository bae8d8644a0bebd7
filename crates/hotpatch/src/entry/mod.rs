//! The beginning of a function: whether a jump fits there, and the jumps that stand there now.
//!
//! Nothing is written but with the gate closed, and nothing where the bytes in memory aren't what they should be.

mod aarch64;
mod layers;
mod redirect;
#[cfg(test)]
mod tests;
mod x86_64;

use object::elf;

pub(crate) use self::layers::{Jump, forget};
pub use self::redirect::Redirect;

use crate::object::MACHINE;

/// What there is to overwrite at the beginning of a function.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Room {
    /// Instructions that do nothing, which a compiler put there to be overwritten: the function goes on behind them.
    Patchable {
        /// Bytes before them: the landing pad of an indirect call.
        at: usize,
        length: usize,
    },
    /// Code that nothing comes back to, so that it can be overwritten where the function is never to run again.
    Code { at: usize, length: usize },
    /// Too short, or it can't be known.
    None,
}

/// What there is in this function, whose code is all of these bytes.
pub(crate) fn room(code: &[u8]) -> Room {
    match MACHINE {
        elf::EM_X86_64 => x86_64::room(code),
        elf::EM_AARCH64 => aarch64::room(code),
        _ => Room::None,
    }
}

/// The bytes of a jump from here to there, at most `room`.
fn jump(from: usize, to: usize, room: usize) -> Option<Vec<u8>> {
    match MACHINE {
        elf::EM_X86_64 => x86_64::jump(from, to, room),
        elf::EM_AARCH64 => aarch64::jump(from, to, room),
        _ => None,
    }
}

/// Bytes from `at` to what is touched first, within the function.
fn free(at: usize, touched: u64, length: usize) -> Option<usize> {
    usize::try_from(touched).ok().map(|touched| touched.min(length).saturating_sub(at))
}
