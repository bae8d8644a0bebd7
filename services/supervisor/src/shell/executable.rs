//! What a process runs: path, SHA-256, and whether the process could have written the file itself.
//!
//! Only files that are still at the path where the kernel says they were: one that was deleted or replaced, or that only
//! another mount namespace has there, has no path that would mean anything to a rule.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use protocol::policy::Running;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

/// A longer program is not read; what runs it proves nothing by it.
const FILE_MAX: u64 = 64 << 20;
/// So many digests are remembered; then all are forgotten, which costs only time.
const KNOWN_MAX: usize = 256;
/// Read in pieces of this size.
const PIECE: usize = 64 * 1024;
const STICKY: u32 = 0o1000;

/// A file as it was when it was read. The time of its last change of any kind can't be set back by its owner.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// Digests of files that were read before; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Arc<Mutex<BTreeMap<Stamp, String>>>);

/// Whom the kernel would let a process act as.
#[derive(Debug, Default)]
struct Holder {
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Known {
    /// `None` where we may not look, or where nothing certain can be said.
    pub(crate) fn of(&self, pid: i32) -> Option<Running> {
        let link = PathBuf::from(format!("/proc/{pid}/exe"));
        let path = fs::read_link(&link).ok()?;
        // Never one that blocks: the link leads to the file itself, whatever has happened to its name.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).ok()?;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(&link).ok()?;
        let of_file = file.metadata().ok()?;
        let at_path = fs::symlink_metadata(&path).ok()?;
        if !of_file.is_file() || of_file.len() > FILE_MAX || !is_same(&of_file, &at_path) {
            return None;
        }
        let holder = Holder::of(pid)?;
        let writable = holder.can_replace(&path)?;
        let sha256 = self.digest(file, &of_file)?;
        Some(Running { path: path.to_str()?.to_owned(), sha256, writable })
    }

    fn digest(&self, file: File, before: &Metadata) -> Option<String> {
        let stamp = stamp(before);
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = lock().get(&stamp) {
            return Some(digest.clone());
        }
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE];
        // It may grow while it is read.
        let mut file = file.take(FILE_MAX + 1);
        let mut length = 0;
        loop {
            let read = file.read(&mut piece).ok()?;
            if read == 0 {
                break;
            }
            length += read as u64;
            hash.update(&piece[..read]);
        }
        let after = file.into_inner().metadata().ok()?;
        if length > FILE_MAX || self::stamp(&after) != stamp {
            return None;
        }
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut known = lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(stamp, digest.clone());
        Some(digest)
    }
}

impl Holder {
    /// From proc_pid_status(5): all four of its users, and all its groups.
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
        };
        let mut groups = numbers("Gid:")?;
        groups.extend(numbers("Groups:")?);
        Some(Self { users: numbers("Uid:")?, groups })
    }

    /// Whether it could write the file, or put another one in its place: by a right on the file or on any folder above.
    fn can_replace(&self, path: &Path) -> Option<bool> {
        let mut below: Option<Metadata> = None;
        for part in path.ancestors() {
            let metadata = fs::symlink_metadata(part).ok()?;
            if self.can_write(part, &metadata, below.as_ref()) {
                return Some(true);
            }
            below = Some(metadata);
        }
        Some(false)
    }

    /// Root could write everything; for root it counts whether anybody else can.
    fn can_write(&self, path: &Path, metadata: &Metadata, below: Option<&Metadata>) -> bool {
        let is_root = self.users.contains(&0);
        let own = |uid: u32| if is_root { uid != 0 } else { self.users.contains(&uid) };
        if own(metadata.uid()) {
            return true;
        }
        let mode = metadata.mode();
        // In a sticky folder only who owns the entry, or the folder, may replace it.
        let sticky = metadata.is_dir() && mode & STICKY != 0;
        if sticky && below.is_some_and(|below| !own(below.uid())) {
            return false;
        }
        let of_group = match is_root {
            true => metadata.gid() != 0,
            false => self.groups.contains(&metadata.gid()),
        };
        let by_group = mode & 0o020 != 0 && (of_group || has_acl(path));
        mode & 0o002 != 0 || by_group
    }
}

/// With an access control list the group's bits are a mask for people whom the list names (acl(5)).
fn has_acl(path: &Path) -> bool {
    let mut nothing: [u8; 0] = [];
    rustix::fs::getxattr(path, "system.posix_acl_access", &mut nothing).is_ok_and(|size| size > 0)
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn stamp(metadata: &Metadata) -> Stamp {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        (metadata.mtime(), metadata.mtime_nsec()),
        (metadata.ctime(), metadata.ctime_nsec()),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_process_is_known_by_the_file_that_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let known = Known::default();
        let running = known.of(pid).unwrap();
        let digest = Sha256::digest(fs::read(&program).unwrap());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(running.path, program.canonicalize().unwrap().to_str().unwrap());
        assert_eq!(running.sha256, digest);
        assert_eq!(known.of(pid).as_ref(), Some(&running), "and again, from memory");
        // A file that was put in its place is not what runs.
        fs::remove_file(&program).unwrap();
        fs::copy("/bin/sleep", &program).unwrap();
        assert_eq!(known.of(pid), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(known.of(pid), None);
    }

    #[test]
    fn whoever_owns_or_may_write_the_file_or_a_folder_above_can_replace_it() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("program");
        fs::write(&file, "x").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let metadata = |path: &Path| fs::symlink_metadata(path).unwrap();
        let owner = metadata(&file).uid();
        let stranger = Holder { users: vec![54_321; 4], groups: vec![54_321] };
        let member = Holder { users: vec![54_321; 4], groups: vec![metadata(&file).gid()] };
        // `None`: the folder above is the file system's, which this test doesn't own.
        let can = |who: &Holder, path: &Path| who.can_write(path, &metadata(path), None);
        for (path, quiet) in [(&file, 0o755), (&inner, 0o755)] {
            set(path, quiet);
            assert!(!can(&stranger, path) && !can(&member, path));
            set(path, quiet | 0o020);
            assert!(!can(&stranger, path) && can(&member, path));
            set(path, quiet | 0o002);
            assert!(can(&stranger, path));
            set(path, quiet);
        }
        let own = Holder { users: vec![owner; 4], groups: Vec::new() };
        // For root, what only root can write proves something.
        assert_eq!(can(&own, &file), owner != 0);
        let root = Holder { users: vec![0; 4], groups: vec![0] };
        assert_eq!(can(&root, &file), owner != 0);
        set(&inner, 0o777);
        assert!(can(&root, &inner) && stranger.can_replace(&file).unwrap());
        // Sticky: the entry belongs to somebody else.
        set(&inner, 0o1777);
        let below = metadata(&file);
        assert!(!stranger.can_write(&inner, &metadata(&inner), Some(&below)));
    }
}
