//! The file of the last exported state: the state in the layout of each version that may have to begin with it, the one
//! that serves first.

use driver_abi::{STATE_MAX, State};

const MAGIC: &[u8; 8] = b"VDSTATE1";
/// What serves, and what may come back.
const STATES_MAX: usize = 2;
/// Longest file.
pub(crate) const FILE_MAX: u64 = (STATE_MAX as u64 + 4) * STATES_MAX as u64 + 8;

/// Writes states as a file's bytes; one in a layout that stands there already is left out.
pub(crate) fn encode(states: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let mut layouts = Vec::new();
    for state in states.iter().take(STATES_MAX) {
        let layout = state.first_chunk::<4>();
        if layouts.contains(&layout) {
            continue;
        }
        layouts.push(layout);
        bytes.extend(u32::try_from(state.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(state);
    }
    bytes
}

/// The states in a file, the one in `layout` first; nothing where the file is not one of ours.
pub(crate) fn decode(bytes: &[u8], layout: u32) -> Vec<Vec<u8>> {
    let mut states = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else { return states };
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some(state) = behind.get(..length) else { break };
        rest = &behind[length..];
        match State::parse(state) {
            Ok(parsed) if parsed.layout == layout => states.insert(0, state.to_vec()),
            Ok(_) => states.push(state.to_vec()),
            Err(_) => break,
        }
        if states.len() == STATES_MAX {
            break;
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn state(layout: u32, byte: u8) -> Vec<u8> {
        State { layout, fields: BTreeMap::from([(1, vec![byte])]) }.encode().unwrap()
    }

    #[test]
    fn each_version_finds_the_state_in_its_own_layout_first() {
        let bytes = encode(&[state(2, 7), state(1, 8)]);
        assert_eq!(decode(&bytes, 2), [state(2, 7), state(1, 8)]);
        assert_eq!(decode(&bytes, 1), [state(1, 8), state(2, 7)]);
        assert_eq!(decode(&bytes, 3), [state(2, 7), state(1, 8)]);
    }

    #[test]
    fn one_layout_is_written_once() {
        let bytes = encode(&[state(1, 7), state(1, 7)]);
        assert_eq!(decode(&bytes, 1), [state(1, 7)]);
    }

    #[test]
    fn a_torn_file_gives_what_is_whole() {
        let bytes = encode(&[state(2, 7), state(1, 8)]);
        for cut in 0..bytes.len() {
            let states = decode(&bytes[..cut], 2);
            assert!(states.len() <= 1, "{cut}");
        }
        assert!(decode(b"something else", 1).is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&[MAGIC, &bytes[..]].concat(), 1);
        }
    }
}
