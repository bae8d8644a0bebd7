//! What points to the slot in use: a symbolic link, or a bind mount. Changed in one step, and only where it points elsewhere.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::{devices::usage, store::sync};
use crate::settings::{Method, Target};

/// Lets the link of a component point to this slot.
///
/// # Errors
/// Why it still points where it did, naming the link.
pub(crate) fn point(method: &Method, slot: &Target) -> io::Result<()> {
    let (link, pointed) = match method {
        Method::Symlink { link } => (link, whole(slot).and_then(|path| to(link, path))),
        Method::Device { link } => (link, device(slot).and_then(|path| to(link, path))),
        Method::Bind { link } => (link, whole(slot).and_then(|path| bind(link, path))),
    };
    pointed.map_err(|error| {
        let text = format!("let {} point to {}: {error}", link.display(), slot.path.display());
        io::Error::new(error.kind(), text)
    })
}

fn whole(slot: &Target) -> io::Result<&Path> {
    match slot.offset {
        0 => Ok(&slot.path),
        _ => Err(io::Error::other("a part of a device can't be pointed to; make it a partition")),
    }
}

fn device(slot: &Target) -> io::Result<&Path> {
    let path = whole(slot)?;
    match fs::metadata(path)?.file_type().is_block_device() {
        true => Ok(path),
        false => {
            Err(io::Error::other("it is no block device; write method = \"symlink\" or \"bind\""))
        }
    }
}

fn to(link: &Path, target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(link) {
        Ok(meta) if meta.is_symlink() => {
            if fs::read_link(link)? == target {
                return Ok(());
            }
        }
        Ok(_) => {
            return Err(io::Error::other(
                "something else is there; remove it, or name another link",
            ));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let folder = parent(link)?;
    fs::create_dir_all(folder)?;
    let mut fresh = link.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(target, &fresh)?;
    fs::rename(&fresh, link)?;
    sync(folder)
}

fn bind(link: &Path, target: &Path) -> io::Result<()> {
    let wanted = fs::metadata(target)?;
    let place = match fs::metadata(link) {
        Ok(there) => Some(there),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let same = |there: &fs::Metadata| (there.dev(), there.ino()) == (wanted.dev(), wanted.ino());
    let mounted = usage::is_mount_point(link)?;
    if mounted && place.as_ref().is_some_and(same) {
        return Ok(());
    }
    if place.is_none() {
        fs::create_dir_all(parent(link)?)?;
        match wanted.is_dir() {
            true => fs::create_dir(link)?,
            false => fs::write(link, b"")?,
        }
    }
    if mounted {
        // Whoever still works in the old one keeps it until he leaves.
        unmount(link, UnmountFlags::DETACH)?;
    }
    Ok(mount_bind(target, link)?)
}

fn parent(link: &Path) -> io::Result<&Path> {
    link.parent().ok_or_else(|| io::Error::other("the root folder can't be a link"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(path: &Path) -> Target {
        Target { path: path.to_owned(), offset: 0, size: None }
    }

    #[test]
    fn a_link_is_made_with_its_folder_and_replaced_and_left_alone_where_it_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("run/app");
        let method = Method::Symlink { link: link.clone() };
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for path in [&a, &b, &b] {
            point(&method, &slot(path)).unwrap();
            assert_eq!(&fs::read_link(&link).unwrap(), path);
        }
        let inode = fs::symlink_metadata(&link).unwrap().ino();
        point(&method, &slot(&b)).unwrap();
        assert_eq!(fs::symlink_metadata(&link).unwrap().ino(), inode);
    }

    #[test]
    fn what_is_no_link_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("app");
        fs::create_dir(&link).unwrap();
        let method = Method::Symlink { link: link.clone() };
        let told = point(&method, &slot(&folder.path().join("a"))).unwrap_err().to_string();
        assert!(told.contains("something else is there"), "{told}");
        let part = Target { offset: 4096, ..slot(&folder.path().join("a")) };
        assert!(point(&method, &part).unwrap_err().to_string().contains("partition"));
        fs::write(folder.path().join("a"), "").unwrap();
        let method = Method::Device { link };
        let told = point(&method, &slot(&folder.path().join("a"))).unwrap_err().to_string();
        assert!(told.contains("no block device"), "{told}");
    }

    #[test]
    fn a_bind_mount_shows_the_slot_and_is_exchanged() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("left out: only root can mount");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        let method = Method::Bind { link: link.clone() };
        for name in ["a", "b"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("name"), name).unwrap();
        }
        for name in ["a", "b", "b", "a"] {
            if let Err(error) = point(&method, &slot(&folder.path().join(name))) {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                eprintln!("left out: mounting is not allowed here");
                return;
            }
            assert_eq!(fs::read_to_string(link.join("name")).unwrap(), name);
        }
        unmount(&link, UnmountFlags::DETACH).unwrap();
        assert!(!usage::is_mount_point(&link).unwrap());
    }
}
