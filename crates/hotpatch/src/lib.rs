//! Replaces code while threads call it.
