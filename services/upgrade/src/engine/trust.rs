//! Whom the device believes: the newest keyring whose chain verifies, and permissions to go below a floor.
//!
//! A keyring is kept twice in turns, `keyring-a` and `keyring-b`: u32 length of the keyring, the keyring, its signatures.

use bundle::{Keyring, Permission, Refusal, Role};
use protocol::failure::{Code, Failure};

use super::{Engine, contract::Platform, failed, offer::refused};

const FILES: [&str; 2] = ["keyring-a", "keyring-b"];
/// A keyring and its signatures.
const FILE_MAX: usize = 4 + bundle::MANIFEST_MAX + bundle::SIGNATURES_MAX * bundle::SIGNATURE;
/// Permissions that wait for their bundle.
const PERMISSIONS_MAX: usize = 8;

impl<P: Platform> Engine<P> {
    /// Takes the factory's keyring and what replaced it. Where the factory has none, the first one that was installed counts by
    /// its own signatures.
    ///
    /// # Errors
    /// Where the factory's own is not in order, or the state can't be read; then nobody is believed.
    pub(crate) fn trust(&mut self, factory: Option<(&[u8], &[u8])>) -> Result<(), Failure> {
        self.keyring = match factory {
            Some((keyring, signatures)) => {
                Some(Keyring::verify_first(keyring, signatures).map_err(refused)?)
            }
            None => None,
        };
        let mut kept = Vec::new();
        for file in FILES {
            let bytes = self.platform.store().read(file, FILE_MAX);
            let bytes = bytes.map_err(|error| failed(format!("read {file}: {error}")))?;
            kept.extend(bytes.filter(|bytes| Pieces::of(bytes).is_some()));
        }
        let version = |bytes: &Vec<u8>| {
            let pieces = Pieces::of(bytes)?;
            Keyring::parse(pieces.keyring).ok().map(|keyring| keyring.version)
        };
        kept.sort_by_key(version);
        for bytes in &kept {
            let Some(pieces) = Pieces::of(bytes) else { continue };
            // What does not follow what is believed is not believed; a newer factory may have left it behind.
            if let Ok(keyring) = self.follows(&pieces) {
                self.keyring = Some(keyring);
            }
        }
        Ok(())
    }

    fn follows(&self, pieces: &Pieces<'_>) -> Result<Keyring, Refusal> {
        match &self.keyring {
            None => Keyring::verify_first(pieces.keyring, pieces.signatures),
            Some(old) => old.verify_next(pieces.keyring, pieces.signatures),
        }
    }

    /// A newer keyring: u32 length, little-endian, the keyring, its signatures. Says its version.
    ///
    /// # Errors
    /// Where it does not follow the one in force.
    pub(crate) fn install_keyring(
        &mut self,
        bytes: &[u8],
        local_root: bool,
    ) -> Result<u64, Failure> {
        let Some(pieces) = Pieces::of(bytes).filter(|_| bytes.len() <= FILE_MAX) else {
            let text =
                format!("{} bytes that are no keyring with its length before it", bytes.len());
            return Err(Failure::new(Code::InvalidArgument, text));
        };
        if self.keyring.is_none() && !local_root {
            let text = "the device has no keyring yet: only root on the device itself may install the first one";
            return Err(Failure::new(Code::Denied, text));
        }
        let keyring = self.follows(&pieces).map_err(refused)?;
        let file = FILES[usize::from(keyring.version % 2 == 0)];
        let kept = self.platform.store().replace(file, bytes);
        kept.map_err(|error| failed(format!("write {file}: {error}")))?;
        let version = keyring.version;
        self.keyring = Some(keyring);
        Ok(version)
    }

    /// The keyring in force.
    pub(crate) fn keyring(&self) -> Option<&Keyring> {
        self.keyring.as_ref()
    }

    /// Takes a permission to go below the floor, for the bundle that it names. `device` is this one's fingerprint.
    ///
    /// # Errors
    /// Where recovery did not sign it, it is for another device, or was used.
    pub(crate) fn permit(
        &mut self,
        permission: &[u8],
        signatures: &[u8],
        device: &[u8; 32],
    ) -> Result<(), Failure> {
        let Some(keyring) = &self.keyring else {
            let text = "the device has no keyring: nobody can permit anything";
            return Err(Failure::new(Code::Denied, text));
        };
        let hash = bundle::hex::encode(&bundle::sha256(permission));
        let verified = Permission::verify(permission, signatures, keyring);
        let (permission, _) = verified.map_err(refused)?;
        if permission.device != *device {
            return Err(Failure::new(Code::Denied, "the permission is for another device"));
        }
        if self.ledger.is_used(&hash) || self.ledger.used_up() {
            let text =
                "the permission was used already, or this device has used all that it can remember";
            return Err(Failure::new(Code::Denied, text));
        }
        if self.permissions.len() >= PERMISSIONS_MAX {
            self.permissions.remove(0);
        }
        self.permissions.push((permission, hash));
        Ok(())
    }

    /// The keys that may talk to this device over the network.
    pub(crate) fn operators(&self) -> Vec<bundle::PublicKey> {
        let keys = self.keyring.as_ref().and_then(|keyring| keyring.role(Role::Operator));
        keys.map(|keys| keys.keys().collect()).unwrap_or_default()
    }
}

struct Pieces<'b> {
    keyring: &'b [u8],
    signatures: &'b [u8],
}

impl<'b> Pieces<'b> {
    fn of(bytes: &'b [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (keyring, signatures) =
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        Some(Self { keyring, signatures })
    }
}
