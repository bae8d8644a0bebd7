//! Ed25519 keys. A secret key is made of random numbers that the caller brings; it is never printed.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

use crate::hex;

/// What a key's fingerprint is computed over, before the key itself.
const DOMAIN: &[u8] = b"VESTAL-KEY-1\0";

/// The first 8 octets of a public key's fingerprint: what a signature names it by.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId(pub [u8; 8]);

/// Who signs, or may connect.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct PublicKey([u8; 32]);

/// What signs. Wiped from memory when it is dropped.
pub struct SecretKey(SigningKey);

impl KeyId {
    /// 16 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex::decode(text).map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        hex::array::deserialize(deserializer).map(Self)
    }
}

impl PublicKey {
    /// Nothing where these are not the octets of a point that can verify anything.
    #[must_use]
    pub fn new(octets: [u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(&octets).ok()?;
        (!key.is_weak()).then_some(Self(octets))
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex::decode(text).and_then(Self::new)
    }

    #[must_use]
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }

    /// SHA-256 of the key: what people compare.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::new().chain_update(DOMAIN).chain_update(self.0).finalize().into()
    }

    #[must_use]
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.fingerprint()[..8]);
        KeyId(id)
    }

    /// Is this a signature of the message by this key? Refuses what several keys or messages could share.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let octets = hex::array::deserialize(deserializer)?;
        Self::new(octets).ok_or_else(|| {
            D::Error::custom(format!("{} is not an Ed25519 key", hex::encode(&octets)))
        })
    }
}

impl SecretKey {
    /// Of 32 octets that nobody can guess.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The octets it was made of.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The same key and message always give the same signature.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_key_is_never_printed() {
        let key = SecretKey::new(&[7; 32]);
        assert_eq!(format!("{key:?}"), format!("SecretKey({})", key.public().id()));
    }

    #[test]
    fn a_key_of_small_order_is_none() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::new(identity), None);
        let key = SecretKey::new(&[7; 32]).public();
        assert_eq!(PublicKey::parse(&key.to_string()), Some(key));
    }

    #[test]
    fn only_the_signed_message_verifies() {
        let key = SecretKey::new(&[7; 32]);
        let signature = key.sign(b"one");
        assert!(key.public().verify(b"one", &signature));
        assert!(!key.public().verify(b"two", &signature));
        assert!(!SecretKey::new(&[8; 32]).public().verify(b"one", &signature));
    }
}
