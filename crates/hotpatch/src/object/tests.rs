//! Real objects, and what is left of them after changes: a judgement each time, never a panic.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::{
    Code, Room,
    testing::{bytes as counter, bytes_with, landings},
};

fn refused(bytes: &[u8]) -> Code {
    Image::check(bytes).expect_err("it breaks a rule").code
}

#[test]
fn a_driver_is_taken_with_its_functions_and_their_room() {
    let image = Image::check(&counter(&[])).unwrap();
    let patchable =
        |function: &&Symbol| matches!(function.room, Room::Patchable { length: 16.., .. });
    let names: Vec<_> =
        image.functions().iter().filter(patchable).map(|function| &*function.name).collect();
    assert!(names.len() >= 7, "{names:?}");
    let image = Image::check(&counter(landings()[1])).unwrap();
    assert!(
        image
            .functions()
            .iter()
            .any(|function| matches!(function.room, Room::Patchable { at: 4, .. }))
    );
}

#[test]
fn each_broken_rule_has_its_code() {
    for (options, code) in [
        (&["-Wl,-z,execstack"][..], Code::Executable),
        (&["-Wl,-z,norelro"], Code::NoRelro),
        (&["-Wl,-z,lazy"], Code::NoRelro),
        (&["-Wl,-rpath,/tmp"], Code::SearchPath),
        (&["-Wl,--disable-new-dtags,-rpath,/tmp"], Code::SearchPath),
        (&["-Wl,--no-as-needed", "-lresolv"], Code::LibraryNotAllowed),
        (&["-Wl,--auxiliary=libm.so.6"], Code::LibraryNotAllowed),
        (&["-Dvestal_driver_v1=another"], Code::NoSymbol),
    ] {
        assert_eq!(refused(&counter(options)), code, "{options:?}");
    }
    let with = |source: &str, option: &str, code| {
        assert_eq!(refused(&bytes_with(source, &[option])), code, "{source}");
    };
    with("__asm__(\".text\\n.quad vestal_driver_v1\\n\");", "-Wl,-z,notext", Code::TextRelocations);
    with(
        "static void *chosen(void) { return 0; } void ask(void) __attribute__((ifunc(\"chosen\")));",
        "-O1",
        Code::Layout,
    );
    // The segment with the code: type 1, flags read and run.
    let mut bytes = counter(&[]);
    let code =
        (64..).step_by(56).find(|at| bytes[*at..at + 8] == [1, 0, 0, 0, 5, 0, 0, 0]).unwrap();
    bytes[code + 4] = 7;
    assert_eq!(refused(&bytes), Code::Executable);
    assert_eq!(refused(b"#!/bin/sh"), Code::NotElf);
    assert_eq!(refused(&fs::read("/proc/self/exe").unwrap()), Code::NoSymbol);
}

#[test]
fn another_machine_or_version_of_the_abi_is_refused() {
    let good = counter(&[]);
    let mut other = good.clone();
    other[18] ^= 1;
    assert_eq!(refused(&other), Code::WrongMachine);
    let image = Image::check(&good).unwrap();
    // The driver's structure: its size, then the version of the ABI; found by both.
    let head =
        [u32::try_from(size_of::<driver_abi::Driver>()).unwrap(), 1].map(u32::to_le_bytes).concat();
    let places: Vec<_> =
        (0..good.len() - 8).step_by(8).filter(|at| good[*at..*at + 8] == head).collect();
    let changed = |add: usize, value: u8| {
        places
            .iter()
            .map(|at| {
                let mut bytes = good.clone();
                bytes[at + add] = value;
                Image::check(&bytes).map_err(|refusal| refusal.code).err()
            })
            .collect::<Vec<_>>()
    };
    assert!(changed(4, 2).contains(&Some(Code::Abi)));
    assert!(changed(0, 8).contains(&Some(Code::Layout)));
    assert!(image.driver() > 0);
}

#[test]
fn only_a_fully_sealed_memfd_is_adopted_and_its_bytes_are_final() {
    let sealed = Sealed::new("driver", b"code").unwrap();
    let copy = || sealed.fd().try_clone_to_owned().unwrap();
    assert_eq!(Sealed::adopt(copy(), 4).unwrap().bytes(), b"code");
    assert_eq!(Sealed::adopt(copy(), 3).unwrap_err().code, Code::TooBig);
    assert!(rustix::io::pwrite(copy(), b"C", 0).is_err());

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let seals = [SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE, SealFlags::SEAL];
    for missing in seals {
        let open = memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
        for seal in seals.into_iter().filter(|seal| *seal != missing) {
            fcntl_add_seals(&open, seal).unwrap();
        }
        let refusal = Sealed::adopt(open, 4).unwrap_err();
        assert_eq!(refusal.code, Code::NotSealed, "{refusal}");
    }
    let plain = tempfile::tempfile().unwrap();
    assert_eq!(Sealed::adopt(plain.into(), 4).unwrap_err().code, Code::NotSealed);
}

/// One change of a file, as damage or as malice makes it.
#[derive(Clone, Debug)]
enum Change {
    Bit(prop::sample::Index, u8),
    Bytes(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    /// Into the first KiB, where the headers are.
    Head(usize, [u8; 8]),
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..16);
    let extreme = prop_oneof![Just([0xff; 8]), Just([0; 8]), any::<[u8; 8]>()];
    prop_oneof![
        (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Change::Bit(at, bit)),
        (any::<prop::sample::Index>(), bytes()).prop_map(|(at, bytes)| Change::Bytes(at, bytes)),
        any::<prop::sample::Index>().prop_map(Change::Cut),
        (any::<prop::sample::Index>(), bytes()).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (0..1016usize, extreme).prop_map(|(at, bytes)| Change::Head(at & !3, bytes)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    match change {
        Change::Bit(at, bit) => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Change::Bytes(at, new) => {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + new.len());
            bytes[at..end].copy_from_slice(&new[..end - at]);
        }
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Insert(at, new) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Head(at, new) => {
            if let Some(place) = bytes.get_mut(*at..*at + 8) {
                place.copy_from_slice(new);
            }
        }
    }
}

#[test]
fn ten_thousand_changed_files_are_judged_without_a_panic() {
    let good = counter(&[]);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let taken = std::cell::Cell::new(0);
    runner
        .run(&prop::collection::vec(change(), 1..4), |changes| {
            let mut bytes = good.clone();
            changes.iter().for_each(|change| apply(&mut bytes, change));
            if let Ok(image) = Image::check(&bytes) {
                taken.set(taken.get() + 1);
                for function in image.functions() {
                    prop_assert!(function.offset + function.size <= 256 << 20);
                }
            }
            Ok(())
        })
        .unwrap();
    // Both answers came: a change in padding or code is no business of this check.
    assert!((1..10_000).contains(&taken.get()), "{}", taken.get());
}

#[test]
fn every_truncation_is_refused() {
    let good = counter(&["-s"]);
    for length in (0..good.len()).step_by(7) {
        assert!(Image::check(&good[..length]).is_err(), "{length} of {}", good.len());
    }
}

#[test]
fn a_relocation_of_code_is_refused_also_where_the_object_does_not_admit_it() {
    let good = counter(&[]);
    let image = Image::check(&good).unwrap();
    let code = image.functions()[0].offset;
    let data = image.segments().iter().find(|segment| segment.access == Access::Write).unwrap();
    // An address in the data, then the kind "relative" without a symbol; linkers put the table into the first segment.
    let first = usize::try_from(image.segments()[0].memory.end).unwrap();
    let relative: u64 = if cfg!(target_arch = "aarch64") { 1027 } else { 8 };
    let word = |at: usize| u64::from_le_bytes(*good[at..].first_chunk().unwrap());
    let places: Vec<_> = (0..first - 16)
        .step_by(8)
        .filter(|at| data.memory.contains(&word(*at)) && word(*at + 8) == relative)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&code.to_le_bytes());
        assert_eq!(refused(&bytes), Code::TextRelocations);
    }
}
