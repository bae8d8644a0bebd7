//! Slots as they really are: block devices, eMMC boot areas, files, and parts of them. Past the page cache where that is
//! possible, so that what is read back comes from the storage, and never where somebody else uses them.

mod hold;
#[cfg(test)]
mod tests;
pub(crate) mod usage;

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    path::Path,
    rc::{Rc, Weak},
};

use rustix::fs::{Advice, fadvise, fstatvfs};

use self::hold::{Hold, Identity, aligned, identity, told};
use crate::{
    disk::{BLOCK, Buffer, Disk},
    engine::contract::Access,
    settings::Target,
};

/// Bytes that go by a buffer of our own where the caller's is not as O_DIRECT wants it.
const BOUNCE: usize = 64 << 10;

/// What is open to be written: slots that lie in one device share it, since it can be had exclusively only once.
#[derive(Debug, Default)]
pub(crate) struct Opener {
    held: HashMap<Identity, Weak<Hold>>,
}

/// A slot.
pub(crate) struct Device {
    hold: Rc<Hold>,
    start: u64,
    length: u64,
    /// Bytes that are no multiple of a block, or not aligned, go through it.
    bounce: Option<Buffer>,
}

impl Opener {
    /// Opens a slot.
    ///
    /// # Errors
    /// What is wrong with it, and the cure.
    pub(crate) fn open(&mut self, target: &Target, access: Access) -> io::Result<Device> {
        self.take(target, access, false)
    }

    /// Opens a file that has no length of its own: made where it is to be written and not there, as long as what is written.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_growing(&mut self, target: &Target, access: Access) -> io::Result<Device> {
        self.take(target, access, true)
    }

    fn take(&mut self, target: &Target, access: Access, grows: bool) -> io::Result<Device> {
        self.held.retain(|_, hold| hold.strong_count() > 0);
        let held = identity(&target.path).and_then(|identity| self.held.get(&identity)?.upgrade());
        let hold = match held {
            Some(hold) if access == Access::Write => hold,
            _ => {
                let hold = Rc::new(Hold::open(target, access, grows)?);
                if access == Access::Write
                    && let Some(identity) = identity(&target.path)
                {
                    self.held.insert(identity, Rc::downgrade(&hold));
                }
                hold
            }
        };
        if access == Access::Write {
            hold.make_room(target)?;
        }
        Device::new(hold, target)
    }
}

impl Device {
    fn new(hold: Rc<Hold>, target: &Target) -> io::Result<Self> {
        let all = hold.length.get();
        let room = match hold.grows {
            false => all.saturating_sub(target.offset),
            true => target.size.unwrap_or(free(&hold)?.saturating_add(all)),
        };
        let length = target.size.map_or(room, |size| size.min(room));
        if length == 0 || target.size.is_some_and(|size| size > length) {
            let text = format!(
                "has {all} bytes, the slot begins at {} and needs {}",
                target.offset,
                target.size.unwrap_or(1)
            );
            return Err(told(&target.path, text, "correct offset and size in upgrade.toml"));
        }
        Ok(Self { hold, start: target.offset, length, bounce: None })
    }

    fn wrong(&self, what: &str, at: u64, error: &io::Error) -> io::Error {
        let cure = match error.kind() {
            ErrorKind::StorageFull => "free some space on its disk",
            _ => "the storage may be failing: look at the kernel's log",
        };
        told(&self.hold.path, format!("{what} at byte {at}: {error}"), cure)
    }

    fn read(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let place = self.start + at;
        if !self.hold.is_direct() || aligned(place, buffer) {
            return self.hold.file.read_at(buffer, place);
        }
        let inside = usize::try_from(place % BLOCK as u64).unwrap_or(0);
        let wanted = (inside + buffer.len()).next_multiple_of(BLOCK).min(BOUNCE);
        let bounce = &mut self.bounce.get_or_insert_with(|| Buffer::new(BOUNCE)).get()[..wanted];
        let read = self.hold.file.read_at(bounce, place - inside as u64)?;
        let count = read.saturating_sub(inside).min(buffer.len());
        buffer[..count].copy_from_slice(&bounce[inside..inside + count]);
        Ok(count)
    }

    fn write(&mut self, at: u64, data: &[u8]) -> io::Result<usize> {
        let place = self.start + at;
        if !self.hold.is_direct() || aligned(place, data) {
            return self.hold.file.write_at(data, place);
        }
        let whole = data.len() - data.len() % BLOCK;
        if !place.is_multiple_of(BLOCK as u64) || whole == 0 {
            // The end of a device that is not made of whole blocks: the only bytes that go through the page cache.
            self.hold.set_direct(false);
            let written = self.hold.file.write_at(data, place);
            self.hold.set_direct(true);
            return written;
        }
        let count = whole.min(BOUNCE);
        let bounce = &mut self.bounce.get_or_insert_with(|| Buffer::new(BOUNCE)).get()[..count];
        bounce.copy_from_slice(&data[..count]);
        self.hold.file.write_at(bounce, place)
    }

    /// Some file systems take the flag and refuse what comes after it.
    fn give_up_direct(&self, error: &io::Error) -> bool {
        let refused = self.hold.is_direct() && error.kind() == ErrorKind::InvalidInput;
        if refused {
            self.hold.set_direct(false);
        }
        refused
    }
}

impl Disk for Device {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(room) = self.length.checked_sub(at).filter(|room| *room > 0) else { return Ok(0) };
        let count = usize::try_from(room).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..count];
        let read = match self.read(at, buffer) {
            Err(error) if self.give_up_direct(&error) => self.read(at, buffer),
            read => read,
        };
        match read {
            // Nothing was written there yet.
            Ok(0) if self.hold.grows => {
                buffer.fill(0);
                Ok(count)
            }
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                Err(self.wrong("read", at, &error))
            }
            read => read,
        }
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<usize> {
        let Some(room) = self.length.checked_sub(at).filter(|room| *room > 0) else { return Ok(0) };
        let data = &data[..usize::try_from(room).unwrap_or(usize::MAX).min(data.len())];
        let written = match self.write(at, data) {
            Err(error) if self.give_up_direct(&error) => self.write(at, data),
            written => written,
        };
        match written {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                Err(self.wrong("write", at, &error))
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hold.flush().map_err(|error| self.wrong("flush", 0, &error))?;
        // What was written is not read again soon, and then it should come from the storage.
        let _ = fadvise(&self.hold.file, 0, None, Advice::DontNeed);
        Ok(())
    }
}

fn free(hold: &Hold) -> io::Result<u64> {
    let stat = fstatvfs(&hold.file)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A small disk for a boot record or an environment: through the page cache, in whatever pieces are written.
pub(crate) struct Plain {
    file: std::fs::File,
    length: u64,
}

impl Plain {
    /// Opens a device or a file as it is.
    ///
    /// # Errors
    /// As open(2), naming the path.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
        let file =
            file.map_err(|error| told(path, error, "look at boot-control in upgrade.toml"))?;
        Self::new(file)
    }

    pub(crate) fn new(file: std::fs::File) -> io::Result<Self> {
        let length = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        Ok(Self { file, length })
    }
}

impl Disk for Plain {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, at)
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<usize> {
        let Some(room) = self.length.checked_sub(at) else { return Ok(0) };
        let count = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        self.file.write_at(&data[..count], at)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        Ok(())
    }
}
