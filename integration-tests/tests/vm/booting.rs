//! The keeper as the first process of a machine: what it finds, what it mounts, whom it reaps, and how the machine ends.

use std::{fs, process::Command};

use serde_json::Value;
use testkit::machine::{Image, Machine, Setup};

use crate::support::{image, until_up};

/// Type of the file system at a mount point, of the last one that was mounted there.
fn mounted(mounts: &str, place: &str) -> Option<String> {
    let mut rows = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    rows.rfind(|row| row.get(1) == Some(&place))?.get(2).map(|kind| (*kind).to_owned())
}

fn check_mounts(machine: &Machine) {
    let mounts = machine.ok("cat /proc/mounts");
    for (place, kind) in [
        ("/", "squashfs"),
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "devtmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/run", "tmpfs"),
        ("/tmp", "tmpfs"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/data", "ext4"),
        ("/etc/config", "ext4"),
        ("/var/lib/vestal", "ext4"),
    ] {
        assert_eq!(mounted(&mounts, place).as_deref(), Some(kind), "{place}: {mounts}");
    }
    // What the image has in it was laid down where it can be changed, at the first boot.
    machine.ok("test -s /etc/config/network && test -s /data/config/network");
}

/// No process waits to be reaped, also none whose parent went away.
fn check_orphans(machine: &Machine) {
    machine.ok("for i in 1 2 3 4 5; do ( ( exit 3 ) & ); done; sh -c '( sleep 0 & ) &'");
    machine.until("! grep -l '^State:.Z' /proc/[0-9]*/status");
}

/// Everything the boot wanted has its times, in the order in which time passes.
fn check_blame(blame: &Value) {
    let at = |key: &str| blame[key].as_u64().unwrap_or_else(|| panic!("no {key}: {blame}"));
    assert!(at("kernel_ms") <= at("keeper_ms"), "{blame}");
    assert!(at("keeper_ms") <= at("supervisor_ms"), "{blame}");
    let services = blame["services"].as_array().unwrap();
    for wanted in ["registry", "log", "heartbeat", "config", "upgrade", "web", "vital"] {
        let row = services.iter().find(|row| row["name"] == wanted);
        let row = row.unwrap_or_else(|| panic!("no {wanted}: {blame}"));
        let (spawned, ready) = (row["spawned_ms"].as_u64(), row["ready_ms"].as_u64());
        assert!(Some(at("supervisor_ms")) <= spawned && spawned <= ready, "{row}");
        assert!(ready <= Some(at("all_ready_ms")), "{row}");
    }
}

/// What was in the partition `data` when the machine ended.
fn data(image: &Image, machine: &Machine) -> std::path::PathBuf {
    let copy = machine.folder().join("data");
    fs::write(&copy, image.read_partition(&machine.disk(), "data")).unwrap();
    copy
}

/// The file system was unmounted: nothing is left to be replayed or repaired.
fn check_clean(image: &Image, machine: &Machine) {
    let data = data(image, machine);
    let checked = Command::new("e2fsck").arg("-fn").arg(&data).output().expect("e2fsprogs");
    let text = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{text}");
    let head = Command::new("dumpe2fs").arg("-h").arg(&data).output().expect("e2fsprogs");
    let head = String::from_utf8_lossy(&head.stdout);
    let state = head.lines().find(|line| line.starts_with("Filesystem state:")).unwrap();
    assert!(state.ends_with("clean"), "{head}");
    assert!(!head.contains("needs_recovery"), "{head}");
}

#[test]
fn a_device_boots_reboots_when_asked_in_any_way_and_powers_off_with_everything_written() {
    let Some(image) = image() else { return };
    let mut machine = Setup::direct(&image).forward("tcp", 8080).start();
    let blame = until_up(&machine);
    check_blame(&blame);
    assert_eq!(blame["reset"]["cause"], "first", "{blame}");
    check_mounts(&machine);
    check_orphans(&machine);
    assert_eq!(
        machine.ok("readlink /proc/1/exe; cat /proc/1/comm"),
        "/usr/sbin/vestal-suite\ninit"
    );
    // Whoever is killed when memory is short, it is neither PID 1 nor by its doing an application that can't be killed.
    let adjusted = machine.ok("cat /proc/1/oom_score_adj /proc/$(pidof httpd)/oom_score_adj");
    assert_eq!(adjusted, "-1000\n0");

    let first = machine.ok("cat /proc/sys/kernel/random/boot_id");
    machine.ok("echo kept > /data/kept");
    machine.send("vestalctl system reboot --reason 'the test wants it'");
    let second = machine.until_other_boot(&first);
    machine.until("vestalctl --json boot blame | grep -q all_ready_ms");
    let blame = machine.json("vestalctl --json boot blame");
    assert_eq!(blame["reset"]["cause"], "ordered", "{blame}");
    assert_eq!(blame["reset"]["previous_boot_id"], first.as_str(), "{blame}");
    assert!(blame["reset"]["detail"].as_str().unwrap().contains("the test wants it"), "{blame}");
    assert_eq!(machine.ok("cat /data/kept"), "kept");

    machine.ctrl_alt_del();
    machine.until_other_boot(&second);
    machine.until("vestalctl --json boot blame | grep -q all_ready_ms");
    let blame = machine.json("vestalctl --json boot blame");
    assert_eq!(blame["reset"]["cause"], "ordered", "{blame}");
    machine.send("kill -USR2 1");
    assert_eq!(machine.until_off(), "guest-shutdown");
    check_clean(&image, &machine);
    assert!(!machine.console().contains("panic"), "{}", machine.console());
}

#[test]
fn a_plug_that_was_pulled_is_told_at_the_next_boot_and_the_disk_is_mended() {
    let Some(image) = image() else { return };
    let mut machine = Setup::direct(&image).start();
    until_up(&machine);
    machine.ok("for i in 1 2 3 4 5 6 7 8; do echo $i > /data/torn-$i; done");
    machine.pull_the_plug();
    let mut machine = Setup::direct(&image).start_with(&machine.disk());
    let blame = until_up(&machine);
    assert_eq!(blame["reset"]["cause"], "power", "{blame}");
    assert_eq!(mounted(&machine.ok("cat /proc/mounts"), "/data").as_deref(), Some("ext4"));
    machine.send("vestalctl system poweroff");
    assert_eq!(machine.until_off(), "guest-shutdown");
    check_clean(&image, &machine);
}

#[test]
fn the_images_own_loader_boots_it_and_the_upgrade_agent_finds_that_boot_good() {
    let Some(image) = image() else { return };
    let machine = Setup::loader(&image).start();
    until_up(&machine);
    machine.ok("grep -w vestal.slot=A /proc/cmdline");
    machine.until("grep -q '\"healthy\": *true' /run/vestal/upgrade/boot.json");
}
