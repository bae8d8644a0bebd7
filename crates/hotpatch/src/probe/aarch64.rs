//! aarch64: the way from a stub to the collector and on, and the way back.
#![expect(unsafe_code, reason = "no compiled function keeps all registers")]

use std::arch::naked_asm;

use super::collector::{enter, leave};

/// `ldr x16, site`, `ldr x17, common`, `br x17`, `nop`, and the two addresses. x16 and x17 are free at an entry: a linker's veneer
/// may change them as well.
pub(super) fn stub(site: usize) -> Vec<u8> {
    let words = [0x5800_0090_u32, 0x5800_00b1, 0xd61f_0220, 0xd503_201f];
    let common = (at_entry as *const ()).expose_provenance();
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend((site as u64).to_le_bytes());
    bytes.extend((common as u64).to_le_bytes());
    bytes
}

pub(super) fn trampoline() -> usize {
    (at_return as *const ()).expose_provenance()
}

/// Keeps all registers that arguments may be in, tells the collector, and goes on as the function. It goes there by `ret`, which
/// needs no landing pad: the function goes on behind its own.
#[unsafe(naked)]
unsafe extern "C" fn at_entry() {
    naked_asm!(
        "hint #34", // bti c
        "sub sp, sp, #224",
        "stp x0, x1, [sp]",
        "stp x2, x3, [sp, #16]",
        "stp x4, x5, [sp, #32]",
        "stp x6, x7, [sp, #48]",
        "str x8, [sp, #64]",
        "stp q0, q1, [sp, #80]",
        "stp q2, q3, [sp, #112]",
        "stp q4, q5, [sp, #144]",
        "stp q6, q7, [sp, #176]",
        "stp x29, x30, [sp, #208]",
        "mov x0, x16",
        "mov x1, sp",
        // The return address, and the end of the caller's stack.
        "add x2, sp, #216",
        "add x3, sp, #224",
        "bl {enter}",
        "mov x16, x0",
        "ldp x0, x1, [sp]",
        "ldp x2, x3, [sp, #16]",
        "ldp x4, x5, [sp, #32]",
        "ldp x6, x7, [sp, #48]",
        "ldr x8, [sp, #64]",
        "ldp q0, q1, [sp, #80]",
        "ldp q2, q3, [sp, #112]",
        "ldp q4, q5, [sp, #144]",
        "ldp q6, q7, [sp, #176]",
        "ldp x29, x30, [sp, #208]",
        "add sp, sp, #224",
        "ret x16",
        enter = sym enter,
    )
}

/// Keeps all registers that a result may be in, and returns to where the collector says.
#[unsafe(naked)]
unsafe extern "C" fn at_return() {
    naked_asm!(
        "sub sp, sp, #96",
        "stp x0, x1, [sp]",
        "stp q0, q1, [sp, #16]",
        "stp q2, q3, [sp, #48]",
        "str x29, [sp, #80]",
        "add x1, sp, #96",
        "bl {leave}",
        "mov x30, x0",
        "ldr x29, [sp, #80]",
        "ldp q0, q1, [sp, #16]",
        "ldp q2, q3, [sp, #48]",
        "ldp x0, x1, [sp]",
        "add sp, sp, #96",
        "ret",
        leave = sym leave,
    )
}
