//! The formats against the programs that others use for them: Debian's libubootenv-tool and grub-common.

use std::{fs, io, path::Path, process::Command};

use super::{
    Names,
    grub::Grub,
    own::Own,
    uboot::{UBoot, places},
};
use crate::{
    disk::Disk,
    engine::{
        choice::Choice,
        contract::{BootControl, Letter},
    },
};

const BOTH: Choice =
    Choice { order: [Some(Letter::B), Some(Letter::A)], tries: [3, 2], good: [true, true] };

/// A disk in memory that counts what is written.
#[derive(Clone)]
pub(crate) struct Memory {
    pub(crate) bytes: Vec<u8>,
    /// Where each write began, and how long it was.
    pub(crate) writes: Vec<(u64, usize)>,
}

impl Memory {
    pub(crate) fn zeros(length: usize) -> Self {
        Self { bytes: vec![0; length], writes: Vec::new() }
    }

    fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, writes: Vec::new() }
    }
}

impl Disk for Memory {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let at = usize::try_from(at).unwrap();
        let rest = &self.bytes[at.min(self.bytes.len())..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<usize> {
        self.writes.push((at, data.len()));
        let at = usize::try_from(at).unwrap();
        self.bytes[at..at + data.len()].copy_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// So that a test sees the disk behind a format.
impl Disk for &mut Memory {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(at, buffer)
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<usize> {
        (**self).write_at(at, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }
}

/// Runs a program of Debian's; its standard output.
#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/test installs it"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// An environment in files, with its configuration.
struct Env {
    folder: tempfile::TempDir,
    copies: usize,
    size: usize,
}

impl Env {
    /// Made by fw_setenv, with these variables.
    fn new(copies: usize, size: usize, variables: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let env = Self { folder, copies, size };
        let lines = (0..copies).map(|copy| format!("{} 0x10 {size:#x}\n", env.file(copy)));
        fs::write(env.path("fw_env.config"), lines.collect::<String>()).unwrap();
        for copy in 0..copies {
            fs::write(env.file(copy), vec![0xff; size + 0x10]).unwrap();
        }
        fs::write(env.path("defaults"), variables).unwrap();
        // With no valid copy it takes these, and writes all of them.
        env.set("first", "1");
        env
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn file(&self, copy: usize) -> String {
        self.path(&format!("env{copy}"))
    }

    fn set(&self, name: &str, value: &str) {
        let (config, defaults) = (self.path("fw_env.config"), self.path("defaults"));
        run("fw_setenv", &["-c", &config, "-f", &defaults, name, value]);
    }

    fn print(&self) -> Vec<String> {
        let text = run("fw_printenv", &["-c", &self.path("fw_env.config")]);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Does something with the environment as the agent sees it.
    fn with<T>(&self, action: impl FnOnce(&mut UBoot<Memory>) -> T) -> T {
        let config = fs::read_to_string(self.path("fw_env.config")).unwrap();
        let read = |place: super::uboot::Place| {
            (Memory::of(fs::read(&place.device).unwrap()), place.offset)
        };
        let copies = places(&config).unwrap().into_iter().map(read).collect();
        let mut env = UBoot::new(copies, self.size, Names::default()).unwrap();
        let outcome = action(&mut env);
        for (copy, (disk, _)) in env.into_copies().into_iter().enumerate() {
            assert!(copy < self.copies);
            fs::write(self.file(copy), disk.bytes).unwrap();
        }
        outcome
    }
}

#[test]
fn what_fw_setenv_writes_is_read_and_what_is_written_fw_printenv_reads() {
    for copies in [1, 2] {
        let env = Env::new(copies, 0x2000, "bootcmd=run main\nbaudrate=115200\n");
        env.set("BOOT_ORDER", "A B");
        env.set("BOOT_A_LEFT", "3");
        env.set("BOOT_B_LEFT", "a");
        let read = env.with(|env| env.load().unwrap());
        assert_eq!(read.order, [Some(Letter::A), Some(Letter::B)]);
        assert_eq!(read.tries, [3, 10]);
        // Several times, so that both copies are written.
        for tries in [9, 8, 7] {
            env.with(|env| env.store(&Choice { tries: [tries, 0], ..BOTH }).unwrap());
            let left = format!("BOOT_A_LEFT={tries:x}");
            let told = env.print();
            for line in
                ["BOOT_ORDER=B A", &left, "BOOT_B_LEFT=0", "baudrate=115200", "bootcmd=run main"]
            {
                assert!(told.iter().any(|it| it == line), "{line}: {told:?}");
            }
        }
        // And on top of ours again.
        env.set("BOOT_ORDER", "A");
        let read = env.with(|env| env.load().unwrap());
        assert_eq!((read.order, read.tries), ([Some(Letter::A), None], [7, 0]));
    }
}

#[test]
fn what_is_written_has_the_very_bytes_of_fw_setenv_up_to_the_padding() {
    let env = Env::new(2, 0x1000, "a=1\n");
    for (name, value) in [("BOOT_ORDER", "A B"), ("BOOT_A_LEFT", "3"), ("BOOT_B_LEFT", "3")] {
        env.set(name, value);
    }
    let read = |env: &Env| [0, 1].map(|copy| fs::read(env.file(copy)).unwrap());
    // The octet that counts up, and the variables; what is behind them is anything, and so is the checksum over it.
    let meant = |copy: &Vec<u8>| {
        let variables = copy[0x14..].windows(2).position(|pair| pair == [0, 0]).unwrap();
        copy[0x14..0x14 + variables].to_vec()
    };
    let before = read(&env);
    env.set("BOOT_ORDER", "B A");
    let theirs = read(&env);
    for (copy, bytes) in before.iter().enumerate() {
        fs::write(env.file(copy), bytes).unwrap();
    }
    let choice = Choice { tries: [3, 3], ..BOTH };
    env.with(|env| env.store(&choice).unwrap());
    assert_eq!(read(&env).each_ref().map(meant), theirs.each_ref().map(meant));
}

#[test]
fn a_torn_copy_costs_nothing_where_there_are_two() {
    let env = Env::new(2, 0x1000, "a=1\n");
    env.with(|env| env.store(&BOTH).unwrap());
    let whole = [0, 1].map(|copy| fs::read(env.file(copy)).unwrap());
    let next = Choice { tries: [1, 1], ..BOTH };
    env.with(|env| env.store(&next).unwrap());
    let written = (0..2).find(|copy| fs::read(env.file(*copy)).unwrap() != whole[*copy]).unwrap();
    let new = fs::read(env.file(written)).unwrap();
    for cut in (0..new.len()).step_by(512) {
        let torn = [&new[..cut], &whole[written][cut..]].concat();
        fs::write(env.file(written), &torn).unwrap();
        let read = env.with(|env| env.load().unwrap());
        assert!(read == BOTH || read == next, "cut at {cut}: {read:?}");
    }
}

#[test]
fn with_one_copy_one_sector_is_written() {
    let many: String = (0..20).map(|at| format!("many{at}={}\n", "x".repeat(100))).collect();
    let env = Env::new(1, 0x1000, &many);
    // The first one moves our variables to the front.
    env.with(|env| env.store(&BOTH).unwrap());
    let writes = env.with(|env| {
        env.store(&Choice { tries: [1, 3], ..BOTH }).unwrap();
        env.copies()[0].0.writes.clone()
    });
    assert_eq!(writes, [(0x10, 512)]);
    let told = env.print();
    assert!(many.lines().all(|line| told.iter().any(|it| it == line)), "{told:?}");
}

#[test]
fn an_environment_that_is_not_valid_is_refused_with_the_cure() {
    let copies = vec![(Memory::zeros(0x1000), 0)];
    let mut env = UBoot::new(copies, 0x1000, Names::default()).unwrap();
    for told in [env.load().unwrap_err(), env.store(&BOTH).unwrap_err()] {
        assert!(told.to_string().contains("fw_setenv"), "{told}");
    }
    let long = UBoot::new(vec![(Memory::zeros(0x1000), 8)], 0x1000, Names::default());
    assert!(long.err().unwrap().to_string().contains("behind the device"));
}

#[test]
fn the_configuration_of_the_environment_is_read_or_refused_by_line() {
    let read = places(
        "# two copies\n/dev/mmcblk0 0x3f0000 0x10000 # first\n/dev/mmcblk0 4194304 65536 0x200 1\n",
    );
    let read = read.unwrap();
    assert_eq!((read[0].offset, read[1].offset, read[1].size), (0x3f_0000, 0x40_0000, 0x1_0000));
    for (text, part) in [
        ("", "names no environment"),
        ("/dev/x 0x10\n", "line 1: write device"),
        ("\n/dev/x ten 0x10\n", "line 2: \"ten\" is no number"),
        ("/dev/x 0 0xffffffff\n", "line 1: the size"),
        ("/dev/x 0 64\n/dev/y 0 128\n", "different sizes"),
        ("/dev/x 0 64\n/dev/y 0 64\n/dev/z 0 64", "names 3"),
    ] {
        let told = places(text).unwrap_err();
        assert!(told.contains(part), "{text}: {told}");
    }
}

/// Does something with GRUB's block as the agent sees it.
fn with_grub<T>(
    file: &Path,
    action: impl FnOnce(&mut Grub<&mut Memory>) -> T,
) -> (T, Vec<(u64, usize)>) {
    let mut disk = Memory::of(fs::read(file).unwrap());
    let outcome = action(&mut Grub::new(&mut disk, 0, Names::default()).unwrap());
    fs::write(file, &disk.bytes).unwrap();
    (outcome, disk.writes)
}

#[test]
fn grub_editenv_reads_what_is_written_and_what_it_writes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grubenv");
    let path = file.display().to_string();
    let edit = |args: &[&str]| run("grub-editenv", &[&[&*path], args].concat());
    edit(&["create"]);
    edit(&["set", "saved_entry=the one", "odd=a\\b\nc=d"]);
    with_grub(&file, |grub| grub.store(&BOTH).unwrap());
    let told = edit(&["list"]);
    for line in ["BOOT_ORDER=B A", "BOOT_A_LEFT=3", "BOOT_B_LEFT=2", "saved_entry=the one"] {
        assert!(told.lines().any(|it| it == line), "{line}: {told}");
    }
    assert!(told.contains("odd=a\\b\nc=d"), "{told}");
    edit(&["set", "BOOT_B_LEFT=1", "BOOT_ORDER=A"]);
    let (read, _) = with_grub(&file, |grub| grub.load().unwrap());
    assert_eq!((read.order, read.tries), ([Some(Letter::A), None], [3, 1]));
    let ((), writes) = with_grub(&file, |grub| grub.store(&BOTH).unwrap());
    assert_eq!(writes, [(0, 512)]);
    assert_eq!(fs::metadata(&file).unwrap().len(), 1024);
}

#[test]
fn a_block_that_is_none_or_is_full_is_refused() {
    let load = |bytes: Vec<u8>| Grub::new(Memory::of(bytes), 0, Names::default())?.load();
    assert!(load(vec![0; 1024]).unwrap_err().to_string().contains("grub-editenv"));
    assert!(load(vec![0xff; 1024]).unwrap_err().to_string().contains("no text"));
    assert!(load(vec![0; 1000]).unwrap_err().to_string().contains("behind the device"));
    let mut full = format!("# GRUB Environment Block\nx={}\n", "y".repeat(970)).into_bytes();
    full.resize(1024, b'#');
    let mut grub = Grub::new(Memory::of(full), 0, Names::default()).unwrap();
    assert!(grub.store(&BOTH).unwrap_err().to_string().contains("1024"));
}

#[test]
fn every_format_keeps_every_choice() {
    let mut env = b"\0\0\0\0".to_vec();
    env.resize(0x1000, 0);
    let crc = crc32fast::hash(&env[4..]).to_le_bytes();
    env[..4].copy_from_slice(&crc);
    let mut block = b"# GRUB Environment Block\n".to_vec();
    block.resize(1024, b'#');
    let names = Names::default;
    let mut formats: [Box<dyn BootControl>; 3] = [
        Box::new(Own::new(Memory::zeros(1024))),
        Box::new(UBoot::new(vec![(Memory::of(env), 0)], 0x1000, names()).unwrap()),
        Box::new(Grub::new(Memory::of(block), 0, names()).unwrap()),
    ];
    for format in &mut formats {
        for order in [[Some(Letter::A), None], [Some(Letter::B), Some(Letter::A)]] {
            for tries in [[0, 3], [3, 1]] {
                let good = Letter::BOTH.map(|letter| order.contains(&Some(letter)));
                let choice = Choice { order, tries, good };
                format.store(&choice).unwrap();
                assert_eq!(format.load().unwrap(), choice);
            }
        }
    }
}
