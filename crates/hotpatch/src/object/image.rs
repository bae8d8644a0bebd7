//! What an object has to be before it is loaded, and which functions it has. Pure: any bytes end in an [`Image`] or a
//! [`Refusal`], never in a panic.
//!
//! Constructors are allowed: compilers add their own to every object, and one can't be told from another. So loading runs
//! code; whoever loads has done it in a canary process first.

use std::{collections::BTreeMap, mem::offset_of};

use driver_abi::{ABI_MAJOR, Driver, SYMBOL};
use object::{
    LittleEndian as Little, elf,
    read::elf::{FileHeader as _, SectionTable, Sym as _, SymbolTable},
};
use sha2::{Digest as _, Sha256};

use super::{
    dynamic,
    segments::{Access, Header, Segment, Segments},
};
use crate::{
    Code, Refusal,
    entry::{self, Room},
};

/// The machine of this program, as a file names it; 0 where drivers were never tried.
pub(crate) const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    elf::EM_X86_64
} else if cfg!(target_arch = "aarch64") {
    elf::EM_AARCH64
} else if cfg!(target_arch = "riscv64") {
    elf::EM_RISCV
} else {
    elf::EM_NONE
};
/// Most functions; a driver in Rust, not stripped, has a few thousand.
const FUNCTIONS: usize = 1 << 16;
/// Longer names of functions are left out: nobody types them.
const NAME: usize = 512;
/// So many bytes at a function's beginning are compared with memory before it is written to.
pub(crate) const COMPARED: usize = 32;
/// Bytes that are decoded in all, for each byte of the file. Symbols that lie over each other could ask for any number.
const DECODED: u64 = 4;

type Elf = elf::FileHeader64<Little>;
type Symbols<'b> = SymbolTable<'b, Elf>;

/// A function as the file has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Symbol {
    pub name: String,
    /// Counted from where the object is loaded.
    pub offset: u64,
    pub size: u64,
    /// SHA-256 of the first 32 bytes, or of as many as there are.
    pub hash: [u8; 32],
    pub room: Room,
}

/// An object that may be loaded.
#[derive(Clone, Debug)]
pub struct Image {
    segments: Segments,
    functions: Vec<Symbol>,
    driver: u64,
}

impl Image {
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(bytes: &[u8]) -> Result<Self, Refusal> {
        let header = Elf::parse(bytes).map_err(|error| not_elf(&error))?;
        machine(header)?;
        let headers = header.program_headers(Little, bytes).map_err(|error| not_elf(&error))?;
        let segments = Segments::check(headers, bytes.len())?;
        protection(headers, &segments)?;
        let dynamic = dynamic::check(bytes, headers, &segments)?;
        let sections = header.sections(Little, bytes).map_err(|error| not_elf(&error))?;
        let exported = exported(bytes, &segments, &sections, &dynamic)?;
        let driver = driver(bytes, &segments, &exported)?;
        let local =
            sections.symbols(Little, bytes, elf::SHT_SYMTAB).map_err(|error| not_elf(&error))?;
        let functions = functions(bytes, &segments, &[exported, local])?;
        Ok(Self { segments, functions, driver })
    }

    /// By rising offset; a function with two names is there twice.
    #[must_use]
    pub fn functions(&self) -> &[Symbol] {
        &self.functions
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        self.segments.all()
    }

    /// Where `vestal_driver_v1` lies.
    pub(crate) fn driver(&self) -> u64 {
        self.driver
    }
}

fn not_elf(error: &object::Error) -> Refusal {
    Refusal::new(Code::NotElf, format!("the object is no ELF file of a driver: {error}"))
}

fn machine(header: &Elf) -> Result<(), Refusal> {
    if !header.is_class_64() || !header.is_little_endian() {
        return Err(Refusal::new(
            Code::WrongMachine,
            "the object isn't for a 64-bit little-endian machine",
        ));
    }
    let machine = header.e_machine(Little);
    if machine != MACHINE || MACHINE == elf::EM_NONE {
        return Err(Refusal::new(
            Code::WrongMachine,
            format!("the object is for machine {machine}, this is machine {MACHINE} (ELF numbers)"),
        ));
    }
    let kind = header.e_type(Little);
    if kind != elf::ET_DYN {
        return Err(Refusal::new(
            Code::NotElf,
            format!("the ELF file is of type {kind}, a shared object is type 3: link with -shared"),
        ));
    }
    Ok(())
}

/// No stack that can be run, and what the linker fills in can't be written to afterwards.
fn protection(headers: &[Header], segments: &Segments) -> Result<(), Refusal> {
    let of = |kind: u32| headers.iter().filter(move |header| header.p_type.get(Little) == kind);
    let runs = |header: &Header| header.p_flags.get(Little) & elf::PF_X != 0;
    if of(elf::PT_GNU_STACK).count() != 1 || of(elf::PT_GNU_STACK).any(runs) {
        return Err(Refusal::new(
            Code::Executable,
            "the object asks for a stack that can be run: link with -z noexecstack",
        ));
    }
    let held = |header: &Header| {
        let (address, size) = (header.p_vaddr.get(Little), header.p_memsz.get(Little));
        // A linker may round the end up to a page, beyond the segment.
        size > 0
            && segments.holding(address, 1).is_some_and(|segment| segment.access == Access::Write)
    };
    if of(elf::PT_GNU_RELRO).count() != 1 || !of(elf::PT_GNU_RELRO).all(held) {
        return Err(Refusal::new(
            Code::NoRelro,
            "what the linker fills in could be written to afterwards: link with -z relro",
        ));
    }
    Ok(())
}

/// The table of exported symbols, which must be the one that the linker uses.
fn exported<'b>(
    bytes: &'b [u8],
    segments: &Segments,
    sections: &SectionTable<'b, Elf>,
    dynamic: &dynamic::Dynamic,
) -> Result<Symbols<'b>, Refusal> {
    let symbols =
        sections.symbols(Little, bytes, elf::SHT_DYNSYM).map_err(|error| not_elf(&error))?;
    // One byte stands for all: both are found in the file by the same segment.
    let same = |section: object::SectionIndex, address: u64| {
        let header = sections.section(section).ok()?;
        let place = usize::try_from(header.sh_offset.get(Little)).ok()?;
        let linked = segments.at(bytes, address, 1)?;
        (header.sh_addr.get(Little) == address
            && std::ptr::eq(bytes.get(place..)?.as_ptr(), linked.as_ptr()))
        .then_some(())
    };
    if same(symbols.section(), dynamic.symbols).is_none()
        || same(symbols.string_section(), dynamic.strings).is_none()
    {
        return Err(Refusal::new(
            Code::NotElf,
            "the table of exported symbols isn't the one that the dynamic linker uses",
        ));
    }
    Ok(symbols)
}

/// Finds `vestal_driver_v1` and looks at what no relocation changes: its size and the version of the ABI.
fn driver(bytes: &[u8], segments: &Segments, exported: &Symbols<'_>) -> Result<u64, Refusal> {
    let found = exported.iter().find(|symbol| {
        symbol.name(Little, exported.strings()).is_ok_and(|name| name == SYMBOL.as_bytes())
            && !symbol.is_undefined(Little)
    });
    let no_symbol = |text: &str| Refusal::new(Code::NoSymbol, format!("{SYMBOL} {text}"));
    let symbol = found.ok_or_else(|| no_symbol("isn't among the exported symbols"))?;
    if symbol.st_type() != elf::STT_OBJECT {
        return Err(no_symbol("is no variable"));
    }
    let (address, size) = (symbol.st_value(Little), symbol.st_size(Little));
    let in_data = segments
        .holding(address, size.max(size_of::<Driver>() as u64))
        .is_some_and(|segment| segment.access != Access::Run);
    if !in_data || address % align_of::<Driver>() as u64 != 0 {
        return Err(no_symbol(&format!("at {address:#x} doesn't lie in the object's data")));
    }
    let number = |offset: usize| -> Result<u32, Refusal> {
        let bytes = segments.at(bytes, address + offset as u64, 4);
        let bytes = bytes.and_then(|bytes| bytes.first_chunk::<4>());
        bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or_else(|| no_symbol("isn't in the file"))
    };
    let (said, major) = (number(offset_of!(Driver, size))?, number(offset_of!(Driver, abi_major))?);
    if major != ABI_MAJOR {
        return Err(Refusal::new(
            Code::Abi,
            format!("the driver is for version {major} of the ABI, this is version {ABI_MAJOR}"),
        ));
    }
    if u64::from(said) < size_of::<Driver>() as u64 || u64::from(said) > size {
        return Err(Refusal::new(
            Code::Layout,
            format!(
                "{SYMBOL} says that it has {said} bytes, the file has {size}, the ABI {}",
                size_of::<Driver>()
            ),
        ));
    }
    Ok(address)
}

fn functions(
    bytes: &[u8],
    segments: &Segments,
    tables: &[Symbols<'_>],
) -> Result<Vec<Symbol>, Refusal> {
    let mut found: BTreeMap<(u64, &str), Symbol> = BTreeMap::new();
    let mut budget = bytes.len() as u64 * DECODED;
    for table in tables {
        for symbol in table.iter() {
            if symbol.is_undefined(Little) {
                continue;
            }
            if symbol.st_type() == elf::STT_GNU_IFUNC {
                return Err(Refusal::new(
                    Code::Layout,
                    "a function of it chooses its own address when it is loaded (IFUNC): compile without",
                ));
            }
            let Ok(name) = symbol.name(Little, table.strings()) else { continue };
            let Ok(name) = std::str::from_utf8(name) else { continue };
            if symbol.st_type() != elf::STT_FUNC || name.is_empty() || name.len() > NAME {
                continue;
            }
            let (offset, size) = (symbol.st_value(Little), symbol.st_size(Little));
            let runs =
                segments.holding(offset, size).is_some_and(|segment| segment.access == Access::Run);
            let Some(code) = segments.at(bytes, offset, size).filter(|_| runs && size > 0) else {
                continue;
            };
            if found.len() == FUNCTIONS {
                return Err(Refusal::new(
                    Code::TooBig,
                    format!("the object has more than {FUNCTIONS} functions: strip it"),
                ));
            }
            found.entry((offset, name)).or_insert_with(|| {
                let room = match budget.checked_sub(size) {
                    Some(left) => {
                        budget = left;
                        entry::room(code)
                    }
                    None => Room::None,
                };
                let first = &code[..code.len().min(COMPARED)];
                Symbol {
                    name: name.to_owned(),
                    offset,
                    size,
                    hash: Sha256::digest(first).into(),
                    room,
                }
            });
        }
    }
    Ok(found.into_values().collect())
}
