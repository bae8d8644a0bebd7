//! An upgrade of kernel and rootfs that a host pushes, the boot into it, its trial, and an upgrade of the application, all on one
//! recorded disk: the writes of the agent, of the loader, and of the file system's journal between them.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};
use testkit::{
    binary,
    cuts::{self, Cut, Device, Image as Part, Loader, Release},
    machine::{Image, Machine, Setup},
};

use crate::support::{ALL_READY, Sample, cut, done, history, is_full, said};

/// Cut disks that are booted.
const BOOTS: usize = 2;
const BOOTS_FULL: usize = 6;
/// A new image is the same file system in other bytes: in the time of a squashfs or the name of who made a FAT, which nobody reads,
/// and behind its end.
const NAME: usize = 8;
const MORE: usize = 1 << 20;
const HEALTHY: &str = "grep -q '\"healthy\": *true' /run/vestal/upgrade/boot.json";

/// Images of the components, by name, before and after.
struct Images {
    old: Vec<(&'static str, Vec<u8>)>,
    new: Vec<(&'static str, Vec<u8>)>,
}

/// The image with one of its loaders.
struct Bench {
    image: Image,
    loader: Loader,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(loader: Loader) -> Option<Self> {
        let image = Image::from_env("VESTAL_IMAGE")?;
        let made = match loader {
            Loader::UBoot => image.loader() == "uboot",
            _ => image.path("image-own.json").is_file(),
        };
        if !made {
            eprintln!(
                "the image was made without this loader (scripts/image --loader uboot --loader own): not tried"
            );
            return None;
        }
        let folder = tempfile::Builder::new().prefix("vh").tempdir_in("/tmp").unwrap();
        Some(Self { image, loader, folder })
    }

    /// A machine that starts as its loader has it.
    fn setup(&self) -> Setup<'_> {
        match self.loader {
            Loader::UBoot => Setup::loader(&self.image),
            // The last -initrd counts, and what the initramfs finds out counts more than the letter given here.
            _ => Setup::direct(&self.image)
                .word("vestal.loader=own")
                .args(["-initrd".into(), self.image.path("initramfs-own.gz").into_os_string()]),
        }
    }

    fn disk(&self) -> std::path::PathBuf {
        let name = if self.loader == Loader::UBoot { "disk.img" } else { "disk-own.img" };
        self.image.path(name)
    }

    fn images(&self) -> Images {
        let read = |name: &str| fs::read(self.image.path(name)).unwrap();
        let mut old = match self.loader {
            Loader::UBoot => vec![
                ("boot", read("boot.img")),
                ("kernel", read("kernel.img")),
                ("rootfs", read("rootfs.squashfs")),
            ],
            // Its kernel comes from elsewhere.
            _ => vec![("rootfs", read("rootfs-own.squashfs"))],
        };
        old.push(("application", read("application.squashfs")));
        let mut new = old.clone();
        for (_, bytes) in &mut new {
            bytes[NAME] ^= 1;
            bytes.extend((0..MORE).map(|at| at.to_le_bytes()[at % 2] ^ 0x55));
        }
        Images { old, new }
    }

    /// `vestal` with these words, on the host.
    #[track_caller]
    fn vestal(&self, words: &str) -> String {
        let mut command = Command::new(binary("vestal"));
        command.args(words.split(' ')).current_dir(self.folder.path()).env_clear();
        let output = command.env("XDG_CONFIG_HOME", self.folder.path()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "vestal {words}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn key(&self, name: &str) -> String {
        let path = fs::canonicalize(self.image.path("keys").join(name)).unwrap();
        path.display().to_string()
    }

    /// Pushes a bundle of these components to the machine.
    #[track_caller]
    fn push(&self, machine: &Machine, components: &[&(&str, Vec<u8>)], wait: &str) -> String {
        let mut recipe =
            "product = \"vestal-image\"\nrevisions = [\"x86_64\"]\nversion = \"2.0\"\n".to_owned();
        for (name, bytes) in components {
            fs::write(self.folder.path().join(name), bytes).unwrap();
            recipe += &format!("[components.{name}]\nimage = {name:?}\nrollback-index = 0\n");
        }
        fs::write(self.folder.path().join("recipe.toml"), recipe).unwrap();
        let key = self.key("bundle.key");
        self.vestal(&format!("bundle create recipe.toml --key {key} --level 1 -o new.vestal"));
        let (port, key) = (machine.port("tcp", 7421), self.key("operator.key"));
        self.vestal(&format!("push new.vestal 127.0.0.1:{port} --key {key}{wait}"))
    }
}

/// From the first boot to the application's upgrade.
fn upgrade(bench: &Bench, machine: &Machine, new: &[(&str, Vec<u8>)]) {
    let boot = machine.until_lab();
    machine.until(ALL_READY);
    machine.until(HEALTHY);
    let identity = machine.json("vestalctl --json upgrade identity");
    let fingerprint = identity["fingerprint"].as_str().unwrap();
    let port = machine.port("tcp", 7421);
    bench.vestal(&format!("trust add 127.0.0.1:{port} --fingerprint {fingerprint}"));

    done(machine, ":", "begun 1");
    let (application, system): (Vec<_>, Vec<_>) =
        new.iter().partition(|(name, _)| *name == "application");
    let said = bench.push(machine, &system, "");
    assert!(said.contains("activated"), "{said}");
    done(machine, ":", "activated 1");

    machine.send("vestalctl system reboot");
    machine.until_other_boot(&boot);
    machine.until("vestalctl --json upgrade status | grep -q '\"confirmed\"'");
    done(machine, HEALTHY, "confirmed 1");

    let said = bench.push(machine, &application, " --wait");
    assert!(said.contains("confirmed"), "{said}");
    done(machine, ":", "application 1");
    machine.send("vestalctl system poweroff");
}

/// Partitions have a shorter name for it than the agent.
fn part((name, bytes): &(&str, Vec<u8>)) -> Part {
    Part::new(if *name == "application" { "app" } else { name }, bytes)
}

/// The device, and what its application's slots may hold.
fn devices(bench: &Bench, images: &Images) -> (Device, Device) {
    let release = |name: &str, images: &[(&str, Vec<u8>)], of_application: bool| Release {
        name: name.to_owned(),
        images: images
            .iter()
            .filter(|(name, _)| (*name == "application") == of_application)
            .map(part)
            .collect(),
    };
    let device = |of_application, mirrors| Device {
        loader: bench.loader,
        releases: vec![
            release("old", &images.old, of_application),
            release("new", &images.new, of_application),
        ],
        mirrors,
    };
    let mirrors = if bench.loader == Loader::UBoot { vec!["boot".to_owned()] } else { Vec::new() };
    (device(false, mirrors), device(true, Vec::new()))
}

/// Something whole boots, the old or the new as far as the guest has come, and the application belongs to what its state says.
fn check(cut: &mut Cut<'_, '_>, device: &Device, application: &Device) -> Result<(char, char)> {
    let (letter, release) = device.boots(cut)?;
    ensure!((letter == 'B') == (release == "new"), "set {letter} is {release}");
    ensure!(letter == 'A' || said(cut, "begun").is_some(), "set B is booted before the upgrade");
    ensure!(letter == 'B' || said(cut, "activated").is_none(), "set A is booted again");
    let state = cut.files("data")?.join("vestal");
    cuts::state::suite(&state)?;
    let used = cuts::state::in_use(&state, "application", letter)?;
    ensure!(application.is_whole(cut, "app", used)?, "slot {used} of the application is not whole");
    let wanted = if said(cut, "application").is_some() { "B" } else { "AB" };
    ensure!(wanted.contains(used), "slot {used} of the application is in use again");
    Ok((letter, used))
}

/// A cut disk is booted: everything becomes ready, in the set that was told, and the application in use is whole.
fn boots(bench: &Bench, images: &Images, disk: &Path, (letter, used): (char, char)) {
    let mut machine = bench.setup().start_with(disk);
    machine.until_lab();
    machine.until(ALL_READY);
    machine.until(HEALTHY);
    machine.ok("vestalctl status && vestalctl upgrade status");
    let booted = machine.ok("sed 's/.*vestal.slot=//; s/ .*//' /proc/cmdline");
    assert_eq!(booted, letter.to_string(), "{}", disk.display());
    let link = machine.until("readlink /run/application");
    // A switch that the journal has promised is done at the next start; none is undone.
    assert!(link.ends_with("app-b") || used == 'A', "slot {used} was in use, {link} is");
    let holds = |images: &[(&str, Vec<u8>)]| {
        let (_, bytes) = images.iter().find(|(name, _)| *name == "application").unwrap();
        let hex: String =
            Part::new("app", bytes).sha256.iter().map(|octet| format!("{octet:02x}")).collect();
        let read = format!("head -c {} /run/application | sha256sum", bytes.len());
        machine.ok(&read).starts_with(&hex)
    };
    assert!(holds(&images.old) || holds(&images.new), "{link} is not whole");
    machine.pull_the_plug();
}

#[track_caller]
fn is_old_or_new_after_every_cut(loader: Loader) {
    let Some(bench) = Bench::new(loader) else { return };
    let images = bench.images();
    let mut machine = bench.setup().disk(cuts::record).start_with(&bench.disk());
    upgrade(&bench, &machine, &images.new);
    machine.until_off();
    let history = history(&bench.image, &machine);
    drop(machine);

    let (device, application) = devices(&bench, &images);
    let mut sample = Sample::of(&history, if is_full() { BOOTS_FULL } else { BOOTS });
    let mut seen = Vec::new();
    let report = cut(&history, |cut| {
        let (letter, used) = check(cut, &device, &application)?;
        if !seen.contains(&(letter, used)) {
            seen.push((letter, used));
        }
        sample.look(cut, (letter, used))
    });
    assert_eq!(report.faults, [], "{report}");
    assert_eq!(seen, [('A', 'A'), ('B', 'A'), ('B', 'B')], "{report}");
    for (disk, found) in sample.kept() {
        boots(&bench, &images, disk, *found);
    }
}

#[test]
fn an_upgrade_is_old_or_new_after_every_cut_and_boots() {
    is_old_or_new_after_every_cut(Loader::Own);
}

#[test]
fn an_upgrade_through_u_boot_is_old_or_new_after_every_cut_and_boots() {
    if !is_full() {
        eprintln!("U-Boot's own writes are cut, too, with VESTAL_FULL");
        return;
    }
    is_old_or_new_after_every_cut(Loader::UBoot);
}
