//! Files as memory: the records and the log ring for good, a plan for as long as it is read.

use std::{
    ffi::c_void,
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
    sync::atomic::AtomicU32,
};

/// Maps a file shared, for good; its pages are there already.
fn map_shared(file: BorrowedFd<'_>, size: usize) -> io::Result<*mut c_void> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) }
}

/// A file as words that others may change too. The caller has allocated them in the file.
pub(crate) fn map_shared_words(
    file: BorrowedFd<'_>,
    words: usize,
) -> io::Result<&'static [AtomicU32]> {
    let at = map_shared(file, words * size_of::<u32>())?;
    // SAFETY: the mapping has this size, stays for good, and only atomics look at it.
    Ok(unsafe { std::slice::from_raw_parts(at.cast(), words) })
}

/// A memfd as bytes that only this process writes. The caller has allocated them, and sealed the size.
pub(crate) fn map_shared_bytes(file: BorrowedFd<'_>, size: usize) -> io::Result<&'static mut [u8]> {
    let at = map_shared(file, size)?;
    // SAFETY: the mapping has this size and stays for good; it is made once, and others only read the file.
    Ok(unsafe { std::slice::from_raw_parts_mut(at.cast(), size) })
}

/// A private copy of a sealed memfd, unmapped when dropped.
pub(crate) struct PrivateCopy {
    at: *mut u8,
    size: usize,
}

impl PrivateCopy {
    /// The caller has made sure that the file is sealed, has `size` bytes and is not empty.
    pub(crate) fn map(file: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let file = file.as_raw_fd();
        // SAFETY: a new private mapping.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), size, protection, libc::MAP_PRIVATE, file, 0) };
        if at == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { at: at.cast(), size })
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this size and lives as long as `self`; a sealed file can't shrink below it.
        unsafe { std::slice::from_raw_parts(self.at, self.size) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.size) }
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        unsafe { libc::munmap(self.at.cast(), self.size) };
    }
}
