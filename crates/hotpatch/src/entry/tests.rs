//! Jumps at the entries of real drivers: C-T8.

use std::{sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    Closed, Code, Function, Gate, Module,
    testing::{function, landings, load_with},
    text::Text,
};

/// A driver whose function `the_answer` answers this number.
fn answering(number: i32, options: &[&str]) -> Module {
    let source = format!(
        "__attribute__((noinline, noclone)) long the_answer(long, long, long);
        long the_answer(long a, long b, long c) {{ return {number} + a * 100 + b * 1000 + c * 10000; }}
        __attribute__((noinline, noclone, patchable_function_entry(0))) long the_tiny(void);
        long the_tiny(void) {{ return 0; }}
        __attribute__((noinline, noclone, patchable_function_entry(0))) long the_plain(long, volatile long *);
        long the_plain(long a, volatile long *p)
        {{ p[0] = a; p[1] = a + {number}; p[2] = a; p[3] = {number}; return p[1]; }}"
    );
    load_with(&source, options)
}

fn target(function: &Function) -> *const () {
    std::ptr::with_exposed_provenance(function.address)
}

#[expect(unsafe_code, reason = "calls code that was changed")]
fn call(function: &Function) -> i64 {
    type Answer = extern "C" fn(i64, i64, i64) -> i64;
    // SAFETY: `answer` in the source above is such a function, and its module is loaded.
    let answer = unsafe { std::mem::transmute::<*const (), Answer>(target(function)) };
    answer(1, 2, 3)
}

fn answer(number: i64) -> i64 {
    number + 32_100
}

fn closed(gate: &Arc<Gate>) -> Closed {
    gate.close(Duration::from_secs(10)).unwrap()
}

/// The first bytes of a function, as they are in memory.
fn hash(function: &Function) -> [u8; 32] {
    let length = usize::try_from(function.size.min(32)).unwrap();
    Sha256::digest(Text::open().unwrap().read(function.address, length).unwrap()).into()
}

#[test]
fn five_versions_over_each_other_come_off_again_to_the_same_bytes() {
    let gate = Gate::new(1).unwrap();
    for options in landings() {
        let versions: Vec<Module> = (1..=6).map(|number| answering(number, options)).collect();
        let first = function(&versions[0], "the_answer");
        assert_eq!(hash(&first), first.hash);
        let mut redirects = Vec::new();
        for (version, number) in versions[1..].iter().zip(2..) {
            let mut redirect =
                Redirect::new(&first, target(&function(version, "the_answer"))).unwrap();
            assert_eq!(call(&first), answer(number - 1));
            redirect.apply(&closed(&gate)).unwrap();
            redirect.apply(&closed(&gate)).unwrap();
            assert_eq!(call(&first), answer(number));
            assert_ne!(hash(&first), first.hash);
            redirects.push(redirect);
        }
        let refused = redirects[0].undo(&closed(&gate)).unwrap_err();
        assert_eq!(refused.code, Code::MemoryDiffers);
        for (redirect, number) in redirects.iter_mut().rev().zip((1..=5).rev()) {
            redirect.undo(&closed(&gate)).unwrap();
            redirect.undo(&closed(&gate)).unwrap();
            assert_eq!(call(&first), answer(number));
        }
        assert_eq!(hash(&first), first.hash);
    }
}

#[test]
fn a_function_without_nops_is_replaced_where_its_code_has_room() {
    let gate = Gate::new(1).unwrap();
    let (old, new) = (answering(1, &[]), answering(2, &[]));
    let plain = function(&old, "the_plain");
    assert!(matches!(plain.room, Room::Code { .. }), "{:?}", plain.room);
    let tiny = function(&old, "the_tiny");
    if !cfg!(target_arch = "aarch64") {
        let refused = Redirect::new(&tiny, target(&function(&new, "the_plain"))).unwrap_err();
        assert_eq!(refused.code, Code::NoRoom, "{refused}");
    }
    let mut redirect = Redirect::new(&plain, target(&function(&new, "the_plain"))).unwrap();
    redirect.apply(&closed(&gate)).unwrap();
    assert_ne!(hash(&plain), plain.hash);
    redirect.undo(&closed(&gate)).unwrap();
    assert_eq!(hash(&plain), plain.hash);
}

#[test]
fn nothing_is_written_where_memory_is_not_the_file() {
    let gate = Gate::new(1).unwrap();
    let (old, new) = (answering(1, &[]), answering(2, &[]));
    let mut first = function(&old, "the_answer");
    let right = std::mem::replace(&mut first.hash, [7; 32]);
    let mut redirect = Redirect::new(&first, target(&function(&new, "the_answer"))).unwrap();
    assert_eq!(redirect.apply(&closed(&gate)).unwrap_err().code, Code::MemoryDiffers);
    assert!(!redirect.is_applied());
    assert_eq!(call(&first), answer(1));
    assert_eq!(hash(&first), right);
}

#[test]
fn jumps_in_a_circle_are_refused_and_an_unloaded_driver_leaves_nothing() {
    let gate = Gate::new(1).unwrap();
    let (old, new) = (answering(1, &[]), answering(2, &[]));
    let (first, second) = (function(&old, "the_answer"), function(&new, "the_answer"));
    let mut there = Redirect::new(&first, target(&second)).unwrap();
    there.apply(&closed(&gate)).unwrap();
    let mut back = Redirect::new(&second, target(&first)).unwrap();
    assert_eq!(back.apply(&closed(&gate)).unwrap_err().code, Code::NoRoom);
    let mut itself = Redirect::new(&second, target(&second)).unwrap();
    assert_eq!(itself.apply(&closed(&gate)).unwrap_err().code, Code::NoRoom);
    drop(old);
    back.apply(&closed(&gate)).unwrap();
    back.undo(&closed(&gate)).unwrap();
}
