//! Decisions never touch the outside world: not in a service's `machine/`, not in a pure crate.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What only a shell may use.
const EFFECTS: &[&str] = &[
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "clock::",
    "rustix",
    "libc::",
    "async ",
    "println!",
];
/// Folders below the project that hold no effects, and the words each may use all the same.
const PURE: &[(&str, &[&str])] = &[
    ("crates/protocol/src", &[]),
    ("crates/rudp/src", &[]),
    ("crates/uci/src", &["std::net"]),
    ("crates/bundle/src", &[]),
    ("services/config/src/machine", &[]),
    ("services/upgrade/src/engine", &[]),
    ("services/upgrade/src/boot", &[]),
    ("services/supervisor/src/machine", &[]),
    ("services/registry/src/machine", &[]),
    ("services/log/src/machine", &[]),
    ("services/heartbeat/src/machine", &[]),
    ("services/autorun/src/machine", &[]),
    ("services/autorun/src/journal", &[]),
    ("services/autorun/src/image", &[]),
    ("crates/driver-abi/src", &[]),
    ("services/driver/src/manager/machine", &[]),
    ("services/driver/src/host/machine", &[]),
];

#[test]
fn machines_and_pure_crates_perform_no_io() {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("we are a member of the workspace");
    for (folder, allowed) in PURE {
        let files = rust_files(&root.join(folder));
        assert!(!files.is_empty(), "{folder} is gone: take it out of this list");
        for file in files {
            let text = fs::read_to_string(&file).expect("it was just listed");
            let found = effects(&text, allowed);
            assert!(found.is_empty(), "{} uses {found:?}", file.display());
        }
    }
}

#[test]
fn an_effect_would_be_seen() {
    assert_eq!(effects("use std::fs;\n", &[]), ["std::fs"]);
    assert_eq!(
        effects("/// tokio is not used here\nlet x = 1; // std::fs\n", &[]),
        Vec::<&str>::new()
    );
}

/// The effects that a file's code names; comments may name what they like.
fn effects(text: &str, allowed: &[&str]) -> Vec<&'static str> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    EFFECTS
        .iter()
        .filter(|word| code.contains(**word) && !allowed.contains(word))
        .copied()
        .collect()
}

/// Every file below the folder that is compiled into the product; tests may look at files.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "tests" {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    files
}
