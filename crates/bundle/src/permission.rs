//! The permission to install one bundle on one device below the rollback floor, once. Signed by role recovery.

use serde::{Deserialize, Serialize};

use crate::{Code, KeyId, Keyring, Refusal, Role, SecretKey, Signature, Signatures, hex};

/// Bytes of a permission.
pub const PERMISSION_MAX: usize = 4096;
const DOMAIN: &[u8] = b"VESTAL-PERMISSION-1\0";

/// What is permitted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Permission {
    pub component: String,
    /// The device's fingerprint.
    #[serde(with = "hex::array")]
    pub device: [u8; 32],
    /// SHA-256 of the bundle's manifest.
    #[serde(with = "hex::array")]
    pub manifest: [u8; 32],
    /// The floor is lowered to this.
    pub to_index: u64,
}

impl Permission {
    /// # Errors
    /// It can't be read, or too few keys of role recovery signed it.
    pub fn verify(
        bytes: &[u8],
        signatures: &[u8],
        keyring: &Keyring,
    ) -> Result<(Self, Vec<KeyId>), Refusal> {
        if bytes.len() > PERMISSION_MAX {
            let text = format!(
                "permission of {} bytes: at most {PERMISSION_MAX} are allowed",
                bytes.len()
            );
            return Err(Refusal::new(Code::TooLong, text));
        }
        let keys =
            Signatures::parse(signatures)?.count(&message(bytes), keyring, Role::Recovery)?;
        let permission = serde_json::from_slice(bytes)
            .map_err(|error| Refusal::new(Code::BadPermission, format!("permission: {error}")))?;
        Ok((permission, keys))
    }

    /// With sorted keys and a newline at its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec(self).expect("numbers and texts can always be written as JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Signs the bytes of a permission with a key of role recovery.
    #[must_use]
    pub fn sign(bytes: &[u8], key: &SecretKey) -> Signature {
        Signature::new(key, Role::Recovery, &message(bytes))
    }
}

fn message(bytes: &[u8]) -> Vec<u8> {
    [DOMAIN, bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RoleKeys, Roles};

    #[test]
    fn a_permission_counts_when_recovery_signed_it_and_nobody_else() {
        let (root, recovery) = (SecretKey::new(&[1; 32]), SecretKey::new(&[2; 32]));
        let one = |key: &SecretKey| RoleKeys::new(1, &[key.public()]);
        let roles = Roles {
            root: one(&root),
            recovery: Some(one(&recovery)),
            bundle: None,
            operator: None,
        };
        let keyring = Keyring { version: 1, roles };
        let permission = Permission {
            component: "rootfs".into(),
            device: [3; 32],
            manifest: [4; 32],
            to_index: 5,
        };
        let bytes = permission.encode();
        let signed = |key: &SecretKey| {
            let mut signatures = Signatures::default();
            signatures.add(Permission::sign(&bytes, key)).expect("it fits");
            Permission::verify(&bytes, &signatures.encode(), &keyring)
        };
        assert_eq!(signed(&recovery), Ok((permission, vec![recovery.public().id()])));
        assert_eq!(signed(&root).unwrap_err().code, Code::WrongRole);
        assert_eq!(Permission::verify(&bytes, &[], &keyring).unwrap_err().code, Code::Unsigned);
    }
}
