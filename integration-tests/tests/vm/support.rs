//! What several tests need.

use std::{path::Path, process::Command};

use serde_json::Value;
use testkit::machine::{Image, Machine, Setup};

/// The image under test; a line says where there is none.
pub(crate) fn image() -> Option<Image> {
    Image::from_env("VESTAL_IMAGE")
}

/// Waits until everything that the boot wanted is there; returns what `boot blame` says of it.
#[track_caller]
pub(crate) fn until_up(machine: &Machine) -> Value {
    machine.until_lab();
    machine.until("vestalctl --json boot blame | grep -q all_ready_ms");
    machine.json("vestalctl --json boot blame")
}

/// The only instance of a service, as `service list` shows it.
#[track_caller]
pub(crate) fn instance(machine: &Machine, service: &str) -> Value {
    machine.json(&format!("vestalctl --json service list {service}"))[service]["instances"]["instance1"].take()
}

/// The machine finds this file where [`take`] looks for it.
pub(crate) fn give<'image>(setup: Setup<'image>, name: &str, file: &Path) -> Setup<'image> {
    setup.args(["-fw_cfg".to_owned(), format!("name=opt/{name},file={}", file.display())])
}

/// Puts what was given by [`give`] into /tmp of the machine; returns where it is.
#[track_caller]
pub(crate) fn take(machine: &Machine, name: &str) -> String {
    machine.until("test -d /sys/firmware/qemu_fw_cfg/by_name/opt");
    machine.ok(&format!(
        "cp /sys/firmware/qemu_fw_cfg/by_name/opt/{name}/raw /tmp/{name} && chmod 755 /tmp/{name}"
    ));
    format!("/tmp/{name}")
}

/// What a program on the host printed; it has to succeed.
#[track_caller]
pub(crate) fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {complaint}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
