//! Any bytes as the log's store, as a syslog datagram, as a kernel record and as what a service prints: no panic, what the
//! store accepts is written back as the same bytes, and the cutting of the input changes no line.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../services/log/src/machine/kernel.rs"]
mod kernel;
#[path = "../../services/log/src/machine/lines.rs"]
mod lines;
#[path = "../../services/log/src/store/record.rs"]
mod record;
#[path = "../../services/log/src/machine/syslog.rs"]
mod syslog;

use lines::{Line, Lines, Rest};
use record::{Entry, Frame};

fuzz_target!(|bytes: &[u8]| {
    store(bytes);
    if let Some((first, boot)) = record::decode_head(bytes) {
        assert_eq!(record::encode_head(first, boot)[..], bytes[..record::HEAD]);
    }
    assert!(syslog::parse(bytes).priority <= 7);
    if let Some(message) = kernel::parse(bytes) {
        assert!(message.priority <= 7);
    }
    let middle = bytes.first().map_or(0, |first| usize::from(*first).min(bytes.len()));
    assert_eq!(printed(&[bytes]), printed(&[&bytes[..middle], &bytes[middle..]]));
});

/// As frames with their checksum, and as payloads that get a good one.
fn store(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((frame, length)) = record::decode(rest) {
        check(frame);
        rest = &rest[length..];
    }
    let mut framed = Vec::new();
    framed.extend(u32::try_from(bytes.len()).expect("the fuzzer's inputs are short").to_le_bytes());
    framed.extend(crc32fast::hash(bytes).to_le_bytes());
    framed.extend_from_slice(bytes);
    if let Some((frame, length)) = record::decode(&framed) {
        assert_eq!(length, framed.len());
        check(frame);
    }
}

fn check(frame: Frame<'_>) {
    let mut again = Vec::new();
    match frame {
        Frame::Position(next) => record::encode_position(&mut again, next),
        Frame::Closed => record::encode_closed(&mut again),
        Frame::Record(view) => {
            std::hint::black_box(view.to_record(0));
            let entry = Entry {
                realtime_us: view.realtime_us,
                monotonic_us: view.monotonic_us,
                source: view.source,
                service: view.service.map(Into::into),
                instance: view.instance.map(Into::into),
                pid: view.pid,
                priority: view.priority,
                text: view.text.to_owned(),
                more: view.more,
                dropped: view.dropped,
            };
            record::encode(&mut again, view.sequence, &entry);
        }
    }
    let (same, _) = record::decode(&again).expect("what was read can be written");
    assert_eq!(same, frame);
}

/// The lines of an input that comes in pieces; what isn't used comes again with the next piece.
fn printed(pieces: &[&[u8]]) -> Vec<Line> {
    let (mut lines, mut waiting, mut found) = (Lines::default(), Vec::new(), Vec::new());
    for piece in pieces {
        waiting.extend_from_slice(piece);
        let used = lines.take(&waiting, Rest::Stays, |line| found.push(line));
        waiting.drain(..used);
    }
    assert_eq!(lines.take(&waiting, Rest::Ends, |line| found.push(line)), waiting.len());
    let mut plain = Lines::plain();
    plain.take(pieces[0], Rest::Continues, drop);
    found
}
