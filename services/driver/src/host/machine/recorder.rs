//! The last calls with their arguments, for the canary to make them again in a new version; and how they are handed over.

use std::collections::VecDeque;

/// Calls that are kept.
const CALLS_MAX: usize = 1000;
/// Bytes of argument that are kept in all.
const BYTES_MAX: usize = 1 << 20;
/// A call with more argument than this is not kept.
const ARGUMENT_MAX: usize = 64 << 10;
const MAGIC: &[u8; 8] = b"VDSAMPL1";
const CALL: usize = 24;

/// One call as the driver got it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) handle: u64,
    /// The operation's place in the table.
    pub(crate) op: u32,
    /// The flags of an open, the command of an ioctl, the events of a poll.
    pub(crate) word: u32,
    /// Room for the answer.
    pub(crate) room: u32,
    pub(crate) argument: Vec<u8>,
}

/// The last calls.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    calls: VecDeque<Recorded>,
    bytes: usize,
}

/// What the canary gets: the state, and calls to make.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sample {
    pub(crate) state: Vec<u8>,
    pub(crate) calls: Vec<Recorded>,
}

impl Recorder {
    pub(crate) fn add(&mut self, call: Recorded) {
        if call.argument.len() > ARGUMENT_MAX {
            return;
        }
        self.bytes += call.argument.len();
        self.calls.push_back(call);
        while self.calls.len() > CALLS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.calls.pop_front() else { break };
            self.bytes -= oldest.argument.len();
        }
    }

    pub(crate) fn calls(&self) -> Vec<Recorded> {
        self.calls.iter().cloned().collect()
    }
}

impl Sample {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(number(self.state.len()));
        bytes.extend(&self.state);
        for call in &self.calls {
            bytes.extend(call.handle.to_le_bytes());
            bytes.extend(call.op.to_le_bytes());
            bytes.extend(call.word.to_le_bytes());
            bytes.extend(call.room.to_le_bytes());
            bytes.extend(number(call.argument.len()));
            bytes.extend(&call.argument);
        }
        bytes
    }

    /// Nothing where the bytes are no sample; nothing at all is a sample without state and calls.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (length, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let state = rest.get(..length)?.to_vec();
        let mut rest = &rest[length..];
        let mut calls = Vec::new();
        while !rest.is_empty() {
            let head = rest.get(..CALL)?;
            let word = |at: usize| {
                let word = head.get(at..at + 4).and_then(|word| word.first_chunk::<4>());
                word.map(|word| u32::from_le_bytes(*word))
            };
            let length = usize::try_from(word(20)?).ok()?;
            let argument = rest.get(CALL..)?.get(..length)?.to_vec();
            rest = &rest[CALL + length..];
            calls.push(Recorded {
                handle: u64::from_le_bytes(*head.first_chunk::<8>()?),
                op: word(8)?,
                word: word(12)?,
                room: word(16)?,
                argument,
            });
            if calls.len() > CALLS_MAX {
                return None;
            }
        }
        Some(Self { state, calls })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call(number: u32, length: usize) -> Recorded {
        Recorded { handle: 1, op: 3, word: number, room: 0, argument: vec![7; length] }
    }

    #[test]
    fn the_last_thousand_calls_are_kept() {
        let mut recorder = Recorder::default();
        (0..1500).for_each(|number| recorder.add(call(number, 1)));
        let calls = recorder.calls();
        assert_eq!((calls.len(), calls[0].word), (CALLS_MAX, 500));
    }

    #[test]
    fn their_bytes_are_bounded_and_a_huge_call_is_left_out() {
        let mut recorder = Recorder::default();
        (0..100).for_each(|number| recorder.add(call(number, ARGUMENT_MAX)));
        assert_eq!(recorder.calls().len(), BYTES_MAX / ARGUMENT_MAX);
        recorder.add(call(200, ARGUMENT_MAX + 1));
        assert!(recorder.calls().iter().all(|call| call.word < 200));
    }

    #[test]
    fn a_truncated_sample_is_none() {
        let sample = Sample { state: vec![1, 2], calls: vec![call(1, 3), call(2, 0)] };
        let bytes = sample.encode();
        assert_eq!(Sample::decode(&bytes), Some(sample.clone()));
        for cut in 1..bytes.len() {
            assert_ne!(Sample::decode(&bytes[..cut]), Some(sample.clone()), "{cut}");
        }
        assert_eq!(Sample::decode(b""), Some(Sample::default()));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Sample::decode(&[MAGIC, &bytes[..]].concat());
        }
    }
}
