//! File systems before an image and after it: unmounted and mounted as they were, frozen and thawed; and who holds what can't
//! be unmounted. Never forces anything: a mount that is busy stays, and says by whom.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt as _, ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::{hands::Hands, world::World};
use crate::{machine::Outcome, sys};

const TABLE: &str = "/proc/self/mountinfo";
const FSTAB: &str = "/etc/fstab";
/// Processes that are named as the holders of a mount.
const HOLDERS: usize = 5;
/// File systems whose source is no path.
const FLASH: [&str; 2] = ["ubifs", "jffs2"];
const FLAGS: [(&str, MountFlags); 9] = [
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("sync", MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
    ("relatime", MountFlags::RELATIME),
];
/// What fstab(5) says for others than mount(2).
const FOR_OTHERS: [&str; 9] =
    ["defaults", "rw", "auto", "noauto", "nofail", "_netdev", "user", "users", "owner"];

/// A line of `mountinfo`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Mounted {
    /// `major:minor`.
    pub(super) device: String,
    /// What of the file system is there.
    pub(super) root: PathBuf,
    pub(super) place: PathBuf,
    pub(super) options: String,
    pub(super) kind: String,
    pub(super) source: PathBuf,
    /// Of the file system as a whole.
    pub(super) writable: bool,
}

/// Everything that is mounted, in the kernel's order.
pub(super) fn mounted(world: &World) -> Result<Vec<Mounted>, String> {
    let text = fs::read(world.at(TABLE)).map_err(|error| format!("{TABLE}: {error}"))?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(line).collect())
}

/// What is on top at a place.
pub(super) fn at<'a>(all: &'a [Mounted], place: &Path) -> Option<&'a Mounted> {
    all.iter().rev().find(|mounted| mounted.place == place)
}

/// Lines that are cut, or make no sense, are left out.
fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let path = |field: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(unescape(field)));
    let device = text(fields.nth(2)?);
    let (root, place) = (path(fields.next()?), path(fields.next()?));
    let options = text(fields.next()?);
    let kind = text(fields.by_ref().skip_while(|field| *field != b"-").nth(1)?);
    let source = path(fields.next()?);
    let writable = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"rw");
    Some(Mounted { device, root, place, options, kind, source, writable })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let (byte, left) = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', left @ ..] if *first == b'\\' => {
                ((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'), left)
            }
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = left;
    }
    bytes
}

impl Hands {
    /// Remembers how it was mounted, and unmounts it.
    pub(super) fn unmount(&self, place: &Path) -> Result<Outcome, String> {
        let all = mounted(&self.world)?;
        let Some(found) = at(&all, place) else { return Ok(Outcome::Already) };
        let mut found = found.clone();
        if found.root != Path::new("/") {
            // A part of a file system is bound again from where the whole of it is.
            let whole = all.iter().find(|it| {
                it.device == found.device && it.root == Path::new("/") && it.place != place
            });
            let whole = whole.ok_or_else(|| {
                format!("{}: a bind of a file system that is not mounted itself", place.display())
            })?;
            found.source = whole.place.join(found.root.strip_prefix("/").unwrap_or(&found.root));
            found.kind = "bind".to_owned();
        }
        let mut kept = self.notes.kept()?;
        kept.mounts.retain(|mounted| mounted.place != place);
        kept.mounts.push(found);
        self.notes.save_kept(&kept)?;
        let done = self.world.act(&format!("unmount {}", place.display()), || {
            rustix::mount::unmount(place, UnmountFlags::NOFOLLOW).map_err(Into::into)
        });
        match done {
            Ok(()) => Ok(Outcome::Done),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                Err(format!("{} is busy: {}", place.display(), self.holders(place, &all)))
            }
            Err(error) => Err(format!("{} can't be unmounted: {error}", place.display())),
        }
    }

    /// As it was, or as fstab says.
    pub(super) fn mount(&self, place: &Path) -> Result<Outcome, String> {
        if at(&mounted(&self.world)?, place).is_some() {
            return Ok(Outcome::Already);
        }
        let kept = self.notes.kept()?;
        let kept = kept.mounts.into_iter().find(|mounted| mounted.place == place);
        let fstab = fs::read_to_string(self.world.at(FSTAB)).unwrap_or_default();
        let listed = listed(&fstab, place);
        let unknown = || {
            format!("{} was not mounted before the image and is not in {FSTAB}", place.display())
        };
        let options = listed.as_ref().map(|listed| listed.options.clone());
        let mut how = kept.or(listed).ok_or_else(unknown)?;
        how.options = options.unwrap_or(how.options);
        self.mount_so(&how).map(|()| Outcome::Done)
    }

    fn mount_so(&self, how: &Mounted) -> Result<(), String> {
        let (flags, data) = options(&how.options);
        let bind = how.kind == "bind" || how.options.split(',').any(|it| it == "bind");
        let told = |error: io::Error| {
            let (place, source) = (how.place.display(), how.source.display());
            format!("{place}: {} from {source} can't be mounted: {error}", how.kind)
        };
        if !how.source.is_absolute() && how.source.as_os_str().as_bytes().contains(&b'=') {
            let text = "a source that isn't a device; name the device in fstab";
            return Err(told(io::Error::other(text)));
        }
        self.world
            .act(&format!("mount {}", how.place.display()), || {
                if bind {
                    rustix::mount::mount_bind(&how.source, &how.place)?;
                    return Ok(());
                }
                let data = CString::new(data.clone())?;
                let data = (!data.is_empty()).then_some(data.as_c_str());
                rustix::mount::mount(&how.source, &how.place, how.kind.as_str(), flags, data)?;
                Ok(())
            })
            .map_err(told)
    }

    /// Everything on a disk that is still mounted for writing, the last mounted first. Takes back what it did if it can't do
    /// all of it.
    pub(super) fn freeze_all(&self) -> Result<Outcome, String> {
        let all = self.frozen()?;
        if all.is_empty() {
            return Ok(Outcome::Already);
        }
        let run = fs::metadata(self.notes.folder()).map_err(|error| error.to_string())?.dev();
        let own = format!("{}:{}", rustix::fs::major(run), rustix::fs::minor(run));
        if let Some(mounted) = all.iter().find(|mounted| mounted.device == own) {
            return Err(format!(
                "{} is to be frozen, and has the run directory in it; put that on tmpfs",
                mounted.place.display()
            ));
        }
        self.world.sync();
        for (count, mounted) in all.iter().enumerate() {
            let place = &mounted.place;
            let frozen = self
                .world
                .act(&format!("freeze {}", place.display()), || sys::freeze(&File::open(place)?));
            match frozen {
                // Somebody else has frozen it, or it can't be and holds nothing back.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => {
                    for mounted in all[..count].iter().rev() {
                        let _ = self.thaw(mounted);
                    }
                    return Err(format!("{} can't be frozen: {error}", place.display()));
                }
                Ok(()) => {}
            }
        }
        Ok(Outcome::Done)
    }

    /// All of them, frozen or not.
    pub(super) fn thaw_all(&self) -> Result<Outcome, String> {
        let mut problems = Vec::new();
        for mounted in self.frozen()?.iter().rev() {
            match self.thaw(mounted) {
                // It isn't frozen.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => problems.push(format!("{}: {error}", mounted.place.display())),
                Ok(()) => {}
            }
        }
        if problems.is_empty() { Ok(Outcome::Done) } else { Err(problems.join("; ")) }
    }

    fn thaw(&self, mounted: &Mounted) -> io::Result<()> {
        let place = &mounted.place;
        self.world.act(&format!("thaw {}", place.display()), || sys::thaw(&File::open(place)?))
    }

    /// What freezing is about: each file system once, the last mounted first.
    fn frozen(&self) -> Result<Vec<Mounted>, String> {
        let mut all: Vec<Mounted> = Vec::new();
        for mounted in mounted(&self.world)?.into_iter().rev() {
            let disk = mounted.source.starts_with("/dev") || FLASH.contains(&&*mounted.kind);
            if disk && mounted.writable && !all.iter().any(|it| it.device == mounted.device) {
                all.push(mounted);
            }
        }
        Ok(all)
    }

    /// Who has a file of it open, or stands in it.
    fn holders(&self, place: &Path, all: &[Mounted]) -> String {
        let below = all.iter().find(|it| it.place != place && it.place.starts_with(place));
        if let Some(below) = below {
            return format!("{} is mounted in it; unmount that first", below.place.display());
        }
        let mut holders = Vec::new();
        for entry in fs::read_dir(self.world.at("/proc")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if holders.len() < HOLDERS && holds(&entry.path(), place) {
                let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                holders.push(format!("{} ({pid})", comm.trim()));
            }
        }
        if holders.is_empty() {
            return "nobody whom /proc shows holds it; a swap file, a loop device or another mount namespace may".to_owned();
        }
        format!("held by {}", holders.join(", "))
    }
}

fn holds(process: &Path, place: &Path) -> bool {
    let inside = |link: &Path| fs::read_link(link).is_ok_and(|to| to.starts_with(place));
    ["cwd", "root", "exe"].iter().any(|link| inside(&process.join(link)))
        || ["fd", "map_files"].iter().any(|folder| {
            let links = fs::read_dir(process.join(folder)).into_iter().flatten().flatten();
            links.map(|link| link.path()).any(|link| inside(&link))
        })
}

/// A line of fstab(5).
fn listed(fstab: &str, place: &Path) -> Option<Mounted> {
    fstab.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let source = fields.next().filter(|source| !source.starts_with('#'))?;
        let at = unescape(fields.next()?.as_bytes());
        (Path::new(OsStr::from_bytes(&at)) == place).then_some(())?;
        Some(Mounted {
            place: place.to_owned(),
            source: PathBuf::from(std::ffi::OsString::from_vec(unescape(source.as_bytes()))),
            kind: fields.next()?.to_owned(),
            options: fields.next()?.to_owned(),
            ..Mounted::default()
        })
    })
}

/// Flags, and what is meant for the file system.
fn options(text: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in text.split(',') {
        if let Some((_, flag)) = FLAGS.iter().find(|(name, _)| *name == option) {
            flags |= *flag;
        } else if !FOR_OTHERS.contains(&option) && !option.starts_with("x-") && !option.is_empty() {
            data.push(option);
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_table_says_how_to_mount_it_again() {
        let text =
            b"36 22 254:11 / /mnt/my\\040data rw,noatime shared:1 master:2 - ext4 /dev/vda12 rw,errors=continue";
        let found = line(text).unwrap();
        let expected = Mounted {
            device: "254:11".to_owned(),
            root: "/".into(),
            place: "/mnt/my data".into(),
            options: "rw,noatime".to_owned(),
            kind: "ext4".to_owned(),
            source: "/dev/vda12".into(),
            writable: true,
        };
        assert_eq!(found, expected);
        assert_eq!(options(&found.options), (MountFlags::NOATIME, String::new()));
        for cut in 0..50 {
            assert_eq!(line(&text[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn what_fstab_says_of_a_place_is_found() {
        let fstab =
            "# <device>\n/dev/a / ext4 ro 0 1\n/dev/b /data\\040x vfat nodev,umask=022,x-a 0 0\n";
        let found = listed(fstab, Path::new("/data x")).unwrap();
        assert_eq!((found.source.as_path(), &*found.kind), (Path::new("/dev/b"), "vfat"));
        assert_eq!(options(&found.options), (MountFlags::NODEV, "umask=022".to_owned()));
        assert_eq!(listed(fstab, Path::new("/d")), None);
    }

    #[test]
    fn a_process_that_stands_in_a_place_is_found() {
        let here = fs::canonicalize(".").unwrap();
        assert!(holds(Path::new("/proc/self"), &here));
        assert!(!holds(Path::new("/proc/self"), Path::new("/nowhere")));
    }
}
