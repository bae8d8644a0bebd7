//! A user-space driver as a real character device: programs that know nothing of Vestal use it while its code is replaced, and while its
//! host is killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use testkit::{
    drivers::build,
    machine::{Image, Machine, Setup},
};

use crate::support::{give, image, succeeds, take, until_up};

/// How often the code is replaced.
const UPGRADES: usize = 200;
/// The versions that take turns.
const NAMES: [&str; 2] = ["one", "two"];
/// So many bytes are written by `dd`, of a file that host and guest have.
const COPIED: usize = 64 * 4096;
const FILE: &str = "usr/sbin/vestal-suite";

fn upgrades() -> usize {
    if std::env::var_os("VESTAL_FULL").is_some() { UPGRADES } else { 20 }
}

/// A program for the guest that writes to a device, or polls it; `caller.c` says how.
pub(crate) fn caller(program: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/drivers/caller.c");
    succeeds(Command::new("cc").args(["-O2", "-static", "-s", "-o"]).arg(program).arg(source));
    program.to_owned()
}

/// The image, where it has drivers.
fn image_with_drivers() -> Option<Image> {
    let image = image()?;
    let there = image.path("rootfs/usr/sbin/vestal-driver").exists();
    if !there {
        eprintln!("the image has no vestal-driver (scripts/image --drivers): not tried");
    }
    there.then_some(image)
}

/// The driver `counter`, with a device.
fn add_driver(machine: &Machine) {
    // An emulated processor that many want says nothing of how fast a version is.
    let settings = "[drivers.counter]\\nobject = \"/usr/lib/vestal/drivers/counter.so\"\\ndevice = \"counter0\"\\nprobation = \"200ms\"\\n\
        drain = \"5s\"\\nhang = \"1m\"\\nmax-latency = 100000\\ndev = true\\n";
    machine.ok(&format!(
        "printf '{settings}' > /run/driver.toml && mount --bind /run/driver.toml /etc/vestal/driver.toml && \
         vestalctl service restart driver"
    ));
    machine.until("test -c /dev/counter0");
}

/// Replaces the code, until the new version has proved itself; returns what the manager reports.
#[track_caller]
fn upgraded(machine: &Machine, version: &str, file: &str) -> Value {
    let upgrade =
        format!("vestalctl --json driver upgrade counter {file} --dev --version {version}");
    let mut told = machine.json(&upgrade);
    assert_eq!(told["settled"]["outcome"], "confirmed", "{told}");
    told["report"].take()
}

/// One line: the smallest, the middle and the greatest of some numbers.
pub(crate) fn tell(what: &str, numbers: impl Iterator<Item = u64>) {
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    if let (Some(least), Some(most)) = (numbers.first(), numbers.last()) {
        eprintln!(
            "{what}: {least} to {most}, half of {} up to {}",
            numbers.len(),
            numbers[numbers.len() / 2]
        );
    }
}

/// As the driver `counter` has it.
fn checksum_of(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, octet| {
        (sum ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The numbers that a line of words has after each other word.
#[track_caller]
fn number(line: &str, name: &str, radix: u32) -> u64 {
    let mut words = line.split_whitespace().skip_while(|word| *word != name);
    let word = words.nth(1).unwrap_or_else(|| panic!("no {name}: {line:?}"));
    u64::from_str_radix(word, radix).unwrap_or_else(|error| panic!("{name}: {error}: {line:?}"))
}

/// One line of a device that tells something about itself.
#[track_caller]
fn read_line(machine: &Machine, device: &str) -> String {
    machine.ok(&format!("dd if={device} bs=4096 count=1 2>/dev/null"))
}

/// Stops the programs that were started with this stop file, and returns the last line of each.
#[track_caller]
fn stopped(machine: &Machine, stop: &str, outputs: &[&str]) -> Vec<String> {
    machine.ok(&format!("touch {stop}"));
    let last = |output: &&str| {
        machine.until(&format!("grep -q ^calls {output}"));
        let told = machine.ok(&format!("cat {output}"));
        eprintln!("{output}: {told}");
        told
    };
    outputs.iter().map(last).collect()
}

#[track_caller]
fn status(machine: &Machine, driver: &str) -> Value {
    let list = machine.json("vestalctl --json driver list");
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    let found = list.iter().find(|status| status["name"] == driver);
    found.unwrap_or_else(|| panic!("no {driver}: {list:?}")).clone()
}

/// Calls that failed; of each one the program has printed a line.
fn failures(told: &str) -> u64 {
    number(told.lines().last().unwrap_or_default(), "failed", 10)
}

#[test]
fn programs_use_a_device_while_its_driver_is_replaced_and_its_host_killed_and_miss_nothing() {
    let Some(image) = image_with_drivers() else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = caller(&folder.path().join("caller"));
    let versions = NAMES
        .map(|version| build(folder.path(), "counter", &[&format!("-DVERSION=\"{version}\"")]));
    let mut setup = give(Setup::direct(&image), "caller", &program);
    for (number, version) in versions.iter().enumerate() {
        setup = give(setup, &format!("counter{number}"), version);
    }
    let mut machine = setup.start();
    until_up(&machine);
    add_driver(&machine);
    let versions = ["counter0", "counter1"].map(|name| take(&machine, name));
    take(&machine, "caller");

    let copied = fs::read(image.path("rootfs").join(FILE)).unwrap();
    let copied = &copied[..COPIED];
    machine.ok(&format!(
        "/tmp/caller write /dev/counter0 /tmp/stop > /tmp/writer & \
         /tmp/caller poll /dev/counter0 /tmp/stop > /tmp/poller & \
         dd if=/{FILE} of=/dev/counter0 bs=4096 count={} 2>/tmp/dd",
        COPIED / 4096
    ));
    let reports: Vec<_> = (0..upgrades())
        .map(|upgrade| upgraded(&machine, NAMES[upgrade % 2], &versions[upgrade % 2]))
        .collect();
    for key in ["pause_us", "drain_us", "state_us"] {
        tell(key, reports.iter().map(|report| report[key].as_u64().unwrap_or_default()));
    }
    let told = stopped(&machine, "/tmp/stop", &["/tmp/writer", "/tmp/poller"]);
    assert_eq!((failures(&told[0]), failures(&told[1])), (0, 0), "{told:?}");
    let (writer, counted) = (&told[0], read_line(&machine, "/dev/counter0"));
    eprintln!("counted: {counted}; {}", status(&machine, "counter"));
    let blocks = copied.chunks(4096).map(checksum_of);
    let sum = blocks.fold(number(writer, "checksum", 16), u64::wrapping_add);
    assert_eq!(number(&counted, "bytes", 10), number(writer, "bytes", 10) + COPIED as u64);
    assert_eq!(number(&counted, "calls", 10), number(writer, "calls", 10) + (COPIED / 4096) as u64);
    assert_eq!(number(&counted, "checksum", 16), sum, "{counted}: {writer}");

    kill_the_host(&machine);
    machine.send("vestalctl system poweroff");
    assert_eq!(machine.until_off(), "guest-shutdown");
}

/// The device stays, and whoever was in the driver right then gets one error; nobody else does.
fn kill_the_host(machine: &Machine) {
    machine.ok(
        "vestalctl driver list > /dev/null; /tmp/caller write /dev/counter0 /tmp/stop2 > /tmp/writer2 & \
         /tmp/caller poll /dev/counter0 /tmp/stop2 > /tmp/poller2 & true",
    );
    let node = machine.ok("ls -i /dev/counter0");
    let before = read_line(machine, "/dev/counter0");
    let pid = status(machine, "counter")["pid"].as_u64().expect("its host runs");
    machine.ok(&format!("kill -9 {pid}"));
    let calls = number(&before, "calls", 10);
    // It goes on: more was counted by another process.
    machine.until(&format!(
        "set -- $(dd if=/dev/counter0 bs=4096 count=1 2>/dev/null) && [ \"$4\" -gt {} ] && \
         vestalctl --json driver list | grep -q '\"pid\"' && ! vestalctl --json driver list | grep -q '\"pid\": *{pid}[^0-9]'",
        calls + 50
    ));
    let told = stopped(machine, "/tmp/stop2", &["/tmp/writer2", "/tmp/poller2"]);
    assert!(failures(&told[0]) + failures(&told[1]) <= 1, "{told:?}");
    assert_eq!(machine.ok("ls -i /dev/counter0"), node);
}
