//! The parts of an object that the dynamic linker maps, and which byte of the file lies at which address.

use std::ops::Range;

use object::{LittleEndian as Little, elf, read::elf::ProgramHeader as _};

use crate::{Code, Refusal};

/// Most parts that are mapped; linkers make four to six.
const LOADS: usize = 16;
/// Most address space of one object.
const SPAN: u64 = 256 << 20;
/// Parts begin at the same place of a page in the file and in memory; no machine of ours has smaller pages.
const PAGE: u64 = 4096;

pub(super) type Header = elf::ProgramHeader64<Little>;

/// What may be done with the memory of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    Read,
    Write,
    Run,
}

/// One part. Addresses count from where the object is loaded.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) memory: Range<u64>,
    /// Where its first bytes come from; zeros follow.
    file: Range<usize>,
    pub(crate) access: Access,
}

/// All parts, by rising address.
#[derive(Clone, Debug)]
pub(super) struct Segments(Vec<Segment>);

impl Segments {
    pub(super) fn check(headers: &[Header], length: usize) -> Result<Self, Refusal> {
        let mut segments: Vec<Segment> = Vec::new();
        for header in headers.iter().filter(|header| header.p_type(Little) == elf::PT_LOAD) {
            if segments.len() == LOADS {
                return Err(Refusal::new(
                    Code::Layout,
                    format!("the object has more than {LOADS} segments to map"),
                ));
            }
            let segment = one(header, length)?;
            if segments.last().is_some_and(|before| before.memory.end > segment.memory.start) {
                return Err(Refusal::new(
                    Code::Layout,
                    format!("the segment at {:#x} begins in the one before", segment.memory.start),
                ));
            }
            segments.push(segment);
        }
        if !segments.iter().any(|segment| segment.access == Access::Run) {
            return Err(Refusal::new(Code::Layout, "the object has no segment with code"));
        }
        Ok(Self(segments))
    }

    pub(super) fn all(&self) -> &[Segment] {
        &self.0
    }

    /// The segment that all of these bytes of memory lie in.
    pub(super) fn holding(&self, address: u64, length: u64) -> Option<&Segment> {
        let end = address.checked_add(length)?;
        self.0.iter().find(|segment| segment.memory.start <= address && end <= segment.memory.end)
    }

    /// The bytes that the file has for this memory; nothing where they are zeros that the file doesn't have.
    pub(super) fn at<'b>(&self, bytes: &'b [u8], address: u64, length: u64) -> Option<&'b [u8]> {
        let segment = self.holding(address, length)?;
        let from = usize::try_from(address - segment.memory.start).ok()?;
        bytes.get(segment.file.clone())?.get(from..)?.get(..usize::try_from(length).ok()?)
    }
}

fn one(header: &Header, length: usize) -> Result<Segment, Refusal> {
    let (address, size) = (header.p_vaddr(Little), header.p_memsz(Little));
    let layout =
        |text: &str| Err(Refusal::new(Code::Layout, format!("the segment at {address:#x} {text}")));
    let (from, filled) = (header.p_offset(Little), header.p_filesz(Little));
    if filled > size {
        return layout("has more bytes in the file than in memory");
    }
    let Some(end) = address.checked_add(size).filter(|end| *end <= SPAN) else {
        return layout(&format!("ends beyond {SPAN:#x}"));
    };
    let file = usize::try_from(from).ok().and_then(|from| {
        let to = from.checked_add(usize::try_from(filled).ok()?)?;
        (to <= length).then_some(from..to)
    });
    let Some(file) = file else {
        return layout("ends beyond the file");
    };
    if from % PAGE != address % PAGE {
        return layout("begins at another place of a page than in the file");
    }
    let flags = header.p_flags(Little);
    let access = match (flags & elf::PF_W != 0, flags & elf::PF_X != 0) {
        (true, true) => {
            return Err(Refusal::new(
                Code::Executable,
                format!(
                    "the segment at {address:#x} can be written and run: link with -z separate-code"
                ),
            ));
        }
        (true, false) => Access::Write,
        (false, true) => Access::Run,
        (false, false) => Access::Read,
    };
    if flags & elf::PF_R == 0 {
        return layout("can't be read");
    }
    Ok(Segment { memory: address..end, file, access })
}
