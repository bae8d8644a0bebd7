//! A function that is replaced by another one, with a jump at its entry.

use super::layers::Jump;
use crate::{Closed, Function, Refusal};

/// From its entry, a function leads to another one with the same arguments. Calls that began in it, and wait, go on in the
/// old code.
///
/// Redirects of one function lie over each other; each is undone before the one below it. Dropped without that, it stays.
#[derive(Debug)]
pub struct Redirect(Jump);

impl Redirect {
    /// Nothing is written yet. `to` must stay loaded for as long as the redirect stands.
    ///
    /// # Errors
    /// [`crate::Code::NoRoom`].
    pub fn new(from: &Function, to: *const ()) -> Result<Self, Refusal> {
        Ok(Self(Jump::new(from, to.expose_provenance())?))
    }

    #[must_use]
    pub fn function(&self) -> &Function {
        self.0.function()
    }

    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.0.is_written()
    }

    /// From now on. Applied already, it stays as it is.
    ///
    /// # Errors
    /// [`crate::Code::Blocked`], [`crate::Code::MemoryDiffers`], [`crate::Code::NoRoom`] (a circle, too many), [`crate::Code::Revoked`]:
    /// then nothing was changed.
    pub fn apply(&mut self, closed: &Closed) -> Result<(), Refusal> {
        self.0.write(closed, |_| ())
    }

    /// The bytes before it are there again.
    ///
    /// # Errors
    /// As [`Redirect::apply`]; also where another one was applied over it.
    pub fn undo(&mut self, closed: &Closed) -> Result<(), Refusal> {
        self.0.take_back(closed)
    }
}
