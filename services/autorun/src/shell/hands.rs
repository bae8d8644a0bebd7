//! What is done to the machine before an image and after it, one step each. Everything here may wait for a disk, so it runs on
//! threads of its own; nothing here decides whether it is to be done.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use daemon::clock;
use rustix::{
    fs::OFlags,
    rand::{GetRandomFlags, getrandom},
    time::{ClockId, Timespec, clock_settime},
};
use sha2::{Digest as _, Sha256};

use super::{
    backend::swaps,
    mounts::{self, mounted},
    notes::Notes,
    raw::{Slots, superblock},
    restore,
    world::World,
};
use crate::{
    journal::{Journal, Record, Stage},
    machine::{Entropy, Outcome, Step, To},
    settings::Settings,
    sys,
};

/// What the hardware's generator is asked for.
const HARDWARE: usize = 64;
/// A clock that is so little wrong is left alone.
const CLOCK_WRONG: u64 = 2;
/// What tells this device from others of its kind.
const IDENTITY: [&str; 4] = [
    "/proc/device-tree/serial-number",
    "/proc/device-tree/model",
    "/sys/class/dmi/id/product_uuid",
    "/sys/class/dmi/id/product_name",
];

/// Everything that a step needs.
#[derive(Clone, Debug)]
pub(super) struct Hands {
    pub(super) world: World,
    pub(super) settings: Arc<Settings>,
    pub(super) notes: Notes,
    /// Records are written in the order in which they were given.
    pub(super) pen: Arc<Mutex<()>>,
}

impl Hands {
    pub(super) fn carry_out(&self, step: &Step) -> Result<Outcome, String> {
        match step {
            Step::Unmount(place) => self.unmount(place),
            Step::Freeze => self.freeze_all(),
            Step::Superblocks => self.keep_superblocks(),
            Step::Swapoff(path) => self.swap_off(path),
            Step::Identify => self.identify(),
            Step::Forget => self.notes.forget_current().map(|()| Outcome::Done),
            // The machine's own, and the supervisor's.
            Step::Check | Step::Prepare | Step::Record | Step::Service { .. } => Ok(Outcome::Done),
        }
    }

    /// Harmless where there is nothing to take back.
    pub(super) fn take_back(&self, step: &Step) -> Result<Outcome, String> {
        match step {
            Step::Unmount(place) => self.mount(place),
            Step::Freeze => self.thaw_all(),
            Step::Swapoff(path) => self.swap_on(path),
            _ => Ok(Outcome::Already),
        }
    }

    /// Opened each time: an image would bring back a descriptor, and with it whatever was cached.
    pub(super) fn with_journal<T>(
        &self,
        what: impl FnOnce(&mut Journal<Slots>) -> Result<T, String>,
    ) -> Result<T, String> {
        let place = self.settings.journal.as_ref().ok_or("there is no journal")?;
        let slots = Slots::open(&self.world.device(&place.path), place)?;
        what(&mut Journal::new(slots))
    }

    pub(super) fn save(&self, record: &Record, to: To) -> Outcome {
        let _pen = self.pen.lock().expect("nothing panics while it writes a record");
        let journal = match to {
            To::Current => Ok(()),
            To::Journal | To::Both => {
                self.with_journal(|journal| journal.write(record).map(|_| ()))
            }
        };
        if let (Stage::Done, Some(path)) = (record.stage, &self.settings.image)
            && to != To::Current
            && let Err(why) = restore::proven(&self.world, path, record.image)
        {
            tracing::error!("this life is counted as one that was not done: {why}");
        }
        let current = match to {
            To::Journal => Ok(()),
            To::Current | To::Both => self.notes.save_current(record),
        };
        Outcome::Saved { journal, current }
    }

    fn keep_superblocks(&self) -> Result<Outcome, String> {
        self.world.sync();
        let mut kept = self.notes.kept()?;
        kept.superblocks.clear();
        for device in &self.settings.guard {
            kept.superblocks.push((device.clone(), self.digest(device)?));
        }
        self.notes.save_kept(&kept).map(|()| Outcome::Done)
    }

    /// Whether all are as they were kept.
    pub(super) fn guard(&self) -> Result<Outcome, String> {
        let kept = self.notes.kept()?;
        for device in &self.settings.guard {
            let path = device.display();
            let before = kept.superblocks.iter().find(|(known, _)| known == device);
            let (_, before) =
                before.ok_or_else(|| format!("{path}: its superblock was not kept"))?;
            if self.digest(device)? != *before {
                return Err(format!("{path} was changed after the image was taken"));
            }
        }
        Ok(Outcome::Done)
    }

    fn digest(&self, device: &Path) -> Result<[u8; 32], String> {
        let told = |error: io::Error| format!("superblock of {}: {error}", device.display());
        let block = superblock(&self.world.device(device)).map_err(told)?;
        Ok(Sha256::digest(*block).into())
    }

    fn swap_off(&self, path: &Path) -> Result<Outcome, String> {
        if !self.is_swap(path)? {
            return Ok(Outcome::Already);
        }
        let done = self.world.act(&format!("swapoff {}", path.display()), || sys::swap_off(path));
        done.map_err(|error| format!("swapoff {}: {error}", path.display()))?;
        Ok(Outcome::Done)
    }

    fn swap_on(&self, path: &Path) -> Result<Outcome, String> {
        if self.is_swap(path)? {
            return Ok(Outcome::Already);
        }
        let done = self.world.act(&format!("swapon {}", path.display()), || sys::swap_on(path));
        done.map_err(|error| format!("swapon {}: {error}", path.display()))?;
        Ok(Outcome::Done)
    }

    /// The kernel has resolved the links of a path.
    fn is_swap(&self, path: &Path) -> Result<bool, String> {
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Ok(swaps(&self.world)?.iter().any(|swap| Path::new(&swap.path) == real))
    }

    /// SHA-256 of what the image depends on, with a count, so that no two images have the same id.
    fn identify(&self) -> Result<Outcome, String> {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        let system = rustix::system::uname();
        add(system.release().to_bytes());
        add(system.version().to_bytes());
        let mounted = mounted(&self.world)?;
        let root = mounts::at(&mounted, Path::new("/")).map(|root| &root.source);
        // A root that is on no device is a part of the kernel's image or of the memory's.
        let root =
            root.filter(|source| source.starts_with("/dev/") && *source != Path::new("/dev/root"));
        match root {
            Some(device) => add(&self.digest(device)?),
            None => add(b"no device"),
        }
        add(&self.settings.digest);
        for path in IDENTITY {
            add(self.world.text(path).unwrap_or_default().as_bytes());
        }
        let count = match self.settings.journal {
            Some(_) => self.with_journal(|journal| {
                // What can't be read is written over, with a sequence of its own.
                Ok(journal.read().ok().flatten().map_or(0, |record| record.sequence))
            })?,
            None => clock::now().0,
        };
        add(&count.to_le_bytes());
        let mut seed = [0; 32];
        draw(&mut seed)?;
        Ok(Outcome::Identified { image: hash.finalize().into(), seed })
    }

    /// What two lives of an image have in common must not decide what they draw.
    pub(super) fn reseed(&self, entropy: &Entropy) -> Result<Outcome, String> {
        let Entropy { ordinal, seed, clocks } = entropy;
        let mut mix = Vec::with_capacity(256);
        mix.extend(ordinal.to_le_bytes());
        mix.extend(seed);
        mix.extend(clocks.rtc.unwrap_or(0).to_le_bytes());
        mix.extend(clocks.boottime.as_nanos().to_le_bytes());
        mix.extend(clocks.monotonic.as_nanos().to_le_bytes());
        mix.extend(self.hardware());
        let reseeded = self.world.act(&format!("reseed {ordinal}"), || {
            let mut urandom = OpenOptions::new().write(true).open("/dev/urandom")?;
            urandom.write_all(&mix)?;
            sys::reseed(&urandom)
        });
        reseeded.map_err(|error| format!("/dev/urandom: {error}"))?;
        let (mut run, mut seed) = ([0; 16], [0; 32]);
        draw(&mut run)?;
        draw(&mut seed)?;
        Ok(Outcome::Fresh { run, seed })
    }

    /// What the hardware gives without being waited for.
    fn hardware(&self) -> Vec<u8> {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let path = self.world.at("/dev/hwrng");
        let mut drawn = vec![0; HARDWARE];
        let opened: io::Result<File> = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let count = opened.and_then(|mut device| device.read(&mut drawn)).unwrap_or(0);
        drawn.truncate(count);
        drawn
    }

    pub(super) fn set_clock(&self) -> Result<Outcome, String> {
        let rtc = self.world.rtc().and_then(|seconds| u64::try_from(seconds).ok());
        let rtc = rtc.ok_or("there is no rtc0; say clock = \"keep\" on a board without one")?;
        if clock::wall().as_secs().abs_diff(rtc) < CLOCK_WRONG {
            return Ok(Outcome::Already);
        }
        let time = Timespec { tv_sec: i64::try_from(rtc).unwrap_or(i64::MAX), tv_nsec: 0 };
        let set =
            self.world.act(&format!("clock {rtc}"), || Ok(clock_settime(ClockId::Realtime, time)?));
        set.map_err(|error| format!("set the clock to {rtc}: {error}"))?;
        Ok(Outcome::Done)
    }
}

/// From the kernel, all of it.
fn draw(octets: &mut [u8]) -> Result<(), String> {
    // Up to 256 octets come at once, once the generator is ready.
    match getrandom(&mut *octets, GetRandomFlags::empty()) {
        Ok(count) if count == octets.len() => Ok(()),
        Ok(count) => Err(format!("getrandom gave {count} octets of {}", octets.len())),
        Err(error) => Err(format!("getrandom: {error}")),
    }
}
