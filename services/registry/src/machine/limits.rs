//! Every limit of the registry, with its reason; meeting one is an error that names it.

use std::time::Duration;

/// Endpoints of all users; each is a connection of the server.
pub(crate) const ENDPOINTS_MAX: usize = 1024;
/// Objects of all endpoints.
pub(crate) const OBJECTS_MAX: usize = 4096;
/// Lookups and waits of all users that have no answer yet.
pub(crate) const WAITING_MAX: usize = 4096;
/// Patterns of all connections: each is looked at for every event.
pub(crate) const PATTERNS_MAX: usize = 16_384;
/// Topics with a retained value.
pub(crate) const RETAINED_MAX: usize = 1024;
/// Bytes of all retained values.
pub(crate) const RETAINED_BYTES_MAX: usize = 4 << 20;
/// Sockets that are tried at the same time.
pub(crate) const PROOFS_MAX: usize = 64;
/// Calls of one connection that wait until the supervisor has said who it is.
pub(crate) const PARKED_MAX: usize = 64;
/// Names in one `wait`.
pub(crate) const WAIT_NAMES_MAX: usize = 256;
/// Events that may wait for one connection.
pub(crate) const QUEUE_MAX: u32 = 4096;

/// What one user who is neither root nor the registry's own may have of each.
pub(crate) mod user {
    pub(crate) const ENDPOINTS: usize = 64;
    pub(crate) const OBJECTS: usize = 1024;
    pub(crate) const WAITING: usize = 256;
    pub(crate) const PATTERNS: usize = 1024;
    pub(crate) const RETAINED_BYTES: usize = 1 << 20;
    pub(crate) const PROOFS: usize = 8;
}

/// Calls to the supervisor that start something, at the same time.
pub(crate) const ACTIVATIONS_MAX: usize = 8;
/// Objects for which one of these is wanted.
pub(crate) const ACTIVATIONS_QUEUED_MAX: usize = 1024;
/// A service that was started on demand and didn't serve the object by then is no longer waited for.
pub(crate) const ACTIVATION_PATIENCE: Duration = Duration::from_secs(60);
/// After a restart of the registry names are kept for their old owners so long, and lookups of an object of the suite wait
/// so long for its next process.
pub(crate) const RESERVED_FOR: Duration = Duration::from_secs(5);
/// Lookups of any other object whose process ended wait so long: a process that was started to replace it proves its socket
/// only once the old one has let go of it.
pub(crate) const SUCCESSOR_WITHIN: Duration = Duration::from_secs(1);
/// Endpoints that left and may come back under the same handle.
pub(crate) const DEPARTED_MAX: usize = 256;
/// An endpoint that didn't apply the rules by then gets them again.
pub(crate) const PUSH_AGAIN: Duration = Duration::from_secs(5);
/// How often; then it is only shown as being behind.
pub(crate) const PUSHES_MAX: u32 = 4;
/// Refusals that are told in a second.
pub(crate) const REFUSALS_PER_SECOND: u32 = 20;
