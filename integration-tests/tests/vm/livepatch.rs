//! Kernel code replaced while it is called: a device's driver is patched by modules that `scripts/kernel-module` has built for the image's
//! kernel (`modules/` of the built image), by hand and as a component of a signed bundle.

use std::{path::Path, time::Duration};

use serde_json::Value;
use testkit::machine::{Image, Machine, Setup};

use crate::{
    drivers::{caller, tell},
    support::{give, image, take, until_up},
    upgrades::{bench::Host, last_of_history, until_good},
};

/// How often a patch comes and goes; a transition takes a second or two.
const CYCLES: usize = 10;

fn cycles() -> usize {
    if std::env::var_os("VESTAL_FULL").is_some() { CYCLES } else { 2 }
}

/// The modules, where they were built.
fn modules() -> Option<(Image, impl Fn(&str) -> std::path::PathBuf)> {
    let image = image()?;
    let folder = image.path("modules");
    let built = folder.join("lab_device.ko").exists();
    if !built {
        eprintln!(
            "{}: no modules (scripts/kernel-module integration-tests/tests/vm/modules {} ...): not tried",
            folder.display(),
            image.kernel()
        );
        return None;
    }
    Some((image, move |name: &str| folder.join(format!("{name}.ko"))))
}

/// The upgrade agent is told of a component that is a live patch, and of what shows that it is a good one.
fn add_component(machine: &Machine) {
    let health = "health = { timeout = \"8s\", stable = \"2s\", command = [\"/bin/sh\", \"-c\", \"echo well > /dev/lab_device\"] }";
    let slot =
        |letter| format!("{{ path = \"/var/lib/vestal/fix-{letter}.img\", size = \"64KiB\" }}");
    let slots = format!("slots = [{}, {}]", slot('a'), slot('b'));
    let component = format!("[components.fix]\\n{slots}\\nactivate = \"livepatch\"");
    machine.ok(&format!(
        "sed 's|^health = .*|{health}|' /etc/vestal/upgrade.toml > /run/upgrade.toml; \
         printf '\\n{component}\\n' >> /run/upgrade.toml; \
         mount --bind /run/upgrade.toml /etc/vestal/upgrade.toml && vestalctl service restart upgrade"
    ));
    machine.until("vestalctl --json upgrade status");
}

/// What the driver says that it is.
fn version(machine: &Machine) -> String {
    machine.ok("read version rest < /dev/lab_device; echo $version")
}

/// Loads, waits until all tasks use it, takes it out of use and unloads it. How long each of both transitions took, in milliseconds.
fn come_and_go(machine: &Machine, file: &str) -> [u64; 2] {
    let patch = "/sys/kernel/livepatch/lab_patch";
    let on = timed(machine, &format!("insmod {file}"), &format!("grep -qx 0 {patch}/transition"));
    assert_eq!(version(machine), "v2");
    let off = timed(machine, &format!("echo 0 > {patch}/enabled"), &format!("! test -d {patch}"));
    machine.until("rmmod lab_patch");
    assert_eq!(version(machine), "v1");
    [on, off]
}

/// Milliseconds from an order in the machine until something is true.
fn timed(machine: &Machine, order: &str, until: &str) -> u64 {
    let clock = "read up rest < /proc/uptime; echo $up";
    let seconds =
        |said: &str| said.parse::<f64>().unwrap_or_else(|error| panic!("{error}: {said}"));
    let begun = seconds(&machine.ok(&format!("{clock}; {order}")));
    // It looks often, so that the answer is the time of the transition and not that of the looks.
    let ended = machine.until(&format!(
        "n=0; until {until}; do n=$((n+1)); [ $n -lt 200 ] || exit 1; usleep 20000; done; {clock}"
    ));
    let took = Duration::from_secs_f64(seconds(&ended) - begun);
    u64::try_from(took.as_millis()).unwrap()
}

/// Pushes a bundle with this module; whether it was kept, and what the history says of it.
fn push(host: &Host<'_>, machine: &Machine, version: &str, module: &Path) -> (bool, Value) {
    let bundle = host.bundle(version, 1, &[("fix", module)]);
    let (kept, told, complaint) = host.push(&bundle, machine).ended();
    eprintln!("{version}: kept {kept}, {told}, {complaint}");
    let entry = last_of_history(machine);
    eprintln!("{version}: {entry}");
    (kept, entry)
}

#[test]
fn a_kernel_driver_is_patched_under_its_callers_by_a_bundle_and_a_harmful_patch_is_taken_back() {
    let Some((image, module)) = modules() else { return };
    let host = Host::new(&image);
    let program = caller(&host.path("caller"));
    let mut setup = Setup::loader(&image);
    for name in ["lab_device", "lab_patch"] {
        setup = give(setup, name, &module(name));
    }
    let mut machine = give(setup, "caller", &program).start();
    until_up(&machine);
    until_good(&machine);
    let (device, patch) = (take(&machine, "lab_device"), take(&machine, "lab_patch"));
    take(&machine, "caller");
    machine.ok(&format!("insmod {device}"));
    machine.until("test -c /dev/lab_device");
    assert_eq!(version(&machine), "v1");

    machine
        .ok("for i in 1 2; do /tmp/caller write /dev/lab_device /tmp/stop > /tmp/writer$i & done");
    let took: Vec<_> = (0..cycles()).flat_map(|_| come_and_go(&machine, &patch)).collect();
    tell("transition_ms", took.into_iter());
    add_component(&machine);
    host.trust(&machine);
    let (kept, entry) = push(&host, &machine, "2.0", &module("lab_patch"));
    assert!(kept && entry["state"] == "confirmed", "{entry}");
    assert_eq!(version(&machine), "v2");
    machine.ok("touch /tmp/stop");
    let told = machine.until("[ $(grep -c ^calls /tmp/writer1 /tmp/writer2 | grep -c ':1$') = 2 ] && cat /tmp/writer1 /tmp/writer2");
    eprintln!("{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.lines().all(|line| line.contains(" failed 0 ")), "{told}");

    let (kept, entry) = push(&host, &machine, "3.0", &module("lab_broken"));
    assert!(!kept && entry["state"] == "rolled-back", "{entry}");
    assert_eq!(version(&machine), "v2");
    machine.ok("echo well > /dev/lab_device && ! test -d /sys/module/lab_broken");
    machine.send("vestalctl system poweroff");
    assert_eq!(machine.until_off(), "guest-shutdown");
}
