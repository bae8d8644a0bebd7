//! What several tests need: definitions of the demo service, and facts of this machine.

use std::{fs, path::Path};

use testkit::{Device, Reply, binary};

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

/// What the service has printed so far, without the stamps; of its only instance.
pub(crate) fn printed(device: &Device, service: &str) -> Vec<String> {
    let log = device.run_dir().join(format!("state/supervisor/log/{service}.instance1.log"));
    let text = |line: String| line.splitn(3, ' ').nth(2).map(str::to_owned);
    lines(&log).into_iter().filter_map(text).collect()
}

/// Waits until the service has printed this line at least so often.
#[track_caller]
pub(crate) fn until_printed(device: &Device, service: &str, line: &str, times: usize) {
    testkit::until(&format!("{service} printed {line:?}"), || {
        let found = printed(device, service).iter().filter(|it| *it == line).count();
        (found >= times).then_some(())
    });
}

/// Kills the supervisor and waits for the next one.
#[track_caller]
pub(crate) fn replace_supervisor(device: &Device) {
    let old = device.supervisor_pid();
    kill(old, rustix::process::Signal::KILL);
    testkit::until("another supervisor answers", || {
        (device.supervisor_pid() != old && device.ctl(&["status"]).status.success()).then_some(())
    });
}

/// Waits for a main process that isn't `old`.
#[track_caller]
pub(crate) fn until_other_pid(device: &Device, service: &str, old: i32) -> i32 {
    testkit::until(&format!("{service} has another process than {old}"), || {
        let seen = device.instance(service, "instance1");
        seen["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid != old)
    })
}

/// Runs `vestalctl` under the name of one of OpenWrt's programs.
pub(crate) fn applet(device: &Device, name: &str, args: &[&str]) -> Reply {
    let link = device.folder().join("applets").join(name);
    if !link.exists() {
        fs::create_dir_all(link.with_file_name("")).expect("the scratch folder is ours");
        std::os::unix::fs::symlink(binary("vestalctl"), &link).expect("the scratch folder is ours");
    }
    let mut command = device.in_environment(&link.display().to_string());
    let output = command.args(args).output().expect("vestalctl is executable");
    Reply {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
