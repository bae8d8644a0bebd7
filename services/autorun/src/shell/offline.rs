//! Invalidates the image without an engine: for the upgrade agent, where the engine does not answer or does not start. Whoever
//! comes here holds the engine's lock, so that nobody writes over it what he had in memory.

use super::hands::Hands;
use crate::journal::Record;

/// Notes in the journal, and for an engine that comes after in this life, that the image must not be resumed any more.
///
/// # Errors
/// Where it can still be.
pub(super) fn invalidate(hands: &Hands) -> Result<(), String> {
    if hands.settings.journal.is_none() {
        // No image is for more than one life, and this is it.
        return Ok(());
    }
    let void = |record: Record| Record { image: [0; 32], ..record };
    // What can't be read is written over.
    let newest = hands.with_journal(|journal| Ok(journal.read().ok().flatten()))?;
    let newest = void(newest.unwrap_or_default());
    hands.with_journal(|journal| journal.write(&newest))?;
    // One that can't be read is no engine's.
    match hands.notes.current().ok().flatten() {
        Some(record) => hands.notes.save_current(&void(record)),
        None => Ok(()),
    }
}
