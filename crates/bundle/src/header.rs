//! The first 48 bytes: bounds of what follows. They are not signed; what they say is checked against what is
//! ([`Header::check`]).

use crate::{
    CHUNKS_MAX, COMPONENTS_MAX, Code, MANIFEST_MAX, Manifest, Refusal, SIGNATURE, SIGNATURES_MAX,
    index,
};

/// Bytes of a header.
pub const HEADER: usize = 48;
/// What a bundle begins with.
const MAGIC: [u8; 8] = *b"VESTALB1";
const FORMAT: u32 = 1;
const FLAGS: u32 = 0;
const HEADER_LEN: u64 = 48;

/// How long the parts of a bundle are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    pub signatures_len: u64,
    pub manifest_len: u64,
    pub index_len: u64,
    /// Of the whole file.
    pub total_len: u64,
}

impl Header {
    /// # Errors
    /// Another magic, format or flags; a length beyond its limit, or parts that are longer than the whole.
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Self, Refusal> {
        if bytes[..8] != MAGIC {
            let text = format!(
                "not a bundle: it begins with {:02x?}, a bundle with \"VESTALB1\"",
                &bytes[..8]
            );
            return Err(Refusal::new(Code::BadMagic, text));
        }
        let (format, flags) = (word(bytes, 8), word(bytes, 12));
        if (format, flags) != (FORMAT, FLAGS) {
            let text = format!(
                "bundle of format {format} with flags {flags:#x}: this program knows format {FORMAT} with flags 0; \
                 use a newer program, or build the bundle for this one"
            );
            return Err(Refusal::new(Code::BadFormat, text));
        }
        let header = Self {
            signatures_len: long(bytes, 16),
            manifest_len: long(bytes, 24),
            index_len: long(bytes, 32),
            total_len: long(bytes, 40),
        };
        header.bounded()?;
        Ok(header)
    }

    fn bounded(&self) -> Result<(), Refusal> {
        let index_max = index::octets(CHUNKS_MAX).saturating_mul(COMPONENTS_MAX as u64);
        let limits = [
            ("signatures", self.signatures_len, (SIGNATURES_MAX * SIGNATURE) as u64),
            ("manifest", self.manifest_len, MANIFEST_MAX as u64),
            ("index", self.index_len, index_max),
        ];
        for (name, length, limit) in limits {
            if length > limit {
                let text = format!("{name} of {length} bytes: at most {limit} are allowed");
                return Err(Refusal::new(Code::TooLong, text));
            }
        }
        if !self.signatures_len.is_multiple_of(SIGNATURE as u64) {
            let text = format!(
                "signatures of {} bytes: not a multiple of {SIGNATURE}",
                self.signatures_len
            );
            return Err(Refusal::new(Code::BadSignatures, text));
        }
        if self.manifest_len == 0 {
            return Err(Refusal::new(Code::BadManifest, "a bundle without a manifest"));
        }
        if self.total_len < self.data_at() {
            let text = format!(
                "a bundle of {} bytes whose parts need {}: it is cut short or damaged",
                self.total_len,
                self.data_at()
            );
            return Err(Refusal::new(Code::BadHeader, text));
        }
        Ok(())
    }

    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&FLAGS.to_le_bytes());
        let lengths = [self.signatures_len, self.manifest_len, self.index_len, self.total_len];
        for (place, length) in bytes[16..].chunks_exact_mut(8).zip(lengths) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        bytes
    }

    /// Where the signatures begin.
    #[must_use]
    pub fn signatures_at(&self) -> u64 {
        HEADER_LEN
    }

    /// Where the manifest begins.
    #[must_use]
    pub fn manifest_at(&self) -> u64 {
        HEADER_LEN + self.signatures_len
    }

    /// Where the index begins.
    #[must_use]
    pub fn index_at(&self) -> u64 {
        self.manifest_at() + self.manifest_len
    }

    /// Where the chunks begin: what stored offsets count from.
    #[must_use]
    pub fn data_at(&self) -> u64 {
        self.index_at() + self.index_len
    }

    /// Are these the lengths that the manifest says? The header is not signed; after this nothing of it is unproven.
    ///
    /// # Errors
    /// Where one differs.
    pub fn check(&self, manifest: &Manifest) -> Result<(), Refusal> {
        let stored = manifest.components.iter().map(|component| component.stored).sum::<u64>();
        let pairs = [
            ("index", self.index_len, manifest.index_len()),
            ("chunks", self.total_len - self.data_at(), stored),
        ];
        for (name, said, signed) in pairs {
            if said != signed {
                let text = format!(
                    "header says {said} bytes of {name}, the manifest {signed}: the bundle is damaged"
                );
                return Err(Refusal::new(Code::BadHeader, text));
            }
        }
        Ok(())
    }
}

/// Header, signatures and manifest: what a push begins with.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'b> {
    pub header: Header,
    pub signatures: &'b [u8],
    pub manifest: &'b [u8],
}

/// Takes header, signatures and manifest apart; nothing else may follow them.
///
/// # Errors
/// As [`Header::parse`], and where there are fewer or more bytes than the header says.
pub fn split(bytes: &[u8]) -> Result<Parts<'_>, Refusal> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else {
        let text = format!("{} bytes: a bundle's header has {HEADER}", bytes.len());
        return Err(Refusal::new(Code::Truncated, text));
    };
    let header = Header::parse(head)?;
    let wanted = header.signatures_len + header.manifest_len;
    if rest.len() as u64 != wanted {
        let code = if (rest.len() as u64) < wanted { Code::Truncated } else { Code::TooLong };
        let text = format!("{} bytes after the header, which says {wanted}", rest.len());
        return Err(Refusal::new(code, text));
    }
    let cut = usize::try_from(header.signatures_len).map_or(rest.len(), |cut| cut.min(rest.len()));
    let (signatures, manifest) = rest.split_at(cut);
    Ok(Parts { header, signatures, manifest })
}

/// Four little-endian octets at `at`; `at` is a constant of the caller's layout.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    let mut octets = [0; 4];
    octets.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(octets)
}

/// Eight of them.
pub(crate) fn long(bytes: &[u8], at: usize) -> u64 {
    let mut octets = [0; 8];
    octets.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Header =
        Header { signatures_len: 76, manifest_len: 300, index_len: 104, total_len: 5_000_000_000 };

    #[test]
    fn a_header_is_read_as_it_was_written_beyond_4_gib() {
        assert_eq!(Header::parse(&GOOD.encode()), Ok(GOOD));
        assert_eq!(GOOD.data_at(), 528);
    }

    #[test]
    fn lengths_are_refused_before_they_are_believed() {
        let code = |header: Header| Header::parse(&header.encode()).map_err(|refusal| refusal.code);
        assert_eq!(code(Header { signatures_len: 17 * 76, ..GOOD }), Err(Code::TooLong));
        assert_eq!(code(Header { signatures_len: 77, ..GOOD }), Err(Code::BadSignatures));
        assert_eq!(code(Header { manifest_len: 65537, ..GOOD }), Err(Code::TooLong));
        assert_eq!(code(Header { manifest_len: 0, ..GOOD }), Err(Code::BadManifest));
        assert_eq!(code(Header { index_len: u64::MAX, ..GOOD }), Err(Code::TooLong));
        assert_eq!(code(Header { total_len: 527, ..GOOD }), Err(Code::BadHeader));
        assert_eq!(code(Header { total_len: 528, ..GOOD }), Ok(Header { total_len: 528, ..GOOD }));
    }

    #[test]
    fn the_parts_are_exactly_as_long_as_the_header_says() {
        let mut bytes = Header { total_len: 528, ..GOOD }.encode().to_vec();
        bytes.resize(48 + 76 + 300, 7);
        let parts = split(&bytes).expect("it is whole");
        assert_eq!((parts.signatures.len(), parts.manifest.len()), (76, 300));
        assert_eq!(split(&bytes[..423]).unwrap_err().code, Code::Truncated);
        bytes.push(0);
        assert_eq!(split(&bytes).unwrap_err().code, Code::TooLong);
        assert_eq!(split(b"VESTALB1").unwrap_err().code, Code::Truncated);
    }
}
