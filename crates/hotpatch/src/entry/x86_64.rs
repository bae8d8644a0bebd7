//! x86-64: what may be overwritten at the beginning of a function, and the jump that is written there. Pure.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

use super::{Room, free};

/// `endbr64`: where an indirect call may land. It stays.
const LANDING: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// `jmp rel32`.
const NEAR: usize = 5;
/// `jmp [rip+0]` and the address behind it. It changes no register.
const FAR: usize = 14;

pub(super) fn room(code: &[u8]) -> Room {
    let at = if code.starts_with(&LANDING) { LANDING.len() } else { 0 };
    let nops: usize = instructions(code, at)
        .take_while(|instruction| instruction.mnemonic() == Mnemonic::Nop)
        .map(|instruction| instruction.len())
        .sum();
    if nops >= NEAR {
        return Room::Patchable { at, length: nops };
    }
    match unused(code, at) {
        Some(length) if length >= NEAR => Room::Code { at, length },
        _ => Room::None,
    }
}

/// How many bytes from `at` on nothing comes back to: no branch, no return of a call, no load. Nothing where that can't be
/// known.
fn unused(code: &[u8], at: usize) -> Option<usize> {
    let end = code.len() as u64;
    let mut touched = end;
    let mut touch = |target: u64| {
        if target >= at as u64 {
            touched = touched.min(target);
        }
    };
    for instruction in instructions(code, at) {
        let target = instruction.near_branch_target();
        let inside = target < end;
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::Return | FlowControl::Interrupt => {}
            // To the very beginning is where a loop may come back to with other registers than a caller's.
            FlowControl::UnconditionalBranch if target <= at as u64 => return None,
            FlowControl::UnconditionalBranch => touch(target),
            // Beyond the function it may go into a cold part of it, which comes back we don't know where to.
            FlowControl::ConditionalBranch if !inside || target <= at as u64 => return None,
            FlowControl::ConditionalBranch => touch(target),
            FlowControl::Call => {
                touch(instruction.next_ip());
                if target > at as u64 {
                    touch(target);
                }
            }
            FlowControl::IndirectCall => touch(instruction.next_ip()),
            // A table of jumps, a transaction, or bytes that are no code.
            FlowControl::IndirectBranch
            | FlowControl::XbeginXabortXend
            | FlowControl::Exception => {
                // `ud2` ends a path that is never taken; an unknown instruction is none.
                if instruction.mnemonic() != Mnemonic::Ud2 {
                    return None;
                }
            }
        }
        if instruction.is_ip_rel_memory_operand() {
            touch(instruction.ip_rel_memory_address());
        }
    }
    free(at, touched, code.len())
}

fn instructions(code: &[u8], at: usize) -> impl Iterator<Item = Instruction> {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    // Never beyond the end: `at` is 0, or the bytes of the landing pad were there.
    let _ = decoder.set_position(at);
    decoder.set_ip(at as u64);
    decoder.into_iter()
}

/// The bytes of a jump, as short as the distance allows; nothing where there is no room for them.
pub(super) fn jump(from: usize, to: usize, room: usize) -> Option<Vec<u8>> {
    let next = from.wrapping_add(NEAR);
    let distance = i64::try_from(i128::try_from(to).ok()? - i128::try_from(next).ok()?).ok()?;
    if room >= NEAR
        && let Ok(near) = i32::try_from(distance)
    {
        return Some([&[0xe9], &near.to_le_bytes()[..]].concat());
    }
    (room >= FAR).then(|| [&[0xff, 0x25, 0, 0, 0, 0], &(to as u64).to_le_bytes()[..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOPS: [u8; 16] = [0x90; 16];
    const RET: [u8; 1] = [0xc3];
    /// `mov eax, 1`: five bytes.
    const MOVE: [u8; 5] = [0xb8, 1, 0, 0, 0];

    #[test]
    fn nops_are_room_and_a_landing_pad_stays() {
        let plain = [&NOPS[..], &RET].concat();
        assert_eq!(room(&plain), Room::Patchable { at: 0, length: 16 });
        let landing = [&LANDING[..], &NOPS, &RET].concat();
        assert_eq!(room(&landing), Room::Patchable { at: 4, length: 16 });
        // One long nop, as other compilers write it.
        let long = [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0xc3];
        assert_eq!(room(&long), Room::Patchable { at: 0, length: 8 });
    }

    #[test]
    fn straight_code_is_room_as_far_as_it_goes() {
        let code = [&MOVE[..], &MOVE, &RET].concat();
        assert_eq!(room(&code), Room::Code { at: 0, length: 11 });
        assert_eq!(room(&[&LANDING[..], &MOVE, &RET].concat()), Room::Code { at: 4, length: 6 });
        assert_eq!(room(&[0x31, 0xc0, 0xc3]), Room::None, "shorter than a jump");
    }

    #[test]
    fn a_branch_back_into_the_first_bytes_leaves_no_room() {
        // mov eax,1 | dec eax | jne back to the dec: room ends at byte 5.
        let back = [&MOVE[..], &[0xff, 0xc8, 0x75, 0xfc], &RET].concat();
        assert_eq!(room(&back), Room::Code { at: 0, length: 5 });
        // dec eax | jne to the dec.
        let start = [&[0xff, 0xc8, 0x75, 0xfc], &MOVE[..], &RET].concat();
        assert_eq!(room(&start), Room::None);
        // dec eax | nop | jne to the nop at byte 2.
        let into = [&[0xff, 0xc8, 0x90, 0x75, 0xfd], &MOVE[..], &RET].concat();
        assert_eq!(room(&into), Room::None);
    }

    #[test]
    fn a_call_that_returns_into_the_first_bytes_leaves_no_room() {
        // push rbx | call rax | mov ...: the call returns to byte 3.
        let early = [&[0x53, 0xff, 0xd0], &MOVE[..], &MOVE, &RET].concat();
        assert_eq!(room(&early), Room::None);
        let late = [&MOVE[..], &[0xff, 0xd0], &MOVE, &RET].concat();
        assert_eq!(room(&late), Room::Code { at: 0, length: 7 });
    }

    #[test]
    fn tables_of_jumps_cold_parts_and_unknown_bytes_are_refused() {
        let table = [&MOVE[..], &MOVE, &[0xff, 0xe0]].concat();
        assert_eq!(room(&table), Room::None);
        let cold = [&MOVE[..], &MOVE, &[0x0f, 0x84, 0, 1, 0, 0], &RET].concat();
        assert_eq!(room(&cold), Room::None);
        let unknown = [&MOVE[..], &MOVE, &[0x06], &RET].concat();
        assert_eq!(room(&unknown), Room::None);
        let ends = [&MOVE[..], &MOVE, &[0x0f, 0x0b]].concat();
        assert_eq!(room(&ends), Room::Code { at: 0, length: 12 });
    }

    #[test]
    fn a_jump_is_short_where_it_reaches_and_long_where_there_is_room() {
        assert_eq!(jump(0x1000, 0x1000, 5).unwrap(), [0xe9, 0xfb, 0xff, 0xff, 0xff]);
        assert_eq!(jump(0x1000, 0x2005, 16).unwrap(), [0xe9, 0, 0x10, 0, 0]);
        let far = 0x7fff_1234_5678;
        assert_eq!(jump(0x1000, far, 13), None);
        assert_eq!(
            jump(0x1000, far, 14).unwrap(),
            [0xff, 0x25, 0, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 0xff, 0x7f, 0, 0]
        );
        assert_eq!(jump(0x1000, 0x2000, 4), None);
        // Just in reach, just out of it.
        let edge = 0x1_0000_0000 + NEAR + 0x7fff_ffff;
        assert_eq!(jump(0x1_0000_0000, edge, 14).unwrap().len(), NEAR);
        assert_eq!(jump(0x1_0000_0000, edge + 1, 14).unwrap().len(), FAR);
    }
}
