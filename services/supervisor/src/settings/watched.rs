//! What `files` and `netdev` look at when a definition is read: a changed answer makes a changed process, and that restarts it.

use std::{fs, io::Read as _, path::Path};

use sha2::{Digest as _, Sha256};

use super::files;

/// Read of each file; of a longer one the beginning and the length count.
const FILE_MAX: u64 = 16 << 20;
/// Most files and most devices that one instance may watch.
pub(super) const WATCHED_MAX: usize = 256;

/// The content's hash; zeros for a file that isn't there or is no plain file.
pub(super) fn content(path: &Path) -> [u8; 32] {
    hash(path).unwrap_or_default()
}

fn hash(path: &Path) -> Option<[u8; 32]> {
    let file = files::open_plain(path).ok()?;
    let mut hasher = Sha256::new();
    hasher.update(file.metadata().ok()?.len().to_le_bytes());
    let mut rest = file.take(FILE_MAX);
    let mut block = vec![0; 64 * 1024];
    loop {
        match rest.read(&mut block).ok()? {
            0 => return Some(hasher.finalize().into()),
            read => hasher.update(&block[..read]),
        }
    }
}

/// The network device's index; 0 where there is none of that name.
pub(super) fn device_index(name: &str) -> u32 {
    let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    let path = Path::new("/sys/class/net").join(name).join("ifindex");
    let text = if plain { fs::read_to_string(path).ok() } else { None };
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_and_what_is_no_file_is_zero() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("conf");
        assert_eq!(content(&file), [0; 32]);
        assert_eq!(content(folder.path()), [0; 32]);
        fs::write(&file, "a").unwrap();
        let first = content(&file);
        fs::write(&file, "b").unwrap();
        let second = content(&file);
        fs::write(&file, "a").unwrap();
        assert!(first != [0; 32] && first != second && first == content(&file));
    }

    #[test]
    fn the_loopback_device_has_an_index_and_a_path_is_no_device() {
        assert_eq!(device_index("../../lo"), 0);
        assert_eq!(device_index("no-such-device"), 0);
        assert_eq!(device_index("lo") > 0, Path::new("/sys/class/net/lo").exists());
    }
}
