//! Any bytes as a UCI file, as a delta file, as a file of each other format and as a rule with a value: no panic. What is read
//! is printed and read as the same; names of entries are there once; two readings of one file have one digest.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use uci::{
    Mode, Package, Show, apply_delta,
    canonical::{Format, canonical, differences},
    datatype, export, parse, parse_all, parse_delta, print_changes, print_delta, show,
};

fuzz_target!(|bytes: &[u8]| {
    for mode in [Mode::Strict, Mode::Lenient] {
        if let Ok(parsed) = parse("p", bytes, mode) {
            if mode == Mode::Strict {
                printed(&parsed.package);
            }
            edited(parsed.package, bytes);
        }
        let _ = parse_all(bytes, mode);
    }
    for format in [
        Format::Uci,
        Format::Json,
        Format::Toml,
        Format::Ini,
        Format::Lines { comment: "#".into() },
        Format::Bytes,
    ] {
        said(&format, bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let (expression, value) = text.split_once('\n').unwrap_or((text, "0"));
        std::hint::black_box(datatype::exercise(expression, value));
    }
});

fn printed(package: &Package) {
    std::hint::black_box(show(package, &Show::default()));
    // libuci puts no quotes around types, so that those with signs of the language don't come back.
    let plain = |kind: &str| !kind.contains(['\'', '"', '#', ';', '\\']);
    if package.sections.iter().all(|section| plain(&section.kind)) {
        let again = parse("p", export(package, false).as_bytes(), Mode::Strict);
        assert_eq!(again.expect("what was printed can be read").package.sections, package.sections);
    }
}

fn edited(mut package: Package, bytes: &[u8]) {
    let Ok((deltas, _)) = parse_delta("p", bytes) else { return };
    let again = parse_delta("p", print_delta("p", &deltas).as_bytes());
    assert_eq!(again.expect("what was printed can be read"), (deltas.clone(), Vec::new()));
    std::hint::black_box(print_changes("p", &deltas));
    for delta in &deltas {
        let before = package.clone();
        if apply_delta(&mut package, delta).is_err() {
            assert_eq!(package, before);
        }
    }
}

fn said(format: &Format, bytes: &[u8]) {
    let Ok(form) = canonical(format, "p", bytes) else { return };
    let names: HashSet<&str> = form.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names.len(), form.entries.len());
    assert_eq!(differences(&form.entries, &form.entries), Default::default());
    assert_eq!(canonical(format, "p", bytes).as_ref(), Ok(&form));
}
