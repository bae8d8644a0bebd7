//! Who writes the image: we ourselves ([`snapshot`]), the kernel (`sysfs`), a vendor's program (`exec`), or somebody else (`none`).
//! What would make it fail is looked for before anything is stopped.
//!
//! `/sys/power/state` is written by a child of its own, `vestal-autorun --write-image KIND`: its successful end is the next life.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use protocol::autorun::{Check, Sleep};

use super::{
    hands::Hands,
    mounts::{self, mounted},
    raw::{ImageDevice, Slots, superblock},
    restore::RESTORE,
    snapshot,
    world::World,
};
use crate::{journal::Disk as _, settings::BackEnd, sys};

pub(crate) const WRITE: &str = "--write-image";
const STATE: &str = "/sys/power/state";
const DISK: &str = "/sys/power/disk";
const RESUME: &str = "/sys/power/resume";
const OFFSET: &str = "/sys/power/resume_offset";
const SIZE: &str = "/sys/power/image_size";
const SWAPS: &str = "/proc/swaps";

/// A line of `/proc/swaps`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Swap {
    pub(super) path: String,
    is_file: bool,
    free: u64,
}

impl Swap {
    /// Its content is in the image.
    fn is_memory(&self) -> bool {
        self.path.starts_with("/dev/zram")
    }
}

/// What a back end is called, and why it was chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) back_end: BackEnd,
    pub(super) why: String,
}

/// The child's part. Exit code 0: the machine slept, and this is the life after it.
pub(crate) fn write(mut args: impl Iterator<Item = String>) -> ExitCode {
    let world = World::find();
    let kind = args.next();
    let written = match (kind.as_deref(), args.next(), args.next().as_deref().and_then(id)) {
        (Some("hibernate"), ..) => write_state(&world, Sleep::Hibernate).map(|()| ""),
        (Some("suspend"), ..) => write_state(&world, Sleep::Suspend).map(|()| ""),
        (Some(snapshot::KIND), Some(device), Some(image)) => {
            snapshot::write(&world, Path::new(&device), image).map(|()| snapshot::WOKE)
        }
        _ => return ExitCode::from(2),
    };
    match written {
        Ok(word) => {
            print!("{word}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            // Read by who started us.
            print!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// From the digits of an image's id.
fn id(digits: &str) -> Option<[u8; 32]> {
    let mut id = [0; 32];
    if digits.len() != 2 * id.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, octet) in id.iter_mut().enumerate() {
        *octet = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(id)
}

fn write_state(world: &World, kind: Sleep) -> Result<(), String> {
    let put = |path: &str, word: &str| {
        let written = OpenOptions::new()
            .write(true)
            .open(world.written(path))
            .and_then(|mut file| file.write_all(word.as_bytes()));
        written.map_err(|error| format!("write {word} to {path}: {error}"))
    };
    match kind {
        Sleep::Hibernate => {
            // The image is resumed at any later boot: nothing that firmware keeps for one wake-up may belong to it.
            let modes = world.text(DISK).map_err(|error| format!("{DISK}: {error}"))?;
            if offers(&modes, "shutdown") {
                put(DISK, "shutdown")?;
            }
            put(STATE, "disk")
        }
        Sleep::Suspend => put(STATE, "mem"),
    }
}

/// Whether a list like `[platform] shutdown` has the word.
fn offers(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|one| one.trim_matches(['[', ']']) == word)
}

/// The command that writes the image with the kernel.
pub(super) fn writer(kind: Sleep) -> Command {
    let kind = match kind {
        Sleep::Hibernate => "hibernate",
        Sleep::Suspend => "suspend",
    };
    let mut command = Command::new("/proc/self/exe");
    command.arg0("vestal-autorun").args([WRITE, kind]).stdin(Stdio::null()).stdout(Stdio::piped());
    sys::die_with_us(&mut command);
    command
}

impl Hands {
    /// What `auto` means here.
    pub(super) fn choose(&self, kind: Sleep, wanted: Option<BackEnd>) -> Result<Chosen, String> {
        let wanted = wanted.unwrap_or(self.settings.back_end);
        let named = |why: &str| Ok(Chosen { back_end: wanted, why: why.to_owned() });
        match wanted {
            BackEnd::None => return named("another program writes the image"),
            BackEnd::Exec if self.settings.exec.is_empty() => {
                return Err("back end exec: nothing to run; set exec in autorun.toml".to_owned());
            }
            BackEnd::Exec => {
                return runnable(Path::new(&self.settings.exec[0]))
                    .and_then(|()| named("it was asked for"));
            }
            BackEnd::Snapshot if kind == Sleep::Hibernate => {
                return self.own().and_then(|why| named(&why));
            }
            BackEnd::Snapshot | BackEnd::Sysfs => {
                // A suspend needs no image: memory stays.
                let why = self.kernel(kind)?;
                return Ok(Chosen { back_end: BackEnd::Sysfs, why });
            }
            BackEnd::Auto => {}
        }
        let mut before = String::new();
        if self.settings.image.is_some() && kind == Sleep::Hibernate {
            match self.own() {
                Ok(why) => return Ok(Chosen { back_end: BackEnd::Snapshot, why }),
                Err(why) => before = format!("not snapshot: {why}; "),
            }
        }
        match self.kernel(kind) {
            Ok(why) => Ok(Chosen { back_end: BackEnd::Sysfs, why: format!("{before}{why}") }),
            Err(why) if !self.settings.exec.is_empty() => {
                runnable(Path::new(&self.settings.exec[0]))?;
                Ok(Chosen { back_end: BackEnd::Exec, why: format!("{before}not sysfs: {why}") })
            }
            Err(why) => Err(format!(
                "{before}{why}; where another program writes the image, set back-end = \"none\" in autorun.toml"
            )),
        }
    }

    /// Why we can do it ourselves, or why not.
    fn own(&self) -> Result<String, String> {
        let path = self.settings.image.as_ref();
        let path = path.ok_or("back end snapshot: no device; set image in autorun.toml")?;
        self.offers_hibernation()?;
        let snapshot = self.world.at(snapshot::DEVICE);
        if !snapshot.exists() {
            return Err(format!(
                "{} is not there; build the kernel with CONFIG_HIBERNATION_SNAPSHOT_DEV",
                snapshot::DEVICE
            ));
        }
        let told = |error: io::Error| format!("image {}: {error}", path.display());
        let device = ImageDevice::open(&self.world.device(path)).map_err(told)?;
        let needed = self.image_size()?;
        if device.room < needed {
            let (room, needed) = (device.room >> 20, needed >> 20);
            return Err(format!(
                "{} has room for {room} MiB, and the image needs about {needed}; enlarge it, or lower {SIZE}",
                path.display()
            ));
        }
        let stays = swaps(&self.world)?.into_iter().find(|swap| {
            let listed = |listed: &PathBuf| {
                let at = self.world.device(listed);
                listed == Path::new(&swap.path)
                    || fs::canonicalize(at).is_ok_and(|real| real == Path::new(&swap.path))
            };
            !swap.is_memory() && !self.settings.swapoff.iter().any(listed)
        });
        if let Some(Swap { path, .. }) = stays {
            return Err(format!(
                "the swap {path} is a part of the image's memory, and changes from life to life; list it in swapoff"
            ));
        }
        Ok(format!("{} is there, and the image fits into {}", snapshot::DEVICE, path.display()))
    }

    fn offers_hibernation(&self) -> Result<(), String> {
        let modes = self.world.text(DISK).map_err(|error| format!("{DISK}: {error}"))?;
        if offers(&modes, "disabled") {
            return Err(format!("{DISK}: hibernation is disabled (nohibernate, or lockdown)"));
        }
        Ok(())
    }

    /// Why the kernel can do it, or why not.
    fn kernel(&self, kind: Sleep) -> Result<String, String> {
        let world = &self.world;
        let states = world.text(STATE).map_err(|error| format!("{STATE}: {error}"))?;
        let word = if kind == Sleep::Hibernate { "disk" } else { "mem" };
        if !offers(&states, word) {
            return Err(format!("{STATE} offers {states:?} and not {word}"));
        }
        if kind == Sleep::Suspend {
            return Ok(format!("{STATE} offers mem"));
        }
        self.offers_hibernation()?;
        let (swap, resume) = self.resume_device()?;
        let free = swap.free;
        let needed = self.image_size()?;
        if free < needed {
            let (free, needed) = (free >> 20, needed >> 20);
            return Err(format!(
                "{} has {free} MiB free, and the image needs about {needed}; enlarge it, or lower {SIZE}",
                swap.path
            ));
        }
        Ok(format!("{STATE} offers disk, and the image fits into {} ({resume})", swap.path))
    }

    /// The swap that the next boot looks for an image in.
    fn resume_device(&self) -> Result<(Swap, String), String> {
        let resume = self.world.text(RESUME).map_err(|error| format!("{RESUME}: {error}"))?;
        if resume == "0:0" || resume.is_empty() {
            return Err(format!(
                "{RESUME} is not set, so that no boot would find the image; start the kernel with resume="
            ));
        }
        let swaps = swaps(&self.world)?;
        let offset = self.world.text(OFFSET).unwrap_or_default();
        let file = offset.parse::<u64>().is_ok_and(|offset| offset > 0);
        let name = self.device_name(&resume);
        let found = swaps
            .into_iter()
            .find(|swap| if swap.is_file { file } else { name.as_ref() == Some(&swap.path) });
        let named = name.unwrap_or_else(|| resume.clone());
        let found = found.ok_or_else(|| {
            format!("no active swap is on {named}, which {RESUME} names; swapon it first")
        })?;
        Ok((found, resume))
    }

    /// `254:1` is `/dev/vda1`.
    fn device_name(&self, numbers: &str) -> Option<String> {
        let text = self.world.text(&format!("/sys/dev/block/{numbers}/uevent")).ok()?;
        let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(format!("/dev/{name}"))
    }

    /// In octets, about: what is used of memory, of which the kernel first drops what it can down to its limit.
    fn image_size(&self) -> Result<u64, String> {
        let told = |error: io::Error| format!("{SIZE}: {error}");
        let limit = self.world.text(SIZE).map_err(told)?.parse::<u64>().unwrap_or(u64::MAX);
        let memory = self.world.text("/proc/meminfo").unwrap_or_default();
        let field = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        let used = match (field("MemTotal:"), field("MemFree:")) {
            (Some(total), Some(free)) => total.saturating_sub(free) << 10,
            _ => u64::MAX,
        };
        Ok(limit.min(used))
    }

    /// What would keep arming from succeeding, and what a reader may want to know.
    pub(super) fn check(&self, kind: Sleep, back_end: Option<BackEnd>) -> Check {
        let mut check = Check::default();
        match self.choose(kind, back_end) {
            Ok(Chosen { back_end, why }) => {
                let fake =
                    if self.world.is_fake() { ", on a machine that is a folder" } else { "" };
                check.notes.push(format!("back end {}: {why}{fake}", name(back_end)));
                if back_end == BackEnd::Snapshot {
                    check.notes.extend(self.note_of_root());
                }
            }
            Err(why) => check.problems.push(why),
        }
        if kind == Sleep::Hibernate {
            check.problems.extend(self.check_devices());
            if self.settings.journal.is_none() {
                let text =
                    "no journal: lives of an image are not counted, and it can't be invalidated";
                check.notes.push(text.to_owned());
            }
            if self.world.at("/sys/power/freeze_filesystems").exists() {
                check.notes.push("this kernel can freeze file systems by itself".to_owned());
            }
        }
        for target in &self.settings.targets {
            if let crate::settings::Work::Program(command) = &target.work
                && let Err(why) = runnable(Path::new(&command[0]))
            {
                check.problems.push(format!("target {}: {why}", target.name));
            }
        }
        check
    }

    /// Where the root file system can't be looked into without being written, nobody asks us before it is mounted.
    fn note_of_root(&self) -> Option<String> {
        let mounted = mounted(&self.world).ok()?;
        let kind = &mounts::at(&mounted, Path::new("/"))?.kind;
        let asks = ["squashfs", "erofs"].contains(&kind.as_str());
        (!asks).then(|| {
            format!(
                "the root file system is {kind}: the initramfs of scripts/image resumes the image only where it is squashfs or \
                 EROFS; another initramfs has to run vestal-autorun {RESTORE}"
            )
        })
    }

    fn check_devices(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(place) = &self.settings.journal {
            let read = |mut slots: Slots| {
                let read = [0, 1].map(|slot| slots.read(slot).err());
                let told = |error| format!("journal {}: {error}", place.path.display());
                read.into_iter().flatten().next().map_or(Ok(()), |error| Err(told(error)))
            };
            let path = self.world.device(&place.path);
            problems.extend(Slots::open(&path, place).and_then(read).err());
        }
        for device in &self.settings.guard {
            if let Err(error) = superblock(&self.world.device(device)) {
                problems.push(format!("guard {}: {error}", device.display()));
            }
        }
        problems
    }
}

pub(super) fn name(back_end: BackEnd) -> &'static str {
    match back_end {
        BackEnd::Auto => "auto",
        BackEnd::Snapshot => "snapshot",
        BackEnd::Sysfs => "sysfs",
        BackEnd::Exec => "exec",
        BackEnd::None => "none",
    }
}

fn runnable(program: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    match fs::metadata(program) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(format!("{} is not executable", program.display())),
        Err(error) => Err(format!("{}: {error}", program.display())),
    }
}

pub(super) fn swaps(world: &World) -> Result<Vec<Swap>, String> {
    let text = world.text(SWAPS).map_err(|error| format!("{SWAPS}: {error}"))?;
    let swap = |line: &str| {
        let mut fields = line.split_whitespace();
        let path = fields.next()?.replace("\\040", " ");
        let is_file = fields.next()? == "file";
        let (size, used): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Swap { path, is_file, free: size.saturating_sub(used) << 10 })
    };
    Ok(text.lines().skip(1).filter_map(swap).collect())
}
