//! The loaders beside U-Boot, each from a device that was just made to one that fell back: GRUB, from the first sector of the disk,
//! and the suite's own record, which the initramfs goes by.
//!
//! The image has a root file system of its own for each loader (`scripts/image --loader uboot --loader own --loader grub`).

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    binary,
    machine::{Image, Machine, Setup},
};

use crate::support::{image, succeeds, until_up};

/// What the broken root file system says before it ends.
const BROKEN: &str = "no init in here";
/// Tries that the root file systems of these tests give a set: fewer than the image's, for each one is a boot.
const TRIES: u8 = 2;
/// Tries that the image itself gives.
const FACTORY_TRIES: u8 = 3;
/// Octets of one copy of our own record.
const COPY: usize = 512;
/// How GRUB's block begins.
const BLOCK: &[u8] = b"# GRUB Environment Block\n";

/// A device with one of the loaders, and the host that upgrades it.
struct Bench {
    image: Image,
    folder: TempDir,
    machine: Machine,
    boot: String,
}

/// The image as if it had been made for this loader alone; nothing where it wasn't made for it.
fn variant(of: &Image, loader: &str, folder: &Path) -> Option<Image> {
    if !of.path(&format!("image-{loader}.json")).is_file() {
        eprintln!("the image was made without --loader {loader}: not tried");
        return None;
    }
    let own = format!("initramfs-{loader}.gz");
    let initramfs = if of.path(&own).is_file() { own } else { "initramfs.gz".to_owned() };
    let disk = format!("disk-{loader}.img");
    for (name, from) in [
        ("image.json", &*format!("image-{loader}.json")),
        (&disk, &disk),
        ("boot.img", &format!("boot-{loader}.img")),
        ("initramfs.gz", &initramfs),
        ("kernel.img", "kernel.img"),
        ("vmlinux", "vmlinux"),
        ("keys", "keys"),
    ] {
        symlink(fs::canonicalize(of.path("")).unwrap().join(from), folder.join(name)).unwrap();
    }
    // A folder, no link: it will be copied as it is.
    let root = of.path(&format!("rootfs-{loader}"));
    let copied = Command::new("cp").arg("-a").arg(root).arg(folder.join("rootfs")).status();
    assert!(copied.unwrap().success());
    Some(Image::open(folder))
}

impl Bench {
    /// A new device, at its first boot, and known to the host.
    fn new(loader: &str) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("vh").tempdir_in("/tmp").unwrap();
        let image = variant(&image()?, loader, folder.path())?;
        let machine = Setup::loader(&image).start();
        let mut bench = Self { image, folder, machine, boot: String::new() };
        bench.until_running("A");
        bench.trust();
        Some(bench)
    }

    /// The device says who it is, on its console as it were; the host believes that one.
    #[track_caller]
    fn trust(&self) {
        let identity = self.machine.json("vestalctl --json upgrade identity");
        let fingerprint = identity["fingerprint"].as_str().unwrap();
        self.vestal(&format!("trust add {} --fingerprint {fingerprint}", self.address()));
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.machine.port("tcp", 7421))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `vestal` with these words, on the host.
    #[track_caller]
    fn vestal(&self, words: &str) -> String {
        let mut command = Command::new(binary("vestal"));
        command.args(words.split(' ')).current_dir(self.folder.path()).env_clear();
        succeeds(command.env("XDG_CONFIG_HOME", self.file("config")))
    }

    /// Another root file system than the first one, with its version.
    fn rootfs(&self, version: &str, change: impl FnOnce(&Path)) {
        self.image.pack_rootfs(&self.file("rootfs.squashfs"), |root| {
            let settings = root.join("etc/vestal/upgrade.toml");
            let text = fs::read_to_string(&settings).unwrap();
            let fewer = text.replacen(" }\n", &format!(", tries = {TRIES} }}\n"), 1);
            fs::write(settings, fewer).unwrap();
            fs::write(root.join("etc/os-release"), format!("ID=vestal\nVERSION={version}\n"))
                .unwrap();
            change(root);
        });
    }

    /// Pushes a signed bundle of these components: `NAME=FILE`. It is what boots next.
    #[track_caller]
    fn push(&self, version: &str, images: &[(&str, &str)]) {
        let mut recipe = format!(
            "product = \"vestal-image\"\nrevisions = [\"x86_64\"]\nversion = \"{version}\"\n"
        );
        for (component, image) in images {
            let rest = "rollback-index = 0";
            recipe += &format!("[components.{component}]\nimage = {image:?}\n{rest}\n");
        }
        fs::write(self.file("recipe.toml"), recipe).unwrap();
        let bundle = format!("{version}.vestal");
        let create = "bundle create recipe.toml --key keys/bundle.key --level 1";
        self.vestal(&format!("{create} -o {bundle}"));
        let push = format!("push {bundle} {} --key keys/operator.key", self.address());
        let said = self.vestal(&push);
        assert!(said.contains("activated"), "{said}");
    }

    /// Reboots, and waits until the device runs this set.
    #[track_caller]
    fn reboot_into(&mut self, letter: &str) {
        self.machine.send("vestalctl system reboot");
        self.boot = self.machine.until_other_boot(&self.boot);
        self.until_running(letter);
    }

    /// Waits until this set runs and the agent has found it good.
    #[track_caller]
    fn until_running(&mut self, letter: &str) {
        if self.boot.is_empty() {
            until_up(&self.machine);
            self.boot = self.machine.ok("cat /proc/sys/kernel/random/boot_id");
        }
        self.machine.ok(&format!("grep -w vestal.slot={letter} /proc/cmdline"));
        self.machine.until("grep -q '\"healthy\": *true' /run/vestal/upgrade/boot.json");
        assert_eq!(self.machine.json("vestalctl --json upgrade status")["set"], letter);
    }

    fn version(&self) -> String {
        self.machine.ok("sed -n s/^VERSION=//p /etc/os-release")
    }

    /// The newest line of the device's history.
    fn last(&self) -> Value {
        let history = self.machine.json("vestalctl --json upgrade history");
        history.as_array().unwrap().last().unwrap_or_else(|| panic!("no history")).clone()
    }

    /// The broken root file system was started so often.
    #[track_caller]
    fn was_broken(&self, boots: u8) {
        let seen = self.machine.console().matches(BROKEN).count();
        assert_eq!(seen, usize::from(boots), "{}", self.machine.console());
    }

    /// Pushes one whose init ends at once, and reboots: after so many boots the loader comes back to this set by itself.
    #[track_caller]
    fn fall_back_to(&mut self, letter: &str, tries: u8) {
        self.rootfs("3.0", |root| {
            let init = root.join("sbin/init");
            fs::remove_file(&init).unwrap();
            fs::write(&init, format!("#!/bin/sh\necho {BROKEN}\n")).unwrap();
            fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
        });
        self.push("3.0", &[("rootfs", "rootfs.squashfs")]);
        self.reboot_into(letter);
        self.was_broken(tries);
        let last = self.last();
        assert_eq!(last["state"], "rolled-back", "{last}");
        let why = format!("did not come up, and the loader booted {letter}");
        assert!(last["reason"].as_str().unwrap().contains(&why), "{last}");
    }

    /// What is in a partition, as whoever pulls the plug now would find it.
    fn partition(&self, name: &str) -> Vec<u8> {
        self.image.read_partition(&self.machine.disk(), name)
    }
}

/// Sequence number of a copy of our own record.
fn sequence(record: &[u8], copy: usize) -> u32 {
    u32::from_le_bytes(*record[copy * COPY + 12..].first_chunk().unwrap())
}

/// Order and tries in a copy of our own record.
fn choice(record: &[u8], copy: usize) -> (&[u8], &[u8]) {
    let copy = &record[copy * COPY..];
    (&copy[16..18], &copy[18..20])
}

/// Which copy of our own record counts.
fn newest(record: &[u8]) -> usize {
    usize::from(sequence(record, 1) > sequence(record, 0))
}

/// Damages this copy of our own record, from the device itself.
fn damage(machine: &Machine, copy: usize) {
    let place = copy * COPY + 100;
    machine.ok(&format!(
        "echo torn | dd of=/dev/disk/by-partlabel/record bs=1 seek={place} conv=notrunc,fsync"
    ));
}

#[test]
fn our_own_record_boots_a_new_set_falls_back_from_a_broken_one_and_survives_a_torn_copy() {
    let Some(mut bench) = Bench::new("own") else { return };
    bench.rootfs("2.0", |_| ());
    bench.push("2.0", &[("rootfs", "rootfs.squashfs")]);
    bench.reboot_into("B");
    assert_eq!(bench.version(), "2.0");
    assert_eq!(bench.last()["state"], "confirmed");
    let record = bench.partition("record");
    assert_eq!(choice(&record, newest(&record)), (&b"BA"[..], &[FACTORY_TRIES, TRIES][..]));

    damage(&bench.machine, newest(&record));
    bench.reboot_into("B");
    let mended = bench.partition("record");
    assert_eq!(choice(&mended, newest(&mended)), (&b"BA"[..], &[FACTORY_TRIES, TRIES][..]));

    bench.fall_back_to("B", TRIES);
    let record = bench.partition("record");
    assert_eq!(choice(&record, newest(&record)), (&b"B\0"[..], &[0, TRIES][..]));

    // Whatever was chosen is lost now: one after the other has its turn, and A is the one that does not boot.
    damage(&bench.machine, 0);
    damage(&bench.machine, 1);
    bench.reboot_into("B");
    bench.was_broken(TRIES + FACTORY_TRIES);
    assert_eq!(bench.version(), "2.0");
}

/// A copy of one of the image's FAT file systems that has one file more, so that it is another one.
fn changed(bench: &Bench, name: &str) {
    let (copy, file) = (bench.file(&format!("new-{name}")), bench.file("new"));
    fs::copy(bench.image.path(name), &copy).unwrap();
    fs::write(&file, "2.0").unwrap();
    succeeds(Command::new("mcopy").arg("-i").arg(copy).arg(file).arg("::new"));
}

/// GRUB's block as `grub-editenv` shows it: from the partition's file system, where GRUB finds it too.
fn listed(bench: &Bench) -> String {
    let (partition, block) = (bench.file("grubenv.ext2"), bench.file("grubenv"));
    fs::write(&partition, bench.partition("grubenv")).unwrap();
    let mut dump = Command::new("debugfs");
    dump.args(["-R", "dump /grubenv grubenv"]).arg(&partition);
    succeeds(dump.current_dir(bench.folder.path()));
    succeeds(Command::new("grub-editenv").arg(block).arg("list"))
}

/// The block with a variable changed by `grub-editenv`.
fn with_variable(bench: &Bench, variable: &str) -> Vec<u8> {
    listed(bench);
    let block = bench.file("grubenv");
    succeeds(Command::new("grub-editenv").arg(&block).arg("set").arg(variable));
    fs::read(block).unwrap()
}

/// Switches the device off, writes to where GRUB's block begins, and switches it on again: it runs this set.
#[track_caller]
fn restart_with(bench: &mut Bench, block: &[u8], letter: &str) {
    bench.machine.send("vestalctl system poweroff");
    bench.machine.until_off();
    let mut partition = bench.partition("grubenv");
    let at = partition.windows(BLOCK.len()).position(|window| window == BLOCK).unwrap();
    partition[at..at + block.len()].copy_from_slice(block);
    fs::write(bench.file("grubenv.ext2"), partition).unwrap();
    let disk = bench.machine.disk();
    bench.image.write_partition(&disk, "grubenv", &bench.file("grubenv.ext2"));
    bench.machine = Setup::loader(&bench.image).start_with(&disk);
    bench.boot.clear();
    bench.until_running(letter);
}

#[test]
fn grub_boots_a_new_set_and_grub_editenv_reads_and_writes_what_the_agent_does() {
    let Some(mut bench) = Bench::new("grub") else { return };
    assert_eq!(listed(&bench), "BOOT_ORDER=A\nBOOT_A_LEFT=3\nBOOT_B_LEFT=0\n");
    bench.rootfs("2.0", |_| ());
    for name in ["kernel.img", "boot.img"] {
        changed(&bench, name);
    }
    let images =
        [("rootfs", "rootfs.squashfs"), ("kernel", "new-kernel.img"), ("boot", "new-boot.img")];
    bench.push("2.0", &images);
    // At once: whoever is told that it is activated may reboot.
    assert_eq!(listed(&bench), "BOOT_ORDER=B A\nBOOT_A_LEFT=3\nBOOT_B_LEFT=3\n");
    bench.reboot_into("B");
    assert_eq!(bench.version(), "2.0");
    assert_eq!(bench.last()["state"], "confirmed");
    assert_eq!(listed(&bench), format!("BOOT_ORDER=B A\nBOOT_A_LEFT=3\nBOOT_B_LEFT={TRIES}\n"));
    for (name, partition) in
        [("kernel.img", "kernel-b"), ("boot.img", "boot-a"), ("boot.img", "boot-b")]
    {
        let image = fs::read(bench.file(&format!("new-{name}"))).unwrap();
        assert!(bench.partition(partition).starts_with(&image), "{partition}");
    }
    if std::env::var_os("VESTAL_FULL").is_none() {
        return;
    }

    let block = with_variable(&bench, "BOOT_ORDER=A B");
    restart_with(&mut bench, &block, "A");
    assert!(listed(&bench).starts_with("BOOT_ORDER=A"), "{}", listed(&bench));

    bench.trust();
    bench.fall_back_to("A", FACTORY_TRIES);
    assert_eq!(listed(&bench), "BOOT_ORDER=A\nBOOT_A_LEFT=3\nBOOT_B_LEFT=0\n");

    // GRUB can't count in a block that is none, nor can the agent; the device lives all the same.
    restart_with(&mut bench, &[0; COPY], "A");
}
