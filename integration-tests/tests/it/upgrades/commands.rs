//! `vestalctl upgrade ...` on the device itself, for people and for programs.

use std::{fs, process::Stdio};

use serde_json::Value;

use super::{Bench, MIB, good, is_blank};

fn bench() -> Bench {
    let bench = Bench::started();
    bench.bundle("app-2.vestal", "2", 2, &[("application", &good("two", MIB))]);
    bench
}

/// Lines of JSON; the last one is the outcome.
fn outcome(lines: &str) -> Value {
    let last = lines.lines().next_back().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {lines}"))
}

#[test]
fn a_bundle_is_installed_from_a_file_and_the_way_back_is_one_command() {
    let bench = bench();
    let file = bench.file("app-2.vestal");
    let told = bench.device.ctl_ok(&["--json", "upgrade", "install", "--dry-run", &file]);
    assert_eq!(outcome(&told)["outcome"], "acceptable");
    assert!(is_blank(&bench.place("app-b")));
    let told = bench.device.ctl_ok(&["--json", "upgrade", "install", "--wait", &file]);
    assert_eq!(outcome(&told)["outcome"], "finished");
    assert_eq!(outcome(&told)["status"]["state"], "confirmed");
    let told = bench.device.ctl_ok(&["upgrade", "install", "--wait", &file]);
    assert!(told.contains("already"), "{told}");
    assert_eq!(bench.last()["transaction"]["who"], "uid 0");

    // What was confirmed raised the floor, and nobody permitted to go below it.
    let reply = bench.device.ctl(&["upgrade", "rollback"]);
    assert!(!reply.status.success() && reply.stderr.contains("floor"), "{reply:?}");
    bench.bundle("app-2b.vestal", "2.1", 2, &[("application", &good("three", MIB))]);
    bench.vestal_ok(&bench.push("app-2b.vestal"));
    bench.device.ctl_ok(&["upgrade", "rollback"]);
    testkit::until("version two runs again", || {
        (bench.runs() == ["one", "two", "three", "two"]).then_some(())
    });
    assert_eq!(bench.last()["state"], "rolled-back");
}

#[test]
fn a_bundle_is_installed_from_standard_input() {
    let bench = bench();
    let bundle = fs::File::open(bench.file("app-2.vestal")).unwrap();
    let mut command = bench.device.command("vestalctl");
    command.args(["upgrade", "install", "--wait", "-"]).stdin(bundle).stdout(Stdio::null());
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bench.runs(), ["one", "two"]);
}

#[test]
fn what_is_on_trial_is_kept_or_given_up_by_a_command() {
    let mut bench = Bench::new();
    bench.settings("", "health = { timeout = \"10m\", stable = \"10m\" }\n");
    bench.start();
    for (name, index) in [("two", 2), ("three", 3)] {
        bench.bundle(
            &format!("{name}.vestal"),
            name.len().to_string().as_str(),
            index,
            &[("application", &good(name, MIB))],
        );
    }
    bench.device.ctl_ok(&["upgrade", "install", &bench.file("two.vestal")]);
    bench.until_upgrade_is("trial");
    assert_eq!(bench.slot("application", "B")["state"], "trial");
    let second = bench.device.ctl(&["upgrade", "install", &bench.file("three.vestal")]);
    assert!(!second.status.success() && second.stderr.contains("trial"), "{second:?}");
    let status = bench.device.json(&["upgrade", "rollback"]);
    assert_eq!(status["state"], "rolled-back");
    testkit::until("the old one runs", || (bench.runs() == ["one", "two", "one"]).then_some(()));
    bench.until_up();
    bench.device.ctl_ok(&["upgrade", "install", &bench.file("three.vestal")]);
    bench.until_upgrade_is("trial");
    let status = bench.device.json(&["upgrade", "confirm"]);
    assert_eq!(status["state"], "confirmed");
    let history = bench.device.json(&["upgrade", "history"]);
    let states: Vec<&Value> =
        history.as_array().unwrap().iter().map(|entry| &entry["state"]).collect();
    assert_eq!(states, ["rolled-back", "confirmed"]);
    for words in [
        ["upgrade", "status"],
        ["upgrade", "slots"],
        ["upgrade", "history"],
        ["upgrade", "identity"],
    ] {
        assert!(!bench.device.ctl_ok(&words).is_empty(), "{words:?}");
    }
}

#[test]
fn a_device_without_a_keyring_lets_nobody_in_and_says_what_to_do() {
    let mut bench = Bench::new();
    bench.boot();
    assert_eq!(bench.device.json(&["upgrade", "identity"])["keyring"], 0);
    bench.bundle("app-2.vestal", "2", 2, &[("application", &good("two", MIB))]);
    let reply = bench.device.ctl(&["upgrade", "install", &bench.file("app-2.vestal")]);
    assert!(reply.stderr.contains("(no-keyring)") && reply.stderr.contains("keyring"), "{reply:?}");
    assert!(is_blank(&bench.place("app-b")));
}

#[test]
fn procds_own_methods_check_and_install_a_bundle() {
    let bench = bench();
    let path = |name: &str| format!("{{\"path\":{:?}}}", bench.file(name));
    let checked =
        |name: &str| bench.device.json(&["call", "system", "validate_firmware_image", &path(name)]);
    bench.create("unsigned.vestal", &super::recipe_of("application"), "");
    assert_eq!(checked("unsigned.vestal")["valid"], false);
    assert_eq!(checked("app-2.vestal")["valid"], true);
    let refused = bench.device.ctl(&["call", "system", "sysupgrade", &path("unsigned.vestal")]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(is_blank(&bench.place("app-b")));
    assert_eq!(bench.runs(), ["one"]);

    bench.device.ctl_ok(&["system", "sysupgrade", &bench.file("app-2.vestal")]);
    bench.until_upgrade_is("confirmed");
    assert_eq!(bench.runs(), ["one", "two"]);
}
