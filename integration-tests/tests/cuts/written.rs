//! The replay itself, on logs that are made here: each safe order of writes beside an unsafe one, which must be found.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::ensure;
use testkit::cuts::{
    self, Cut, Device, History, Image, Kind, Layout, Loader, Plan, Region, Release, Report,
    log::Writer,
};

const BLOCK: usize = 4096;
const MIB: u64 = 1 << 20;
const ENV: u64 = MIB;
const DATA: u64 = 16 * MIB;
const SLOTS: [(&str, u64); 4] =
    [("kernel-a", 2 * MIB), ("kernel-b", 4 * MIB), ("rootfs-a", 6 * MIB), ("rootfs-b", 8 * MIB)];
/// An image that takes three cuts while it is written.
const IMAGE: usize = 100 * BLOCK;

/// A disk, and what is written to it.
struct Scenario {
    folder: tempfile::TempDir,
    log: Writer<fs::File>,
}

impl Scenario {
    /// With these bytes at these places.
    fn new(base: &[(u64, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = fs::File::create(folder.path().join("base")).unwrap();
        disk.set_len(32 * MIB).unwrap();
        for (at, bytes) in base {
            disk.write_all_at(bytes, *at).unwrap();
        }
        let log = Writer::new(fs::File::create(folder.path().join("log")).unwrap()).unwrap();
        Self { folder, log }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.log.write(at, bytes).unwrap();
    }

    fn flush(&mut self) {
        self.log.flush().unwrap();
    }

    fn cut(self, losses: u32, check: impl FnMut(&mut Cut<'_, '_>) -> anyhow::Result<()>) -> Report {
        self.log.finish().unwrap();
        let path = |name: &str| self.folder.path().join(name);
        let history = History::read(&path("base"), &path("log"), layout()).unwrap();
        let report = cuts::run(&history, Plan { losses, ..Plan::default() }, check).unwrap();
        eprintln!("{report}");
        report
    }
}

fn layout() -> Layout {
    let region =
        |name: &str, start, length, kind| Region { name: name.to_owned(), start, length, kind };
    let mut regions =
        vec![region("env", ENV, 512, Kind::Records), region("data", DATA, 16 * MIB, Kind::Data)];
    regions.extend(SLOTS.map(|(name, start)| region(name, start, 2 * MIB, Kind::Slot)));
    Layout::new(regions).unwrap()
}

/// Three blocks, which a file system may write one by one.
fn content(version: u8) -> Vec<u8> {
    let line = format!("version {version}\n");
    line.bytes().cycle().take(3 * BLOCK).collect()
}

/// An ext4 image with these files, and where on the disk the blocks of each are.
fn file_system(files: &[(&str, &[u8])]) -> (Vec<u8>, Vec<Vec<u64>>) {
    let folder = tempfile::tempdir().unwrap();
    let (image, source) = (folder.path().join("image"), folder.path().join("files"));
    for (name, bytes) in files {
        let path = source.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::File::create(&image).unwrap().set_len(16 * MIB).unwrap();
    let made = sbin("mke2fs")
        .args(["-q", "-t", "ext4", "-b", "4096", "-d"])
        .args([&source, &image])
        .status()
        .unwrap();
    assert!(made.success());
    let places = files.iter().map(|(name, _)| {
        let told = sbin("debugfs").args(["-R", &format!("blocks /{name}")]).arg(&image).output();
        let told = String::from_utf8(told.unwrap().stdout).unwrap();
        let block = |word: &str| DATA + word.parse::<u64>().unwrap() * BLOCK as u64;
        told.split_whitespace().map(block).collect()
    });
    let places = places.collect();
    (fs::read(image).unwrap(), places)
}

/// These tools are often not where ordinary users look.
fn sbin(name: &str) -> Command {
    let path = Path::new("/usr/sbin").join(name);
    Command::new(if path.is_file() { path } else { PathBuf::from(name) })
}

#[test]
fn a_file_that_is_overwritten_in_place_is_found_torn() {
    let versions: Vec<Vec<u8>> = (0..4).map(content).collect();
    let (image, places) = file_system(&[("state", &versions[0])]);
    let mut scenario = Scenario::new(&[(DATA, &image)]);
    for version in &versions[1..] {
        // What the kernel does for a write over the whole file: its blocks, in one request where they are neighbours.
        assert_eq!(places[0][2], places[0][0] + 2 * BLOCK as u64);
        scenario.write(places[0][0], version);
        scenario.flush();
    }
    let report = scenario
        .cut(0, |cut| cuts::state::version(&cut.files("data")?.join("state"), &versions).map(drop));
    // Within each of the three overwrites there are two places to cut; all others are between them.
    assert_eq!((report.cuts, report.faults.len()), (10, 6));
    assert!(report.faults.iter().all(|fault| fault.text.contains("state is torn")), "{report}");
    let steps: Vec<usize> = report.faults.iter().map(|fault| fault.steps).collect();
    assert_eq!(steps, [1, 2, 5, 6, 9, 10]);
}

#[test]
fn two_records_that_take_turns_are_never_both_torn_and_others_are_found() {
    let (image, places) = file_system(&[("vestal/upgrade/journal", &[1; 2 * BLOCK])]);
    let mut zeros = image.clone();
    for place in &places[0] {
        let at = usize::try_from(place - DATA).unwrap();
        zeros[at..at + BLOCK].fill(0);
    }
    let record = |sequence: u8| {
        let mut bytes = [sequence; BLOCK];
        bytes[..8].copy_from_slice(b"VUPJOURN");
        bytes[16..20].fill(0);
        let sum = crc32c(&bytes[..BLOCK - 4]);
        bytes[BLOCK - 4..].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    // Sector by sector, as a disk with small sectors may lose them.
    let write = |scenario: &mut Scenario, sequence: u8, records: &[usize]| {
        let bytes = record(sequence);
        for (number, sector) in bytes.chunks(512).enumerate() {
            for place in records {
                scenario.write(places[0][*place] + 512 * number as u64, sector);
            }
        }
        scenario.flush();
    };
    let run = |both_at_once: bool| {
        let mut scenario = Scenario::new(&[(DATA, &zeros)]);
        for sequence in 0..3 {
            match both_at_once {
                false => write(&mut scenario, sequence, &[usize::from(sequence % 2)]),
                true => write(&mut scenario, sequence, &[0, 1]),
            }
        }
        scenario.cut(1, |cut| cuts::state::suite(&cut.files("data")?.join("vestal")))
    };
    let report = run(false);
    assert_eq!(report.faults, []);
    assert!(report.cuts == 25 && report.losses == 24, "{report}");
    let report = run(true);
    assert!(report.faults.len() > 20, "{report}");
    assert!(report.faults[0].text.contains("neither record is good"), "{report}");
}

/// Castagnoli's, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, octet| (0..8).fold(crc ^ u32::from(*octet), shift))
}

#[test]
fn a_damaged_file_system_is_found() {
    let (image, places) = file_system(&[("state", &content(0))]);
    let mut scenario = Scenario::new(&[(DATA, &image)]);
    // The root folder's block is the one before the first that has data, or near it: the inode table is damaged for certain.
    scenario.write(places[0][0], &content(1));
    scenario.write(DATA, &[0xff; BLOCK]);
    let report = scenario.cut(0, |cut| cut.files("data").map(drop));
    let texts: Vec<&str> = report.faults.iter().map(|fault| &*fault.text).collect();
    assert_eq!(texts.len(), 1, "{report}");
    assert!(texts[0].contains("can't be recovered"), "{report}");
}

fn environment(order: &str, left: [u8; 2]) -> [u8; 512] {
    let text = format!("BOOT_ORDER={order}\0BOOT_A_LEFT={}\0BOOT_B_LEFT={}\0", left[0], left[1]);
    let mut bytes = [0; 512];
    bytes[4..4 + text.len()].copy_from_slice(text.as_bytes());
    let sum = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// How the writer of an upgrade goes about it.
#[derive(Clone, Copy)]
struct Manners {
    /// Tells the loader before the first write that this set is not to be booted.
    takes_it_out: bool,
    /// Flushes the slots before it tells the loader to boot them.
    flushes: bool,
}

/// An upgrade from set A to set B, as the upgrade agent does it, or not quite.
fn upgrade(manners: Manners) -> Report {
    let image = |octet: u8| vec![octet; IMAGE];
    let [old_kernel, old_root, new_kernel, new_root] = [1, 2, 3, 4].map(image);
    let before = environment("A B", [3, 3]);
    let mut base: Vec<(u64, &[u8])> = vec![(ENV, &before)];
    for ((_, at), bytes) in SLOTS.iter().zip([&old_kernel, &old_kernel, &old_root, &old_root]) {
        base.push((*at, bytes));
    }
    let mut scenario = Scenario::new(&base);
    if manners.takes_it_out {
        scenario.write(ENV, &environment("A", [3, 0]));
        scenario.flush();
    }
    for ((_, at), bytes) in [SLOTS[1], SLOTS[3]].iter().zip([&new_kernel, &new_root]) {
        for (at, run) in (*at..).step_by(BLOCK * 50).zip(bytes.chunks(BLOCK * 50)) {
            scenario.write(at, run);
        }
    }
    if manners.flushes {
        scenario.flush();
    }
    scenario.write(ENV, &environment("B A", [3, 3]));
    scenario.flush();
    let release = |name: &str, kernel: &[u8], root: &[u8]| Release {
        name: name.to_owned(),
        images: vec![Image::new("kernel", kernel), Image::new("rootfs", root)],
    };
    let device = Device {
        loader: Loader::UBoot,
        releases: vec![
            release("old", &old_kernel, &old_root),
            release("new", &new_kernel, &new_root),
        ],
        mirrors: Vec::new(),
    };
    let mut boots = Vec::new();
    let saved = scenario.folder.path().join("saved");
    let report = scenario.cut(8, |cut| {
        let (letter, release) = device.boots(cut)?;
        if boots.is_empty() {
            // What is saved is the disk that was looked at.
            cut.save(&saved)?;
            let (mut there, mut here) = ([0; 512], [0; 512]);
            fs::File::open(&saved)?.read_exact_at(&mut there, ENV)?;
            cut.read("env", 0, &mut here)?;
            ensure!(there == here && there != [0; 512], "another disk was saved");
        }
        boots.push((letter, release.to_owned()));
        ensure!((letter == 'B') == (release == "new"), "{letter} is {release}");
        Ok(())
    });
    boots.dedup();
    if report.faults.is_empty() {
        assert_eq!(boots.first(), Some(&('A', "old".to_owned())));
        assert!(boots.contains(&('B', "new".to_owned())));
    }
    report
}

#[test]
fn an_upgrade_in_the_right_order_boots_after_every_cut() {
    let report = upgrade(Manners { takes_it_out: true, flushes: true });
    assert_eq!(report.faults, []);
    assert!(report.cuts >= 9 && report.losses >= 40, "{report}");
}

#[test]
fn a_set_that_is_written_while_it_may_be_booted_is_found() {
    let report = upgrade(Manners { takes_it_out: false, flushes: true });
    assert!(report.faults.iter().any(|fault| fault.loss.is_none()), "{report}");
    assert!(report.faults[0].text.contains("set B may be booted"), "{report}");
}

#[test]
fn a_switch_to_slots_that_were_not_flushed_is_found_only_where_writes_are_lost() {
    let report = upgrade(Manners { takes_it_out: true, flushes: false });
    assert!(!report.faults.is_empty(), "{report}");
    assert!(report.faults.iter().all(|fault| fault.loss.is_some()), "{report}");
}
