//! What is known of a driver over a restart: which version serves, which one it goes back to, and their objects.
//!
//! `STATE_DIR/driver/NAME/record.json` names versions, `HASH.so` beside it are their objects. Only the manager writes; a host
//! reads. A record that is torn or missing, and an object that is damaged or gone, never stop a driver: then the factory
//! version serves, and a note says why. An object is never used unless its bytes have the hash that it is called by.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use daemon::files::{open_plain, read_text};
use protocol::driver::{OBJECT_MAX, Settled, Version};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The record's name in the driver's folder.
const RECORD: &str = "record.json";
/// A longer record is none: it names three versions.
const RECORD_MAX: u64 = 64 << 10;
const OBJECT: &str = ".so";
/// What is being written; of no use after a power cut.
const FRESH: &str = ".new";

/// What `record.json` says.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Record {
    /// What serves.
    pub(crate) current: Version,
    /// What a rollback goes back to.
    pub(crate) previous: Option<Version>,
    /// The current version has to prove itself: a host that starts meanwhile loads the previous one.
    #[serde(default)]
    pub(crate) probation: bool,
    /// A permission came with the current version: the floor is its index when it is confirmed, and may fall.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lowers: bool,
    /// No version of a bundle with a lower rollback index is taken.
    #[serde(default)]
    pub(crate) floor: u64,
    /// SHA-256 of the factory object when this was written.
    #[serde(default)]
    pub(crate) factory: String,
    /// How the last version that was tried ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<Settled>,
}

impl Record {
    /// Of a driver that was never upgraded.
    pub(crate) fn of_factory(hash: &str) -> Self {
        Self { current: factory(hash), factory: hash.to_owned(), ..Self::default() }
    }

    /// Every version that it names.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &Version> {
        std::iter::once(&self.current).chain(self.previous.as_ref())
    }

    fn is_sound(&self) -> bool {
        self.versions().all(|version| is_hash(&version.hash))
            && (self.factory.is_empty() || is_hash(&self.factory))
            // A probation without a way back would start the very version that is not trusted yet.
            && (!self.probation || self.previous.is_some())
    }
}

/// What an object from the factory is called: its version is told by the object itself.
pub(crate) fn factory(hash: &str) -> Version {
    Version { hash: hash.to_owned(), ..Version::default() }
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn hash_of(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether this is a SHA-256 as we write it; files are named so.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a host starts with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Start {
    /// Its `version` is empty where only the object itself can tell it.
    pub(crate) version: Version,
    pub(crate) object: Vec<u8>,
    /// The version that was on probation when the host before ended: it is rolled back by this start.
    pub(crate) rolled_back: Option<Version>,
    /// What was not as it should be.
    pub(crate) notes: Vec<String>,
}

/// Reads what a host that starts now has to load. `folder` is `STATE_DIR/driver/NAME`.
///
/// # Errors
/// Where not even the factory object can be read.
pub(crate) fn start(folder: &Path, factory: &Path) -> Result<Start, String> {
    let mut notes = Vec::new();
    let record = match read(folder) {
        Ok(record) => record,
        Err(why) => {
            notes.push(format!("{why}; the factory version serves"));
            None
        }
    };
    let untrusted = record.as_ref().filter(|record| record.probation);
    let rolled_back = untrusted.map(|record| record.current.clone());
    let wanted = record.iter().flat_map(|record| {
        let current = (!record.probation).then_some(&record.current);
        current.into_iter().chain(record.previous.as_ref()).map(move |version| (record, version))
    });
    for (record, version) in wanted {
        // The factory object lies in the root file system and not beside the record.
        let found = object(folder, &version.hash).or_else(|error| {
            if version.hash == record.factory {
                read_hashed(factory, &version.hash)
            } else {
                Err(error)
            }
        });
        match found {
            Ok(object) => {
                return Ok(Start { version: version.clone(), object, rolled_back, notes });
            }
            Err(error) => notes.push(format!(
                "version {} can't be started: its object {}: {error}",
                shown(version),
                path_of(folder, &version.hash).display()
            )),
        }
    }
    let object = read_object(factory).map_err(|error| {
        format!(
            "the factory object {}: {error}; install it, or name another one in driver.toml",
            factory.display()
        )
    })?;
    let version = self::factory(&hash_of(&object));
    Ok(Start { version, object, rolled_back, notes })
}

/// The record. `None` where there is none.
///
/// # Errors
/// Why it can't be used, with its path.
pub(crate) fn read(folder: &Path) -> Result<Option<Record>, String> {
    let path = folder.join(RECORD);
    let text = match read_text(&path, RECORD_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    match serde_json::from_str::<Record>(&text) {
        Ok(record) if record.is_sound() => Ok(Some(record)),
        Ok(_) => Err(format!("{}: it names no versions that can be", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Replaces the record, so that it is the old one or the new one whenever the power is cut.
pub(crate) fn write(folder: &Path, record: &Record) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(record)?;
    replace(folder, RECORD, &json)
}

/// Keeps an object under its hash.
pub(crate) fn store(folder: &Path, hash: &str, bytes: &[u8]) -> io::Result<()> {
    if object(folder, hash).is_ok() {
        return Ok(());
    }
    replace(folder, &format!("{hash}{OBJECT}"), bytes)
}

/// An object that is kept, whole.
pub(crate) fn object(folder: &Path, hash: &str) -> io::Result<Vec<u8>> {
    read_hashed(&path_of(folder, hash), hash)
}

/// Removes the objects that no version of the record needs, and what a power cut left behind. Files that were never ours stay.
pub(crate) fn sweep(folder: &Path, record: &Record) -> io::Result<()> {
    let kept: BTreeSet<String> =
        record.versions().map(|version| format!("{}{OBJECT}", version.hash)).collect();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_object = name.strip_suffix(OBJECT).is_some_and(is_hash) && !kept.contains(name);
        if is_object || name.ends_with(FRESH) {
            fs::remove_file(folder.join(name))?;
        }
    }
    Ok(())
}

/// Makes `STATE_DIR/driver/NAME`, where hosts of other users read.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    for folder in [Some(folder), folder.parent()].into_iter().flatten() {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// The factory object as it is now.
pub(crate) fn read_object(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_plain(path)?.take(OBJECT_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= OBJECT_MAX) {
        return Ok(bytes);
    }
    Err(io::Error::other(format!("longer than {OBJECT_MAX} bytes")))
}

/// A version for a person.
pub(crate) fn shown(version: &Version) -> String {
    let hash = version.hash.get(..12).unwrap_or(&version.hash);
    if version.version.is_empty() {
        hash.to_owned()
    } else {
        format!("{} ({hash})", version.version)
    }
}

fn path_of(folder: &Path, hash: &str) -> PathBuf {
    folder.join(format!("{hash}{OBJECT}"))
}

fn read_hashed(path: &Path, hash: &str) -> io::Result<Vec<u8>> {
    let bytes = read_object(path)?;
    let found = hash_of(&bytes);
    if found == hash {
        return Ok(bytes);
    }
    Err(io::Error::other(format!("its bytes have another hash, {found}")))
}

fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = folder.join(format!("{name}{FRESH}"));
    let written = (|| {
        // Whatever lies there, a link included, is not written through.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, folder.join(name))?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch {
        folder: tempfile::TempDir,
        factory: PathBuf,
    }

    impl Scratch {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let factory = folder.path().join("factory.so");
            fs::write(&factory, b"factory").unwrap();
            Self { folder, factory }
        }

        fn at(&self) -> &Path {
            self.folder.path()
        }

        fn start(&self) -> Start {
            start(self.at(), &self.factory).unwrap()
        }

        /// A record of these versions, whose objects are kept.
        fn record(&self, current: &str, previous: Option<&str>, probation: bool) -> Record {
            let version = |text: &str| {
                let hash = hash_of(text.as_bytes());
                store(self.at(), &hash, text.as_bytes()).unwrap();
                Version { version: text.to_owned(), hash, rollback_index: 1 }
            };
            let record = Record {
                current: version(current),
                previous: previous.map(version),
                probation,
                factory: hash_of(b"factory"),
                ..Record::default()
            };
            write(self.at(), &record).unwrap();
            record
        }
    }

    #[test]
    fn without_a_record_the_factory_version_serves() {
        let scratch = Scratch::new();
        let start = scratch.start();
        assert_eq!(
            (start.object, start.notes, start.rolled_back),
            (b"factory".to_vec(), vec![], None)
        );
        assert_eq!(start.version, factory(&hash_of(b"factory")));
    }

    #[test]
    fn the_current_version_serves_but_on_probation_it_is_the_one_before() {
        let scratch = Scratch::new();
        let record = scratch.record("two", Some("one"), false);
        assert_eq!(
            (read(scratch.at()), scratch.start().version),
            (Ok(Some(record.clone())), record.current.clone())
        );
        scratch.record("two", Some("one"), true);
        let start = scratch.start();
        assert_eq!((start.object, start.rolled_back), (b"one".to_vec(), Some(record.current)));
        assert_eq!(start.version.version, "one");
    }

    #[test]
    fn a_factory_version_on_the_way_back_lies_in_the_root_file_system() {
        let scratch = Scratch::new();
        let mut record = scratch.record("two", Some("one"), true);
        record.previous = Some(factory(&record.factory));
        write(scratch.at(), &record).unwrap();
        assert_eq!(scratch.start().object, b"factory");
        assert!(scratch.start().notes.is_empty());
    }

    #[test]
    fn what_is_torn_missing_or_foreign_never_stops_a_driver() {
        let scratch = Scratch::new();
        let whole = serde_json::to_string(&scratch.record("two", Some("one"), false)).unwrap();
        let damaged = [
            whole.get(..whole.len() / 2).unwrap().to_owned(),
            String::new(),
            "[]".to_owned(),
            whole.replace(&hash_of(b"two"), "../../etc/passwd"),
            whole
                .replace(r#""probation":false"#, r#""probation":true"#)
                .replace("previous", "prior"),
            "x".repeat(70_000),
        ];
        for text in damaged {
            fs::write(scratch.at().join(RECORD), &text).unwrap();
            let start = scratch.start();
            assert_eq!(start.object, b"factory", "{text:.200}");
            assert!(
                start.notes[0].contains("record.json") && start.notes[0].contains("factory"),
                "{:?}",
                start.notes
            );
        }
        fs::remove_file(scratch.at().join(RECORD)).unwrap();
        fs::create_dir(scratch.at().join(RECORD)).unwrap();
        assert_eq!(scratch.start().object, b"factory");
    }

    #[test]
    fn a_damaged_object_gives_way_to_the_version_before_and_that_one_to_the_factory() {
        let scratch = Scratch::new();
        let record = scratch.record("two", Some("one"), false);
        fs::write(path_of(scratch.at(), &record.current.hash), b"twp").unwrap();
        let start = scratch.start();
        assert_eq!(start.object, b"one");
        assert!(
            start.notes[0].contains("version two") && start.notes[0].contains("another hash"),
            "{:?}",
            start.notes
        );
        fs::remove_file(path_of(scratch.at(), &hash_of(b"one"))).unwrap();
        assert_eq!((scratch.start().object, scratch.start().notes.len()), (b"factory".to_vec(), 2));
        fs::remove_file(&scratch.factory).unwrap();
        assert!(start_fails(&scratch).contains("factory.so"));
    }

    fn start_fails(scratch: &Scratch) -> String {
        start(scratch.at(), &scratch.factory).unwrap_err()
    }

    #[test]
    fn only_objects_that_the_record_names_are_kept_and_foreign_files_stay() {
        let scratch = Scratch::new();
        let record = scratch.record("two", Some("one"), false);
        let other = hash_of(b"three");
        store(scratch.at(), &other, b"three").unwrap();
        for name in ["record.json.new", "notes.txt", "mine.so"] {
            fs::write(scratch.at().join(name), "x").unwrap();
        }
        sweep(scratch.at(), &record).unwrap();
        assert!(object(scratch.at(), &other).is_err());
        assert!(
            object(scratch.at(), &hash_of(b"one")).is_ok()
                && object(scratch.at(), &hash_of(b"two")).is_ok()
        );
        let there = |name: &str| scratch.at().join(name).exists();
        assert!(there("notes.txt") && there("mine.so") && !there("record.json.new"));
    }

    #[test]
    fn nothing_is_written_through_a_link_that_lies_in_the_way() {
        let scratch = Scratch::new();
        let victim = scratch.at().join("victim");
        fs::write(&victim, "whole").unwrap();
        std::os::unix::fs::symlink(&victim, scratch.at().join("record.json.new")).unwrap();
        scratch.record("two", None, false);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "whole");
    }

    #[test]
    fn what_a_later_version_adds_to_the_record_is_passed_over() {
        let scratch = Scratch::new();
        let record = scratch.record("two", None, false);
        let text = serde_json::to_string(&record).unwrap().replacen('{', r#"{"colour":"red","#, 1);
        fs::write(scratch.at().join(RECORD), text).unwrap();
        assert_eq!(read(scratch.at()), Ok(Some(record)));
    }
}
