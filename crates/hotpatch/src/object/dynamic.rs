//! What an object asks of the dynamic linker: libraries, folders to search, memory to write to. Read as the linker reads it,
//! through the addresses of the dynamic segment and not through the section table, which it ignores.

use std::collections::BTreeMap;

use object::{LittleEndian as Little, elf, pod};

use super::segments::{Access, Header, Segments};
use crate::{Code, Refusal};

/// What a driver may be linked with: the C library's own parts and the compiler's.
const LIBRARIES: [&str; 6] =
    ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1"];
/// The dynamic linker's name begins and ends so, on each machine.
const LINKER: (&str, &str) = ("ld-linux-", ".so.");
/// The packed form of relocations, which the crate `object` has no names for.
const DT_RELR: u32 = 36;
const DT_RELRSZ: u32 = 35;
/// Most entries; linkers make about thirty.
const ENTRIES: usize = 512;
/// These make the linker load or search something beside what `NEEDED` names.
const FORBIDDEN: [(u64, Code, &str); 8] = [
    (elf::DT_RPATH as u64, Code::SearchPath, "RPATH"),
    (elf::DT_RUNPATH as u64, Code::SearchPath, "RUNPATH"),
    (elf::DT_TEXTREL as u64, Code::TextRelocations, "TEXTREL"),
    (elf::DT_AUXILIARY as u64, Code::LibraryNotAllowed, "AUXILIARY"),
    (elf::DT_FILTER as u64, Code::LibraryNotAllowed, "FILTER"),
    (elf::DT_AUDIT as u64, Code::LibraryNotAllowed, "AUDIT"),
    (elf::DT_DEPAUDIT as u64, Code::LibraryNotAllowed, "DEPAUDIT"),
    (elf::DT_REL as u64, Code::Layout, "REL"),
];

/// Where the linker finds its symbols.
pub(super) struct Dynamic {
    pub(super) symbols: u64,
    pub(super) strings: u64,
}

/// Checks the dynamic segment.
pub(super) fn check(
    bytes: &[u8],
    headers: &[Header],
    segments: &Segments,
) -> Result<Dynamic, Refusal> {
    let (needed, entries) = read(bytes, headers, segments)?;
    for (tag, code, name) in FORBIDDEN {
        if entries.contains_key(&tag) {
            return Err(Refusal::new(
                code,
                format!("the dynamic segment has {name}: link without it"),
            ));
        }
    }
    let entry = |tag: u32| entries.get(&u64::from(tag)).copied();
    let flags = entry(elf::DT_FLAGS).unwrap_or(0);
    if flags & u64::from(elf::DF_TEXTREL) != 0 {
        return Err(Refusal::new(
            Code::TextRelocations,
            "the code would be written to when it is loaded: compile with -fPIC",
        ));
    }
    let now = flags & u64::from(elf::DF_BIND_NOW) != 0
        || entry(elf::DT_FLAGS_1).unwrap_or(0) & u64::from(elf::DF_1_NOW) != 0
        || entry(elf::DT_BIND_NOW).is_some();
    if !now {
        return Err(Refusal::new(Code::NoRelro, "the object is bound lazily: link with -z now"));
    }
    let missing =
        |name: &str| Refusal::new(Code::NotElf, format!("the dynamic segment has no {name}"));
    let symbols = entry(elf::DT_SYMTAB).ok_or_else(|| missing("SYMTAB"))?;
    let strings = entry(elf::DT_STRTAB).ok_or_else(|| missing("STRTAB"))?;
    let length = entry(elf::DT_STRSZ).ok_or_else(|| missing("STRSZ"))?;
    let names = segments.at(bytes, strings, length).ok_or_else(|| {
        Refusal::new(
            Code::NotElf,
            format!("{length} bytes of names at {strings:#x} aren't in the file"),
        )
    })?;
    for offset in needed {
        library(names, offset)?;
    }
    let table = |start, size| -> Result<Option<(u64, u64)>, Refusal> {
        let Some(start) = entry(start) else { return Ok(None) };
        Ok(Some((start, entry(size).ok_or_else(|| missing("size of a table of relocations"))?)))
    };
    for (start, length) in
        [table(elf::DT_RELA, elf::DT_RELASZ)?, table(elf::DT_JMPREL, elf::DT_PLTRELSZ)?]
            .into_iter()
            .flatten()
    {
        relocations(bytes, segments, start, length)?;
    }
    if let Some((start, length)) = table(DT_RELR, DT_RELRSZ)? {
        packed(bytes, segments, start, length)?;
    }
    Ok(Dynamic { symbols, strings })
}

type Entries = BTreeMap<u64, u64>;

/// The names' offsets of the libraries that are needed, and all other entries.
fn read(
    bytes: &[u8],
    headers: &[Header],
    segments: &Segments,
) -> Result<(Vec<u64>, Entries), Refusal> {
    let mut found = headers.iter().filter(|header| header.p_type.get(Little) == elf::PT_DYNAMIC);
    let (Some(header), None) = (found.next(), found.next()) else {
        return Err(Refusal::new(Code::NotElf, "the object has no dynamic segment, or two"));
    };
    let (address, length) = (header.p_vaddr.get(Little), header.p_memsz.get(Little));
    let table = segments
        .at(bytes, address, length)
        .and_then(|bytes| pod::slice_from_all_bytes::<elf::Dyn64<Little>>(bytes).ok());
    let Some(table) = table.filter(|table| table.len() <= ENTRIES) else {
        return Err(Refusal::new(
            Code::NotElf,
            format!(
                "the dynamic segment, {length} bytes at {address:#x}, isn't in the file, or too long"
            ),
        ));
    };
    let (mut needed, mut entries) = (Vec::new(), Entries::new());
    for entry in table {
        let (tag, value) = (entry.d_tag.get(Little), entry.d_val.get(Little));
        if tag == u64::from(elf::DT_NULL) {
            return Ok((needed, entries));
        }
        if tag == u64::from(elf::DT_NEEDED) {
            needed.push(value);
        } else if entries.insert(tag, value).is_some() {
            // Which of the two counts is the linker's to choose, so neither can be checked.
            return Err(Refusal::new(
                Code::NotElf,
                format!("the dynamic segment has tag {tag:#x} twice"),
            ));
        }
    }
    Err(Refusal::new(Code::NotElf, "the dynamic segment has no end"))
}

fn library(names: &[u8], offset: u64) -> Result<(), Refusal> {
    let name = usize::try_from(offset).ok().and_then(|offset| text(names, offset)).unwrap_or("");
    let linker = name.strip_prefix(LINKER.0).is_some_and(|rest| rest.contains(LINKER.1));
    if (linker && !name.contains('/')) || LIBRARIES.contains(&name) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::LibraryNotAllowed,
        format!("it needs the library {name:?}; a driver may need {} only", LIBRARIES.join(", ")),
    ))
}

/// A text that ends with NUL within these bytes.
pub(super) fn text(bytes: &[u8], offset: usize) -> Option<&str> {
    let bytes = bytes.get(offset..)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

/// Every place that is written to while loading must be data, and no function may be asked for an address.
fn relocations(bytes: &[u8], segments: &Segments, start: u64, length: u64) -> Result<(), Refusal> {
    let table = segments
        .at(bytes, start, length)
        .and_then(|bytes| pod::slice_from_all_bytes::<elf::Rela64<Little>>(bytes).ok())
        .ok_or_else(|| outside(start, length))?;
    for entry in table {
        let kind = entry.r_type(Little, false);
        if matches!(
            (super::MACHINE, kind),
            (elf::EM_X86_64, elf::R_X86_64_IRELATIVE) | (elf::EM_AARCH64, elf::R_AARCH64_IRELATIVE)
        ) {
            return Err(Refusal::new(
                Code::Layout,
                "a function of it chooses its own address when it is loaded (IFUNC): compile without",
            ));
        }
        // The kind 0 does nothing, on each machine.
        if kind != 0 {
            written(segments, entry.r_offset.get(Little))?;
        }
    }
    Ok(())
}

/// The same for the packed form: an address, then bits for the 63 words that follow it.
fn packed(bytes: &[u8], segments: &Segments, start: u64, length: u64) -> Result<(), Refusal> {
    let table = segments.at(bytes, start, length).ok_or_else(|| outside(start, length))?;
    let mut next = 0u64;
    for word in table.chunks(8) {
        let word = u64::from_le_bytes(word.try_into().map_err(|_| outside(start, length))?);
        if word & 1 == 0 {
            written(segments, word)?;
            next = word.wrapping_add(8);
        } else {
            for bit in 1..64 {
                if word >> bit & 1 == 1 {
                    written(segments, next.wrapping_add((bit - 1) * 8))?;
                }
            }
            next = next.wrapping_add(63 * 8);
        }
    }
    Ok(())
}

fn written(segments: &Segments, address: u64) -> Result<(), Refusal> {
    if segments.holding(address, 8).is_some_and(|segment| segment.access == Access::Write) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::TextRelocations,
        format!(
            "{address:#x}, which is no data, would be written to when it is loaded: compile with -fPIC"
        ),
    ))
}

fn outside(start: u64, length: u64) -> Refusal {
    Refusal::new(
        Code::NotElf,
        format!("{length} bytes of relocations at {start:#x} aren't in the file"),
    )
}
