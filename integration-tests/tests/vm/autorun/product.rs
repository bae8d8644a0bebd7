//! The product, its two disks, and the time at which it is switched on.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::machine::{Image, Machine, Setup};
use vestal_autorun::journal::{RECORD, Record, Unreadable};

use crate::support::succeeds;

/// The disk of the image is the second one; its device in the machine, or its only partition's.
pub(super) const SWAP: &str = "/dev/vdb";
const LABELLED: &str = "/dev/disk/by-partlabel/swap";
const SWAP_SIZE: u64 = 384 << 20;
/// The first of June 2021, in seconds since 1970: a month that no build of this has seen, and long enough for all lives.
const BEGINS: u64 = 1_622_505_600;
/// Hours from one life to the next, and hours of a day.
const OFF: u64 = 2;
const DAY: u64 = 24;
const HOUR: u64 = 3_600;
/// Where the superblock of a squashfs has the time at which it was made.
const ROOT_MADE: u64 = 8;

/// Which `autorun.toml` it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Settings {
    Good,
    /// A program of the product writes the image.
    Vendor,
    /// The image has the second disk for itself, and there is no swap.
    Snapshot,
    /// The data stays mounted in the image, which is in a partition that is known by its name.
    Trap,
}

impl Settings {
    /// What takes the place of the good one.
    fn file(self) -> Option<&'static str> {
        match self {
            Self::Good => None,
            Self::Vendor => Some("vendor.toml"),
            Self::Snapshot => Some("snapshot.toml"),
            Self::Trap => Some("trap.toml"),
        }
    }
}

pub(super) struct Product<'image> {
    image: &'image Image,
    folder: tempfile::TempDir,
    settings: Settings,
    /// Hours since [`BEGINS`], when it was switched on last.
    hours: u64,
}

impl<'image> Product<'image> {
    pub(super) fn new(image: &'image Image, settings: Settings) -> Self {
        let folder = tempfile::Builder::new().prefix("vm").tempdir_in("/tmp").unwrap();
        let product = Self { image, folder, settings, hours: 0 };
        image.pack_rootfs(&product.path("rootfs"), |root| put_on(root, settings));
        copy(&image.disk(), &product.disk());
        image.write_partition(&product.disk(), "rootfs-b", &product.path("rootfs"));
        let swap = fs::File::create(product.path("swap")).unwrap();
        swap.set_len(SWAP_SIZE).unwrap();
        if settings == Settings::Trap {
            let partition = ["-n", "1:2048:0", "-c", "1:swap", "-t", "1:8200"];
            succeeds(Command::new("sgdisk").arg("-o").args(partition).arg(product.path("swap")));
        }
        product
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The disk of the image.
    pub(super) fn swap(&self) -> PathBuf {
        self.path("swap")
    }

    /// The disk that nobody puts back.
    fn disk(&self) -> PathBuf {
        self.path("disk")
    }

    fn setup(&self) -> Setup<'image> {
        let swap = format!("file={},if=virtio,format=raw", self.path("swap").display());
        let (day, hour) = (1 + self.hours / DAY, self.hours % DAY);
        assert!(day <= 30, "June has no {day} days: switch it on less often");
        let clock = format!("base=2021-06-{day:02}T{hour:02}:00:00,clock=host");
        let setup = Setup::direct(self.image).slot('B');
        let setup = match self.settings {
            Settings::Snapshot => setup,
            Settings::Trap => setup.word("resume=PARTLABEL=swap"),
            Settings::Good | Settings::Vendor => setup.word(&format!("resume={SWAP}")),
        };
        setup.args(["-drive", swap.as_str(), "-rtc", clock.as_str()])
    }

    /// Switches it on where no image is left: one that was resumed is none any more.
    pub(super) fn boot(&mut self) -> Machine {
        let machine = self.switch_on();
        machine.until_lab();
        let swap = if self.settings == Settings::Trap { LABELLED } else { SWAP };
        if self.settings != Settings::Snapshot {
            machine.ok(&format!("mkswap {swap} && swapon {swap}"));
        }
        // All of the memory that is in use: the kernel takes seconds to find less of it.
        machine.ok("echo 268435456 > /sys/power/image_size");
        until_up(&machine);
        machine
    }

    /// Switches on one that can be suspended as well, and has no swap.
    pub(super) fn boot_without_swap(&mut self) -> Machine {
        self.hours += OFF;
        let machine = self.setup().packed_kernel().start_with(&self.disk());
        machine.until_lab();
        until_up(&machine);
        machine
    }

    /// Switches it on with what is on its disks.
    pub(super) fn switch_on(&mut self) -> Machine {
        self.hours += OFF;
        self.setup().without_reboots().start_with(&self.disk())
    }

    /// Takes the image, and keeps both disks as they are then.
    pub(super) fn hibernate(&self, mut machine: Machine) {
        self.ask(&machine);
        assert_eq!(machine.until_off(), "guest-shutdown");
        self.keep(&machine);
        copy(&self.path("swap"), &self.path("image"));
    }

    /// The shell in the guest doesn't wait for it: its next answer belongs to another life.
    pub(super) fn ask(&self, machine: &Machine) {
        machine.ok("vestalctl hibernate > /run/product/slept 2>&1 &");
    }

    /// Another life of the image, and the time at which it began.
    pub(super) fn resume(&mut self) -> (Machine, u64) {
        copy(&self.path("image"), &self.path("swap"));
        let machine = self.switch_on();
        (machine, BEGINS + self.hours * HOUR)
    }

    /// What the machine has left on its disk is there when it is switched on again.
    pub(super) fn keep(&self, machine: &Machine) {
        copy(&machine.disk(), &self.disk());
    }

    /// As if another root file system had been written over the one that runs, of which only its time of making is another one.
    pub(super) fn change_root(&self) {
        let made = self.image.partition("rootfs-b").start + ROOT_MADE;
        let disk = fs::OpenOptions::new().write(true).open(self.disk()).unwrap();
        disk.write_all_at(&[0x55; 4], made).unwrap();
    }

    pub(super) fn data(&self) -> Vec<u8> {
        self.image.read_partition(&self.disk(), "data")
    }

    /// The newest whole record, if one was ever written.
    #[track_caller]
    pub(super) fn journal(&self) -> Option<Record> {
        let start = self.image.partition("autorun").start;
        let disk = fs::File::open(self.disk()).unwrap();
        let slots = [0, 1].map(|slot| {
            let mut block = [0; RECORD];
            disk.read_exact_at(&mut block, start + slot * RECORD as u64).unwrap();
            Record::decode(&block)
        });
        let whole = slots.iter().flatten().max_by_key(|record| record.sequence);
        let blank = slots.iter().all(|slot| *slot == Err(Unreadable::Foreign));
        assert!(whole.is_some() || blank, "the journal can't be read: {slots:?}");
        whole.cloned()
    }
}

fn copy(from: &Path, to: &Path) {
    succeeds(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([from, to]));
}

/// The engine answers, and both programs draw.
fn until_up(machine: &Machine) {
    machine.until("vestalctl --json autorun status && test -s /run/product/df_logo && test -s /run/product/haier_board");
}

/// Lays the product over the root folder.
fn put_on(root: &Path, settings: Settings) {
    let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/autorun/overlay");
    succeeds(Command::new("cp").arg("-a").arg(overlay.join(".")).arg(root));
    if let Some(file) = settings.file() {
        let file = root.join("usr/lib/product").join(file);
        fs::copy(file, root.join("etc/vestal/autorun.toml")).unwrap();
    }
}
