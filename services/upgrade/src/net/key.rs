//! The device's key, by which hosts know it: made at the first start, never changed, readable by root alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, ensure};
use daemon::files::open_plain;

const FILE: &str = "tls.key";
const SEED: usize = 32;

/// The key's seed, from `tls.key` in this folder; a new one where there is none.
///
/// # Errors
/// Where the file is damaged or open to others, or can't be made. A damaged one is not replaced: hosts would take the device
/// for another one.
pub(super) fn load(folder: &Path) -> anyhow::Result<[u8; SEED]> {
    let path = folder.join(FILE);
    match open_plain(&path) {
        Ok(file) => read(file).with_context(|| format!("{}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(folder).with_context(|| format!("make {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
    }
}

fn read(file: File) -> anyhow::Result<[u8; SEED]> {
    let mode = file.metadata()?.mode() & 0o777;
    ensure!(mode & 0o077 == 0, "the device's key may be read by others (mode {mode:o}): chmod 600");
    let mut bytes = Vec::new();
    file.take(SEED as u64 + 1).read_to_end(&mut bytes)?;
    let length = bytes.len();
    bytes.try_into().ok().with_context(|| {
        format!("{length} bytes, a key has {SEED}: remove it, and let hosts trust the device anew")
    })
}

fn make(folder: &Path) -> anyhow::Result<[u8; SEED]> {
    DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    let mut seed = [0; SEED];
    let mut filled = 0;
    while filled < SEED {
        // Waits, early after a boot, until the kernel has random numbers.
        match rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("draw random octets"),
        }
    }
    let fresh = folder.join(".tls.key");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(&seed)?;
    file.sync_all()?;
    fs::rename(&fresh, folder.join(FILE))?;
    File::open(folder)?.sync_all()?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_nobody_else_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("upgrade");
        let first = load(&place).unwrap();
        assert_eq!(load(&place).unwrap(), first);
        let mode = fs::metadata(place.join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(place.join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(format!("{:#}", load(&place).unwrap_err()).contains("chmod 600"));
    }

    #[test]
    fn a_damaged_key_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, [7; 31]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(load(folder.path()).is_err());
        assert_eq!(fs::read(&path).unwrap(), [7; 31]);
    }
}
