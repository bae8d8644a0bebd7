//! The decisions of a host: which call is next, which was made already, when state is written down, whether a new version
//! proves itself. Pure: the time comes in, and nothing here knows a driver, a file or a thread.

pub(crate) mod checkpoint;
pub(crate) mod handles;
pub(crate) mod histogram;
pub(crate) mod line;
pub(crate) mod probation;
pub(crate) mod recorder;
pub(crate) mod states;
