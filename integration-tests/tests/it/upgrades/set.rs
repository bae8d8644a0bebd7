//! Kernel and rootfs: written to the passive set while the device runs, switched by one record of the loader, and on trial at the
//! next boot. The loader is the test: it asks `vestal-upgrade boot-select`, or fw_printenv and fw_setenv as U-Boot's script would.

use std::{fs, process::Command};

use testkit::until;

use super::{Bench, MIB, SLOT, good, holds, noise};

/// Boots that the loader gives a set.
const TRIES: usize = 2;
/// Healthy as long as this file is there.
const CHECK: &str = "healthy";

/// A loader's record, as the device's settings and the loader itself use it.
#[derive(Clone, Copy)]
enum Loader {
    Own,
    UBoot,
}

impl Loader {
    fn settings(self, bench: &Bench) -> String {
        match self {
            Self::Own => format!("kind = \"file\", path = {:?}", bench.place("record")),
            Self::UBoot => format!("kind = \"uboot\", config = {:?}", bench.place("fw_env.config")),
        }
    }

    /// As the factory does it: A is booted.
    fn install(self, bench: &Bench) {
        match self {
            Self::Own => {
                let mut init = bench.device.command("vestal-upgrade");
                init.args(["boot-init", "A"]).arg(bench.place("record"));
                run(&mut init);
            }
            Self::UBoot => {
                let line = |copy: &str| format!("{} 0x0 0x2000\n", bench.place(copy).display());
                fs::write(bench.place("fw_env.config"), line("env0") + &line("env1")).unwrap();
                for copy in ["env0", "env1"] {
                    fs::write(bench.place(copy), vec![0xff; 0x2000]).unwrap();
                }
                fs::write(bench.place("defaults"), "bootcmd=run main\n").unwrap();
                for (name, value) in
                    [("BOOT_ORDER", "A B"), ("BOOT_A_LEFT", "2"), ("BOOT_B_LEFT", "0")]
                {
                    set_variable(bench, name, value);
                }
            }
        }
    }

    /// Chooses a set, counts the try, and passes the letter on.
    fn choose(self, bench: &Bench) -> String {
        let letter = match self {
            Self::Own => {
                let mut select = bench.device.command("vestal-upgrade");
                run(select.arg("boot-select")).trim().to_owned()
            }
            Self::UBoot => {
                let order = variable(bench, "BOOT_ORDER");
                let left = |letter: &str| {
                    u32::from_str_radix(&variable(bench, &format!("BOOT_{letter}_LEFT")), 16)
                        .unwrap()
                };
                let letter = order.split(' ').find(|letter| left(letter) > 0).unwrap();
                set_variable(
                    bench,
                    &format!("BOOT_{letter}_LEFT"),
                    &format!("{:x}", left(letter) - 1),
                );
                letter.to_owned()
            }
        };
        fs::write(bench.place("cmdline"), format!("quiet vestal.slot={letter}\n")).unwrap();
        let boots = fs::read_to_string(bench.place("boot-id")).unwrap();
        fs::write(bench.place("boot-id"), format!("{}+\n", boots.trim())).unwrap();
        letter
    }
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn set_variable(bench: &Bench, name: &str, value: &str) {
    let mut command = bench.device.in_environment("fw_setenv");
    command.arg("-c").arg(bench.place("fw_env.config")).arg("-f").arg(bench.place("defaults"));
    run(command.args([name, value]));
}

fn variable(bench: &Bench, name: &str) -> String {
    let mut command = bench.device.in_environment("fw_printenv");
    command.arg("-c").arg(bench.place("fw_env.config")).args(["-n", name]);
    run(&mut command).trim().to_owned()
}

/// A device that runs set A.
fn started(loader: Loader) -> Bench {
    let mut bench = Bench::new();
    fs::write(bench.place(CHECK), "").unwrap();
    let mut components = String::new();
    for name in ["kernel", "rootfs"] {
        fs::write(bench.place(&format!("{name}-a")), noise(1, 4 * MIB)).unwrap();
        let slot = |letter| {
            format!(
                "{{ path = {:?}, size = \"{SLOT}\" }}",
                bench.place(&format!("{name}-{letter}"))
            )
        };
        components += &format!("[components.{name}]\nslots = [{}, {}]\n", slot("a"), slot("b"));
    }
    let top = format!(
        "boot-control = {{ {}, tries = {TRIES} }}\n\
         health = {{ timeout = \"2s\", stable = \"0ms\", command = [\"/usr/bin/test\", \"-e\", {:?}] }}\n",
        loader.settings(&bench),
        bench.place(CHECK)
    );
    bench.settings(&components, &top);
    loader.install(&bench);
    assert_eq!(loader.choose(&bench), "A");
    bench.start();
    bench
}

fn system() -> [(&'static str, Vec<u8>); 2] {
    [("kernel", noise(2, MIB)), ("rootfs", noise(3, 3 * MIB))]
}

/// Pushes it; it is in use at the next boot.
#[track_caller]
fn push(bench: &Bench, images: &[(&str, Vec<u8>)]) {
    let images: Vec<(&str, &[u8])> =
        images.iter().map(|(name, image)| (*name, &image[..])).collect();
    bench.bundle("system-2.vestal", "2", 2, &images);
    let words = bench.push("system-2.vestal");
    let said = bench.vestal_ok(words.trim_end_matches(" --wait"));
    assert!(said.contains("activated"), "{said}");
    // Nothing is left to be done before the next boot.
    assert_eq!(bench.status()["reason"], "it is in use after the next boot");
}

/// What a person does; where the keeper is not PID 1 it ends.
fn reboot(bench: &mut Bench) {
    bench.device.ctl_ok(&["call", "system", "reboot"]);
    bench.device.wait();
}

fn old_slots(bench: &Bench) -> [Vec<u8>; 2] {
    ["kernel-a", "rootfs-a"].map(|name| fs::read(bench.place(name)).unwrap())
}

#[track_caller]
fn is_upgraded_at_the_next_boot(loader: Loader) {
    let mut bench = started(loader);
    let (camera, before) = (bench.device.until_pid("camera"), old_slots(&bench));
    push(&bench, &system());
    assert!(old_slots(&bench) == before);
    for (name, image) in system() {
        assert!(holds(&bench.place(&format!("{name}-b")), &image), "{name}");
        assert_eq!(bench.slot(name, "B")["state"], "next");
        assert_eq!(bench.slot(name, "A")["state"], "active");
    }
    // Nothing that runs was touched.
    assert_eq!(bench.device.until_pid("camera"), camera);
    assert_eq!(bench.status()["set"], "A");

    reboot(&mut bench);
    assert_eq!(loader.choose(&bench), "B");
    bench.boot();
    let status = bench.until_upgrade_is("confirmed");
    assert_eq!(status["set"], "B");
    assert_eq!(bench.slot("rootfs", "B")["state"], "active");
    assert_eq!(bench.slot("rootfs", "A")["state"], "good");
    assert_eq!(bench.last()["state"], "confirmed");
    assert!(old_slots(&bench) == before);
    // Its tries are given back, so that it is booted as often as it likes.
    for _ in 0..=TRIES {
        reboot(&mut bench);
        assert_eq!(loader.choose(&bench), "B");
        bench.boot();
        until("the boot is found good", || {
            (bench.slot("rootfs", "B")["tries"] == TRIES).then_some(())
        });
    }
}

#[test]
fn kernel_and_rootfs_are_written_beside_the_running_ones_and_confirmed_after_the_next_boot() {
    is_upgraded_at_the_next_boot(Loader::Own);
}

#[test]
fn the_same_with_u_boot_that_fw_printenv_reads() {
    if Command::new("fw_printenv").arg("-V").output().is_err() {
        eprintln!("libubootenv-tool is not installed; U-Boot was not tried");
        return;
    }
    is_upgraded_at_the_next_boot(Loader::UBoot);
}

/// The device runs the old set again, all of it, and knows why.
#[track_caller]
fn is_back(bench: &Bench, before: &[Vec<u8>; 2]) {
    let status = bench.until_upgrade_is("rolled-back");
    assert_eq!(status["set"], "A");
    assert!(old_slots(bench) == *before);
    assert_eq!(bench.slot("rootfs", "A")["state"], "active");
    assert_eq!(bench.slot("rootfs", "B")["state"], "bad");
    assert_eq!(bench.last()["state"], "rolled-back");
    assert_eq!(bench.in_use(), bench.place("app-a"));
    assert_eq!(bench.runs().last().unwrap(), "one");
}

#[test]
fn a_set_that_is_not_healthy_is_rebooted_into_the_old_one() {
    let mut bench = started(Loader::Own);
    let before = old_slots(&bench);
    let mut images = system().to_vec();
    images.push(("application", good("two", MIB)));
    push(&bench, &images);
    assert_eq!(bench.in_use(), bench.place("app-a"));
    reboot(&mut bench);
    fs::remove_file(bench.place(CHECK)).unwrap();
    assert_eq!(Loader::Own.choose(&bench), "B");
    // The application came with the set, and is in use with it.
    bench.boot();
    assert_eq!(bench.in_use(), bench.place("app-b"));
    bench.device.wait();
    assert_eq!(Loader::Own.choose(&bench), "A");
    bench.boot();
    is_back(&bench, &before);
    let why = bench.last()["reason"].to_string();
    assert!(why.contains("test: says that something is wrong"), "{why}");

    fs::write(bench.place(CHECK), "").unwrap();
    push(&bench, &system());
}

#[test]
fn a_set_that_does_not_even_start_falls_back_after_its_tries() {
    let mut bench = started(Loader::Own);
    let before = old_slots(&bench);
    push(&bench, &system());
    reboot(&mut bench);
    for _ in 0..TRIES {
        assert_eq!(Loader::Own.choose(&bench), "B");
    }
    assert_eq!(Loader::Own.choose(&bench), "A");
    bench.boot();
    is_back(&bench, &before);
}

#[test]
fn what_a_bundle_does_not_carry_of_the_set_is_copied() {
    let mut bench = started(Loader::Own);
    let rootfs = fs::read(bench.place("rootfs-a")).unwrap();
    push(&bench, &system()[..1]);
    assert!(holds(&bench.place("kernel-b"), &system()[0].1));
    assert!(fs::read(bench.place("rootfs-b")).unwrap() == rootfs);
    reboot(&mut bench);
    assert_eq!(Loader::Own.choose(&bench), "B");
    bench.boot();
    bench.until_upgrade_is("confirmed");
}

#[test]
fn what_is_written_without_being_activated_is_not_booted() {
    let mut bench = started(Loader::Own);
    let [kernel, _] = system();
    bench.bundle("system-2.vestal", "2", 2, &[(kernel.0, &kernel.1)]);
    let words = bench.push("system-2.vestal").replace("--wait", "--no-activate");
    bench.vestal_ok(&words);
    assert_eq!(bench.status()["state"], "written");
    reboot(&mut bench);
    assert_eq!(Loader::Own.choose(&bench), "A");
    bench.boot();
    bench.device.ctl_ok(&["call", "upgrade", "activate"]);
    bench.until_upgrade_is("activated");
    assert_eq!(Loader::Own.choose(&bench), "B");
}

#[test]
fn a_set_that_somebody_sends_away_by_u_boots_tool_is_not_called_bad() {
    if Command::new("fw_printenv").arg("-V").output().is_err() {
        eprintln!("libubootenv-tool is not installed; U-Boot was not tried");
        return;
    }
    let mut bench = started(Loader::UBoot);
    push(&bench, &system());
    reboot(&mut bench);
    assert_eq!(Loader::UBoot.choose(&bench), "B");
    bench.boot();
    bench.until_upgrade_is("confirmed");
    reboot(&mut bench);
    set_variable(&bench, "BOOT_ORDER", "A B");
    assert_eq!(Loader::UBoot.choose(&bench), "A");
    bench.boot();
    let status = bench.until_upgrade_is("rolled-back");
    assert_eq!(status["set"], "A");
    let why = bench.last()["reason"].to_string();
    assert!(why.contains("the order of the loader was changed by somebody else"), "{why}");
    assert_eq!(bench.slot("rootfs", "B")["state"], "good");
    assert_eq!(variable(&bench, "BOOT_ORDER"), "A");
}
