//! An open file or device, shared by all slots that lie in it: exclusive where it is written. Says what is wrong with the
//! device and what to do about it; never writes to what somebody else uses.

use std::{
    cell::Cell,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, FlockOperation, OFlags, fallocate, fcntl_getfl, fcntl_setfl, flock},
    io::Errno,
};

use super::usage;
use crate::{disk::BLOCK, engine::contract::Access, settings::Target};

/// What a slot lies in.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Bytes of the device or file.
    pub(super) length: Cell<u64>,
    /// It is a file that is as long as what was written to it.
    pub(super) grows: bool,
    direct: Cell<bool>,
    /// A flush failed: nothing that was written since the one before is certain, whoever asks.
    failed: Cell<bool>,
    /// Of an eMMC boot area: made read-only again in the end.
    protection: Option<PathBuf>,
}

/// What tells one device or file from another, whatever its path.
pub(super) type Identity = (bool, u64, u64);

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(protection) = &self.protection
            && let Err(error) = fs::write(protection, "1")
        {
            tracing::warn!("{}: {error}: the boot area stays writable", protection.display());
        }
    }
}

/// Which device or file it is; nothing where it is not there.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    let meta = fs::metadata(path).ok()?;
    Some(match meta.file_type().is_block_device() {
        true => (true, meta.rdev(), 0),
        false => (false, meta.dev(), meta.ino()),
    })
}

impl Hold {
    /// Opens what a slot lies in. `grows`: a file that is made where there is none, and becomes as long as what is written.
    pub(super) fn open(target: &Target, access: Access, grows: bool) -> io::Result<Self> {
        let path = &target.path;
        let meta = match fs::metadata(path) {
            Ok(meta) => Some(meta),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(told(path, &error, "look for what its path goes through")),
        };
        let hold = match meta {
            Some(meta) if meta.file_type().is_block_device() => {
                Self::open_device(target, access, meta.rdev())?
            }
            Some(meta) if meta.is_file() => Self::open_file(target, access, grows)?,
            Some(meta) if meta.is_dir() => {
                let cure =
                    "a slot is a file or a block device; write kind = \"directory\" for a folder";
                return Err(told(path, "is a folder", cure));
            }
            Some(_) => {
                return Err(told(path, "is neither a file nor a block device", "name one that is"));
            }
            None if access == Access::Write && (grows || target.size.is_some()) => {
                Self::open_file(target, access, grows)?
            }
            None => {
                let cure = "make it, or write its size into upgrade.toml, and it is made";
                return Err(told(path, "is not there", cure));
            }
        };
        hold.set_direct(true);
        Ok(hold)
    }

    fn open_device(target: &Target, access: Access, device: u64) -> io::Result<Self> {
        let path = &target.path;
        let mut protection = None;
        if access == Access::Write {
            if let Some(place) = usage::mounted(device)? {
                let text = format!("is mounted on {place}");
                return Err(told(path, text, "unmount it; a slot in use is never written"));
            }
            protection = unprotect(device);
            if fs::read_to_string(usage::sysfs(device).join("ro"))
                .is_ok_and(|text| text.trim() == "1")
            {
                // The kernel would only refuse what is written later.
                return Err(refused(path, &ErrorKind::ReadOnlyFilesystem.into()));
            }
        }
        let opened = open(path, access, OFlags::EXCL);
        let file = match opened {
            Err(error) if busy(&error) && target.size.is_some() => {
                // Other parts of a disk are in use. A part that lies in none of its partitions is not.
                if let Some(partition) = usage::overlapped(device, target.offset, target.size)? {
                    let text =
                        format!("these bytes lie in its partition {partition}, which is in use");
                    return Err(told(path, text, "name bytes outside of all partitions"));
                }
                open(path, access, OFlags::empty())
            }
            opened => opened,
        };
        let file = file.map_err(|error| refused(path, &error))?;
        let length = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0));
        let length = length.map_err(|error| told(path, error, "look at the kernel's log"))?;
        Ok(Self::new(file, path, length, false, protection))
    }

    fn open_file(target: &Target, access: Access, grows: bool) -> io::Result<Self> {
        let path = &target.path;
        let existed = path.exists();
        let create = if access == Access::Write { OFlags::CREATE } else { OFlags::empty() };
        let file = open(path, access, create).map_err(|error| refused(path, &error))?;
        let meta = file.metadata()?;
        if access == Access::Write {
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Err(told(path, "is locked by another program", "end that one first"));
            }
            if let Some(loop_device) = usage::looped(meta.dev(), meta.ino())? {
                let text = format!("is in use: {loop_device} shows it");
                return Err(told(
                    path,
                    text,
                    &format!("unmount it, then losetup -d {loop_device}"),
                ));
            }
            if !existed && let Some(folder) = path.parent() {
                File::open(folder)?.sync_all()?;
            }
        }
        let length = file.metadata()?.len();
        Ok(Self::new(file, path, length, grows, None))
    }

    fn new(file: File, path: &Path, length: u64, grows: bool, protection: Option<PathBuf>) -> Self {
        let (direct, failed, length) = (Cell::new(false), Cell::new(false), Cell::new(length));
        Self { file, path: path.to_owned(), length, grows, direct, failed, protection }
    }

    /// Makes a file so long that a slot of a given size fits, with room on the disk for all of it.
    pub(super) fn make_room(&self, target: &Target) -> io::Result<()> {
        let Some(size) = target.size.filter(|_| !self.grows) else { return Ok(()) };
        let end = target.offset.saturating_add(size);
        if self.length.get() >= end || !self.file.metadata()?.is_file() {
            return Ok(());
        }
        reserve(&self.file, &self.path, end)?;
        self.length.set(end);
        Ok(())
    }

    /// Past the page cache, where the file system can do that.
    pub(super) fn is_direct(&self) -> bool {
        self.direct.get()
    }

    pub(super) fn set_direct(&self, wanted: bool) {
        let flags = fcntl_getfl(&self.file).map(|flags| match wanted {
            true => flags | OFlags::DIRECT,
            false => flags - OFlags::DIRECT,
        });
        let set = flags.and_then(|flags| fcntl_setfl(&self.file, flags));
        self.direct.set(wanted && set.is_ok());
    }

    /// Flushes; once that failed it fails for ever, since the kernel tells an error only once.
    pub(super) fn flush(&self) -> io::Result<()> {
        if self.failed.get() {
            return Err(io::Error::other(
                "an earlier flush failed, so what was written may be lost",
            ));
        }
        let flushed = self.file.sync_data();
        self.failed.set(flushed.is_err());
        flushed
    }
}

fn open(path: &Path, access: Access, flags: OFlags) -> io::Result<File> {
    let write = access == Access::Write;
    let exclusive = if write { flags } else { OFlags::empty() };
    // A FIFO that took a file's place since it was looked at must not make us wait.
    let flags = (exclusive | OFlags::NOCTTY | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().read(true).write(write).mode(0o600).custom_flags(flags).open(path)
}

fn reserve(file: &File, path: &Path, end: u64) -> io::Result<()> {
    let reserved = match fallocate(file, FallocateFlags::empty(), 0, end) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(end),
        reserved => reserved.map_err(io::Error::from),
    };
    reserved.and_then(|()| file.sync_all()).map_err(|error| {
        told(path, format!("make it {end} bytes long: {error}"), "free some space on its disk")
    })
}

/// Takes the write protection off an eMMC boot area.
fn unprotect(device: u64) -> Option<PathBuf> {
    let folder = usage::sysfs(device);
    let name = fs::read_link(&folder).ok()?;
    let name = name.file_name()?.to_str()?.to_owned();
    let boot_area =
        name.starts_with("mmcblk") && (name.ends_with("boot0") || name.ends_with("boot1"));
    let switch = folder.join("force_ro");
    let protected = boot_area && fs::read_to_string(&switch).is_ok_and(|text| text.trim() == "1");
    (protected && fs::write(&switch, "0").is_ok()).then_some(switch)
}

fn busy(error: &io::Error) -> bool {
    error.kind() == ErrorKind::ResourceBusy
}

fn refused(path: &Path, error: &io::Error) -> io::Error {
    let cure = match error.kind() {
        ErrorKind::ResourceBusy => {
            "unmount it, and end what has it open (lsof, dmsetup ls, swapon)"
        }
        ErrorKind::ReadOnlyFilesystem => "it is read-only: remount it, or blockdev --setrw",
        ErrorKind::PermissionDenied => "it belongs to another user: run as root",
        ErrorKind::StorageFull => "free some space on its disk",
        ErrorKind::NotFound => "its folder is not there: make it",
        _ => "look at the kernel's log",
    };
    told(path, error, cure)
}

/// An error that names the thing and its cure.
pub(super) fn told(path: &Path, what: impl std::fmt::Display, cure: &str) -> io::Error {
    io::Error::other(format!("{}: {what}; {cure}", path.display()))
}

/// Whether O_DIRECT takes it as it is.
pub(super) fn aligned(at: u64, data: &[u8]) -> bool {
    at.is_multiple_of(BLOCK as u64)
        && data.len().is_multiple_of(BLOCK)
        && data.as_ptr().addr().is_multiple_of(BLOCK)
}
