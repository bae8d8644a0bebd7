//! Which keys a device believes, by role. A keyring is signed by its root keys, has a version, and only goes up; the
//! next one needs the threshold of the old *and* of its own root keys, so that keys can be replaced one version at a time.

use serde::{Deserialize, Serialize};

use crate::{
    Code, KeyId, MANIFEST_MAX, PublicKey, Refusal, Role, SecretKey, Signature, Signatures,
};

/// Keys of one role.
const KEYS_MAX: usize = 16;
const DOMAIN: &[u8] = b"VESTAL-KEYRING-1\0";

/// A valid keyring; whether it may be believed is a matter of its signatures.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Keyring {
    pub roles: Roles,
    /// From 1.
    pub version: u64,
}

/// The keys of each role.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<RoleKeys>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<RoleKeys>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RoleKeys>,
    pub root: RoleKeys,
}

/// So many of these must sign.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RoleKeys {
    keys: Vec<Entry>,
    pub threshold: u32,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    ed25519: PublicKey,
    id: KeyId,
}

impl RoleKeys {
    #[must_use]
    pub fn new(threshold: u32, keys: &[PublicKey]) -> Self {
        let keys = keys.iter().map(|key| Entry { ed25519: *key, id: key.id() }).collect();
        Self { keys, threshold }
    }

    pub fn keys(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.keys.iter().map(|entry| entry.ed25519)
    }

    /// The key of that name.
    #[must_use]
    pub fn find(&self, id: KeyId) -> Option<PublicKey> {
        self.keys.iter().find(|entry| entry.id == id).map(|entry| entry.ed25519)
    }
}

impl Keyring {
    /// Reads a keyring; believes nothing of it.
    ///
    /// # Errors
    /// No JSON of this kind, a limit, a threshold that can't be met, or a key that occurs twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MANIFEST_MAX {
            let text =
                format!("keyring of {} bytes: at most {MANIFEST_MAX} are allowed", bytes.len());
            return Err(Refusal::new(Code::TooLong, text));
        }
        let keyring: Self =
            serde_json::from_slice(bytes).map_err(|error| bad(format!("keyring: {error}")))?;
        keyring.check()?;
        Ok(keyring)
    }

    /// # Errors
    /// As [`Keyring::parse`].
    pub fn check(&self) -> Result<(), Refusal> {
        if self.version == 0 {
            return Err(bad("keyring: version 0; versions begin with 1".to_owned()));
        }
        let mut seen: Vec<(KeyId, Role)> = Vec::new();
        for role in Role::ALL {
            let Some(keys) = self.role(role) else { continue };
            let (name, count) = (role.name(), keys.keys.len());
            if count == 0 || count > KEYS_MAX {
                return Err(bad(format!(
                    "keyring: roles.{name}.keys: {count} keys; allowed are 1 to {KEYS_MAX}"
                )));
            }
            if keys.threshold == 0 || keys.threshold as usize > count {
                let text = format!(
                    "keyring: roles.{name}.threshold: {}; allowed are 1 to {count}",
                    keys.threshold
                );
                return Err(bad(text));
            }
            for entry in &keys.keys {
                if entry.id != entry.ed25519.id() {
                    let text = format!(
                        "keyring: roles.{name}: key {} says id {}",
                        entry.ed25519.id(),
                        entry.id
                    );
                    return Err(bad(text));
                }
                if let Some((_, other)) = seen.iter().find(|(id, _)| *id == entry.id) {
                    let text = format!(
                        "keyring: key {} is in {name} and in {}: a key has one role, once",
                        entry.id,
                        other.name()
                    );
                    return Err(bad(text));
                }
                seen.push((entry.id, role));
            }
        }
        Ok(())
    }

    /// The file, with sorted keys and a newline at its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .expect("numbers, lists and texts can always be written as JSON");
        bytes.push(b'\n');
        bytes
    }

    #[must_use]
    pub fn role(&self, role: Role) -> Option<&RoleKeys> {
        match role {
            Role::Bundle => self.roles.bundle.as_ref(),
            Role::Recovery => self.roles.recovery.as_ref(),
            Role::Root => Some(&self.roles.root),
            Role::Operator => self.roles.operator.as_ref(),
        }
    }

    /// What this key is for.
    #[must_use]
    pub fn owner(&self, id: KeyId) -> Option<Role> {
        Role::ALL
            .into_iter()
            .find(|role| self.role(*role).is_some_and(|keys| keys.find(id).is_some()))
    }

    /// The first keyring of a device: what the image carries, signed by its own root keys.
    ///
    /// # Errors
    /// It can't be read, or its own root keys did not sign it.
    pub fn verify_first(bytes: &[u8], signatures: &[u8]) -> Result<Self, Refusal> {
        let keyring = Self::parse(bytes)?;
        Signatures::parse(signatures)?.count(&message(bytes), &keyring, Role::Root)?;
        Ok(keyring)
    }

    /// The keyring that comes after this one.
    ///
    /// # Errors
    /// It can't be read, is not newer, or too few of the old or of the new root keys signed it.
    pub fn verify_next(&self, bytes: &[u8], signatures: &[u8]) -> Result<Self, Refusal> {
        let next = Self::parse(bytes)?;
        if next.version <= self.version {
            let text = format!(
                "keyring version {}: version {} is in force, and versions only go up",
                next.version, self.version
            );
            return Err(Refusal::new(Code::NotNewer, text));
        }
        let signatures = Signatures::parse(signatures)?;
        let message = message(bytes);
        signatures.count(&message, self, Role::Root)?;
        signatures.count(&message, &next, Role::Root)?;
        Ok(next)
    }

    /// Signs the bytes of a keyring with a root key.
    #[must_use]
    pub fn sign(bytes: &[u8], key: &SecretKey) -> Signature {
        Signature::new(key, Role::Root, &message(bytes))
    }
}

fn bad(text: String) -> Refusal {
    Refusal::new(Code::BadKeyring, text)
}

fn message(bytes: &[u8]) -> Vec<u8> {
    [DOMAIN, bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> SecretKey {
        SecretKey::new(&[number; 32])
    }

    fn role(threshold: u32, numbers: &[u8]) -> RoleKeys {
        let keys: Vec<_> = numbers.iter().map(|number| key(*number).public()).collect();
        RoleKeys::new(threshold, &keys)
    }

    fn keyring(version: u64, root: RoleKeys) -> Keyring {
        let bundle = Some(role(1, &[40]));
        Keyring { version, roles: Roles { root, bundle, operator: None, recovery: None } }
    }

    fn signed(keyring: &Keyring, numbers: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let bytes = keyring.encode();
        let mut signatures = Signatures::default();
        for number in numbers {
            signatures.add(Keyring::sign(&bytes, &key(*number))).expect("they fit");
        }
        (bytes, signatures.encode())
    }

    fn next(old: &Keyring, new: &Keyring, numbers: &[u8]) -> Result<u64, Code> {
        let (bytes, signatures) = signed(new, numbers);
        old.verify_next(&bytes, &signatures).map(|new| new.version).map_err(|refusal| refusal.code)
    }

    #[test]
    fn root_keys_are_replaced_by_the_thresholds_of_both_sides() {
        let (old, new) = (keyring(1, role(2, &[1, 2, 3])), keyring(2, role(2, &[3, 4, 5])));
        assert_eq!(next(&old, &new, &[1, 2, 4, 5]), Ok(2));
        assert_eq!(next(&old, &new, &[1, 3, 4]), Ok(2));
        assert_eq!(next(&old, &new, &[1, 2, 4]), Err(Code::Threshold));
        assert_eq!(next(&old, &new, &[3, 4, 5]), Err(Code::Threshold));
        assert_eq!(next(&old, &new, &[4, 5]), Err(Code::UnknownKey));
        assert_eq!(next(&old, &new, &[]), Err(Code::Unsigned));
    }

    #[test]
    fn a_keyring_only_goes_up() {
        let root = role(1, &[1]);
        for version in [1, 4, 5] {
            let (old, new) = (keyring(5, root.clone()), keyring(version, root.clone()));
            assert_eq!(next(&old, &new, &[1]), Err(Code::NotNewer));
        }
        assert_eq!(next(&keyring(5, root.clone()), &keyring(9, root), &[1]), Ok(9));
    }

    #[test]
    fn every_bit_of_a_keyring_and_its_signatures_counts() {
        let (bytes, signatures) = signed(&keyring(1, role(2, &[1, 2])), &[1, 2]);
        assert!(Keyring::verify_first(&bytes, &signatures).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Keyring::verify_first(&flipped, &signatures).is_err(),
                "bit {bit} of the keyring"
            );
        }
        for bit in 0..signatures.len() * 8 {
            let mut flipped = signatures.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Keyring::verify_first(&bytes, &flipped).is_err(),
                "bit {bit} of the signatures"
            );
        }
    }

    #[test]
    fn a_key_counts_once() {
        let keyring = keyring(1, role(2, &[1, 2]));
        let (bytes, one) = signed(&keyring, &[1]);
        let twice = [one.clone(), one].concat();
        assert_eq!(Keyring::verify_first(&bytes, &twice).unwrap_err().code, Code::Threshold);
    }

    #[test]
    fn what_cannot_work_is_refused_when_it_is_read() {
        let refused = |keyring: &Keyring| Keyring::parse(&keyring.encode()).unwrap_err().text;
        assert!(refused(&keyring(0, role(1, &[1]))).contains("version 0"));
        assert!(refused(&keyring(1, role(0, &[1]))).contains("threshold: 0; allowed are 1 to 1"));
        assert!(refused(&keyring(1, role(2, &[1]))).contains("threshold: 2; allowed are 1 to 1"));
        assert!(refused(&keyring(1, role(1, &[1, 1]))).contains("is in root and in root"));
        assert!(refused(&keyring(1, role(1, &[40]))).contains("a key has one role"));
        let mut lying = keyring(1, role(1, &[1]));
        lying.roles.root.keys[0].id = KeyId([0; 8]);
        assert!(refused(&lying).contains("says id 0000000000000000"));
        let text = String::from_utf8(keyring(1, role(1, &[1])).encode()).expect("it is JSON");
        let more = text.replacen("\"version\"", "\"extra\": 1, \"version\"", 1);
        assert!(
            Keyring::parse(more.as_bytes()).unwrap_err().text.contains("unknown field `extra`")
        );
    }
}
