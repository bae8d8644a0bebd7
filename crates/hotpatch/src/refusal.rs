//! Why code is not taken, or not changed.

use std::fmt;

/// What was refused, in words for a person, and a code to branch on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub code: Code,
    pub text: String,
}

impl Refusal {
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// What kind of reason it is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Code {
    /// The descriptor can still be changed by others.
    NotSealed,
    /// More bytes than a driver's object may have.
    TooBig,
    NotElf,
    WrongMachine,
    TextRelocations,
    /// It names folders to look for libraries in.
    SearchPath,
    LibraryNotAllowed,
    NoRelro,
    /// A segment that can be both written and run, or a stack that can be run.
    Executable,
    /// It has no `vestal_driver_v1`, or not where data belongs.
    NoSymbol,
    /// Another major version of the ABI.
    Abi,
    /// A structure is shorter, or a table longer or shorter, than the ABI allows.
    Layout,
    /// The driver breaks a rule of the header: a pointer outside of it, a text without an end, wrong state.
    BadDriver,
    /// The dynamic linker refused it.
    Load,
    /// The bytes in memory aren't those of the file.
    MemoryDiffers,
    /// No room for a jump at the entry of this function.
    NoRoom,
    /// Code can't be written here.
    Blocked,
    /// This machine has no such jump or probe.
    Unsupported,
    /// The gate was opened by its watchdog before the change.
    Revoked,
    /// The operating system refused memory or a descriptor.
    System,
}

impl Code {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotSealed => "not-sealed",
            Self::TooBig => "too-big",
            Self::NotElf => "not-elf",
            Self::WrongMachine => "wrong-machine",
            Self::TextRelocations => "text-relocations",
            Self::SearchPath => "search-path",
            Self::LibraryNotAllowed => "library-not-allowed",
            Self::NoRelro => "no-relro",
            Self::Executable => "executable",
            Self::NoSymbol => "no-symbol",
            Self::Abi => "abi",
            Self::Layout => "layout",
            Self::BadDriver => "bad-driver",
            Self::Load => "load",
            Self::MemoryDiffers => "memory-differs",
            Self::NoRoom => "no-room",
            Self::Blocked => "blocked",
            Self::Unsupported => "unsupported",
            Self::Revoked => "revoked",
            Self::System => "system",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
