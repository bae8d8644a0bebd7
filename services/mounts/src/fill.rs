//! `x-vestal.fill`: the source of a bind that is not there yet is made from what lies at the mount point.
//!
//! It is copied aside, written to the disk, and then renamed: there is either all of it or nothing, whenever the plug is pulled.
//! Links are copied as links and never followed. Devices, sockets and FIFOs are told and left out.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, fchown, symlink},
    path::{Path, PathBuf},
};

use crate::say;

/// What an image brings along is a few levels and a few files; more than this is a mistake in the table.
const DEPTH_MAX: u32 = 32;
const FILES_MAX: u32 = 100_000;

/// Makes `source` from `origin`, unless it is there.
pub(crate) fn fill(origin: &Path, source: &Path) -> io::Result<()> {
    if fs::symlink_metadata(source).is_ok() {
        return Ok(());
    }
    let parent = source.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(parent)?;
    let aside = aside(source)?;
    remove(&aside)?;
    let mut left = FILES_MAX;
    copy(origin, &aside, 0, &mut left)?;
    fs::rename(&aside, source)?;
    File::open(parent)?.sync_all()
}

fn aside(source: &Path) -> io::Result<PathBuf> {
    let name = source.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut aside = name.to_owned();
    aside.push(".vestal-new");
    Ok(source.with_file_name(aside))
}

/// What an earlier attempt left behind.
fn remove(aside: &Path) -> io::Result<()> {
    match fs::symlink_metadata(aside) {
        Ok(it) if it.is_dir() => fs::remove_dir_all(aside),
        Ok(_) => fs::remove_file(aside),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn copy(from: &Path, to: &Path, depth: u32, left: &mut u32) -> io::Result<()> {
    let too_much = |what| io::Error::other(format!("{}: {what}", from.display()));
    if depth > DEPTH_MAX {
        return Err(too_much("more than 32 levels"));
    }
    *left = left.checked_sub(1).ok_or_else(|| too_much("more than 100000 files"))?;
    let about = fs::symlink_metadata(from)?;
    let (user, group) = (Some(about.uid()), Some(about.gid()));
    if about.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        return std::os::unix::fs::lchown(to, user, group);
    }
    // The owner before the mode: changing the owner takes set-user-id bits away.
    let mode = fs::Permissions::from_mode(about.mode() & 0o7777);
    if about.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy(&from.join(&name), &to.join(&name), depth + 1, left)?;
        }
        chown(to, user, group)?;
        fs::set_permissions(to, mode)?;
        return File::open(to)?.sync_all();
    }
    if !about.is_file() {
        say(&format!("{}: neither file nor folder nor link: not copied", from.display()));
        return Ok(());
    }
    let mut copied = File::create_new(to)?;
    io::copy(&mut File::open(from)?, &mut copied)?;
    fchown(&copied, user, group)?;
    copied.set_permissions(mode)?;
    copied.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_made_once_with_modes_and_links_and_never_over_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (origin, source) = (folder.path().join("etc"), folder.path().join("data/config"));
        fs::create_dir_all(origin.join("deep/er")).unwrap();
        fs::write(origin.join("deep/er/file"), "as shipped").unwrap();
        fs::set_permissions(origin.join("deep"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(origin.join("deep/er/file"), fs::Permissions::from_mode(0o4711))
            .unwrap();
        symlink("deep/er/file", origin.join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            origin.join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        // An earlier attempt was cut.
        fs::create_dir_all(folder.path().join("data/config.vestal-new/old")).unwrap();

        fill(&origin, &source).unwrap();
        assert_eq!(fs::read_to_string(source.join("deep/er/file")).unwrap(), "as shipped");
        let mode = |name: &str| fs::metadata(source.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("deep"), mode("deep/er/file")), (0o750, 0o4711));
        assert_eq!(fs::read_link(source.join("link")).unwrap(), Path::new("deep/er/file"));
        assert!(!source.join("fifo").exists() && !source.join("old").exists());
        assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 1, "nothing aside");

        fs::write(source.join("deep/er/file"), "as changed").unwrap();
        fill(&origin, &source).unwrap();
        assert_eq!(fs::read_to_string(source.join("deep/er/file")).unwrap(), "as changed");
    }

    #[test]
    fn what_can_t_be_copied_whole_is_not_there_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut deep = folder.path().join("etc");
        let origin = deep.clone();
        for _ in 0..40 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        let source = folder.path().join("config");
        let error = fill(&origin, &source).unwrap_err();
        assert!(error.to_string().contains("more than 32 levels"), "{error}");
        assert!(!source.exists());
    }
}
