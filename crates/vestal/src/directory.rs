//! A folder as a pax tar that is the same for the same content: sorted names, one time for all, owner and group 0.
//! Extended attributes and hard links are left out: a file with two names is there twice.

use std::{
    fs::{self, Metadata},
    io::{self, Read as _, Write},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use tar::{Builder, EntryType, Header};

use crate::{error::Error, files};

/// Octets of a name in a header.
const NAME_MAX: usize = 100;
/// The largest size that 11 octal digits say.
const SIZE_MAX: u64 = 0o777_7777_7777;
const SPECIAL_BITS: u32 = 0o7000;
const STICKY: u32 = 0o1000;

/// What the archive says of all files.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// Device nodes, setuid and setgid are taken.
    pub(crate) allow_special: bool,
}

/// Writes the folder's content; the folder itself has no entry.
pub(crate) fn pack<W: Write>(folder: &Path, rules: Rules, output: W) -> Result<W, Error> {
    let mut archive = Builder::new(output);
    let mut waiting = children(folder, Path::new(""))?;
    // The last is the next: a folder's content comes right after it.
    waiting.reverse();
    while let Some(name) = waiting.pop() {
        let path = folder.join(&name);
        let metadata =
            fs::symlink_metadata(&path).map_err(|error| Error::io("read", &path, &error))?;
        entry(&mut archive, &path, &name, &metadata, rules)?;
        if metadata.is_dir() {
            let mut inner = children(folder, &name)?;
            inner.reverse();
            waiting.extend(inner);
        }
    }
    archive.into_inner().map_err(|error| Error::file(folder, format!("write the archive: {error}")))
}

/// Names in a folder, from the top one on, sorted by their octets.
fn children(top: &Path, name: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = top.join(name);
    let read = |error: io::Error| Error::io("read the folder", &folder, &error);
    let entries = fs::read_dir(&folder).map_err(read)?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(name.join(entry.map_err(read)?.file_name()));
    }
    names.sort_by(|one, other| one.as_os_str().as_bytes().cmp(other.as_os_str().as_bytes()));
    Ok(names)
}

fn entry<W: Write>(
    archive: &mut Builder<W>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
    rules: Rules,
) -> Result<(), Error> {
    let (kind, size) = kind(path, metadata, rules)?;
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(rules.time);
    header.set_uid(0);
    header.set_gid(0);
    // The size of a larger file is in its extension alone.
    header.set_size(if size > SIZE_MAX { 0 } else { size });
    let wrong = |error: io::Error| Error::file(path, format!("write the archive: {error}"));
    if kind.is_character_special() || kind.is_block_special() {
        let device = metadata.rdev();
        header.set_device_major(rustix::fs::major(device)).map_err(wrong)?;
        header.set_device_minor(rustix::fs::minor(device)).map_err(wrong)?;
    }
    let mut stored = name.as_os_str().as_bytes().to_vec();
    if kind.is_dir() {
        stored.push(b'/');
    }
    let target = match kind {
        EntryType::Symlink => {
            let target =
                fs::read_link(path).map_err(|error| Error::io("read the link", path, &error))?;
            target.into_os_string().as_bytes().to_vec()
        }
        _ => Vec::new(),
    };
    let digits = size.to_string();
    let long = [
        ("path", &stored[..], stored.len() > NAME_MAX || !stored.is_ascii()),
        ("linkpath", &target[..], target.len() > NAME_MAX || !target.is_ascii()),
        ("size", digits.as_bytes(), size > SIZE_MAX),
    ];
    let long: Vec<_> = long
        .into_iter()
        .filter(|(.., needed)| *needed)
        .map(|(key, value, _)| (key, value))
        .collect();
    if !long.is_empty() {
        append_extensions(archive, &long, rules.time).map_err(wrong)?;
    }
    let fields = header.as_old_mut();
    put(&mut fields.name, &stored);
    put(&mut fields.linkname, &target);
    header.set_cksum();
    if !kind.is_file() {
        return archive.append(&header, io::empty()).map_err(wrong);
    }
    content(archive, &header, path, size)
}

/// A file's content, exactly as long as its header said.
fn content<W: Write>(
    archive: &mut Builder<W>,
    header: &Header,
    path: &Path,
    size: u64,
) -> Result<(), Error> {
    let file = files::open(path)?;
    let wrong = |error: io::Error| Error::file(path, format!("write the archive: {error}"));
    let mut counted = Counted { inner: file.take(size), count: 0 };
    archive.append(header, &mut counted).map_err(wrong)?;
    let longer = counted.inner.into_inner().read(&mut [0]).map_err(wrong)? > 0;
    if counted.count == size && !longer {
        return Ok(());
    }
    let text = format!(
        "has no longer the {size} bytes that it had: leave the folder alone while it is read"
    );
    Err(Error::file(path, text))
}

/// How many bytes were read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

/// As much as fits; the rest is in an extension.
fn put(field: &mut [u8; NAME_MAX], value: &[u8]) {
    let length = value.len().min(NAME_MAX);
    field[..length].copy_from_slice(&value[..length]);
}

/// What the next entry's header has no room for: records of `LENGTH KEY=VALUE`.
fn append_extensions<W: Write>(
    archive: &mut Builder<W>,
    records: &[(&str, &[u8])],
    time: u64,
) -> io::Result<()> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = 3 + key.len() + value.len();
        // The length counts its own digits.
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        content.extend(format!("{length} {key}=").into_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    put(&mut header.as_old_mut().name, b"././@PaxHeader");
    header.set_cksum();
    archive.append(&header, &content[..])
}

/// What it is, and how many bytes follow its header.
fn kind(path: &Path, metadata: &Metadata, rules: Rules) -> Result<(EntryType, u64), Error> {
    let file_type = metadata.file_type();
    let special = metadata.mode() & SPECIAL_BITS & !STICKY != 0;
    if special && !file_type.is_symlink() && !rules.allow_special {
        let text = "setuid or setgid: take the bit off, or allow it with allow-special = true";
        return Err(Error::file(path, text));
    }
    if file_type.is_dir() {
        return Ok((EntryType::Directory, 0));
    }
    if file_type.is_file() {
        return Ok((EntryType::Regular, metadata.len()));
    }
    if file_type.is_symlink() {
        return Ok((EntryType::Symlink, 0));
    }
    let device = if file_type.is_char_device() {
        Some(EntryType::Char)
    } else if file_type.is_block_device() {
        Some(EntryType::Block)
    } else {
        None
    };
    match device {
        Some(kind) if rules.allow_special => Ok((kind, 0)),
        Some(_) => {
            Err(Error::file(path, "a device: leave it out, or allow it with allow-special = true"))
        }
        None => {
            Err(Error::file(path, "neither file, folder, symbolic link nor device: leave it out"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const RULES: Rules = Rules { time: 1_700_000_000, allow_special: false };

    fn filled(long: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("there is room");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("etc/init")).expect("there is room");
        fs::write(at("etc/init/run"), "go").expect("there is room");
        fs::write(at("etc.conf"), "a = 1").expect("there is room");
        fs::write(at(long), "long").expect("there is room");
        symlink("../etc.conf", at("etc/link")).expect("there is room");
        fs::set_permissions(at("etc/init/run"), fs::Permissions::from_mode(0o755))
            .expect("it is ours");
        folder
    }

    fn packed(folder: &Path) -> Vec<u8> {
        pack(folder, RULES, Vec::new()).expect("it is in order")
    }

    #[test]
    fn a_folder_is_packed_in_order_and_comes_out_again() {
        let long = format!("{}ö", "x".repeat(150));
        let folder = filled(&long);
        let bytes = packed(folder.path());
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().expect("it is an archive") {
            let mut entry = entry.expect("it is whole");
            let path = entry.path().expect("it has one").into_owned();
            let header = entry.header();
            assert_eq!(header.mtime().expect("it has one"), RULES.time);
            assert_eq!((header.uid().expect("has"), header.gid().expect("has")), (0, 0));
            let link = entry.link_name().expect("it is read").map(|link| link.into_owned());
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("it is text");
            seen.push((path.to_string_lossy().into_owned(), text, link));
        }
        let link = Some(PathBuf::from("../etc.conf"));
        let row = |name: &str, text: &str| (name.to_owned(), text.to_owned(), None);
        let expected = [
            row("etc/", ""),
            row("etc/init/", ""),
            row("etc/init/run", "go"),
            ("etc/link".to_owned(), String::new(), link),
            row("etc.conf", "a = 1"),
            row(&long, "long"),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(packed(filled("a").path()), packed(filled("a").path()));
    }

    #[test]
    fn setuid_is_refused_unless_it_is_allowed() {
        let folder = filled("a");
        let run = folder.path().join("etc/init/run");
        fs::set_permissions(&run, fs::Permissions::from_mode(0o4755)).expect("it is ours");
        let refused = pack(folder.path(), RULES, Vec::new()).expect_err("it is refused").text;
        assert!(
            refused.contains("etc/init/run: setuid") && refused.contains("allow-special"),
            "{refused}"
        );
        assert!(pack(folder.path(), Rules { allow_special: true, ..RULES }, Vec::new()).is_ok());
    }
}
