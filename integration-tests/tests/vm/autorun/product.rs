//! The product, its two disks, and the time at which it is switched on.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::machine::{Image, Machine, Setup};
use vestal_autorun::journal::{RECORD, Record};

use crate::support::succeeds;

/// The disk of the image is the second one.
const SWAP: &str = "/dev/vdb";
const SWAP_SIZE: u64 = 384 << 20;
/// The first of June 2021, in seconds since 1970: a month that no build of this has seen, and long enough for all lives.
const BEGINS: u64 = 1_622_505_600;
/// Hours from one life to the next, and hours of a day.
const OFF: u64 = 2;
const DAY: u64 = 24;
const HOUR: u64 = 3_600;

/// Which `autorun.toml` it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Settings {
    Good,
    /// The data stays mounted in the image.
    Trap,
}

pub(super) struct Product<'image> {
    image: &'image Image,
    folder: tempfile::TempDir,
    /// Hours since [`BEGINS`], when it was switched on last.
    hours: u64,
}

impl<'image> Product<'image> {
    pub(super) fn new(image: &'image Image, settings: Settings) -> Self {
        let folder = tempfile::Builder::new().prefix("vm").tempdir_in("/tmp").unwrap();
        let product = Self { image, folder, hours: 0 };
        image.pack_rootfs(&product.path("rootfs"), |root| put_on(root, settings));
        copy(&image.disk(), &product.disk());
        image.write_partition(&product.disk(), "rootfs-b", &product.path("rootfs"));
        let swap = fs::File::create(product.path("swap")).unwrap();
        swap.set_len(SWAP_SIZE).unwrap();
        product
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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
        Setup::direct(self.image)
            .slot('B')
            .word(&format!("resume={SWAP}"))
            .without_reboots()
            .args(["-drive", swap.as_str(), "-rtc", clock.as_str()])
    }

    /// Switches it on where no image is left: one that was resumed is none any more.
    pub(super) fn boot(&mut self) -> Machine {
        let machine = self.switch_on();
        machine.until_lab();
        machine.ok(&format!("mkswap {SWAP} && swapon {SWAP}"));
        machine.until("vestalctl --json autorun status && test -s /run/product/df_logo && test -s /run/product/haier_board");
        machine
    }

    /// Switches it on with what is on its disks.
    pub(super) fn switch_on(&mut self) -> Machine {
        self.hours += OFF;
        self.setup().start_with(&self.disk())
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

    pub(super) fn data(&self) -> Vec<u8> {
        self.image.read_partition(&self.disk(), "data")
    }

    /// The newest whole record.
    pub(super) fn journal(&self) -> Option<Record> {
        let start = self.image.partition("autorun").start;
        let disk = fs::File::open(self.disk()).unwrap();
        let records = [0, 1].map(|slot| {
            let mut block = [0; RECORD];
            disk.read_exact_at(&mut block, start + slot * RECORD as u64).unwrap();
            Record::decode(&block).ok()
        });
        records.into_iter().flatten().max_by_key(|record| record.sequence)
    }
}

fn copy(from: &Path, to: &Path) {
    succeeds(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([from, to]));
}

/// Lays the product over the root folder.
fn put_on(root: &Path, settings: Settings) {
    let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/autorun/overlay");
    succeeds(Command::new("cp").arg("-a").arg(overlay.join(".")).arg(root));
    if settings == Settings::Trap {
        let trap = root.join("usr/lib/product/trap.toml");
        fs::copy(trap, root.join("etc/vestal/autorun.toml")).unwrap();
    }
}
