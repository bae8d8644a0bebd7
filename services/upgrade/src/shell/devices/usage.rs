//! Who else uses a device or a file: mounts, loop devices, partitions. Reads /proc and /sys, changes nothing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{major, makedev, minor};

const MOUNTS: &str = "/proc/self/mountinfo";
const SECTOR: u64 = 512;

/// Where a device is mounted, if it is.
pub(super) fn mounted(device: u64) -> io::Result<Option<String>> {
    let text = fs::read_to_string(MOUNTS)?;
    Ok(mount_of(&text, device, |source| {
        fs::metadata(source).is_ok_and(|meta| meta.rdev() == device)
    }))
}

/// Finds a device in the text of mountinfo: by its number, or, for file systems that have numbers of their own, by the source.
fn mount_of(text: &str, device: u64, is_it: impl Fn(&Path) -> bool) -> Option<String> {
    let number = format!("{}:{}", major(device), minor(device));
    text.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (found, place) = (words.nth(2)?, words.nth(1)?);
        let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1));
        let is_source =
            || source.is_some_and(|source| source.starts_with('/') && is_it(Path::new(source)));
        (found == number || is_source()).then(|| place.replace("\\040", " "))
    })
}

/// Whether something is mounted exactly here.
pub(crate) fn is_mount_point(place: &Path) -> io::Result<bool> {
    let text = fs::read_to_string(MOUNTS)?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.into_iter().any(|point| Path::new(&point.replace("\\040", " ")) == place))
}

/// The loop device that shows this file, if there is one.
pub(super) fn looped(device: u64, inode: u64) -> io::Result<Option<String>> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Ok(None) };
    for entry in entries {
        let entry = entry?;
        let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        let same = |meta: &fs::Metadata| (meta.dev(), meta.ino()) == (device, inode);
        if fs::metadata(backing.trim_end()).is_ok_and(|meta| same(&meta)) {
            return Ok(Some(format!("/dev/{}", entry.file_name().to_string_lossy())));
        }
    }
    Ok(None)
}

/// A partition of a disk in which some of these bytes lie.
pub(super) fn overlapped(
    device: u64,
    offset: u64,
    size: Option<u64>,
) -> io::Result<Option<String>> {
    let end = size.map_or(u64::MAX, |size| offset.saturating_add(size));
    for entry in fs::read_dir(sysfs(device))? {
        let folder = entry?.path();
        let number = |name: &str| -> Option<u64> {
            fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
        };
        let (Some(_), Some(start), Some(sectors)) =
            (number("partition"), number("start"), number("size"))
        else {
            continue;
        };
        let (first, last) =
            (start.saturating_mul(SECTOR), (start + sectors).saturating_mul(SECTOR));
        if offset < last && first < end {
            return Ok(folder.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// What the kernel tells of a block device.
pub(super) fn sysfs(device: u64) -> PathBuf {
    let device = makedev(major(device), minor(device));
    PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
        22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
        30 22 0:40 / /data\\040two rw shared:1 - btrfs /dev/sdb1 rw\n\
        31 22 7:3 / /mnt/app ro master:2 - squashfs /dev/loop3 ro\n";

    #[test]
    fn a_mount_is_found_by_number_or_by_source() {
        let never = |_: &Path| false;
        assert_eq!(mount_of(TEXT, makedev(7, 3), never).as_deref(), Some("/mnt/app"));
        assert_eq!(mount_of(TEXT, makedev(8, 17), never), None);
        let source = |source: &Path| source == Path::new("/dev/sdb1");
        assert_eq!(mount_of(TEXT, makedev(8, 17), source).as_deref(), Some("/data two"));
    }

    #[test]
    fn the_root_is_a_mount_point_and_a_new_folder_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_mount_point(Path::new("/")).unwrap());
        assert!(!is_mount_point(folder.path()).unwrap());
    }
}
