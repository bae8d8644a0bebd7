//! What is kept in `RUN_DIR/config/`: the record of what was announced, and the contents that went with it, each under the
//! SHA-256 of its bytes. A content is checked whenever it is read, so a torn one is a missing one.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use daemon::files::{open_plain, read_text};
use sha2::{Digest as _, Sha256};

use super::record;
use crate::machine::{Digest, Record, digits};

/// A longer record is none of ours: 65,536 files with paths of 4 KiB.
const RECORD_MAX: u64 = 512 << 20;

pub(super) struct Store {
    record: PathBuf,
    contents: PathBuf,
    /// Contents that are there, whole or torn, with their lengths.
    held: HashMap<Digest, u64>,
    /// Of all of them.
    bytes: u64,
}

/// How a file that is replaced is to be.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub(super) mode: u32,
    /// `None`: as we make it.
    pub(super) ids: Option<(u32, u32)>,
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

impl Store {
    /// # Errors
    /// Where the folders can't be made.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let contents = folder.join("last");
        fs::create_dir_all(&contents)?;
        // What configuration holds may be a secret: the files that it was read from say who may read it, not these.
        fs::set_permissions(&contents, Permissions::from_mode(0o700))?;
        let mut held = HashMap::new();
        for entry in fs::read_dir(&contents)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(digest) = name.to_str().and_then(record::undigits::<32>) {
                held.insert(digest, entry.metadata()?.len());
            }
        }
        let bytes = held.values().sum();
        Ok(Self { record: folder.join("digests"), contents, held, bytes })
    }

    /// What the watcher before has written down.
    ///
    /// # Errors
    /// Where there is something that can't be used.
    pub(super) fn load(&self) -> Result<Option<Record>, String> {
        let told = |why: String| {
            format!("{}: {why}; what the files say now counts as announced", self.record.display())
        };
        match read_text(&self.record, RECORD_MAX) {
            Ok(text) => record::parse(&text).map(Some).map_err(told),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(told(error.to_string())),
        }
    }

    /// Writes the record, then forgets the contents that nothing needs any more.
    ///
    /// # Errors
    /// Where it can't be written; the one from before is left.
    pub(super) fn save(&mut self, record: &Record) -> Result<(), String> {
        let owner = Owner { mode: 0o644, ids: None };
        replace(&self.record, record::print(record).as_bytes(), owner)
            .map_err(|error| format!("write {}: {error}", self.record.display()))?;
        let announced = record.files.values().filter_map(|announced| announced.content);
        let keep = announced.chain(record.contents.iter().copied()).collect();
        self.sweep(&keep).map_err(|error| format!("tidy up {}: {error}", self.contents.display()))
    }

    fn sweep(&mut self, keep: &HashSet<Digest>) -> io::Result<()> {
        let needless: Vec<Digest> =
            self.held.keys().filter(|digest| !keep.contains(*digest)).copied().collect();
        for digest in needless {
            match fs::remove_file(self.place(&digest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.hold(digest, None),
            }
        }
        Ok(())
    }

    fn hold(&mut self, content: Digest, length: Option<u64>) {
        let before = match length {
            Some(length) => self.held.insert(content, length),
            None => self.held.remove(&content),
        };
        self.bytes = self.bytes + length.unwrap_or(0) - before.unwrap_or(0);
    }

    fn place(&self, content: &Digest) -> PathBuf {
        self.contents.join(digits(content))
    }

    /// Keeps a content, if there is room for it.
    pub(super) fn keep(&mut self, content: Digest, bytes: &[u8], max: u64) -> Option<Digest> {
        let length = u64::try_from(bytes.len()).ok()?;
        let path = self.place(&content);
        if fs::metadata(&path).is_ok_and(|found| found.len() == length) {
            return Some(content);
        }
        let others = self.bytes - self.held.get(&content).copied().unwrap_or(0);
        if others.saturating_add(length) > max {
            return None;
        }
        // From before it is written, so that half of it is swept away.
        self.hold(content, Some(length));
        let write = || {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&path)?.write_all(bytes)
        };
        match write() {
            Ok(()) => Some(content),
            Err(error) => {
                tracing::warn!("keep a content in {}: {error}", self.contents.display());
                None
            }
        }
    }

    /// A content, if it is there and whole.
    pub(super) fn content(&self, content: &Digest) -> Option<Vec<u8>> {
        let bytes = fs::read(self.place(content)).ok()?;
        (sha256(&bytes) == *content).then_some(bytes)
    }
}

/// Puts a whole file in the place of another: whoever looks sees the one or the other.
///
/// # Errors
/// As the system says; the one from before is left then.
pub(super) fn replace(path: &Path, bytes: &[u8], owner: Owner) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(".vestal-new");
    let fresh = folder.join(name);
    let write = || {
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        if let Some((uid, gid)) = owner.ids
            && owner_of(&file)? != (uid, gid)
        {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        file.set_permissions(Permissions::from_mode(owner.mode & 0o7777))?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    if let Err(error) = write() {
        // It may never have been made.
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn owner_of(file: &File) -> io::Result<(u32, u32)> {
    file.metadata().map(|found| (found.uid(), found.gid()))
}

/// Puts a content in the place of a file, which keeps its mode and its owner. A link is followed.
///
/// # Errors
/// What can't be done, and what to do.
pub(super) fn put_back(store: &Store, path: &str, content: Option<&Digest>) -> Result<(), String> {
    let Some(content) = content else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("remove {path}: {error}"))
            }
            _ => Ok(()),
        };
    };
    let Some(bytes) = store.content(content) else {
        return Err(format!("what {path} said before is not kept; write it anew"));
    };
    let target = fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    // One that isn't there any more comes back closed to others, as `uci` makes it.
    let found = fs::metadata(&target).ok().filter(fs::Metadata::is_file);
    let owner = found.map_or(Owner { mode: 0o600, ids: None }, |found| Owner {
        mode: found.permissions().mode(),
        ids: Some((found.uid(), found.gid())),
    });
    replace(&target, &bytes, owner).map_err(|error| {
        format!("write {}: {error}; the user of vestal-config must be allowed to", target.display())
    })
}

/// Why a file could not be read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It isn't there.
    Gone,
    /// It was written to whenever it was read.
    Moving,
    /// What is wrong, and what to do.
    Told(String),
}

/// Tries in a row to read a file that is being written.
const TRIES: usize = 3;

/// Reads a whole file of at most `limit` bytes, as it was at one moment.
pub(super) fn read_whole(path: &str, limit: u64) -> Result<Vec<u8>, Trouble> {
    for _ in 0..TRIES {
        if let Some(bytes) = Opened::new(path, limit)?.read()? {
            return Ok(bytes);
        }
    }
    Err(Trouble::Moving)
}

/// A file, with what was known of it before it is read.
struct Opened<'p> {
    path: &'p str,
    limit: u64,
    file: File,
    before: fs::Metadata,
}

impl<'p> Opened<'p> {
    fn new(path: &'p str, limit: u64) -> Result<Self, Trouble> {
        let told = |error: io::Error| missing(path, &error);
        let found = fs::metadata(path).map_err(told)?;
        if !found.is_file() {
            let what = if found.is_dir() { "a folder" } else { "not a plain file" };
            return Err(Trouble::Told(format!("it is {what}; put a file there")));
        }
        let file = open_plain(Path::new(path)).map_err(told)?;
        let before = file.metadata().map_err(told)?;
        let length = before.len();
        if length > limit {
            let text =
                format!("it is {length} bytes long, at most {limit} are read; make it shorter");
            return Err(Trouble::Told(text));
        }
        Ok(Self { path, limit, file, before })
    }

    /// All of it, unless it was written or replaced since it was opened.
    fn read(&self) -> Result<Option<Vec<u8>>, Trouble> {
        let told = |error: io::Error| missing(self.path, &error);
        let mut bytes = Vec::with_capacity(usize::try_from(self.before.len()).unwrap_or(0));
        (&self.file).take(self.limit + 1).read_to_end(&mut bytes).map_err(told)?;
        let after = self.file.metadata().map_err(told)?;
        let whole = u64::try_from(bytes.len()).is_ok_and(|read| read == after.len());
        // One that lost its name to another has changed as well.
        Ok((whole && state(&self.before) == state(&after)).then_some(bytes))
    }
}

/// What changes when a file is written, or another takes its name.
fn state(found: &fs::Metadata) -> (u64, u64, u64, (i64, i64), (i64, i64)) {
    let written = (found.mtime(), found.mtime_nsec());
    let changed = (found.ctime(), found.ctime_nsec());
    (found.dev(), found.ino(), found.len(), written, changed)
}

fn missing(path: &str, error: &io::Error) -> Trouble {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    let errno = rustix::io::Errno::from_io_error(error);
    match (error.kind(), errno) {
        (io::ErrorKind::NotFound, _) if is_link => {
            let to = fs::read_link(path).map(|to| to.display().to_string()).unwrap_or_default();
            Trouble::Told(format!(
                "it is a link to {to:?}, which is not there; make it, or remove the link"
            ))
        }
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _) => Trouble::Gone,
        (_, Some(rustix::io::Errno::LOOP)) => {
            Trouble::Told("its links lead in a circle; remove one".to_owned())
        }
        (io::ErrorKind::PermissionDenied, _) => Trouble::Told(format!(
            "the user of vestal-config may not read it ({error}); change its mode or owner"
        )),
        _ => Trouble::Told(format!("it can't be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_there_while_it_is_needed_and_never_torn() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let (one, two) = (sha256(b"one"), sha256(b"two"));
        assert_eq!(store.keep(one, b"one", 5), Some(one));
        assert_eq!(store.keep(two, b"two", 5), None, "there is no room");
        assert_eq!(store.keep(two, b"two", 6), Some(two));
        assert_eq!(store.content(&one).unwrap(), b"one");
        let record = Record { contents: vec![one], ..Record::default() };
        store.save(&record).unwrap();
        assert!(store.content(&one).is_some() && store.content(&two).is_none());
        assert_eq!(store.keep(two, b"two", 6), Some(two), "there is room again");
        fs::write(store.place(&one), "on").unwrap();
        assert_eq!(store.content(&one), None);
    }

    #[test]
    fn what_is_there_at_the_start_takes_room_and_goes_when_nothing_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut before = Store::open(folder.path()).unwrap();
        let (one, two) = (sha256(b"one"), sha256(b"two"));
        assert_eq!(before.keep(one, b"one", 6), Some(one));
        fs::write(before.place(&two), "t").unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.keep(two, b"two", 5), None, "there is no room");
        assert_eq!(store.keep(two, b"two", 6), Some(two), "half of it is replaced");
        let four = sha256(b"four");
        fs::create_dir(store.place(&four)).unwrap();
        assert_eq!(store.keep(four, b"four", 100), None, "it can't be written");
        fs::remove_dir(store.place(&four)).unwrap();
        fs::write(store.place(&four), "f").unwrap();
        store.save(&Record::default()).unwrap();
        assert_eq!(fs::read_dir(&store.contents).unwrap().count(), 0);
        assert_eq!((store.held.len(), store.bytes), (0, 0));
    }

    #[test]
    fn a_record_that_is_none_is_told_and_none_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.load(), Ok(None));
        store.save(&Record::default()).unwrap();
        assert_eq!(store.load(), Ok(Some(Record::default())));
        fs::write(folder.path().join("digests"), "x").unwrap();
        assert!(store.load().unwrap_err().contains("counts as announced"));
    }

    #[test]
    fn what_is_put_back_keeps_mode_and_link() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("run")).unwrap();
        let content = store.keep(sha256(b"old"), b"old", 100);
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "new").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        put_back(&store, link.to_str().unwrap(), content.as_ref()).unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"old");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        put_back(&store, link.to_str().unwrap(), None).unwrap();
        assert!(!link.exists() && real.exists());
        let why = put_back(&store, "/nowhere/x", Some(&[0; 32])).unwrap_err();
        assert!(why.contains("is not kept"), "{why}");
    }

    #[test]
    fn what_is_written_or_replaced_while_it_is_read_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let harms: [&dyn Fn(); 4] = [
            &|| fs::write(&path, "two").unwrap(),
            &|| fs::write(&path, "longer").unwrap(),
            &|| drop(File::options().write(true).truncate(true).open(&path).unwrap()),
            &|| replace(&path, b"one", Owner { mode: 0o644, ids: None }).unwrap(),
        ];
        for harm in harms {
            fs::write(&path, "one").unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
            let opened = Opened::new(path.to_str().unwrap(), 100).unwrap();
            harm();
            assert!(opened.read().unwrap().is_none());
        }
        assert_eq!(read_whole(path.to_str().unwrap(), 100).unwrap(), b"one");
    }

    #[test]
    fn what_is_no_whole_plain_file_is_told_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let told = |name: &str| match read_whole(&path(name), 100) {
            Err(Trouble::Told(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(matches!(read_whole(&path("none"), 100), Err(Trouble::Gone)));
        fs::create_dir(path("folder")).unwrap();
        assert!(told("folder").contains("it is a folder"));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), mode).unwrap();
        assert!(told("fifo").contains("not a plain file"));
        std::os::unix::fs::symlink("b", path("a")).unwrap();
        assert!(told("a").contains("a link to \"b\", which is not there"));
        std::os::unix::fs::symlink("a", path("b")).unwrap();
        assert!(told("a").contains("lead in a circle"));
        File::create(path("sparse")).unwrap().set_len(100 << 20).unwrap();
        assert!(told("sparse").contains("104857600 bytes long, at most 100"));
    }
}
