//! Every line of the table, in its order: found, checked, mounted; or told, and perhaps a tmpfs in its place.

use std::{ffi::CString, fs, io, path::Path, time::Duration};

use daemon::clock;
use protocol::time::Moment;
use rustix::{
    event::Timespec,
    io::Errno,
    mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_remount},
};

use crate::{
    device::{self, Source},
    fill, fsck,
    fstab::Entry,
    mountinfo, say, sys,
};

/// All devices have appeared by then, or never will.
const APPEAR_TIME: Duration = Duration::from_secs(10);
/// Between two looks: a device that appears makes no event that a program without udev sees.
const LOOK: Duration = Duration::from_millis(50);
/// All checks together; less than PID 1 waits for this program.
const CHECK_TIME: Duration = Duration::from_secs(150);

/// Until when things may take.
#[derive(Clone, Copy)]
struct Limits {
    appear: Moment,
    check: Moment,
}

/// Which lines of the table have their turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Which {
    All,
    /// No device is looked for or touched: an earlier run may be stuck with one.
    WithoutDevices,
}

/// Mounts everything. `false`: some of it could not be.
pub(crate) fn everything(entries: &[Entry], which: Which) -> bool {
    let now = clock::now();
    let limits = Limits { appear: now + APPEAR_TIME, check: now + CHECK_TIME };
    let mut done = true;
    for entry in entries.iter().filter(|entry| entry.options.auto) {
        let result = if which == Which::WithoutDevices && needs_device(entry) {
            leave_out(entry)
        } else if entry.is_swap() {
            swap(entry, limits)
        } else {
            one(entry, limits)
        };
        if let Err(why) = result {
            done = false;
            say(&format!("line {}: {}: {why}", entry.line, name(entry)));
            if entry.options.fallback {
                fall_back(entry);
            }
        }
    }
    done
}

fn name(entry: &Entry) -> &str {
    if entry.is_swap() { &entry.source } else { &entry.place }
}

fn needs_device(entry: &Entry) -> bool {
    let is_none = matches!(device::source(&entry.source), Ok(Source::Plain(path)) if !path.starts_with("/dev/"));
    entry.is_swap() || !(entry.options.bind || is_none)
}

fn leave_out(entry: &Entry) -> Result<(), String> {
    if entry.is_swap() || entry.place == "/" || is_mounted(&entry.place) {
        return Ok(());
    }
    make_place(entry);
    Err("left out, as no device is waited for any more".to_owned())
}

fn make_place(entry: &Entry) {
    if fs::symlink_metadata(&entry.place).is_err() {
        // On a root that can't be written to mount(2) says that it is not there.
        let _ = fs::create_dir_all(&entry.place);
    }
}

fn one(entry: &Entry, limits: Limits) -> Result<(), String> {
    if entry.place == "/" {
        return remount_root(entry);
    }
    if is_mounted(&entry.place) {
        return Ok(());
    }
    make_place(entry);
    if entry.options.bind {
        return bind(entry);
    }
    let device = wait(&entry.source, limits)?;
    if entry.pass != 0 && entry.options.fsck {
        fsck::check(&device, &entry.kind, limits.check);
    }
    let data = data(entry)?;
    let (kind, flags) = (entry.kind.as_str(), entry.options.flags);
    let mounted = mount(device.as_str(), entry.place.as_str(), kind, flags, data.as_deref());
    mounted.map_err(|error| {
        let error = io::Error::from(error);
        format!("{kind} on {device} can't be mounted: {error}")
    })
}

fn bind(entry: &Entry) -> Result<(), String> {
    let (source, place) = (entry.source.as_str(), entry.place.as_str());
    if entry.options.fill {
        fill::fill(Path::new(place), Path::new(source))
            .map_err(|error| format!("{source} can't be filled from it: {error}"))?;
    }
    let bound = if entry.options.recursive {
        mount_bind_recursive(source, place)
    } else {
        mount_bind(source, place)
    };
    bound.map_err(|error| match error {
        Errno::NOENT => {
            format!("{source} or {place} is not there; x-vestal.fill makes the first of the second")
        }
        error => format!("{source} can't be bound: {}", io::Error::from(error)),
    })?;
    // A bind has its source's flags until it is told its own.
    if entry.options.flags.is_empty() {
        return Ok(());
    }
    let flags = MountFlags::BIND | entry.options.flags;
    mount_remount(place, flags, c"").map_err(|error| {
        let error = io::Error::from(error);
        format!("bound, but without its options: {error}")
    })
}

/// The kernel or an initramfs has mounted it; here it gets its options.
fn remount_root(entry: &Entry) -> Result<(), String> {
    let data = data(entry)?;
    mount_remount("/", entry.options.flags, data.as_deref().unwrap_or(c""))
        .map_err(|error| format!("can't be given its options: {}", io::Error::from(error)))
}

fn swap(entry: &Entry, limits: Limits) -> Result<(), String> {
    let device = wait(&entry.source, limits)?;
    match sys::swap_on(&device) {
        // In use already, or a kernel without swap: nothing is missing that anybody can give.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOSYS)) => Ok(()),
        done => done.map_err(|error| format!("can't be swapped to: {error}")),
    }
}

fn fall_back(entry: &Entry) {
    let place = entry.place.as_str();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    say(&match mount("tmpfs", place, "tmpfs", flags, Some(c"mode=0755")) {
        Ok(()) => format!(
            "{place}: ATTENTION: a tmpfs is in its place, and what is written there is lost with the next reboot"
        ),
        Err(error) => {
            let error = io::Error::from(error);
            format!("{place}: nothing is mounted, not even a tmpfs: {error}")
        }
    });
}

fn is_mounted(place: &str) -> bool {
    let place = place.trim_end_matches('/').as_bytes();
    mountinfo::read().is_ok_and(|all| all.iter().any(|mounted| mounted.place == place))
}

/// The device, once it is there.
fn wait(field: &str, limits: Limits) -> Result<String, String> {
    let source = device::source(field)?;
    loop {
        if let Some(device) = device::find(&source) {
            return Ok(device);
        }
        if limits.appear <= clock::now() {
            let seconds = APPEAR_TIME.as_secs();
            let hint = match source {
                Source::Label(_) | Source::Uuid(_) => "; only ext2 to ext4 and FAT are looked into",
                Source::Plain(_) | Source::PartitionLabel(_) => "",
            };
            return Err(format!("{field} is not there after {seconds} s{hint}"));
        }
        let pause = Timespec::try_from(LOOK).unwrap_or_default();
        // An interruption only shortens it.
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}

fn data(entry: &Entry) -> Result<Option<CString>, String> {
    let data = entry.options.data.as_str();
    match CString::new(data) {
        Ok(text) => Ok((!data.is_empty()).then_some(text)),
        Err(_) => Err("a NUL byte in its options".to_owned()),
    }
}
