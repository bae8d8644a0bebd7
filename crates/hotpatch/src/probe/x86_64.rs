//! x86-64: the way from a stub to the collector and on, and the way back.
#![expect(unsafe_code, reason = "no compiled function keeps all registers")]

use std::arch::naked_asm;

use super::collector::{enter, leave};

/// `movabs r11, site`, `jmp [rip+0]`, and the address. r11 is free at an entry: a linker's stub may change it as well.
pub(super) fn stub(site: usize) -> Vec<u8> {
    let site = (site as u64).to_le_bytes();
    let common = (at_entry as *const ()).expose_provenance() as u64;
    [&[0x49, 0xbb], &site[..], &[0xff, 0x25, 0, 0, 0, 0], &common.to_le_bytes()].concat()
}

pub(super) fn trampoline() -> usize {
    (at_return as *const ()).expose_provenance()
}

/// Keeps all registers that arguments may be in, tells the collector, and goes on as the function.
#[unsafe(naked)]
unsafe extern "C" fn at_entry() {
    naked_asm!(
        // rax: how many vector registers a call with `...` uses; r10: what nested functions are handed.
        "push r10",
        "push rax",
        "push r9",
        "push r8",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "sub rsp, 136",
        "movups [rsp], xmm0",
        "movups [rsp + 16], xmm1",
        "movups [rsp + 32], xmm2",
        "movups [rsp + 48], xmm3",
        "movups [rsp + 64], xmm4",
        "movups [rsp + 80], xmm5",
        "movups [rsp + 96], xmm6",
        "movups [rsp + 112], xmm7",
        "mov rdi, r11",
        "lea rsi, [rsp + 136]",
        // The return address, and the end of the caller's stack above it.
        "lea rdx, [rsp + 200]",
        "lea rcx, [rsp + 208]",
        "call {enter}",
        "mov r11, rax",
        "movups xmm0, [rsp]",
        "movups xmm1, [rsp + 16]",
        "movups xmm2, [rsp + 32]",
        "movups xmm3, [rsp + 48]",
        "movups xmm4, [rsp + 64]",
        "movups xmm5, [rsp + 80]",
        "movups xmm6, [rsp + 96]",
        "movups xmm7, [rsp + 112]",
        "add rsp, 136",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop r8",
        "pop r9",
        "pop rax",
        "pop r10",
        "jmp r11",
        enter = sym enter,
    )
}

/// Keeps all registers that a result may be in, and returns to where the collector says.
#[unsafe(naked)]
unsafe extern "C" fn at_return() {
    naked_asm!(
        // Room for the return address, which was popped.
        "sub rsp, 8",
        "push rax",
        "push rdx",
        "sub rsp, 40",
        "movups [rsp], xmm0",
        "movups [rsp + 16], xmm1",
        "mov rdi, rax",
        "lea rsi, [rsp + 64]",
        "call {leave}",
        "mov [rsp + 56], rax",
        "movups xmm0, [rsp]",
        "movups xmm1, [rsp + 16]",
        "add rsp, 40",
        "pop rdx",
        "pop rax",
        "ret",
        leave = sym leave,
    )
}
