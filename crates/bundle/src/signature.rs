//! Signatures beside what they sign, and the one function that counts them. A key counts once, a wrong signature by a
//! known key is always a refusal, and a signature by an unknown key counts nothing.

use crate::{
    Code, KeyId, Keyring, Manifest, PublicKey, Refusal, RoleKeys, SIGNATURES_MAX, SecretKey, sha256,
};

/// Octets of one signature with its head.
pub const SIGNATURE: usize = 76;
/// Ed25519.
const ALGORITHM: u8 = 1;
const BUNDLE_DOMAIN: &[u8] = b"VESTAL-BUNDLE-1\0";

/// What a key is for. A key has one role.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Signs bundles.
    Bundle,
    /// Permits to go below the rollback floor.
    Recovery,
    /// Signs keyrings.
    Root,
    /// May connect; signs nothing.
    Operator,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Bundle, Self::Recovery, Self::Root, Self::Operator];

    /// As a signature says it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Bundle => 1,
            Self::Recovery => 2,
            Self::Root => 3,
            Self::Operator => 4,
        }
    }

    /// As a keyring says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Recovery => "recovery",
            Self::Root => "root",
            Self::Operator => "operator",
        }
    }

    /// By its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// One signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Signature {
    pub role: Role,
    pub key: KeyId,
    pub signature: [u8; 64],
}

/// At most [`SIGNATURES_MAX`] of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Signatures(Vec<Signature>);

impl Signatures {
    /// # Errors
    /// Too many, a length that is no multiple of [`SIGNATURE`], or an algorithm or role that isn't known.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let (entries, rest) = bytes.as_chunks::<SIGNATURE>();
        let bad = |text: String| Refusal::new(Code::BadSignatures, text);
        if !rest.is_empty() {
            return Err(bad(format!(
                "signatures of {} bytes: not a multiple of {SIGNATURE}",
                bytes.len()
            )));
        }
        if entries.len() > SIGNATURES_MAX {
            return Err(bad(format!(
                "{} signatures: at most {SIGNATURES_MAX} are allowed",
                entries.len()
            )));
        }
        entries
            .iter()
            .map(|entry| Signature::parse(entry).map_err(bad))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(Signature::encode).collect()
    }

    /// Adds one; in place of the one that the same key made before.
    ///
    /// # Errors
    /// Where there are [`SIGNATURES_MAX`] by other keys.
    pub fn add(&mut self, signature: Signature) -> Result<(), Refusal> {
        let same =
            |other: &&mut Signature| other.key == signature.key && other.role == signature.role;
        if let Some(place) = self.0.iter_mut().find(same) {
            *place = signature;
        } else if self.0.len() < SIGNATURES_MAX {
            self.0.push(signature);
        } else {
            let text =
                format!("there are {SIGNATURES_MAX} signatures already, which is as many as fit");
            return Err(Refusal::new(Code::TooLong, text));
        }
        Ok(())
    }

    #[must_use]
    pub fn entries(&self) -> &[Signature] {
        &self.0
    }

    /// The keys of `role` that signed the message, if they are as many as the role needs.
    ///
    /// # Errors
    /// Too few, or one that is wrong.
    pub fn count(
        &self,
        message: &[u8],
        keyring: &Keyring,
        role: Role,
    ) -> Result<Vec<KeyId>, Refusal> {
        if self.0.is_empty() {
            return Err(Refusal::new(
                Code::Unsigned,
                format!("not signed: sign it with a key of role {}", role.name()),
            ));
        }
        let keys = keyring.role(role).ok_or_else(|| no_keys(role, keyring.version))?;
        let mut signers: Vec<(PublicKey, &Signature)> = Vec::new();
        for entry in &self.0 {
            let key = keys.find(entry.key);
            let owner = keyring.owner(entry.key);
            match key {
                Some(key) if entry.role == role => signers.push((key, entry)),
                None if entry.role != role || owner.is_none() => {}
                _ => return Err(wrong_role(entry, owner)),
            }
        }
        let mut known: Vec<KeyId> = signers.iter().map(|(_, entry)| entry.key).collect();
        known.sort_unstable();
        known.dedup();
        enough(&known, keys, keyring.version, role, &self.0)?;
        for (key, entry) in signers {
            if !key.verify(message, &entry.signature) {
                let text = format!(
                    "the signature by key {} does not fit: what it signs was changed, or is damaged",
                    entry.key
                );
                return Err(Refusal::new(Code::BadSignature, text));
            }
        }
        Ok(known)
    }
}

fn no_keys(role: Role, version: u64) -> Refusal {
    let text = format!(
        "keyring version {version} has no keys of role {}: add one and sign the keyring",
        role.name()
    );
    Refusal::new(Code::UnknownKey, text)
}

fn wrong_role(entry: &Signature, owner: Option<Role>) -> Refusal {
    let text = format!(
        "key {} signed as {}, but the keyring has it as {}",
        entry.key,
        entry.role.name(),
        owner.map_or("nothing", Role::name)
    );
    Refusal::new(Code::WrongRole, text)
}

fn enough(
    known: &[KeyId],
    keys: &RoleKeys,
    version: u64,
    role: Role,
    entries: &[Signature],
) -> Result<(), Refusal> {
    let role = role.name();
    if known.is_empty() {
        let named: Vec<_> = entries.iter().map(|entry| entry.key.to_string()).collect();
        let text = format!(
            "signed by {}, none of which has role {role} in keyring version {version}: sign it with a key that has, \
             or update the keyring",
            named.join(", ")
        );
        return Err(Refusal::new(Code::UnknownKey, text));
    }
    if (known.len() as u64) < u64::from(keys.threshold) {
        let text = format!(
            "signed by {} of the {} keys of role {role} that keyring version {version} demands: add signatures",
            known.len(),
            keys.threshold
        );
        return Err(Refusal::new(Code::Threshold, text));
    }
    Ok(())
}

impl Signature {
    /// Signs a message that begins with the domain of what it is.
    #[must_use]
    pub fn new(key: &SecretKey, role: Role, message: &[u8]) -> Self {
        Self { role, key: key.public().id(), signature: key.sign(message) }
    }

    fn parse(bytes: &[u8; SIGNATURE]) -> Result<Self, String> {
        if bytes[0] != ALGORITHM {
            return Err(format!("signature of algorithm {}: 1 (ed25519) is known", bytes[0]));
        }
        let role = Role::ALL.into_iter().find(|role| role.number() == bytes[1]);
        let role =
            role.ok_or_else(|| format!("signature of role {}: 1 to 4 are known", bytes[1]))?;
        if bytes[2..4] != [0, 0] {
            return Err("signature whose reserved octets are not zero".to_owned());
        }
        let (mut key, mut signature) = ([0; 8], [0; 64]);
        key.copy_from_slice(&bytes[4..12]);
        signature.copy_from_slice(&bytes[12..]);
        Ok(Self { role, key: KeyId(key), signature })
    }

    fn encode(&self) -> [u8; SIGNATURE] {
        let mut bytes = [0; SIGNATURE];
        bytes[0] = ALGORITHM;
        bytes[1] = self.role.number();
        bytes[4..12].copy_from_slice(&self.key.0);
        bytes[12..].copy_from_slice(&self.signature);
        bytes
    }
}

/// A manifest whose signatures are good.
#[derive(Clone, Debug)]
pub struct Verified {
    pub manifest: Manifest,
    /// SHA-256 of the manifest: the bundle's name.
    pub hash: [u8; 32],
    /// Who signed, each once.
    pub keys: Vec<KeyId>,
}

/// Checks signatures and threshold over a manifest, and only then reads it.
///
/// # Errors
/// Anything about it that is not in order; nothing of it may be used then.
pub fn verify(
    manifest: &[u8],
    signatures: &[u8],
    keyring: &Keyring,
    role: Role,
) -> Result<Verified, Refusal> {
    Manifest::check_len(manifest)?;
    let signatures = Signatures::parse(signatures)?;
    let keys = signatures.count(&message(manifest), keyring, role)?;
    Ok(Verified { manifest: Manifest::parse(manifest)?, hash: sha256(manifest), keys })
}

/// Signs a manifest with a key of role [`Role::Bundle`].
#[must_use]
pub fn sign_manifest(manifest: &[u8], key: &SecretKey) -> Signature {
    Signature::new(key, Role::Bundle, &message(manifest))
}

fn message(manifest: &[u8]) -> Vec<u8> {
    [BUNDLE_DOMAIN, &(manifest.len() as u64).to_le_bytes(), manifest].concat()
}
