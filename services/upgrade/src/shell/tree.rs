//! Slots that are folders: unpacks a tar that was verified into an empty folder beside the slot, compares what is there with
//! the tar again, and puts it in the slot's place by a rename. Never follows a link out of the folder, and makes no devices
//! and nothing that runs with another one's rights.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, ErrorKind, Read, Seek as _, SeekFrom},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, fchmod, fchown, linkat,
        mkdirat, openat2, readlinkat, renameat_with, symlinkat, syncfs,
    },
    io::Errno,
    process::geteuid,
};
use tar::{Archive, Entry, EntryType};

use super::store::sync;

/// Files and folders of one slot.
const ENTRIES_MAX: u64 = 200_000;
/// Folders in folders.
const DEPTH_MAX: usize = 64;
const PATH_MAX: usize = 4095;
/// What a tar may say of an entry beyond its classic header. Anything else would be lost, so it is refused.
const KNOWN: [&str; 11] = [
    "atime", "comment", "ctime", "gid", "gname", "linkpath", "mtime", "path", "size", "uid",
    "uname",
];
const NOWHERE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Puts the contents of the first `size` bytes of `archive` in the place of `slot`. May be done again.
///
/// # Errors
/// Why not; then the slot is as it was.
pub(crate) fn unpack(archive: &Path, size: u64, slot: &Path) -> io::Result<()> {
    let fresh = beside(slot, ".new");
    let parent =
        slot.parent().ok_or_else(|| io::Error::other("a slot can't be the root folder"))?;
    remove(&fresh)?;
    fs::create_dir(&fresh)?;
    let file = File::open(archive)?;
    let filled = Root::open(&fresh).and_then(|root| {
        let made = root.fill(&file, size)?;
        syncfs(&root.folder)?;
        root.compare(&file, size)?;
        let found = count(&fresh)?;
        match found == made {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{made} files and folders were unpacked, {found} are there"
            ))),
        }
    });
    if let Err(error) = filled {
        remove(&fresh)?;
        return Err(error);
    }
    match renameat_with(CWD, &fresh, CWD, slot, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::NOENT) => fs::rename(&fresh, slot)?,
        // Not every file system can exchange; the slot is not in use, so that it is away for a moment does no harm.
        Err(Errno::INVAL | Errno::NOSYS) => {
            remove(slot)?;
            fs::rename(&fresh, slot)?;
        }
        Err(error) => return Err(error.into()),
    }
    sync(parent)?;
    remove(&fresh)
}

/// Where the tar of a slot is kept, from which the next upgrade takes what did not change.
pub(crate) fn archive(slot: &Path) -> PathBuf {
    beside(slot, ".tar")
}

fn beside(slot: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(slot);
    name.push(ending);
    PathBuf::from(name)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::symlink_metadata(folder) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(folder),
        Ok(_) => {
            let text = format!("{} is in the way and no folder; remove it", folder.display());
            Err(io::Error::other(text))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

struct Root {
    folder: OwnedFd,
    /// Only root can give files away.
    owners: bool,
}

impl Root {
    fn open(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        Ok(Self { folder, owners: geteuid().is_root() })
    }

    /// Makes everything that the tar names; how many files and folders that are.
    fn fill(&self, file: &File, size: u64) -> io::Result<u64> {
        let mut made = 0;
        each(file, size, |path, entry| {
            made += self.make(path, entry)?;
            match made > ENTRIES_MAX {
                true => Err(io::Error::other(format!("more than {ENTRIES_MAX} files and folders"))),
                false => Ok(()),
            }
        })?;
        Ok(made)
    }

    fn make(&self, path: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<u64> {
        let mode = entry.header().mode()?;
        let kind = entry.header().entry_type();
        let special = match kind {
            EntryType::Directory => mode & 0o6000,
            _ => mode & 0o7000,
        };
        if special != 0 && kind != EntryType::Symlink {
            return Err(io::Error::other(format!(
                "mode {mode:o}: it would run with another one's rights"
            )));
        }
        let mode = Mode::from_raw_mode(mode & 0o1777);
        if kind == EntryType::Directory {
            let (made, folder) = self.folder(path)?;
            self.own(&folder, entry)?;
            fchmod(&folder, mode)?;
            return Ok(made);
        }
        let name = path.file_name().ok_or_else(|| io::Error::other("has no name"))?;
        let (made, parent) = self.folder(path.parent().unwrap_or(Path::new("")))?;
        match kind {
            EntryType::Regular => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let flags = flags | OFlags::CLOEXEC;
                let to = openat2(&parent, name, flags, Mode::RUSR | Mode::WUSR, NOWHERE)?;
                let mut to = File::from(to);
                let (length, copied) = (entry.size(), io::copy(entry, &mut to)?);
                if length != copied {
                    return Err(io::Error::other(format!("{copied} bytes of {length}")));
                }
                self.own(&to, entry)?;
                fchmod(&to, mode)?;
                let time = std::time::Duration::from_secs(entry.header().mtime()?);
                to.set_modified(std::time::SystemTime::UNIX_EPOCH + time)?;
            }
            EntryType::Symlink => symlinkat(&*target(entry)?, &parent, name)?,
            EntryType::Link => {
                let source = inside(&target(entry)?)?;
                let from = self.existing(source.parent().unwrap_or(Path::new("")))?;
                let from_name =
                    source.file_name().ok_or_else(|| io::Error::other("links to nothing"))?;
                linkat(&from, from_name, &parent, name, AtFlags::empty())?;
            }
            other => {
                let text =
                    format!("is a {other:?}: only files, folders and links may be in a slot");
                return Err(io::Error::other(text));
            }
        }
        Ok(made + 1)
    }

    fn own(&self, file: impl AsFd, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        if !self.owners {
            return Ok(());
        }
        let number =
            |id: u64| u32::try_from(id).map_err(|_| io::Error::other(format!("owner {id}")));
        let (uid, gid) = (number(entry.header().uid()?)?, number(entry.header().gid()?)?);
        Ok(fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
    }

    /// A folder that is there already.
    fn existing(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat2(&self.folder, path, flags, Mode::empty(), NOWHERE)?)
    }

    /// A folder, made with all above it where they are not there; how many were made.
    fn folder(&self, path: &Path) -> io::Result<(u64, OwnedFd)> {
        let mut made = 0;
        match self.existing(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            there => return there.map(|folder| (0, folder)),
        }
        let mut so_far = PathBuf::new();
        let mut folder = self.existing(&so_far)?;
        for name in path {
            match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => made += 1,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            so_far.push(name);
            folder = self.existing(&so_far)?;
        }
        Ok((made, folder))
    }

    /// Everything that the tar names is there, as it says.
    fn compare(&self, file: &File, size: u64) -> io::Result<()> {
        let (mut one, mut other) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        each(file, size, |path, entry| {
            let same = match entry.header().entry_type() {
                EntryType::Directory => self.existing(path).is_ok(),
                EntryType::Symlink => {
                    let parent = self.existing(path.parent().unwrap_or(Path::new("")))?;
                    let name = path.file_name().unwrap_or_default();
                    readlinkat(&parent, name, Vec::new())?.as_bytes()
                        == target(entry)?.as_os_str().as_bytes()
                }
                EntryType::Link => {
                    let (a, b) = (
                        self.file(path)?.metadata()?,
                        self.file(&inside(&target(entry)?)?)?.metadata()?,
                    );
                    (a.dev(), a.ino()) == (b.dev(), b.ino())
                }
                _ => {
                    let mut there = self.file(path)?;
                    // From the storage, not from the memory that it was written to.
                    let _ = rustix::fs::fadvise(&there, 0, None, rustix::fs::Advice::DontNeed);
                    there.metadata()?.len() == entry.size()
                        && same(entry, &mut there, &mut one, &mut other)?
                }
            };
            match same {
                true => Ok(()),
                false => Err(io::Error::other("is not what was unpacked: the storage is failing")),
            }
        })
    }

    fn file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat2(&self.folder, path, flags, Mode::empty(), NOWHERE)?.into())
    }
}

/// Calls `visit` for each entry, with its path inside of the slot; errors name the entry.
fn each(
    mut file: &File,
    size: u64,
    mut visit: impl FnMut(&Path, &mut Entry<'_, io::Take<&File>>) -> io::Result<()>,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut archive = Archive::new(file.take(size));
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            continue;
        }
        let name = entry.path()?.into_owned();
        let visited = known(&mut entry)
            .and_then(|()| inside(&name))
            .and_then(|path| visit(&path, &mut entry));
        visited.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", name.display()))
        })?;
    }
    Ok(())
}

/// Refuses attributes that we would not unpack.
fn known(entry: &mut Entry<'_, io::Take<&File>>) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let key = extension.key().unwrap_or("?");
        if !KNOWN.contains(&key) {
            let text = format!("has an attribute {key:?}, which slots can't have; pack it without");
            return Err(io::Error::other(text));
        }
    }
    Ok(())
}

/// A path below the slot's folder, without `.` and `..`.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => inside.push(name),
            std::path::Component::CurDir => {}
            _ => return Err(io::Error::other("leads out of the slot")),
        }
    }
    let depth = inside.components().count();
    if depth > DEPTH_MAX || inside.as_os_str().len() > PATH_MAX {
        let text = format!("its path is longer than {PATH_MAX} bytes, or {DEPTH_MAX} folders deep");
        return Err(io::Error::other(text));
    }
    Ok(inside)
}

fn target(entry: &Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let target = entry.link_name()?.ok_or_else(|| io::Error::other("links to nothing"))?;
    Ok(target.into_owned())
}

fn same(
    one: &mut impl Read,
    other: &mut impl Read,
    a: &mut [u8],
    b: &mut [u8],
) -> io::Result<bool> {
    loop {
        let count = one.read(a)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut b[..count])?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
    }
}

/// Files and folders below a folder.
fn count(folder: &Path) -> io::Result<u64> {
    let mut found = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found += 1;
        if entry.file_type()?.is_dir() {
            found += count(&entry.path())?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tar::{Builder, Header};

    use super::*;

    struct Packed(Builder<Vec<u8>>);

    impl Packed {
        fn new() -> Self {
            Self(Builder::new(Vec::new()))
        }

        fn add(mut self, kind: EntryType, path: &str, mode: u32, link: &str, data: &[u8]) -> Self {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(data.len() as u64);
            header.set_mtime(1_700_000_000);
            let own = fs::metadata("/proc/self").unwrap();
            header.set_uid(own.uid().into());
            header.set_gid(own.gid().into());
            // As a stranger writes it: the library refuses such names.
            let old = header.as_old_mut();
            old.name[..path.len()].copy_from_slice(path.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            self.0.append(&header, data).unwrap();
            self
        }

        fn file(self, path: &str, data: &[u8]) -> Self {
            self.add(EntryType::Regular, path, 0o644, "", data)
        }

        fn unpack(self, folder: &Path) -> io::Result<()> {
            let bytes = self.0.into_inner().unwrap();
            let slot = folder.join("slot");
            let size = bytes.len() as u64;
            // What a longer one before it has left behind is not looked at.
            fs::write(archive(&slot), [bytes, vec![1; 4000]].concat()).unwrap();
            unpack(&archive(&slot), size, &slot)
        }
    }

    fn refused(packed: Packed) -> String {
        let folder = tempfile::tempdir().unwrap();
        let slot = folder.path().join("slot");
        fs::create_dir(&slot).unwrap();
        fs::write(slot.join("old"), "old").unwrap();
        let told = packed.unpack(folder.path()).unwrap_err().to_string();
        assert_eq!(fs::read_to_string(slot.join("old")).unwrap(), "old", "the slot is as it was");
        assert!(!folder.path().join("slot.new").exists());
        told
    }

    #[test]
    fn a_slot_is_replaced_by_what_the_tar_holds() {
        let folder = tempfile::tempdir().unwrap();
        let slot = folder.path().join("slot");
        for version in ["1", "2", "2"] {
            let packed = Packed::new()
                .add(EntryType::Directory, "./", 0o755, "", b"")
                .add(EntryType::Directory, "bin", 0o750, "", b"")
                .add(EntryType::Regular, "bin/app", 0o755, "", version.as_bytes())
                .file("deep/er/file", &vec![9; 200_000])
                .add(EntryType::Symlink, "current", 0o777, "bin/app", b"")
                .add(EntryType::Link, "same", 0o644, "bin/app", b"");
            packed.unpack(folder.path()).unwrap();
            assert_eq!(fs::read_to_string(slot.join("current")).unwrap(), version);
            assert_eq!(fs::read_to_string(slot.join("same")).unwrap(), version);
        }
        assert_eq!(
            fs::metadata(slot.join("bin/app")).unwrap().permissions().mode() & 0o7777,
            0o755
        );
        assert_eq!(fs::metadata(slot.join("bin")).unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(fs::metadata(slot.join("deep/er/file")).unwrap().len(), 200_000);
        assert!(!folder.path().join("slot.new").exists());
    }

    #[test]
    fn what_leads_out_of_the_slot_is_refused() {
        for path in ["../out", "/out", "a/../../out"] {
            assert!(
                refused(Packed::new().file(path, b"x")).contains("leads out of the slot"),
                "{path}"
            );
        }
        let outside = tempfile::tempdir().unwrap();
        let through = Packed::new()
            .add(EntryType::Symlink, "a", 0o777, outside.path().to_str().unwrap(), b"")
            .file("a/out", b"x");
        refused(through);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let over =
            Packed::new().add(EntryType::Symlink, "a", 0o777, "/etc/hostname", b"").file("a", b"x");
        refused(over);
        let linked = Packed::new().add(EntryType::Symlink, "a", 0o777, "/etc", b"").add(
            EntryType::Link,
            "b",
            0o644,
            "a/hostname",
            b"",
        );
        refused(linked);
    }

    #[test]
    fn devices_other_ones_rights_and_unknown_attributes_are_refused() {
        for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
            assert!(refused(Packed::new().add(kind, "x", 0o644, "", b"")).contains("only files"));
        }
        for mode in [0o4755, 0o2755] {
            let told = refused(Packed::new().add(EntryType::Regular, "x", mode, "", b""));
            assert!(told.contains("rights"), "{told}");
        }
        let mut packed = Packed::new();
        packed.0.append_pax_extensions([("SCHILY.xattr.security.capability", &b"x"[..])]).unwrap();
        assert!(refused(packed.file("x", b"")).contains("SCHILY.xattr"));
    }

    #[test]
    fn a_name_that_comes_twice_and_a_tar_that_is_cut_are_refused() {
        refused(Packed::new().file("x", b"1").file("x", b"2"));
        let folder = tempfile::tempdir().unwrap();
        let slot = folder.path().join("slot");
        let bytes = Packed::new().file("x", &[7; 3000]).0.into_inner().unwrap();
        fs::write(archive(&slot), &bytes[..2000]).unwrap();
        assert!(unpack(&archive(&slot), 2000, &slot).is_err());
        assert!(!slot.exists());
    }
}
