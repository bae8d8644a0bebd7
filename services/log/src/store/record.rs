//! The bytes of the store: frames, each with its length and checksum, so that a torn or damaged one is recognised and
//! everything before it is good. Believes nothing it reads, and never touches a file.
//!
//! ```text
//! segment head, 32 bytes          frame                          record (kind 1)
//! 0   "VELOG001"                  0  u32 length of the payload   0   u8 kind
//! 8   u64 its first sequence      4  u32 CRC-32 of the payload   1   u8 source: 0 stdout, 1 stderr, 2 kernel, 3 syslog, 4 call, 5 log
//! 16  u32 boot                    8  payload                     2   u8 priority
//! 20  zeros                                                      3   u8 flags: 1 more, 2 service, 4 instance, 8 pid
//! 28  u32 CRC-32 of the first 28  position (kind 2)              4   i32 pid
//!                                 0  u8 kind                     8   u64 sequence
//!                                 1  u64 the kernel's next       16  u64 real time, 24 u64 monotonic time, in microseconds
//!                                    message                     32  u64 dropped
//! closed (kind 3)                                                40  u8 length of the service's name, 41 u8 of the instance's
//! 0  u8 kind                                                     42  service, instance, then the text to the end
//! ```
//! Little-endian; CRC-32 is the one of zlib.

use std::sync::Arc;

use protocol::log::{Record, Source, TEXT_MAX};

/// Bytes of a segment's head.
pub(crate) const HEAD: usize = 32;
/// Bytes before a frame's payload.
const FRAME: usize = 8;
const RECORD: usize = 42;
/// Longest name of a service, an instance or a tag.
pub(crate) const NAME_MAX: usize = 255;
/// No frame is longer.
pub(crate) const FRAME_MAX: usize = FRAME + RECORD + 2 * NAME_MAX + TEXT_MAX;
const MAGIC: &[u8; 8] = b"VELOG001";
const SOURCES: [Source; 6] =
    [Source::Stdout, Source::Stderr, Source::Kernel, Source::Syslog, Source::Call, Source::Log];

const MORE: u8 = 1;
const SERVICE: u8 = 2;
const INSTANCE: u8 = 4;
const PID: u8 = 8;

/// A record that has no number yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) realtime_us: u64,
    pub(crate) monotonic_us: u64,
    pub(crate) source: Source,
    pub(crate) service: Option<Arc<str>>,
    pub(crate) instance: Option<Arc<str>>,
    pub(crate) pid: Option<i32>,
    pub(crate) priority: u8,
    pub(crate) text: String,
    pub(crate) more: bool,
    pub(crate) dropped: u64,
}

/// A record as it lies in the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct View<'a> {
    pub(crate) sequence: u64,
    pub(crate) realtime_us: u64,
    pub(crate) monotonic_us: u64,
    pub(crate) source: Source,
    pub(crate) service: Option<&'a str>,
    pub(crate) instance: Option<&'a str>,
    pub(crate) pid: Option<i32>,
    pub(crate) priority: u8,
    pub(crate) text: &'a str,
    pub(crate) more: bool,
    pub(crate) dropped: u64,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Frame<'a> {
    Record(View<'a>),
    /// Kernel messages before this number are stored.
    Position(u64),
    /// The log ended in order.
    Closed,
}

impl View<'_> {
    /// As it travels; `boot` is its segment's.
    pub(crate) fn to_record(self, boot: u32) -> Record {
        Record {
            sequence: self.sequence,
            realtime_us: self.realtime_us,
            monotonic_us: self.monotonic_us,
            boot: format!("{boot:08x}"),
            source: self.source,
            service: self.service.map(str::to_owned),
            instance: self.instance.map(str::to_owned),
            pid: self.pid,
            priority: self.priority,
            text: self.text.to_owned(),
            more: self.more,
            dropped: self.dropped,
        }
    }
}

/// The head of a segment.
pub(crate) fn encode_head(first: u64, boot: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&first.to_le_bytes());
    head[16..20].copy_from_slice(&boot.to_le_bytes());
    let crc = crc32fast::hash(&head[..28]);
    head[28..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// First sequence and boot of a segment; `None` where this is no head.
pub(crate) fn decode_head(bytes: &[u8]) -> Option<(u64, u32)> {
    let head = bytes.get(..HEAD)?;
    let good = head.starts_with(MAGIC) && crc32fast::hash(&head[..28]) == u32_at(head, 28)?;
    good.then_some((u64_at(head, 8)?, u32_at(head, 16)?))
}

/// Appends a record. Names and text that are too long are cut: whoever makes entries keeps to the limits.
pub(crate) fn encode(into: &mut Vec<u8>, sequence: u64, entry: &Entry) {
    let service = cut(entry.service.as_deref().unwrap_or_default(), NAME_MAX);
    let instance = cut(entry.instance.as_deref().unwrap_or_default(), NAME_MAX);
    let text = cut(&entry.text, TEXT_MAX);
    let source = SOURCES.iter().position(|known| *known == entry.source);
    let source = source.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX);
    let flag = |is: bool, flag| if is { flag } else { 0 };
    let flags = flag(entry.more, MORE)
        | flag(entry.service.is_some(), SERVICE)
        | flag(entry.instance.is_some(), INSTANCE)
        | flag(entry.pid.is_some(), PID);
    let length = |name: &str| u8::try_from(name.len()).expect("it was cut to NAME_MAX");
    frame(into, |payload| {
        payload.extend([1, source, entry.priority, flags]);
        payload.extend(entry.pid.unwrap_or_default().to_le_bytes());
        for number in [sequence, entry.realtime_us, entry.monotonic_us, entry.dropped] {
            payload.extend(number.to_le_bytes());
        }
        payload.extend([length(service), length(instance)]);
        for part in [service, instance, text] {
            payload.extend_from_slice(part.as_bytes());
        }
    });
}

/// Appends the kernel's position.
pub(crate) fn encode_position(into: &mut Vec<u8>, next: u64) {
    frame(into, |payload| {
        payload.push(2);
        payload.extend(next.to_le_bytes());
    });
}

/// Appends the mark of an orderly end.
pub(crate) fn encode_closed(into: &mut Vec<u8>) {
    frame(into, |payload| payload.push(3));
}

fn frame(into: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend([0; FRAME]);
    fill(into);
    let payload = &into[start + FRAME..];
    let length = u32::try_from(payload.len()).expect("a payload has at most FRAME_MAX bytes");
    let crc = crc32fast::hash(payload);
    into[start..start + 4].copy_from_slice(&length.to_le_bytes());
    into[start + 4..start + FRAME].copy_from_slice(&crc.to_le_bytes());
}

/// The frame at the beginning of the bytes, and its length with everything. `None`: there is none that is whole and good.
pub(crate) fn decode(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    if length > FRAME_MAX - FRAME {
        return None;
    }
    let payload = bytes.get(FRAME..FRAME + length)?;
    if crc32fast::hash(payload) != u32_at(bytes, 4)? {
        return None;
    }
    let found = match payload.first()? {
        1 => Frame::Record(record(payload)?),
        2 if length == 9 => Frame::Position(u64_at(payload, 1)?),
        3 if length == 1 => Frame::Closed,
        _ => return None,
    };
    Some((found, FRAME + length))
}

fn record(payload: &[u8]) -> Option<View<'_>> {
    let [service, instance] = [40, 41].map(|at| payload.get(at).copied().map(usize::from));
    let names = payload.get(RECORD..)?;
    let (service, rest) = names.split_at_checked(service?)?;
    let (instance, text) = rest.split_at_checked(instance?)?;
    let flags = payload[3];
    let named = |name, flag| match flags & flag {
        0 => Some(None),
        _ => std::str::from_utf8(name).ok().map(Some),
    };
    let pid = i32::from_le_bytes(payload[4..8].try_into().ok()?);
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= TEXT_MAX)?;
    Some(View {
        sequence: u64_at(payload, 8)?,
        realtime_us: u64_at(payload, 16)?,
        monotonic_us: u64_at(payload, 24)?,
        source: SOURCES.get(usize::from(payload[1])).copied().unwrap_or(Source::Unknown),
        service: named(service, SERVICE)?,
        instance: named(instance, INSTANCE)?,
        pid: (flags & PID != 0).then_some(pid),
        priority: payload[2],
        text,
        more: flags & MORE != 0,
        dropped: u64_at(payload, 32)?,
    })
}

/// The longest beginning of a text that has at most so many bytes.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(text: &str) -> Entry {
        Entry {
            realtime_us: 1,
            monotonic_us: 2,
            source: Source::Stderr,
            service: Some("web".into()),
            instance: None,
            pid: Some(-7),
            priority: 3,
            text: text.to_owned(),
            more: true,
            dropped: 9,
        }
    }

    #[test]
    fn the_bytes_of_a_record_do_not_change() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 0x0102, &entry("hi"));
        let expected = [
            &[47, 0, 0, 0][..],
            &crc32fast::hash(&bytes[8..]).to_le_bytes(),
            &[1, 1, 3, 1 | 2 | 8, 0xf9, 0xff, 0xff, 0xff, 2, 1, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            b"\x03\x00webhi",
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn a_head_is_read_back_and_a_changed_one_is_refused() {
        let head = encode_head(7, 0xdead_beef);
        assert_eq!(decode_head(&head), Some((7, 0xdead_beef)));
        for at in 0..HEAD {
            let mut other = head;
            other[at] ^= 1;
            assert_eq!(decode_head(&other), None, "{at}");
        }
        assert_eq!(decode_head(&head[..HEAD - 1]), None);
    }

    #[test]
    fn the_longest_record_is_read_back_and_a_longer_one_is_cut() {
        let mut long = entry(&"ü".repeat(TEXT_MAX));
        long.service = Some("s".repeat(NAME_MAX + 1).into());
        long.instance = Some("i".repeat(NAME_MAX).into());
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, &long);
        assert_eq!(bytes.len(), FRAME_MAX);
        let Some((Frame::Record(view), FRAME_MAX)) = decode(&bytes) else { panic!("unreadable") };
        assert_eq!((view.text.len(), view.service.unwrap().len()), (TEXT_MAX, NAME_MAX));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_every_damage_is_seen(
            text in "\\PC{0,40}",
            sequence: u64,
            at: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let entry = entry(&text);
            let mut bytes = Vec::new();
            encode(&mut bytes, sequence, &entry);
            let (frame, length) = decode(&bytes).unwrap();
            prop_assert_eq!(length, bytes.len());
            let Frame::Record(view) = frame else { panic!("no record") };
            prop_assert_eq!((view.sequence, view.text, view.pid), (sequence, &*text, Some(-7)));
            prop_assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes), None);
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (decode(&bytes), decode_head(&bytes), record(&bytes));
        }
    }
}
