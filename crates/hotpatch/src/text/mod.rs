//! Code in memory: read, written, and made known to all processors.
//!
//! It is written through `/proc/self/mem`, which needs no page that can be written and run at the same time, and takes nothing
//! from neighbours on that page. Where the system forbids it, code isn't written at all. Must never be used on code that may run
//! meanwhile.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    thread::{MembarrierCommand, membarrier},
};

use crate::{Code, Refusal};

/// Whether code can be written here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Writable {
    /// Through `/proc/self/mem`.
    ProcMem,
    /// Not at all, and why: then only whole tables can be swapped.
    Blocked(String),
}

/// Tries it on a page of its own.
#[must_use]
pub fn code_writable() -> Writable {
    match probe() {
        Ok(()) => Writable::ProcMem,
        Err(error) => Writable::Blocked(error.to_string()),
    }
}

fn probe() -> io::Result<()> {
    const LENGTH: usize = 4096;
    const MARK: [u8; 4] = [0x1f, 0x20, 0x03, 0xd5];
    #[expect(unsafe_code, reason = "maps a page to be written to as code is")]
    // SAFETY: a new page at an address of the kernel's choice.
    let page = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            LENGTH,
            ProtFlags::READ | ProtFlags::EXEC,
            MapFlags::PRIVATE,
        )?
    };
    let address = page.expose_provenance();
    let written = Text::open().and_then(|text| {
        text.write(address, &MARK)?;
        Ok(text.read(address, MARK.len())? == MARK)
    });
    #[expect(unsafe_code, reason = "gives the page back")]
    // SAFETY: it was mapped above, and nothing points to it any more.
    unsafe {
        munmap(page, LENGTH)?;
    }
    sync_cores()?;
    if written? { Ok(()) } else { Err(io::Error::other("what was written isn't there")) }
}

/// The memory of this process.
pub(crate) struct Text(File);

impl Text {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open("/proc/self/mem")?))
    }

    pub(crate) fn read(&self, address: usize, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, address as u64)?;
        Ok(bytes)
    }

    /// In one piece where it lies in one page. [`Text::sync`] must follow before it runs.
    pub(crate) fn write(&self, address: usize, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, address as u64)
    }

    /// Afterwards every processor runs what is written there.
    pub(crate) fn sync(address: usize, length: usize) -> io::Result<()> {
        clean(address, length);
        #[cfg(all(test, target_arch = "aarch64"))]
        crate::testing::forget_translation(address, length);
        sync_cores()
    }
}

/// What code can't be written for, as an answer.
pub(crate) fn blocked(error: &io::Error) -> Refusal {
    Refusal::new(
        Code::Blocked,
        format!("code can't be written here ({error}): only whole tables can be swapped"),
    )
}

/// Every thread of this process passes an instruction before its next one that makes it forget what it fetched ahead.
fn sync_cores() -> io::Result<()> {
    membarrier(MembarrierCommand::RegisterPrivateExpeditedSyncCore)?;
    Ok(membarrier(MembarrierCommand::PrivateExpeditedSyncCore)?)
}

/// Takes the code from the data caches to where it is fetched from, and the old one out of the caches of code. x86-64 does so
/// by itself.
#[cfg(target_arch = "aarch64")]
fn clean(address: usize, length: usize) {
    use std::arch::asm;

    let end = address + length;
    let types: u64;
    #[expect(unsafe_code, reason = "reads a register")]
    // SAFETY: it can be read without privilege.
    unsafe {
        asm!("mrs {}, ctr_el0", out(reg) types, options(nomem, nostack, preserves_flags));
    }
    // Log2 of the words of the shortest line: of data in bits 16 to 19, of code in bits 0 to 3.
    let line = |low: u32| 4usize << (types >> low & 0xf);
    let lines = |line: usize| (address & !(line - 1)..end).step_by(line);
    #[expect(unsafe_code, reason = "maintains caches")]
    // SAFETY: the addresses are of code that can be read; caches are written back and forgotten, memory stays as it is.
    unsafe {
        for at in lines(line(16)) {
            asm!("dc cvau, {}", in(reg) at, options(nostack, preserves_flags));
        }
        asm!("dsb ish", options(nostack, preserves_flags));
        for at in lines(line(0)) {
            asm!("ic ivau, {}", in(reg) at, options(nostack, preserves_flags));
        }
        asm!("dsb ish", "isb", options(nostack, preserves_flags));
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn clean(_address: usize, _length: usize) {}

#[cfg(test)]
mod tests;
