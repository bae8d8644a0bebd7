//! The end: what was mounted from a disk is unmounted, in reverse order. What is busy is at least no longer written to.
//!
//! Every mount has three tries of different sorts, and then it is left: nothing here loops or waits for anybody.

use std::{ffi::OsStr, fs, io, os::unix::ffi::OsStrExt as _, path::Path};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount_remount, unmount},
};

use crate::{
    mountinfo::{self, Mounted},
    say, sys,
};

/// File systems without a disk: nothing of them is lost, and what is still to be done needs some.
const KERNELS_OWN: [&str; 26] = [
    "autofs",
    "bdev",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "pipefs",
    "proc",
    "pstore",
    "ramfs",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Unmounts everything, and closes the root. `false`: some of it could not be.
pub(crate) fn everything() -> bool {
    swap_off();
    let Some(mounted) = read() else { return false };
    let done = unmount_all(&to_unmount(&mounted, Path::new("/")), free_loops);
    let root = mounted.iter().rev().find(|it| it.place == b"/");
    let closed = !root.is_some_and(is_on_disk) || close_root();
    done && closed
}

/// Unmounts what lies in a folder. `false`: some of it could not be.
pub(crate) fn below(folder: &Path) -> bool {
    // Loop devices are the whole machine's.
    read().is_some_and(|mounted| unmount_all(&to_unmount(&mounted, folder), || {}))
}

fn read() -> Option<Vec<Mounted>> {
    match mountinfo::read() {
        Ok(mounted) => Some(mounted),
        Err(error) => {
            say(&format!("/proc/self/mountinfo: {error}"));
            None
        }
    }
}

/// `free` is called where something is busy, before that has its last tries.
fn unmount_all(places: &[&Path], free: impl FnOnce()) -> bool {
    let busy = places.iter().filter(|place| unmount(**place, UnmountFlags::empty()).is_err());
    // All of them first: what one is busy with may be another one.
    let busy: Vec<_> = busy.collect();
    if !busy.is_empty() {
        free();
    }
    busy.into_iter().filter(|place| !put_away(place)).count() == 0
}

/// In this order; the folder itself stays.
fn to_unmount<'a>(mounted: &'a [Mounted], folder: &Path) -> Vec<&'a Path> {
    let ours = mounted.iter().rev().filter(|it| is_on_disk(it));
    let places = ours.map(|it| Path::new(OsStr::from_bytes(&it.place)));
    places.filter(|place| place.starts_with(folder) && *place != folder).collect()
}

fn is_on_disk(mounted: &Mounted) -> bool {
    !KERNELS_OWN.contains(&mounted.kind.as_str())
}

/// What was busy: once more, since what it was busy with may be gone; read-only; out of sight.
fn put_away(place: &Path) -> bool {
    let error = match unmount(place, UnmountFlags::empty()) {
        // EINVAL: it went together with another one.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => return true,
        Err(error) => io::Error::from(error),
    };
    let name = place.display();
    if mount_remount(place, MountFlags::RDONLY, c"").is_ok() {
        say(&format!("{name}: {error}: made read-only instead"));
        return false;
    }
    match unmount(place, UnmountFlags::DETACH) {
        Ok(()) => say(&format!("{name}: {error}: detached, and perhaps still written to")),
        Err(_) => say(&format!("{name}: {error}: it stays mounted")),
    }
    false
}

fn close_root() -> bool {
    match mount_remount("/", MountFlags::RDONLY, c"") {
        Ok(()) => true,
        // A file system that is never written to.
        Err(Errno::ROFS) => true,
        Err(error) => {
            say(&format!("/: can't be made read-only: {}", io::Error::from(error)));
            false
        }
    }
}

/// A loop device that nobody has mounted any more keeps the file system of its file busy. One that is mounted is freed with
/// its mount. For the end of the machine only.
fn free_loops() {
    let Ok(devices) = fs::read_dir("/sys/block") else { return };
    for device in devices.flatten() {
        if !device.path().join("loop/backing_file").exists() {
            continue;
        }
        let device = Path::new("/dev").join(device.file_name());
        if let Err(error) = fs::File::open(&device).and_then(|open| sys::free_loop(&open)) {
            say(&format!("{}: it keeps its file: {error}", device.display()));
        }
    }
}

/// Before the file systems: swap may be a file of one.
fn swap_off() {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    for device in swaps.lines().skip(1).filter_map(|line| line.split(' ').next()) {
        // Where memory doesn't suffice it stays, and a swap file keeps its file system busy: that is told there.
        if let Err(error) = sys::swap_off(device) {
            say(&format!("{device}: swap stays on: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_a_disk_is_unmounted_from_the_last_to_the_first_and_the_root_stays() {
        let all = [
            ("/", "squashfs"),
            ("/proc", "proc"),
            ("/data", "ext4"),
            ("/run", "tmpfs"),
            ("/etc/config", "ext4"),
            ("/var", "overlay"),
        ];
        let all: Vec<_> =
            all.map(|(place, kind)| Mounted { place: place.into(), kind: kind.to_owned() }).into();
        let order = |folder| to_unmount(&all, Path::new(folder));
        assert_eq!(order("/"), ["/var", "/etc/config", "/data"].map(Path::new));
        assert_eq!(order("/etc"), [Path::new("/etc/config")]);
        assert_eq!(order("/data"), Vec::<&Path>::new());
    }
}
