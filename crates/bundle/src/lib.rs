//! Upgrade bundles: what they hold, who signed them, how they are built, read and sent. Pure: no socket, no clock, no
//! path. The bytes are documented in `docs/PROTOCOL.md#bundles-and-keyrings`.
//!
//! Nothing here believes a length before it is checked, and nothing is allocated by a length that is not bounded by one
//! of the constants below. The order of trust is: [`Header`], [`Signatures`], [`Keyring`] and threshold ([`verify`]),
//! [`Manifest`], [`index::PageTable`], [`index::Page`], and then each chunk ([`Decoder`], [`index::Chunk::check`]).

pub mod build;
pub mod chunker;
mod codec;
mod header;
pub mod hex;
pub mod index;
mod keyring;
mod keys;
mod manifest;
mod permission;
pub mod push;
mod reader;
mod refusal;
mod signature;
pub mod version;

pub use codec::{Codec, Decoder, decode_chunk, encode_chunk};
pub use header::{HEADER, Header, Parts, split};
pub use keyring::{Keyring, RoleKeys, Roles};
pub use keys::{KeyId, PublicKey, SecretKey};
pub use manifest::{Activate, Component, Health, Kind, Manifest, Require, Running};
pub use permission::{PERMISSION_MAX, Permission};
pub use reader::{Checked, Reader};
pub use refusal::{Code, Refusal};
pub use signature::{Role, SIGNATURE, Signature, Signatures, Verified, sign_manifest, verify};

/// A file of signatures is at most this many entries.
pub const SIGNATURES_MAX: usize = 16;
/// Bytes of a manifest, or of a keyring.
pub const MANIFEST_MAX: usize = 64 << 10;
/// Components of one bundle.
pub const COMPONENTS_MAX: usize = 64;
/// Chunks of one component.
pub const CHUNKS_MAX: u32 = 1 << 20;
/// Bytes of a raw chunk, and so of a stored one.
pub const CHUNK_MAX: usize = 256 << 10;
/// The same as a length on the wire.
pub(crate) const CHUNK_LEN_MAX: u32 = 256 << 10;
/// Entries of a full page of the index.
pub const PAGE_ENTRIES: u32 = 512;
/// Octets of a SHA-256.
pub const HASH: usize = 32;

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; HASH] {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).into()
}
