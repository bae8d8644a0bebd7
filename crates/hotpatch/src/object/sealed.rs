//! Bytes that nobody can change any more: a memfd with all seals. Must never answer bytes of a descriptor that still can.

use std::{
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

use crate::{Code, Refusal};

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// The object of a driver, as it was when it was sealed.
#[derive(Debug)]
pub struct Sealed {
    file: File,
    bytes: Vec<u8>,
}

impl Sealed {
    /// A sealed file with these bytes; the name is what `/proc/PID/maps` shows.
    ///
    /// # Errors
    /// No memory or no descriptor left.
    pub fn new(name: &str, bytes: &[u8]) -> io::Result<Self> {
        // A memfd needs no permission to be run for being mapped, and where the system forbids that permission it must say so
        // itself. Kernels before 6.3 don't know the flag.
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => memfd_create(name, flags)?,
            fd => fd?,
        };
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        fcntl_add_seals(&file, SEALS)?;
        Ok(Self { file, bytes: bytes.to_vec() })
    }

    /// Takes a descriptor from somebody else, and reads it. At most `limit` bytes.
    ///
    /// # Errors
    /// It isn't sealed, is too long, or can't be read.
    pub fn adopt(fd: OwnedFd, limit: u64) -> Result<Self, Refusal> {
        let seals = fcntl_get_seals(&fd).map_err(|error| {
            Refusal::new(Code::NotSealed, format!("the descriptor is no memfd: {error}"))
        })?;
        if !seals.contains(SEALS) {
            let missing = SEALS.difference(seals);
            return Err(Refusal::new(
                Code::NotSealed,
                format!("the memfd lacks the seals {missing:?}: add them before it is handed over"),
            ));
        }
        // The size is final: SHRINK and GROW were among the seals.
        let file = File::from(fd);
        let system =
            |error: io::Error| Refusal::new(Code::System, format!("read the memfd: {error}"));
        let length = file.metadata().map_err(system)?.len();
        if length > limit {
            return Err(Refusal::new(
                Code::TooBig,
                format!("the object has {length} bytes; at most {limit} are allowed"),
            ));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0).map_err(system)?;
        Ok(Self { file, bytes })
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
