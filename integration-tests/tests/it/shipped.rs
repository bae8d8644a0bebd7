//! What the project ships works as shipped: the demo's real daemons, the examples, the default device.

use std::{fs, path::Path};

use testkit::{Device, until};

fn configs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("we are a member of the workspace")
        .join("configs")
}

#[test]
fn every_shipped_definition_passes_the_check_that_users_run() {
    let device = Device::new();
    let mut files = Vec::new();
    for folder in ["core", "device/services.d", "demo/services.d", "examples", "rescue"] {
        for entry in fs::read_dir(configs().join(folder)).expect("it is shipped").flatten() {
            files.push(entry.path().display().to_string());
        }
    }
    assert!(files.len() > 20, "{files:?}");
    let arguments: Vec<&str> =
        ["service", "check"].into_iter().chain(files.iter().map(String::as_str)).collect();
    device.ctl_ok(&arguments);
}

#[test]
fn without_any_configuration_the_built_in_set_starts() {
    let mut device = Device::new();
    fs::remove_dir_all(device.folder().join("etc")).unwrap();
    device.start();
    let report = device.json(&["call", "service", "report"]);
    assert_eq!(report["skipped"].as_array().map(Vec::len), Some(0), "{report}");
    until("the default set is up", || {
        let list = device.json(&["service", "list"]);
        (!list.as_object().unwrap().is_empty()).then_some(())
    });
    assert!(device.stop().success());
}
