//! What several tests need: definitions of the demo service, and facts of this machine.

use std::{fs, path::Path};

use testkit::{Device, binary};

/// The `command` line of a definition that runs the demo service.
pub(crate) fn demo(steps: &[&str]) -> String {
    let program = binary("vestal-demo");
    let arguments: Vec<String> = std::iter::once(program.display().to_string())
        .chain(steps.iter().map(|step| (*step).to_owned()))
        .map(|argument| format!("{argument:?}"))
        .collect();
    format!("command = [{}]\n", arguments.join(", "))
}

/// A started device with these definitions.
pub(crate) fn device_with(definitions: &[(&str, String)]) -> Device {
    start(Device::new(), definitions)
}

/// The same as an ordinary user.
pub(crate) fn ordinary_device_with(definitions: &[(&str, String)]) -> Device {
    start(Device::of_an_ordinary_user(), definitions)
}

fn start(mut device: Device, definitions: &[(&str, String)]) -> Device {
    for (name, text) in definitions {
        device.define(name, text);
    }
    device.start();
    device
}

/// Lines of a file; none where it isn't there yet.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Tests that need root say so and pass elsewhere: CI is root, a developer need not be.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("{test} needs root and was not run");
    }
    root
}

/// Sends a signal to a process that the device started.
pub(crate) fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid is positive");
    rustix::process::kill_process(pid, signal).expect("it runs");
}
