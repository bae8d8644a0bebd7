//! The files that the suite keeps, as a power cut left them: old or new, never half of either. Each by the bytes that its
//! daemon writes; what a daemon repairs by itself (the torn end of a log) is no fault.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::checksum::crc32c;

/// Bytes of one of the two records of a file.
const RECORD: usize = 4096;
const RECORD_HEAD: usize = 20;
/// The upgrade agent's files of two records, with what each begins with.
const RECORDS: [(&str, &[u8; 8]); 3] =
    [("journal", b"VUPJOURN"), ("active", b"VUPACTIV"), ("floor", b"VUPFLOOR")];
const SEGMENT_HEAD: usize = 32;
const FRAME_HEAD: usize = 8;
/// The kind of a frame that holds a record of the log.
const LOG_RECORD: u8 = 1;

/// All files of a state folder whose contents are known here: those of the upgrade agent, the last good definitions and the log.
///
/// # Errors
/// The file that is torn, and how.
pub fn suite(state: &Path) -> Result<()> {
    upgrade(&state.join("upgrade"))?;
    for path in files(&state.join("supervisor/last-good"), ".toml")? {
        let text = whole(&path)?;
        ensure!(text.ends_with(b"\n"), "{}: its end is missing", path.display());
    }
    log(&state.join("log"))
}

/// Which of these versions a file that is replaced whole has; none where it isn't there.
///
/// # Errors
/// It has none of them.
pub fn version<V: AsRef<[u8]>>(path: &Path, versions: &[V]) -> Result<Option<usize>> {
    let Some(bytes) = contents(path)? else { return Ok(None) };
    let found = versions.iter().position(|version| version.as_ref() == bytes);
    let first = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    found.map(Some).with_context(|| {
        format!(
            "{} is torn: {} bytes, {first:?}, are no version of it",
            path.display(),
            bytes.len()
        )
    })
}

/// Which slots are in use, as the upgrade agent keeps it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Active {
    b: Vec<String>,
    trial: Vec<String>,
    set: Option<char>,
}

/// The slot of a restarted component that the agent would use where the set `running` was booted.
///
/// # Errors
/// What it keeps can't be read.
pub fn in_use(state: &Path, component: &str, running: char) -> Result<char> {
    let path = state.join("upgrade/active");
    let bytes = contents(&path)?.unwrap_or_default();
    let (both, _) = bytes.as_chunks::<RECORD>();
    let newest = both.iter().filter_map(|record| good_record(record, b"VUPACTIV"));
    let active = match newest.max_by_key(|(sequence, _)| *sequence) {
        Some((_, text)) => {
            serde_json::from_slice(text).with_context(|| path.display().to_string())?
        }
        None => Active::default(),
    };
    let names = |list: &[String]| list.iter().any(|name| name == component);
    let tried = active.set.is_none_or(|set| set == running) && names(&active.trial);
    Ok(if names(&active.b) == tried { 'A' } else { 'B' })
}

fn upgrade(folder: &Path) -> Result<()> {
    for (name, magic) in RECORDS {
        let path = folder.join(name);
        if let Some(bytes) = contents(&path)? {
            records(&bytes, magic).with_context(|| path.display().to_string())?;
        }
    }
    for path in files(folder, ".json")? {
        let bytes = whole(&path)?;
        let read: Result<serde_json::Value, _> = serde_json::from_slice(&bytes);
        read.with_context(|| format!("{} is torn", path.display()))?;
    }
    for name in ["keyring-a", "keyring-b", "tls.key"] {
        if folder.join(name).exists() {
            whole(&folder.join(name))?;
        }
    }
    Ok(())
}

/// One of the two is good, or nothing was ever written. A torn one beside a good one is what the second one is for.
fn records(bytes: &[u8], magic: &[u8; 8]) -> Result<()> {
    if bytes.iter().all(|octet| *octet == 0) {
        return Ok(());
    }
    ensure!(bytes.len() == 2 * RECORD, "{} bytes; two records have {}", bytes.len(), 2 * RECORD);
    let good = |record: &[u8; RECORD]| good_record(record, magic).is_some();
    let (both, _) = bytes.as_chunks::<RECORD>();
    // The first write ever may be torn: there was nothing before it.
    let only_one = both.iter().any(|record| record.iter().all(|octet| *octet == 0));
    ensure!(both.iter().any(good) || only_one, "neither record is good");
    Ok(())
}

/// Sequence and contents.
fn good_record<'r>(record: &'r [u8; RECORD], magic: &[u8; 8]) -> Option<(u64, &'r [u8])> {
    let (body, sum) = record.split_at(RECORD - 4);
    let sound = body.starts_with(magic) && sum == crc32c(body).to_le_bytes();
    let length = usize::try_from(u32_at(body, 16)?).ok()?;
    let text = body.get(RECORD_HEAD..)?.get(..length)?;
    sound.then_some((u64_at(body, 8)?, text))
}

/// Segments follow each other without a gap; only the newest may be torn, and only at its end.
fn log(folder: &Path) -> Result<()> {
    let mut expected = None;
    let segments = files(folder, ".log")?;
    for (number, path) in segments.iter().enumerate() {
        let newest = number + 1 == segments.len();
        let bytes = contents(path)?.unwrap_or_default();
        let named = || path.display().to_string();
        let Some(segment) = segment(&bytes) else {
            ensure!(newest, "{}: it has no head", named());
            continue;
        };
        let name = format!("{:016x}.log", segment.first);
        ensure!(path.ends_with(&name), "{} begins with {}", named(), segment.first);
        ensure!(newest || segment.torn == 0, "{}: {} bytes are torn", named(), segment.torn);
        let follows = expected.is_none_or(|next| next == segment.first);
        ensure!(follows, "{}: {expected:?} should be its first", named());
        expected = Some(segment.next);
    }
    Ok(())
}

/// The number after the last record that a log in this folder still has; a test holds it against what was acknowledged.
///
/// # Errors
/// As [`suite`] for the log.
pub fn logged(folder: &Path) -> Result<u64> {
    log(folder)?;
    let newest = files(folder, ".log")?.into_iter().rev();
    let mut next =
        newest.map(|path| contents(&path).map(|bytes| segment(&bytes.unwrap_or_default())));
    let found = next.find_map(Result::transpose);
    Ok(found.transpose()?.map_or(0, |segment| segment.next))
}

struct Segment {
    first: u64,
    next: u64,
    torn: usize,
}

/// `services/log/src/store/record.rs` has the bytes.
fn segment(bytes: &[u8]) -> Option<Segment> {
    let head = bytes.get(..SEGMENT_HEAD)?;
    let sound = head.starts_with(b"VELOG001") && crc32fast::hash(&head[..28]) == u32_at(head, 28)?;
    let first = sound.then(|| u64_at(head, 8))??;
    let (mut next, mut rest) = (first, &bytes[SEGMENT_HEAD..]);
    while let Some((payload, behind)) = frame(rest) {
        if payload.first() == Some(&LOG_RECORD) {
            match u64_at(payload, 8) {
                Some(sequence) if sequence >= next => next = sequence + 1,
                _ => break,
            }
        }
        rest = behind;
    }
    Some(Segment { first, next, torn: rest.len() })
}

fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let (payload, behind) = bytes.get(FRAME_HEAD..)?.split_at_checked(length)?;
    let sound = !payload.is_empty() && crc32fast::hash(payload) == u32_at(bytes, 4)?;
    sound.then_some((payload, behind))
}

/// A file that must hold something, and that no cut left full of zeros.
fn whole(path: &Path) -> Result<Vec<u8>> {
    let bytes = contents(path)?.unwrap_or_default();
    let named = path.display();
    ensure!(!bytes.is_empty(), "{named} is empty");
    ensure!(bytes.iter().any(|octet| *octet != 0), "{named} is {} zeros", bytes.len());
    Ok(bytes)
}

fn contents(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => bail!("{}: {error}", path.display()),
    }
}

/// Files of a folder, by name, without hidden ones: those are what a replacement has not come to yet.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => bail!("{}: {error}", folder.display()),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let shown = name.to_string_lossy();
        if shown.ends_with(ending) && !shown.starts_with('.') {
            found.push(folder.join(&name));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(magic: &[u8; 8]) -> Vec<u8> {
        record_of(magic, 1, "")
    }

    fn record_of(magic: &[u8; 8], sequence: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![0; RECORD];
        bytes[..8].copy_from_slice(magic);
        bytes[8] = sequence;
        bytes[16..18].copy_from_slice(&u16::try_from(text.len()).unwrap().to_le_bytes());
        bytes[RECORD_HEAD..RECORD_HEAD + text.len()].copy_from_slice(text.as_bytes());
        let sum = crc32c(&bytes[..RECORD - 4]);
        bytes[RECORD - 4..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn segment_of(first: u64, sequences: &[u64]) -> Vec<u8> {
        let mut bytes = b"VELOG001".to_vec();
        bytes.extend(first.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        for sequence in sequences {
            let mut payload = vec![LOG_RECORD, 0, 0, 0, 0, 0, 0, 0];
            payload.extend(sequence.to_le_bytes());
            bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
            bytes.extend(crc32fast::hash(&payload).to_le_bytes());
            bytes.extend(payload);
        }
        bytes
    }

    #[test]
    fn one_good_record_is_enough_and_none_is_a_fault() {
        let (good, magic) = (record(b"VUPJOURN"), b"VUPJOURN");
        let (zeros, torn) = (vec![0; RECORD], [&good[..512], &[9; RECORD - 512][..]].concat());
        for both in [[&good, &torn], [&torn, &good], [&zeros, &torn], [&zeros, &zeros]] {
            records(&both.map(|half| &half[..]).concat(), magic).unwrap();
        }
        assert!(records(&[&torn[..], &torn].concat(), magic).is_err());
        assert!(records(&[&good[..], &good].concat(), b"VUPFLOOR").is_err());
        assert!(records(&good, magic).is_err());
    }

    #[test]
    fn the_slot_in_use_is_that_of_the_newer_record_and_of_a_trial_only_while_its_set_runs() {
        let folder = tempfile::tempdir().unwrap();
        let used = |running| in_use(folder.path(), "application", running).unwrap();
        assert_eq!(used('A'), 'A');
        fs::create_dir(folder.path().join("upgrade")).unwrap();
        let put = |old: &str, new: &str| {
            let [old, new] =
                [(1, old), (2, new)].map(|(at, text)| record_of(b"VUPACTIV", at, text));
            fs::write(folder.path().join("upgrade/active"), [new, old].concat()).unwrap();
        };
        put(r#"{"b":["application"]}"#, r#"{"b":[],"trial":["application"],"set":"B"}"#);
        assert_eq!([used('A'), used('B')], ['A', 'B']);
        put("{}", r#"{"b":["application"],"trial":["application"],"set":"A"}"#);
        assert_eq!([used('A'), used('B')], ['A', 'B']);
        put("{}", r#"{"b":["application"],"trial":["application"],"set":null}"#);
        assert_eq!([used('A'), used('B')], ['A', 'A']);
    }

    #[test]
    fn only_the_newest_segment_of_the_log_may_be_torn() {
        let folder = tempfile::tempdir().unwrap();
        let put = |first: u64, bytes: &[u8]| {
            fs::write(folder.path().join(format!("{first:016x}.log")), bytes).unwrap();
        };
        put(5, &segment_of(5, &[5, 6, 7]));
        let newest = segment_of(8, &[8, 9]);
        put(8, &newest[..newest.len() - 1]);
        assert_eq!(logged(folder.path()).unwrap(), 9);
        // A head that never came: nothing is lost by it.
        put(9, b"");
        assert!(log(folder.path()).unwrap_err().to_string().contains("torn"));
        put(8, &segment_of(8, &[8]));
        assert_eq!(logged(folder.path()).unwrap(), 9);
        put(5, &segment_of(5, &[5, 6]));
        assert!(log(folder.path()).unwrap_err().to_string().contains("should be its first"));
    }

    #[test]
    fn a_file_that_is_replaced_has_one_of_its_versions_or_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let versions = ["one\n", "two\n"];
        assert_eq!(version(&path, &versions).unwrap(), None);
        fs::write(&path, "two\n").unwrap();
        assert_eq!(version(&path, &versions).unwrap(), Some(1));
        fs::write(&path, "two").unwrap();
        assert!(version(&path, &versions).unwrap_err().to_string().contains("is torn"));
    }

    #[test]
    fn state_that_is_torn_is_named() {
        let folder = tempfile::tempdir().unwrap();
        suite(folder.path()).unwrap();
        for (name, bad, good) in [
            ("upgrade/history.json", &b"[{\"a\""[..], &b"[]"[..]),
            ("upgrade/tls.key", b"", b"key"),
            ("upgrade/keyring-a", &[0; 100], b"keyring"),
            ("upgrade/floor", b"1", &[0; 2 * RECORD]),
            ("supervisor/last-good/a.toml", b"command = [\"a", b"command = [\"a\"]\n"),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bad).unwrap();
            let text = format!("{:#}", suite(folder.path()).unwrap_err());
            assert!(text.contains(name), "{text}");
            fs::write(&path, good).unwrap();
            suite(folder.path()).unwrap();
        }
    }
}
