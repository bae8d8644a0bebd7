//! The memory of a loaded object. Whatever a driver's structure points to is looked up here before it is read.

use driver_abi::TEXT_MAX;

use crate::object::{Access, Segment};

pub(super) struct Memory {
    base: usize,
    segments: Vec<Segment>,
}

impl Memory {
    /// # Safety
    /// The dynamic linker has mapped all of these segments at this base, and they stay mapped.
    #[expect(unsafe_code, reason = "the caller answers for the mapping")]
    pub(super) unsafe fn new(base: usize, segments: Vec<Segment>) -> Self {
        Self { base, segments }
    }

    /// Where something of the object lies in memory.
    pub(super) fn address(&self, offset: u64) -> usize {
        self.base.wrapping_add(usize::try_from(offset).unwrap_or(usize::MAX))
    }

    /// From the first byte to behind the last.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        let start = self.segments.first().map_or(0, |segment| segment.memory.start);
        let end = self.segments.last().map_or(0, |segment| segment.memory.end);
        self.address(start)..self.address(end)
    }

    fn holding(&self, address: usize) -> Option<&Segment> {
        let offset = u64::try_from(address.checked_sub(self.base)?).ok()?;
        self.segments.iter().find(|segment| segment.memory.contains(&offset))
    }

    /// Whether code lies there.
    pub(super) fn runs(&self, address: usize) -> bool {
        self.holding(address).is_some_and(|segment| segment.access == Access::Run)
    }

    /// So many bytes, or as many as the segment has. Nothing where the address isn't one of the object.
    fn at_most(&self, address: usize, length: usize) -> Option<Vec<u8>> {
        let segment = self.holding(address)?;
        let left = self.address(segment.memory.end) - address;
        let mut bytes = vec![0u8; length.min(left)];
        #[expect(unsafe_code, reason = "reads a loaded object")]
        // SAFETY: the bytes lie in one segment, which is mapped and can be read. Others may write to it at the same time only
        // where the driver runs; then it is a copy of some moment, and is checked as such.
        unsafe {
            std::ptr::copy_nonoverlapping(
                std::ptr::with_exposed_provenance::<u8>(address),
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
        Some(bytes)
    }

    pub(super) fn bytes(&self, address: usize, length: usize) -> Option<Vec<u8>> {
        self.at_most(address, length).filter(|bytes| bytes.len() == length)
    }

    /// So many pointers.
    pub(super) fn pointers(&self, address: usize, count: usize) -> Option<Vec<usize>> {
        if !address.is_multiple_of(size_of::<usize>()) {
            return None;
        }
        let bytes = self.bytes(address, count.checked_mul(size_of::<usize>())?)?;
        let word = |word: &[u8]| usize::from_le_bytes(word.try_into().expect("chunks of a word"));
        Some(bytes.chunks_exact(size_of::<usize>()).map(word).collect())
    }

    /// A text that ends with NUL, can be printed, and isn't empty or longer than the ABI allows.
    pub(super) fn text(&self, address: usize) -> Option<String> {
        let bytes = self.at_most(address, TEXT_MAX + 1)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8(bytes[..end].to_vec()).ok()?;
        (!text.is_empty() && !text.contains(char::is_control)).then_some(text)
    }
}
