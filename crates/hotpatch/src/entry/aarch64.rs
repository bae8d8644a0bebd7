//! aarch64: what may be overwritten at the beginning of a function, and the jump that is written there. Pure.

use super::{Room, free};

/// `bti c` and `bti jc`: where an indirect call may land. They stay.
const LANDING: [u32; 2] = [0xd503_245f, 0xd503_24df];
const NOP: u32 = 0xd503_201f;
/// `b`: reaches 128 MiB.
const NEAR: usize = 4;
const REACH: i64 = 128 << 20;
/// `ldr x16, .+8`, `br x16`, and the address. x16 is free at an entry: a linker's veneer may change it as well.
const FAR: usize = 16;

pub(super) fn room(code: &[u8]) -> Room {
    let words: Vec<u32> = code
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("chunks of four bytes")))
        .collect();
    let at = usize::from(words.first().is_some_and(|word| LANDING.contains(word)));
    let nops = words[at..].iter().take_while(|word| **word == NOP).count();
    if nops > 0 {
        return Room::Patchable { at: at * 4, length: nops * 4 };
    }
    match unused(&words, at) {
        Some(length) if length >= NEAR && code.len().is_multiple_of(4) => {
            Room::Code { at: at * 4, length }
        }
        _ => Room::None,
    }
}

/// Where an instruction goes.
#[derive(Debug, Eq, PartialEq)]
enum Flow {
    Next,
    /// To so many bytes from itself; the flag: or to the next.
    Branch(i64, bool),
    Call(Option<i64>),
    /// It reads what lies so many bytes from itself, or takes its address.
    Load(i64),
    Return,
    /// It can't be known, or is no code.
    Unknown,
}

/// So many bytes from the instruction: `bits` bits of it, from bit `low` on, in words.
fn distance(word: u32, low: u32, bits: u32) -> i64 {
    i64::from(word.cast_signed() << (32 - low - bits) >> (32 - bits)) * 4
}

fn flow(word: u32) -> Flow {
    let is = |mask: u32, value: u32| word & mask == value;
    if word >> 16 == 0 {
        Flow::Unknown
    } else if is(0xfc00_0000, 0x1400_0000) {
        Flow::Branch(distance(word, 0, 26), false)
    } else if is(0xfc00_0000, 0x9400_0000) {
        Flow::Call(Some(distance(word, 0, 26)))
    } else if is(0xff00_0000, 0x5400_0000) || is(0x7e00_0000, 0x3400_0000) {
        Flow::Branch(distance(word, 5, 19), true)
    } else if is(0x7e00_0000, 0x3600_0000) {
        Flow::Branch(distance(word, 5, 14), true)
    } else if is(0x7c00_0000, 0x7400_0000) {
        // Compare and branch, younger than this decoder.
        Flow::Unknown
    } else if is(0xfe00_0000, 0xd600_0000) {
        match word >> 21 & 0b111 {
            0b001 => Flow::Call(None),
            0b010 => Flow::Return,
            _ => Flow::Unknown,
        }
    } else if is(0x3b00_0000, 0x1800_0000) {
        Flow::Load(distance(word, 5, 19))
    } else if is(0x9f00_0000, 0x1000_0000) {
        Flow::Load(distance(word, 5, 19) + i64::from(word >> 29 & 3))
    } else {
        Flow::Next
    }
}

/// As on x86-64, in bytes.
fn unused(words: &[u32], at: usize) -> Option<usize> {
    let (start, end) = (at as i64 * 4, words.len() as i64 * 4);
    let mut touched = end;
    let mut touch = |target: i64| {
        if target >= start {
            touched = touched.min(target);
        }
    };
    for (here, word) in (start..).step_by(4).zip(&words[at..]) {
        match flow(*word) {
            Flow::Next | Flow::Return => {}
            Flow::Unknown => return None,
            Flow::Branch(by, conditional) => {
                let target = here + by;
                let inside = (0..end).contains(&target);
                if (conditional && !inside) || (inside && target <= start) {
                    return None;
                }
                touch(target);
            }
            Flow::Call(by) => {
                touch(here + 4);
                let target = here + by.unwrap_or(i64::MIN / 2);
                if target > start {
                    touch(target);
                }
            }
            Flow::Load(by) => touch(here + by),
        }
    }
    free(at * 4, u64::try_from(touched).ok()?, words.len() * 4)
}

/// The bytes of a jump, as short as the distance allows; nothing where there is no room for them.
pub(super) fn jump(from: usize, to: usize, room: usize) -> Option<Vec<u8>> {
    let distance = i64::try_from(i128::try_from(to).ok()? - i128::try_from(from).ok()?).ok()?;
    if room >= NEAR && (-REACH..REACH).contains(&distance) && distance % 4 == 0 {
        let words = u32::try_from((distance / 4) & 0x03ff_ffff).ok()?;
        return Some((0x1400_0000 | words).to_le_bytes().to_vec());
    }
    (room >= FAR).then(|| {
        let load = 0x5800_0050_u32.to_le_bytes();
        let branch = 0xd61f_0200_u32.to_le_bytes();
        [&load[..], &branch, &(to as u64).to_le_bytes()].concat()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mov w0, #1`.
    const MOVE: u32 = 0x5280_0020;
    const RET: u32 = 0xd65f_03c0;
    const BLR: u32 = 0xd63f_0000;
    const BR: u32 = 0xd61f_0000;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn nops_are_room_and_a_landing_pad_stays() {
        assert_eq!(room(&bytes(&[NOP, NOP, RET])), Room::Patchable { at: 0, length: 8 });
        assert_eq!(
            room(&bytes(&[LANDING[0], NOP, NOP, NOP, NOP, RET])),
            Room::Patchable { at: 4, length: 16 }
        );
    }

    #[test]
    fn straight_code_is_room_as_far_as_it_goes() {
        assert_eq!(room(&bytes(&[MOVE, MOVE, RET])), Room::Code { at: 0, length: 12 });
        assert_eq!(room(&bytes(&[LANDING[1], MOVE, RET])), Room::Code { at: 4, length: 8 });
        assert_eq!(room(&bytes(&[LANDING[0]])), Room::None);
        assert_eq!(room(&[0; 3]), Room::None);
    }

    #[test]
    fn branches_calls_and_loads_end_the_room() {
        // cbnz w0 back by one; b back by two; tbz back by one; b.ne back by one.
        for (branch, at) in [(0x35ff_ffe0, 1), (0x17ff_fffe, 0), (0x3607_ffe0, 1), (0x54ff_ffe1, 1)]
        {
            let code = bytes(&[MOVE, MOVE, branch, RET]);
            let wanted = match at {
                0 => Room::None,
                at => Room::Code { at: 0, length: at * 4 },
            };
            assert_eq!(room(&code), wanted, "{branch:#x}");
        }
        assert_eq!(room(&bytes(&[MOVE, BLR, MOVE, RET])), Room::Code { at: 0, length: 8 });
        // ldr x0, .-4 reads the first instruction.
        assert_eq!(room(&bytes(&[MOVE, 0x58ff_ffe0, RET])), Room::None);
        // bl to the own beginning is a call like any other.
        assert_eq!(room(&bytes(&[MOVE, 0x97ff_ffff, RET])), Room::Code { at: 0, length: 8 });
    }

    #[test]
    fn tables_of_jumps_cold_parts_and_no_code_are_refused() {
        assert_eq!(room(&bytes(&[MOVE, MOVE, BR])), Room::None);
        // b.eq out of the function; b out of it is a call at the end.
        assert_eq!(room(&bytes(&[MOVE, 0x5400_1000, RET])), Room::None);
        assert_eq!(room(&bytes(&[MOVE, 0x1400_1000])), Room::Code { at: 0, length: 8 });
        assert_eq!(room(&bytes(&[MOVE, MOVE, 0])), Room::None);
    }

    #[test]
    fn a_jump_is_short_where_it_reaches_and_long_where_there_is_room() {
        assert_eq!(jump(0x1000, 0x1008, 4).unwrap(), 0x1400_0002_u32.to_le_bytes());
        assert_eq!(jump(0x1008, 0x1000, 64).unwrap(), 0x17ff_fffe_u32.to_le_bytes());
        assert_eq!(jump(0x1000, 0x5555_0000_0000, 12), None);
        assert_eq!(
            jump(0x1000, 0x5555_0000_0000, 16).unwrap(),
            [0x50, 0, 0, 0x58, 0, 2, 0x1f, 0xd6, 0, 0, 0, 0, 0x55, 0x55, 0, 0]
        );
        assert_eq!(jump(0, 128 << 20, 64).unwrap().len(), FAR);
        assert_eq!(jump(128 << 20, 0, 64).unwrap().len(), NEAR);
    }
}
