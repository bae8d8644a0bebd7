//! The log ring: what services printed while nobody drained their pipes, one memory for all, the oldest dropped first.
//!
//! The keeper writes it ([`clear`], [`push`]) and deposits it as [`RING_NAME`]; the supervisor reads a copy ([`records`],
//! [`dropped`]). No function keeps anything outside the memory, and none believes what it finds there.
//!
//! ```text
//! head, 64 bytes                                  record, a multiple of 16 bytes, never across the end of the memory
//! 0   "VESRING1"                                  0   u64 monotonic nanoseconds at which it was read from the pipe
//! 8   u64 place of the oldest record              8   u32 slot
//! 16  u64 place after the newest record           12  u8  stream: 1 stdout, 2 stderr, 0 filler up to the memory's end
//! 24  u64 bytes of text that were dropped         13  0
//! 32  zeros                                       14  u16 length of the text
//!                                                 16  the text, then zeros
//! ```
//! Places count bytes since the ring was cleared; `64 + place % (size - 64)` is where they are. Little-endian.

use thiserror::Error;

use super::SLOTS_MAX;
use crate::time::Moment;

/// Under this name the keeper deposits the ring, where something is in it.
pub const RING_NAME: &str = "own/ring";
/// Size of the keeper's ring.
pub const RING_SIZE: usize = 1 << 20;
/// Longest text of a record: one read from a pipe.
pub const TEXT_MAX: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"VESRING1");
const HEAD_SIZE: usize = 64;
/// Records begin at multiples of this, which is also the size of a record's own head.
const STEP: usize = 16;

/// Which of a service's two pipes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    Out,
    Err,
}

/// One piece of output.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record<'a> {
    pub slot: u32,
    pub stream: Stream,
    /// When it was read from the pipe.
    pub at: Moment,
    /// What was printed; it may begin or end in the middle of a line.
    pub text: &'a [u8],
}

/// Why a memory is no ring.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the memory of {size} bytes is no log ring")]
pub struct NoRing {
    pub size: usize,
}

/// The head's numbers, checked against the memory.
#[derive(Clone, Copy)]
struct Head {
    first: u64,
    end: u64,
    dropped: u64,
    /// Bytes behind the head, a multiple of [`STEP`].
    room: u64,
}

impl Head {
    fn read(memory: &[u8]) -> Option<Self> {
        let room = room(memory)?;
        let [magic, first, end, dropped] = [0, 8, 16, 24].map(|at| number(memory, at));
        let whole = first % STEP as u64 == 0 && end % STEP as u64 == 0;
        let fits = end.checked_sub(first).is_some_and(|used| used <= room);
        // Half of all numbers is beyond what anybody prints, and leaves no sum to overflow.
        (magic == MAGIC && whole && fits && end < u64::MAX / 2).then_some(Self {
            first,
            end,
            dropped,
            room,
        })
    }

    fn write(self, memory: &mut [u8]) {
        for (at, value) in [(0, MAGIC), (8, self.first), (16, self.end), (24, self.dropped)] {
            memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Where a place is in the memory, and how many bytes follow it there.
    fn locate(self, place: u64) -> (usize, usize) {
        let at = place % self.room;
        let index = |value: u64| usize::try_from(value).expect("it is smaller than the memory");
        (HEAD_SIZE + index(at), index(self.room - at))
    }

    /// The record at a place before the end: its stream's number, the record, and the place after it.
    fn record(self, memory: &[u8], place: u64) -> Option<(u8, Record<'_>, u64)> {
        let (at, rest) = self.locate(place);
        let head = &memory[at..at + STEP];
        let length = usize::from(u16::from_le_bytes([head[14], head[15]]));
        let size = size_of_record(length);
        let next = place + size as u64;
        let slot = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let stream = if head[12] == 2 { Stream::Err } else { Stream::Out };
        let possible = head[12] <= 2 && size <= rest && next <= self.end && slot < SLOTS_MAX;
        let text = memory.get(at + STEP..at + STEP + length)?;
        possible.then_some((
            head[12],
            Record { slot, stream, at: Moment(number(head, 0)), text },
            next,
        ))
    }
}

/// Makes an empty ring of the memory, or leaves it alone where it is too small for one.
pub fn clear(memory: &mut [u8]) {
    if let Some(room) = room(memory) {
        Head { first: 0, end: 0, dropped: 0, room }.write(memory);
    }
}

/// Adds what was read from a pipe. Drops the oldest records to make room, and counts what it drops.
/// A text longer than [`TEXT_MAX`] is cut off; a memory that is no ring becomes an empty one first.
pub fn push(memory: &mut [u8], slot: u32, stream: Stream, at: Moment, text: &[u8]) {
    let text = &text[..text.len().min(TEXT_MAX)];
    if Head::read(memory).is_none() {
        clear(memory);
    }
    let Some(mut head) = Head::read(memory) else { return };
    let size = size_of_record(text.len());
    let (_, rest) = head.locate(head.end);
    if size as u64 > head.room {
        head.dropped += text.len() as u64;
        return head.write(memory);
    }
    if size > rest {
        make_room(memory, &mut head, rest);
        // At most a record's size, so its length fits into 16 bits.
        put(memory, &mut head, 0, 0, Moment(0), Text::Zeros(rest - STEP));
    }
    make_room(memory, &mut head, size);
    let number = match stream {
        Stream::Out => 1,
        Stream::Err => 2,
    };
    put(memory, &mut head, slot, number, at, Text::Bytes(text));
    head.write(memory);
}

/// What a record holds.
enum Text<'a> {
    Bytes(&'a [u8]),
    Zeros(usize),
}

/// Writes one record where there is room for it.
fn put(memory: &mut [u8], head: &mut Head, slot: u32, stream: u8, time: Moment, text: Text<'_>) {
    let (at, _) = head.locate(head.end);
    let length = match text {
        Text::Bytes(bytes) => bytes.len(),
        Text::Zeros(count) => count,
    };
    let [low, high] =
        u16::try_from(length).expect("a text has at most TEXT_MAX bytes").to_le_bytes();
    let size = size_of_record(length);
    let record = &mut memory[at..at + size];
    record[..8].copy_from_slice(&time.0.to_le_bytes());
    record[8..12].copy_from_slice(&slot.to_le_bytes());
    record[12..STEP].copy_from_slice(&[stream, 0, low, high]);
    record[STEP..].fill(0);
    if let Text::Bytes(bytes) = text {
        record[STEP..STEP + length].copy_from_slice(bytes);
    }
    head.end += size as u64;
}

/// Drops the oldest records until so many bytes are free.
fn make_room(memory: &[u8], head: &mut Head, size: usize) {
    while head.room - (head.end - head.first) < size as u64 {
        match head.record(memory, head.first) {
            Some((stream, record, next)) => {
                if stream != 0 {
                    head.dropped += record.text.len() as u64;
                }
                head.first = next;
            }
            // Damaged: nothing that follows can be found.
            None => head.first = head.end,
        }
    }
}

/// Whether there is anything to read. A memory that is no ring holds nothing.
#[must_use]
pub fn is_empty(memory: &[u8]) -> bool {
    Head::read(memory).is_none_or(|head| head.first == head.end && head.dropped == 0)
}

/// How many bytes of text were dropped to make room.
///
/// # Errors
/// Where the memory is no ring.
pub fn dropped(memory: &[u8]) -> Result<u64, NoRing> {
    Head::read(memory).map(|head| head.dropped).ok_or(NoRing { size: memory.len() })
}

/// The records from the oldest to the newest. Ends before the first that makes no sense.
///
/// # Errors
/// Where the memory is no ring.
pub fn records(memory: &[u8]) -> Result<impl Iterator<Item = Record<'_>>, NoRing> {
    let head = Head::read(memory).ok_or(NoRing { size: memory.len() })?;
    let mut place = head.first;
    let all = std::iter::from_fn(move || {
        (place < head.end).then(|| head.record(memory, place))?.map(|(stream, record, next)| {
            place = next;
            (stream != 0).then_some(record)
        })
    });
    Ok(all.flatten())
}

fn room(memory: &[u8]) -> Option<u64> {
    let room = memory.len().checked_sub(HEAD_SIZE)?;
    (room >= STEP).then_some((room - room % STEP) as u64)
}

fn size_of_record(length: usize) -> usize {
    STEP + length.next_multiple_of(STEP)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn texts(memory: &[u8]) -> Vec<(u32, Stream, Vec<u8>)> {
        records(memory).unwrap().map(|it| (it.slot, it.stream, it.text.to_vec())).collect()
    }

    #[test]
    fn what_was_pushed_is_read_in_order_and_a_cleared_ring_is_empty() {
        let mut memory = vec![0; RING_SIZE];
        assert_eq!(dropped(&memory), Err(NoRing { size: RING_SIZE }));
        push(&mut memory, 5, Stream::Out, Moment(7), b"one\n");
        push(&mut memory, 6, Stream::Err, Moment(8), b"two\n");
        let all: Vec<_> = records(&memory).unwrap().collect();
        assert_eq!(all[0], Record { slot: 5, stream: Stream::Out, at: Moment(7), text: b"one\n" });
        assert_eq!(all[1], Record { slot: 6, stream: Stream::Err, at: Moment(8), text: b"two\n" });
        assert!(!is_empty(&memory));
        clear(&mut memory);
        assert!(is_empty(&memory));
        assert_eq!(records(&memory).unwrap().count(), 0);
    }

    #[test]
    fn a_text_longer_than_the_limit_is_cut_off_and_a_memory_without_room_only_counts() {
        let mut memory = vec![0; RING_SIZE];
        push(&mut memory, 0, Stream::Out, Moment(0), &vec![b'x'; TEXT_MAX + 1]);
        assert_eq!(records(&memory).unwrap().next().unwrap().text.len(), TEXT_MAX);
        let mut small = vec![0; HEAD_SIZE + STEP];
        push(&mut small, 0, Stream::Out, Moment(0), b"text");
        assert_eq!((dropped(&small), is_empty(&small)), (Ok(4), false));
        push(&mut [0; 3], 0, Stream::Out, Moment(0), b"text");
    }

    proptest! {
        #[test]
        fn the_newest_texts_are_there_and_every_dropped_byte_is_counted(
            size in HEAD_SIZE + STEP..2000_usize,
            pushed in proptest::collection::vec((0..SLOTS_MAX, any::<bool>(), 0..300_usize), 0..60),
        ) {
            let mut memory = vec![0xaa; size];
            clear(&mut memory);
            let mut model = VecDeque::new();
            let mut total = 0;
            for (turn, (slot, out, length)) in (0_u8..).zip(pushed) {
                let stream = if out { Stream::Out } else { Stream::Err };
                let text = vec![turn; length];
                push(&mut memory, slot, stream, Moment(turn.into()), &text);
                total += length as u64;
                model.push_back((slot, stream, text));
                let found = texts(&memory);
                if size_of_record(length) > size - HEAD_SIZE - size % STEP {
                    // It never was in the ring; what was there before is there still.
                    model.pop_back();
                }
                while model.len() > found.len() {
                    model.pop_front();
                }
                prop_assert_eq!(Vec::from(model.clone()), found);
                let kept: u64 = model.iter().map(|it| it.2.len() as u64).sum();
                prop_assert_eq!(dropped(&memory), Ok(total - kept));
            }
        }

        #[test]
        fn a_damaged_ring_is_read_and_written_without_harm(
            damage in proptest::collection::vec((0..600_usize, any::<u8>()), 1..20),
            length in 0..100_usize,
        ) {
            let mut memory = vec![0; 600];
            for turn in 0..30_u32 {
                push(&mut memory, turn, Stream::Out, Moment(1), &vec![b'x'; length]);
            }
            for (at, value) in damage {
                memory[at] = value;
            }
            let _ = records(&memory).map(|all| all.count());
            push(&mut memory, 1, Stream::Err, Moment(2), b"after");
            let last = records(&memory).unwrap().last();
            prop_assert!(last.is_none_or(|it| it.text.len() <= 600));
        }
    }
}
