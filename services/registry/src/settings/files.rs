//! Reading the folder of policy files: bounded, regular files only, nothing that everybody can write.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use daemon::files::read_text;

/// Most files in the folder.
pub(crate) const FILES_MAX: usize = 64;
/// Longest file, in bytes.
pub(crate) const FILE_MAX: u64 = 64 << 10;

/// The names of the policy files, sorted. No folder: none.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".toml") && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A policy file as text.
pub(crate) fn read_policy(path: &Path) -> io::Result<String> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o002 != 0 {
        return Err(io::Error::other("everybody can write it; chmod o-w it first"));
    }
    read_text(path, FILE_MAX)
}

/// Why a program proves nothing when one of these users runs it: they could have put it there. A program that isn't there
/// (yet) is nobody's.
pub(crate) fn replaceable_by(path: &Path, is_named: impl Fn(u32) -> bool) -> Option<String> {
    for part in path.ancestors() {
        let Ok(found) = fs::symlink_metadata(part) else { continue };
        let shown = part.display();
        if found.is_symlink() {
            return Some(format!("{shown} is a symbolic link; write where it leads to"));
        }
        if found.uid() != 0 && is_named(found.uid()) {
            return Some(format!(
                "{shown} belongs to user {}, whom this rule means and who can replace it; chown it to root",
                found.uid()
            ));
        }
        // In a folder with the sticky bit nobody replaces what is another's.
        let sticky = found.is_dir() && found.mode() & 0o1000 != 0;
        if found.mode() & 0o022 != 0 && !sticky {
            return Some(format!("others than its owner can write {shown}; chmod go-w it"));
        }
    }
    None
}
