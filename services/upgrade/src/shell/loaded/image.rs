//! A slot's image in memory, sealed: from here on nobody can change what was verified.

use std::{fs::File, io::Write as _, os::fd::OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::{
    disk::{Disk as _, read_exact},
    engine::contract::{Access, Fact, MODULE_MAX},
    settings::Target,
    shell::devices::Opener,
};

/// What a slot held when it was read, and is what was signed.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) fact: Fact,
    pub(crate) bytes: Vec<u8>,
    /// A memfd with these bytes, sealed against every change.
    pub(crate) sealed: OwnedFd,
}

impl Image {
    /// Reads the beginning of a slot; waits for storage.
    ///
    /// # Errors
    /// Where it can't be read, or is not what was written.
    pub(crate) fn read(name: &str, target: &Target, fact: &Fact) -> Result<Self, String> {
        let most = protocol::driver::OBJECT_MAX.max(MODULE_MAX);
        let size = usize::try_from(fact.size).ok().filter(|_| fact.size <= most);
        let size = size.ok_or_else(|| {
            format!("{name} has {} bytes; what is loaded into memory may have {most}", fact.size)
        })?;
        let mut disk =
            Opener::default().open(target, Access::Read).map_err(|error| error.to_string())?;
        if disk.len() < fact.size {
            let (path, length) = (target.path.display(), disk.len());
            return Err(format!("{path} has {length} bytes, but {size} were written to it"));
        }
        let mut bytes = vec![0; size];
        read_exact(&mut disk, 0, &mut bytes).map_err(|error| error.to_string())?;
        let hash = bundle::hex::encode(&bundle::sha256(&bytes));
        if hash != fact.hash {
            return Err(format!(
                "{}: {hash} was read back, but {} was written: the storage is failing, or somebody else writes to it",
                target.path.display(),
                fact.hash
            ));
        }
        let sealed = seal(name, &bytes).map_err(|error| format!("copy {name}: {error}"))?;
        Ok(Self { fact: fact.clone(), bytes, sealed })
    }
}

fn seal(name: &str, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags)?);
    file.write_all(bytes)?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, all)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn fact(bytes: &[u8]) -> Fact {
        let hash = bundle::hex::encode(&bundle::sha256(bytes));
        Fact { version: "2".to_owned(), rollback_index: 2, hash, size: bytes.len() as u64 }
    }

    #[test]
    fn what_is_read_from_a_slot_is_checked_and_can_not_be_changed_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slot");
        std::fs::write(&path, [&b"the driver"[..], &[0; 9000]].concat()).unwrap();
        let target = Target { path: path.clone(), offset: 0, size: None };
        let image = Image::read("serial", &target, &fact(b"the driver")).unwrap();
        assert_eq!(image.bytes, b"the driver");
        let file = File::from(image.sealed);
        assert!(file.write_at(b"x", 0).is_err() && file.set_len(3).is_err());
        let mut read = [0; 10];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"the driver");

        let told = Image::read("serial", &target, &fact(b"another one")).unwrap_err();
        assert!(told.contains("was read back"), "{told}");
        let long = Fact { size: 10_000, ..fact(b"the driver") };
        assert!(Image::read("serial", &target, &long).unwrap_err().contains("has 9010 bytes"));
        let huge = Fact { size: 1 << 40, ..fact(b"the driver") };
        assert!(Image::read("serial", &target, &huge).unwrap_err().contains("may have"));
    }
}
