//! The first bytes of a file system: its label and its UUID, as blkid(8) writes them. Touches nothing.

/// So many bytes from the start hold everything that is looked at.
pub(crate) const BYTES: usize = 2048;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Superblock {
    pub(crate) label: String,
    pub(crate) uuid: String,
}

/// ext2, ext3, ext4 and FAT; nothing else is known.
pub(crate) fn read(start: &[u8]) -> Option<Superblock> {
    ext(start).or_else(|| fat(start))
}

fn ext(start: &[u8]) -> Option<Superblock> {
    const MAGIC: [u8; 2] = [0x53, 0xEF];
    let superblock = start.get(1024..2048)?;
    if superblock[0x38..0x3A] != MAGIC {
        return None;
    }
    let mut uuid = String::new();
    for (byte, at) in superblock[0x68..0x78].iter().zip(0..) {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        uuid.push_str(&format!("{dash}{byte:02x}"));
    }
    Some(Superblock { label: text(&superblock[0x78..0x88]), uuid })
}

/// The label is the boot sector's, which a later fatlabel(8) may not have renewed.
fn fat(start: &[u8]) -> Option<Superblock> {
    let sector = start.get(..512)?;
    if sector[510..] != [0x55, 0xAA] {
        return None;
    }
    let (serial, label) = if sector[0x52..].starts_with(b"FAT32   ") {
        (&sector[0x43..0x47], &sector[0x47..0x52])
    } else if sector[0x36..].starts_with(b"FAT1") {
        (&sector[0x27..0x2B], &sector[0x2B..0x36])
    } else {
        return None;
    };
    let label = match text(label) {
        none if none == "NO NAME" => String::new(),
        label => label,
    };
    let uuid = format!("{:02X}{:02X}-{:02X}{:02X}", serial[3], serial[2], serial[1], serial[0]);
    Some(Superblock { label, uuid })
}

fn text(padded: &[u8]) -> String {
    let end = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
    String::from_utf8_lossy(&padded[..end]).trim_end_matches(' ').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ext4_says_its_label_and_its_uuid() {
        let mut start = [0; BYTES];
        start[1024 + 0x38..][..2].copy_from_slice(&[0x53, 0xEF]);
        for (at, byte) in (0x10..0x20).enumerate() {
            start[1024 + 0x68 + at] = byte;
        }
        start[1024 + 0x78..][..4].copy_from_slice(b"data");
        let found = read(&start).unwrap();
        assert_eq!(found.label, "data");
        assert_eq!(found.uuid, "10111213-1415-1617-1819-1a1b1c1d1e1f");
    }

    #[test]
    fn both_sorts_of_fat_say_theirs() {
        for (kind, serial, label, name) in
            [(0x52, 0x43, 0x47, b"FAT32   "), (0x36, 0x27, 0x2B, b"FAT16   ")]
        {
            let mut start = [0; BYTES];
            start[510..512].copy_from_slice(&[0x55, 0xAA]);
            start[kind..][..8].copy_from_slice(name);
            start[serial..][..4].copy_from_slice(&[0x0D, 0x0C, 0xBB, 0x0A]);
            start[label..][..11].copy_from_slice(b"BOOT A     ");
            let known = Superblock { label: "BOOT A".to_owned(), uuid: "0ABB-0C0D".to_owned() };
            assert_eq!(read(&start), Some(known));
        }
    }

    #[test]
    fn a_partition_table_and_an_empty_device_are_neither() {
        let mut start = [0; BYTES];
        assert_eq!(read(&start), None);
        start[510..512].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(read(&start), None);
        assert_eq!(read(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(start in proptest::collection::vec(any::<u8>(), 0..BYTES + 9)) {
            let _ = read(&start);
        }
    }
}
