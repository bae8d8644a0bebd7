//! What the running system says of itself: which set the loader booted, which boot this is, and what the factory installed.

use std::{
    collections::BTreeMap,
    env, io,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon::files;
use endpoint::{Bus, CallOptions};
use protocol::system::{Boot, Reset};

use crate::engine::contract::{Ended, Fact, Letter, Start, WHY_MAX};

/// Other places for the kernel's command line and for its boot id, where several devices share one kernel.
const CMDLINE: (&str, &str) = ("VESTAL_CMDLINE", "/proc/cmdline");
/// Another place for what the factory installed.
const FACTORY: (&str, &str) = ("VESTAL_FACTORY_DIR", "/usr/share/vestal");
const BOOT_ID: (&str, &str) = ("VESTAL_BOOT_ID", "/proc/sys/kernel/random/boot_id");
const SLOT: &str = "vestal.slot=";
const COMPONENTS: &str = "components.json";
const KEYRING: &str = "keyring.json";
const SIGNATURES: &str = "keyring.json.sig";
const FILE_MAX: u64 = 64 << 10;
/// How long the supervisor may take to say how the last boot ended.
const LAST_END: Duration = Duration::from_secs(2);

/// A keyring and its signatures.
pub(crate) type Keyring = (Vec<u8>, Vec<u8>);

fn place((variable, otherwise): (&str, &str)) -> PathBuf {
    let set = env::var_os(variable).filter(|value| !value.is_empty());
    set.map_or_else(|| PathBuf::from(otherwise), PathBuf::from)
}

/// What the engine starts from, but for what [`last_end`] asks. What can't be read is said, and counts as absent.
pub(crate) fn start(complaints: &mut Vec<String>) -> Start {
    let mut read = |path: &Path| {
        files::read_text(path, FILE_MAX).unwrap_or_else(|error| {
            complaints.push(format!("{}: {error}", path.display()));
            String::new()
        })
    };
    let running = running(&read(&place(CMDLINE)));
    let boot_id = read(&place(BOOT_ID)).trim().to_owned();
    let factory = factory(&place(FACTORY).join(COMPONENTS), complaints);
    let floors = factory.iter().map(|(name, fact)| (name.clone(), fact.rollback_index)).collect();
    Start { running, boot_id, floors, factory, ended: None }
}

/// The loader's word; the last one counts, as with the kernel's own.
fn running(line: &str) -> Option<Letter> {
    let mut words = line.split_ascii_whitespace().rev();
    words.find_map(|word| word.strip_prefix(SLOT)).and_then(Letter::parse)
}

fn factory(path: &Path, complaints: &mut Vec<String>) -> Vec<(String, Fact)> {
    let text = match files::read_text(path, FILE_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            complaints.push(format!("{}: {error}", path.display()));
            return Vec::new();
        }
    };
    match serde_json::from_str::<BTreeMap<String, Fact>>(&text) {
        Ok(facts) => facts.into_iter().collect(),
        Err(error) => {
            complaints.push(format!("{}: {error}; it counts as empty", path.display()));
            Vec::new()
        }
    }
}

/// How the boot before this one ended, as the supervisor says; for the history of a set that did not last.
pub(crate) async fn last_end(bus: &Bus) -> Option<Ended> {
    let options = CallOptions { deadline: LAST_END, ..CallOptions::safe() };
    let answer = bus.call("system", "boot", &(), options).await.ok()?;
    let Reset { cause, detail, previous_boot_id } = answer.parse::<Boot>().ok()?.reset?;
    let mut why = if detail.is_empty() { cause.word().to_owned() } else { detail };
    why.truncate(why.floor_char_boundary(WHY_MAX));
    Some(Ended { boot_id: previous_boot_id?, why })
}

/// The keyring of the factory, with its signatures; nothing where there is none.
///
/// # Errors
/// One of the two can't be read.
pub(crate) fn keyring() -> io::Result<Option<Keyring>> {
    let folder = place(FACTORY);
    let read = |name: &str| {
        let path = folder.join(name);
        let text = files::open_plain(&path).and_then(|file| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, FILE_MAX + 1), &mut bytes)?;
            Ok(bytes)
        });
        text.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    match read(KEYRING) {
        Ok(keyring) => Ok(Some((keyring, read(SIGNATURES)?))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_letter_on_the_command_line_counts() {
        assert_eq!(running("quiet vestal.slot=A root=/dev/x vestal.slot=B\n"), Some(Letter::B));
        assert_eq!(running("xvestal.slot=A vestal.slot=C"), None);
        assert_eq!(running(""), None);
    }

    #[test]
    fn what_the_factory_says_is_read_and_nonsense_counts_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(COMPONENTS);
        let mut complaints = Vec::new();
        assert_eq!(factory(&path, &mut complaints), []);
        std::fs::write(&path, r#"{"rootfs": {"version": "2.0", "rollback-index": 7}}"#).unwrap();
        let facts = factory(&path, &mut complaints);
        assert_eq!((facts[0].0.as_str(), facts[0].1.rollback_index), ("rootfs", 7));
        assert!(complaints.is_empty());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(factory(&path, &mut complaints), []);
        assert!(complaints[0].contains("components.json"), "{complaints:?}");
    }
}
