//! `/proc/self/mountinfo` (proc(5)), read: what is mounted where.

use std::{fs::File, io, io::Read as _};

/// Thousands of mounts; a machine with more has other worries.
const TABLE_MAX: u64 = 4 * 1024 * 1024;

/// One mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mounted {
    pub(crate) place: Vec<u8>,
    pub(crate) kind: String,
}

/// Everything that this process sees mounted, in the kernel's order.
pub(crate) fn read() -> io::Result<Vec<Mounted>> {
    let mut table = Vec::new();
    File::open("/proc/self/mountinfo")?.take(TABLE_MAX).read_to_end(&mut table)?;
    Ok(parse(&table))
}

/// Lines that are cut, or make no sense, are left out.
fn parse(table: &[u8]) -> Vec<Mounted> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let place = unescape(fields.nth(4)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    place.starts_with(b"/").then(|| Mounted { place, kind: String::from_utf8_lossy(kind).into() })
}

/// The kernel writes space, tab, newline, backslash and number sign as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let escaped = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                Some(((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'), after))
            }
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_types_are_read_and_what_is_cut_is_left_out() {
        let table = b"22 1 254:0 / / ro,relatime - squashfs /dev/vda7 ro\n\
            36 22 254:11 / /mnt/my\\040data rw,noatime shared:1 master:2 - ext4 /dev/vda12 rw\n\
            37 22 254:11 /config /etc/config rw - ext4 /dev/vda12 rw\n\
            38 22 0:5 / /x rw,nosuid\n39 22 0";
        let found: Vec<_> = parse(table)
            .into_iter()
            .map(|it| (String::from_utf8(it.place).unwrap(), it.kind))
            .collect();
        let known = [("/", "squashfs"), ("/mnt/my data", "ext4"), ("/etc/config", "ext4")];
        assert_eq!(found, known.map(|(place, kind)| (place.to_owned(), kind.to_owned())));
    }

    #[test]
    fn this_process_own_mounts_are_read() {
        assert!(read().unwrap().iter().any(|it| it.place == b"/proc" && it.kind == "proc"));
    }
}
