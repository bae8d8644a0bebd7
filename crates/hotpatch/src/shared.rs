//! Numbers in a file that all who map it see at once, and that outlive the process that writes them. It knows nothing of their
//! meaning.

use std::{
    fs::OpenOptions,
    io,
    ops::Range,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    ptr::{self, NonNull},
    slice,
    sync::atomic::AtomicU64,
};

use rustix::{
    fs::OFlags,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// A file of 64-bit numbers, mapped. Whoever else may write to the folder could cut it short, and end this process by that.
pub struct Shared {
    start: NonNull<AtomicU64>,
    words: usize,
}

#[expect(unsafe_code, reason = "a mapping belongs to no thread")]
// SAFETY: all that is behind the pointer are atomics, and it is unmapped by the last owner only.
unsafe impl Send for Shared {}
#[expect(unsafe_code, reason = "a mapping belongs to no thread")]
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps the first `words` numbers of this file, which is made if it is not there and lengthened with zeros if it is shorter.
    ///
    /// # Errors
    /// Of the file system; also where it is no plain file, or of someone else.
    pub fn open(path: &Path, words: usize) -> io::Result<Self> {
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits())
            .expect("flags of open(2) are those of an int");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it is no plain file of this process's user"));
        }
        let length =
            words.max(1).checked_mul(size_of::<u64>()).ok_or(io::ErrorKind::InvalidInput)?;
        let needed = u64::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        if metadata.len() < needed {
            file.set_len(needed)?;
        }
        // The blocks are had now: no room later would be SIGBUS.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, needed)?;
        #[expect(unsafe_code, reason = "maps the file")]
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words })
    }

    #[expect(unsafe_code, reason = "the mapping as a slice")]
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `open` mapped that many, from the start of a page; they are atomics for everybody who maps them.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Has the kernel write what it reads from `from` into these words: what was taken from there is in the file, whatever becomes of
    /// this process meanwhile. Answers how many bytes there are.
    ///
    /// # Errors
    /// Of read(2); also where there are no such words.
    #[expect(unsafe_code, reason = "the kernel writes into the mapping")]
    pub fn read(&self, from: BorrowedFd<'_>, into: Range<usize>) -> io::Result<usize> {
        let into = self.words().get(into).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: it writes no more than they have room for, and others may write to these atomics at any time anyway.
        let length = unsafe {
            libc::read(from.as_raw_fd(), into.as_ptr().cast_mut().cast(), size_of_val(into))
        };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Shared {
    #[expect(unsafe_code, reason = "unmaps the file")]
    fn drop(&mut self) {
        let length = self.words.max(1) * size_of::<u64>();
        // SAFETY: `open` mapped it, and nobody borrows from `self` any more. It does not fail for a mapping of one's own.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), length) };
    }
}
