//! Tests of the real binaries; everything is in `tests/it`.
