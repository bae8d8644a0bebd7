//! The kernel's `/dev/snapshot`: takes the image of this machine and writes it to a device of its own, or goes on in the one that
//! is there. While everybody else stands still nothing here asks another process for anything, nor any file system that an
//! image may hold.
//!
//! Writing is done by a child, `vestal-autorun --write-image snapshot DEVICE IMAGE`, which comes back in every life of the image:
//! its last word says so, for a power-off that did nothing would end it with 0, too.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use rustix::system::{RebootCommand, reboot};
use sha2::{Digest as _, Sha256};

use super::{
    backend::WRITE,
    raw::{Chunk, ImageDevice},
    world::World,
};
use crate::{
    image::{Head, Verdict},
    journal::RECORD,
    sys,
};

pub(crate) const KIND: &str = "snapshot";
/// What the child says in another life.
pub(super) const WOKE: &str = "woke";
pub(super) const DEVICE: &str = "/dev/snapshot";

/// The kernel's device, of which only one process has one at a time. Closing it forgets the image and lets all others run.
struct Snapshot<'world> {
    world: &'world World,
    file: File,
}

/// The command that writes the image to this device.
pub(super) fn writer(device: &Path, image: &[u8; 32]) -> Command {
    let digits: String = image.iter().map(|octet| format!("{octet:02x}")).collect();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("vestal-autorun").args([WRITE, KIND]).arg(device).arg(digits);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    sys::die_with_us(&mut command);
    command
}

/// The child's part: a good end is another life.
pub(super) fn write(world: &World, path: &Path, image: [u8; 32]) -> Result<(), String> {
    let told = |why: String| format!("{}: {why}", path.display());
    let device = ImageDevice::open(path).map_err(|error| told(error.to_string()))?;
    // The old image is none any more before the first octet of the new one is written.
    destroy(&device).map_err(told)?;
    let mut chunk = Chunk::new();
    let snapshot = Snapshot::open(world, world.at(DEVICE).as_path(), false)?;
    snapshot.freeze()?;
    if !snapshot.create()? {
        return Ok(());
    }
    let written = store(&snapshot, &device, &mut chunk, image).map_err(told);
    written.and_then(|()| power_off(world)).map_err(|why| match destroy(&device) {
        Ok(()) => why,
        Err(also) => format!("{why}; and {}", told(also)),
    })
}

fn destroy(device: &ImageDevice) -> Result<(), String> {
    device.heads().map_err(|error| error.to_string())?.destroy()
}

/// The stream first; the head, which makes an image of it, when all of that is durable.
fn store(
    snapshot: &Snapshot<'_>,
    device: &ImageDevice,
    chunk: &mut Chunk,
    image: [u8; 32],
) -> Result<(), String> {
    let size = snapshot.size()?;
    if size > device.room {
        let (size, room) = (size >> 20, device.room >> 20);
        return Err(format!("the image has {size} MiB, and there is room for {room}"));
    }
    let octets = chunk.octets();
    let (mut hash, mut length) = (Sha256::new(), 0);
    loop {
        let count = snapshot.read(octets)?;
        if count == 0 {
            break;
        }
        let blocks = count.next_multiple_of(RECORD);
        octets[count..blocks].fill(0);
        hash.update(&octets[..count]);
        if length + blocks as u64 > device.room {
            return Err(format!("the image is longer than the {size} octets that were told"));
        }
        let write = device.write_stream(&octets[..blocks], length);
        write.map_err(|error| format!("write the image: {error}"))?;
        length += count as u64;
    }
    if length != size {
        return Err(format!("the image has {length} octets, and not the {size} that were told"));
    }
    device.flush().map_err(|error| format!("flush the image: {error}"))?;
    let digest = hash.finalize().into();
    let head = Head { sequence: 0, length, digest, tries: 0, verdict: Verdict::Good, image };
    device.heads().map_err(|error| error.to_string())?.write(&head)
}

/// `SNAPSHOT_POWER_OFF` is for firmware that keeps something for the wake-up, and without that does nothing. No other process could
/// do this now, whoever is PID 1: all others stand still.
fn power_off(world: &World) -> Result<(), String> {
    let off = world.act("poweroff", || {
        reboot(RebootCommand::PowerOff)?;
        Err(io::Error::other("the machine runs on"))
    });
    off.map_err(|error| format!("power off: {error}"))
}

/// Goes on in the image that this head describes; comes back only where that failed. `Ok` on a machine that is a folder.
pub(super) fn resume(world: &World, device: &ImageDevice, head: &Head) -> Result<(), NotResumed> {
    let mut chunk = Chunk::new();
    let snapshot = Snapshot::open(world, &world.written(DEVICE), true)?;
    let (mut hash, mut at) = (Sha256::new(), 0);
    while at < head.length {
        let octets = chunk.octets();
        let left = head.length - at;
        let count = usize::try_from(left).map_or(octets.len(), |left| left.min(octets.len()));
        let read = device.read_stream(&mut octets[..count.next_multiple_of(RECORD)], at);
        read.map_err(|error| format!("read the image: {error}"))?;
        hash.update(&octets[..count]);
        snapshot.write(&octets[..count])?;
        at += count as u64;
    }
    if <[u8; 32]>::from(hash.finalize()) != head.digest {
        return Err(NotResumed::Damaged);
    }
    snapshot.freeze()?;
    snapshot.restore()?;
    Ok(())
}

/// Why the machine goes on without the image.
pub(super) enum NotResumed {
    /// Its octets are not those that were written.
    Damaged,
    Failed(String),
}

impl From<String> for NotResumed {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl<'world> Snapshot<'world> {
    fn open(world: &'world World, path: &Path, write: bool) -> Result<Self, String> {
        let file = OpenOptions::new().read(!write).write(write).open(path);
        let file = file.map_err(|error| format!("{DEVICE}: {error}"))?;
        Ok(Self { world, file })
    }

    fn freeze(&self) -> Result<(), String> {
        let frozen = self.world.act("snapshot freeze", || {
            sys::lock_memory()?;
            sys::snapshot_freeze(&self.file)
        });
        frozen.map_err(|error| format!("{DEVICE}: let everybody else stand still: {error}"))
    }

    fn create(&self) -> Result<bool, String> {
        let mut first = true;
        let created = self.world.act("snapshot create", || {
            first = sys::snapshot_create(&self.file)?;
            Ok(())
        });
        created.map_err(|error| format!("{DEVICE}: take the image: {error}"))?;
        Ok(first)
    }

    fn size(&self) -> Result<u64, String> {
        let told = |error: io::Error| format!("{DEVICE}: the image's size: {error}");
        let mut size = self.file.metadata().map_err(told)?.len();
        let asked = self.world.act("snapshot size", || {
            size = sys::snapshot_size(&self.file)?;
            Ok(())
        });
        asked.map(|()| size).map_err(told)
    }

    fn restore(&self) -> Result<(), String> {
        let restored = self.world.act("snapshot restore", || sys::snapshot_restore(&self.file));
        restored.map_err(|error| format!("{DEVICE}: resume the image: {error}"))
    }

    /// As much as fits, or all that is left: the kernel gives a page at a time.
    fn read(&self, octets: &mut [u8]) -> Result<usize, String> {
        let mut count = 0;
        while count < octets.len() {
            match (&self.file).read(&mut octets[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("{DEVICE}: read the image: {error}")),
            }
        }
        Ok(count)
    }

    /// All of it: the kernel takes a page at a time.
    fn write(&self, octets: &[u8]) -> Result<(), String> {
        let written = (&self.file).write_all(octets);
        written.map_err(|error| format!("{DEVICE}: the kernel does not take the image: {error}"))
    }
}
