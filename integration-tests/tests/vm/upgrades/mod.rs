//! Upgrades of a device that really boots, through U-Boot: pushed from the host, tried, kept, or gone back from without help.

pub(crate) mod bench;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;
use testkit::machine::{Machine, Setup};

use self::bench::{Host, tell_costs};
use crate::support::{image, until_up};

/// What the environment's checksum covers, as U-Boot's tool prints it.
const FROM_THE_FACTORY: &str = "BOOT_A_LEFT=3 BOOT_B_LEFT=0 BOOT_ORDER=A";

/// The version of the image.
const OLD: &str = env!("CARGO_PKG_VERSION");
/// Boots that a new set is given.
const TRIES: usize = 3;
/// An image that is longer than what the agent writes between two notes of how far it is.
const NOISE: usize = 14 << 20;
/// The power is lost when so much was received.
const CUT_AFTER: usize = 12 << 20;

/// Waits until the agent has found this boot good.
#[track_caller]
pub(crate) fn until_good(machine: &Machine) {
    machine.until("grep -q '\"healthy\": *true' /run/vestal/upgrade/boot.json");
}

/// Waits for this slot and version, in any boot.
#[track_caller]
fn until_runs(machine: &Machine, slot: char, version: &str) {
    machine.until(&format!(
        "grep -qw vestal.slot={slot} /proc/cmdline && grep -qx VERSION={version} /etc/os-release"
    ));
}

#[track_caller]
fn until_state(machine: &Machine, state: &str) {
    machine.until(&format!("vestalctl --json upgrade status | grep -q '\"state\": *\"{state}\"'"));
}

/// Waits until the loader was told of what was pushed, and nothing is left to be done before the next boot.
#[track_caller]
fn until_activated(machine: &Machine) {
    until_state(machine, "activated");
    let status = machine.json("vestalctl --json upgrade status");
    assert_eq!(status["reason"], "it is in use after the next boot", "{status}");
}

/// The last entry of the device's history.
#[track_caller]
pub(crate) fn last_of_history(machine: &Machine) -> Value {
    let history = machine.json("vestalctl --json upgrade history");
    let entries = history.as_array().unwrap_or_else(|| panic!("no list: {history}"));
    entries.last().unwrap_or_else(|| panic!("it is empty")).clone()
}

/// A device that the host knows, from the factory.
fn device(host: &Host<'_>, setup: Setup<'_>) -> Machine {
    let machine = setup.start();
    until_up(&machine);
    until_good(&machine);
    // The boot is good, so it has its tries back: as many as the settings of that root file system say.
    let given = host.loader(&machine.disk());
    assert!(
        [FROM_THE_FACTORY, "BOOT_A_LEFT=1 BOOT_B_LEFT=0 BOOT_ORDER=A"].contains(&&*given),
        "{given}"
    );
    host.trust(&machine);
    machine
}

/// How often the loader has begun.
fn boots(machine: &Machine) -> usize {
    machine.console().matches("vestal: slot ").count()
}

#[test]
fn a_new_kernel_and_root_file_system_are_tried_and_kept_and_an_application_needs_no_reboot() {
    let Some(image) = image() else { return };
    let host = Host::new(&image);
    let kernel = host.kernel("the second kernel");
    let rootfs = host.rootfs("2.0", |_| ());
    let system = host.bundle("2.0", 1, &[("kernel", &kernel), ("rootfs", &rootfs)]);
    let application = host.bundle("2.1", 1, &[("application", &another_application(&host))]);
    let mut machine = device(&host, Setup::loader(&image));

    let push = host.push(&system, &machine);
    until_activated(&machine);
    assert_eq!(host.loader(&machine.disk()), "BOOT_A_LEFT=3 BOOT_B_LEFT=3 BOOT_ORDER=B A");
    machine.send("vestalctl system reboot");
    let (kept, told, complaint) = push.ended();
    assert!(kept, "{told}: {complaint}");
    until_runs(&machine, 'B', "2.0");
    tell_costs("good", boots(&machine), &machine);
    assert!(machine.console().contains("the second kernel"), "{}", machine.console());
    assert_eq!(last_of_history(&machine)["state"], "confirmed");
    assert_eq!(host.loader(&machine.disk()), "BOOT_A_LEFT=3 BOOT_B_LEFT=3 BOOT_ORDER=B A");

    let boot = machine.ok("cat /proc/sys/kernel/random/boot_id");
    let (kept, told, complaint) = host.push(&application, &machine).ended();
    assert!(kept, "{told}: {complaint}");
    assert_eq!(machine.until("cat /run/which-application"), "the second one");
    let entry = last_of_history(&machine);
    assert!(entry["state"] == "confirmed" && entry["outage_ms"].is_u64(), "{entry}");
    assert_eq!(machine.ok("cat /proc/sys/kernel/random/boot_id"), boot);

    machine.send("vestalctl system poweroff");
    assert_eq!(machine.until_off(), "guest-shutdown");
    for (partition, image) in [("kernel-b", &kernel), ("rootfs-b", &rootfs)] {
        let written = host.image.read_partition(&machine.disk(), partition);
        assert!(written.starts_with(&fs::read(image).unwrap()), "{partition}");
    }

    // Somebody sends it back with U-Boot's own tool: the loader and the agent do as they are told.
    host.fw("fw_setenv", &["BOOT_ORDER", "A B"], &machine.disk());
    let machine = Setup::loader(&image).start_with(&machine.disk());
    until_up(&machine);
    until_good(&machine);
    until_runs(&machine, 'A', OLD);
    assert_eq!(host.loader(&machine.disk()), "BOOT_A_LEFT=3 BOOT_B_LEFT=3 BOOT_ORDER=A B");
    tell_costs("good, after U-Boot's tool", boots(&machine), &machine);
}

/// An application that says who it is.
fn another_application(host: &Host<'_>) -> std::path::PathBuf {
    let (folder, packed) = (host.path("application"), host.path("application.squashfs"));
    fs::create_dir(&folder).unwrap();
    let script = "#!/bin/sh\necho the second one > /run/which-application\nexec sleep 2147483647\n";
    let start = folder.join("start");
    fs::write(&start, script).unwrap();
    fs::set_permissions(&start, fs::Permissions::from_mode(0o755)).unwrap();
    bench::pack(&folder, &packed);
    packed
}

/// A root file system that is no good.
struct Bad {
    version: &'static str,
    change: fn(&Path),
    /// Part of the reason that the history gives.
    why: &'static str,
    /// How often the loader tries it.
    boots: usize,
}

/// Pushes it, and watches the device come back to the old set without help.
fn ends_in_the_old_set(Bad { version, change, why, boots: expected }: Bad) {
    let Some(image) = image() else { return };
    let host = Host::new(&image);
    let rootfs = host.rootfs(version, change);
    let bundle = host.bundle(version, 0, &[("rootfs", &rootfs)]);
    let machine = device(&host, Setup::loader(&image));
    let begun = boots(&machine);
    let push = host.push(&bundle, &machine);
    until_activated(&machine);
    machine.send("vestalctl system reboot");
    let (kept, told, complaint) = push.ended();
    assert!(!kept, "{told}");
    until_runs(&machine, 'A', OLD);
    until_good(&machine);
    let entry = last_of_history(&machine);
    let reason = entry["reason"].as_str().unwrap_or_default();
    eprintln!("{version}: {reason}");
    assert!(entry["state"] == "rolled-back" && reason.contains(why), "{entry}");
    assert!(complaint.contains(reason), "{complaint}");
    assert_eq!(host.loader(&machine.disk()), FROM_THE_FACTORY);
    assert_eq!(boots(&machine) - begun, expected + 1, "{}", machine.console());
    tell_costs(version, boots(&machine), &machine);
}

#[test]
fn a_root_file_system_that_panics_falls_back_by_the_loaders_counter_and_the_history_says_so() {
    ends_in_the_old_set(Bad {
        version: "panics",
        change: |root| fs::remove_file(root.join("sbin/init")).unwrap(),
        why: "set B did not come up, and the loader booted A",
        boots: TRIES,
    });
}

#[test]
fn a_root_file_system_whose_critical_service_crashes_again_and_again_falls_back_and_the_history_names_it()
 {
    ends_in_the_old_set(Bad {
        version: "crashes",
        change: |root| fs::write(root.join("usr/lib/lab/vital-fails"), "").unwrap(),
        why: "was not found good, and the loader booted A; how its last boot ended: reboot: service vital",
        boots: TRIES,
    });
}

/// The agent waits for it no longer than its settings say, and does not need the loader's counter.
#[test]
fn a_root_file_system_that_never_becomes_ready_is_left_by_the_agent_and_the_history_says_what_it_waited_for()
 {
    ends_in_the_old_set(Bad {
        version: "hangs",
        change: hangs,
        why: "not healthy for 5s within 15s: vital/instance1 is starting",
        boots: 1,
    });
}

fn hangs(root: &Path) {
    fs::write(root.join("usr/lib/lab/vital-hangs"), "").unwrap();
    settings(root, |text| text.replace("timeout = \"60s\"", "timeout = \"15s\""));
}

/// Other settings of the agent in a root file system.
fn settings(root: &Path, change: impl FnOnce(&str) -> String) {
    let path = root.join("etc/vestal/upgrade.toml");
    let old = fs::read_to_string(&path).unwrap();
    let new = change(&old);
    assert_ne!(new, old);
    fs::write(path, new).unwrap();
}

#[test]
fn a_root_file_system_without_the_agent_is_given_up_by_the_supervisor() {
    if std::env::var_os("VESTAL_FULL").is_none() {
        eprintln!("the supervisor waits for two minutes: set VESTAL_FULL to see it");
        return;
    }
    let Some(image) = image() else { return };
    let host = Host::new(&image);
    let rootfs = host.rootfs("silent", |root| {
        fs::remove_file(root.join("usr/sbin/vestal-upgrade")).unwrap();
        settings(root, |text| format!("trial-limit = \"1m\"\n{text}"));
    });
    let bundle = host.bundle("silent", 0, &[("rootfs", &rootfs)]);
    // One try is enough to see it.
    let old = host.rootfs("impatient", |root| {
        settings(root, |text| text.replace("kind = \"uboot\"", "kind = \"uboot\", tries = 1"));
    });
    let machine = device(&host, Setup::loader(&image).content("rootfs-a", &old));
    let push = host.push(&bundle, &machine);
    until_activated(&machine);
    machine.send("vestalctl system reboot");
    let (kept, told, complaint) = push.ended();
    assert!(!kept, "{told}");
    assert!(complaint.contains("nobody called this boot good in time"), "{complaint}");
    until_runs(&machine, 'A', "impatient");
    assert_eq!(boots(&machine), 3);
    tell_costs("silent", boots(&machine), &machine);
}

#[test]
fn a_push_whose_device_loses_its_power_is_taken_up_again_and_the_old_set_boots_meanwhile() {
    let Some(image) = image() else { return };
    let host = Host::new(&image);
    // What follows a file system in its slot is nobody's: enough of it that the journal knows how far it is.
    let mut kernel = fs::read(image.path("kernel.img")).unwrap();
    let room = usize::try_from(image.partition("kernel-b").length).unwrap();
    assert!(kernel.len() + NOISE <= room, "a longer kernel leaves no room for {NOISE} octets");
    kernel.extend(noise(NOISE));
    let (long, rootfs) = (host.path("long-kernel"), host.rootfs("2.0", |_| ()));
    fs::write(&long, &kernel).unwrap();
    let bundle = host.bundle("2.0", 0, &[("kernel", &long), ("rootfs", &rootfs)]);
    let mut machine = device(&host, Setup::loader(&image));
    let push = host.push(&bundle, &machine);
    machine.until(&format!(
        "vestalctl --json upgrade status | sed -n 's/.*\"received\": *\\([0-9]*\\).*/\\1/p' | awk '$1 > {CUT_AFTER} {{ found = 1 }} END {{ exit !found }}'"
    ));
    machine.pull_the_plug();
    drop(push);
    // The set that is being written can't be booted.
    assert_eq!(host.loader(&machine.disk()), "BOOT_A_LEFT=3 BOOT_B_LEFT=0 BOOT_ORDER=A");

    let machine = Setup::loader(&image).start_with(&machine.disk());
    until_up(&machine);
    until_runs(&machine, 'A', OLD);
    until_state(&machine, "receiving");
    host.trust(&machine);
    let push = host.push(&bundle, &machine);
    until_activated(&machine);
    drop(push);
    let written = host.image.read_partition(&machine.disk(), "kernel-b");
    assert!(written.starts_with(&kernel));
    tell_costs("interrupted, after it", boots(&machine), &machine);
}

/// Octets that are on no device yet.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}
