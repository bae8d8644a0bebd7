//! Dependencies between our crates point downwards only: the arrows of docs/ARCHITECTURE.md.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// Every crate of the workspace, lowest layer first. A crate may use any crate of a lower row, none of its own.
const LAYERS: &[&[&str]] = &[
    &["protocol", "driver-abi"],
    &["rudp", "uci", "bundle", "driver-client", "serial-driver"],
    &["daemon", "heartbeat-client"],
    &["endpoint", "hotpatch"],
    &[
        "vestal-keeper",
        "vestal-exec",
        "vestal-mounts",
        "vestal-supervisor",
        "vestal-registry",
        "vestal-log",
        "vestal-heartbeat",
        "vestal-config",
        "vestal-upgrade",
        "vestal-autorun",
        "vestal-driver",
        "vestalctl",
        "vestal",
    ],
    &["vestal-suite"],
    &["testkit"],
    &["integration-tests"],
];

/// Crates that may not need tokio, not even by a feature.
const PURE: &[&str] = &[
    "protocol",
    "driver-abi",
    "driver-client",
    "serial-driver",
    "hotpatch",
    "rudp",
    "uci",
    "bundle",
    "vestal-exec",
    "vestal-keeper",
    "vestal-mounts",
];

#[test]
fn dependencies_point_downwards() {
    for (user, dependencies) in dependencies() {
        for used in dependencies.iter().filter(|used| used.ours) {
            // What ships never needs the test kit; its own tests may.
            assert!(
                used.dev || used.name != "testkit" || user == "integration-tests",
                "{user} needs testkit"
            );
            assert!(
                used.dev || layer(&used.name) < layer(&user),
                "{user} must not depend on {}: see docs/ARCHITECTURE.md",
                used.name
            );
        }
    }
}

#[test]
fn pure_crates_know_no_tokio() {
    let all = dependencies();
    for name in PURE {
        let tokio = all[*name].iter().any(|used| !used.dev && used.name.starts_with("tokio"));
        assert!(!tokio, "{name} depends on tokio");
    }
}

#[test]
fn an_upward_arrow_would_be_seen() {
    assert!(layer("protocol") < layer("endpoint"));
    assert!(
        layer("vestal-keeper") >= layer("vestal-supervisor"),
        "services never import one another"
    );
}

struct Used {
    name: String,
    ours: bool,
    dev: bool,
}

fn layer(name: &str) -> usize {
    let found = LAYERS.iter().position(|row| row.contains(&name));
    found.unwrap_or_else(|| {
        panic!("{name} has no layer: give it one here and in docs/ARCHITECTURE.md")
    })
}

fn dependencies() -> BTreeMap<String, Vec<Used>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    packages
        .iter()
        .map(|package| {
            let used = package["dependencies"].as_array().into_iter().flatten().map(|used| Used {
                name: text(&used["name"]),
                ours: !used["path"].is_null(),
                dev: used["kind"] == "dev",
            });
            (text(&package["name"]), used.collect())
        })
        .collect()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs this test, so it is there");
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}
