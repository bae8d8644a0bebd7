//! Checks the configuration of a service by its rules before something is run because it changed. On a thread of its own,
//! with a time limit: files may be large, and rules slow.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use protocol::config::Invalid;
use tokio::sync::mpsc;
use uci::{
    Package,
    datatype::{self, FileKind, Outcome, Verdict, World},
};

use super::Inbound;
use crate::settings::{Rules, Service, files};

/// What can't be looked through by then is not reloaded.
const LIMIT: Duration = Duration::from_secs(1);
/// Most findings that are told of one service.
const FOUND_MAX: usize = 16;
/// Longest file, in bytes.
const FILE_MAX: u64 = 16 << 20;

/// Looks at these packages; what is found comes back as [`Inbound::Validated`].
pub(super) fn check(
    run: u64,
    service: Arc<Service>,
    packages: BTreeSet<String>,
    uci: Option<PathBuf>,
    inbox: mpsc::Sender<Inbound>,
) {
    tokio::spawn(async move {
        let found = match uci {
            Some(folder) => within_limit(service, packages, folder).await,
            // Without a folder of configurations there is nothing that could be wrong in it.
            None => Vec::new(),
        };
        // Nobody listens where the supervisor is leaving.
        let _ = inbox.send(Inbound::Validated { run, found }).await;
    });
}

async fn within_limit(
    service: Arc<Service>,
    packages: BTreeSet<String>,
    folder: PathBuf,
) -> Vec<Invalid> {
    let (whose, which) = (Arc::clone(&service), packages.clone());
    let place = folder.clone();
    let looking = tokio::task::spawn_blocking(move || find(&whose, &which, &place));
    match tokio::time::timeout(LIMIT, looking).await {
        Ok(Ok(found)) => found,
        unfinished => {
            let why = match unfinished {
                Ok(_) => "the check of it failed".to_owned(),
                Err(_) => format!(
                    "it can't be checked within {} s: make the file shorter, or its rules simpler",
                    LIMIT.as_secs()
                ),
            };
            let ruled = service.rules().find(|rules| packages.contains(&rules.package));
            let rules = ruled.into_iter();
            rules.map(|rules| of_file(&service, rules, &folder, why.clone())).collect()
        }
    }
}

/// Everything that is not valid, in the order of the rules and then of the file.
fn find(service: &Service, packages: &BTreeSet<String>, folder: &Path) -> Vec<Invalid> {
    let mut world = Folder { folder, read: RefCell::default() };
    let mut found = Vec::new();
    let mut unreadable = BTreeSet::new();
    for rules in service.rules().filter(|rules| packages.contains(&rules.package)) {
        if found.len() >= FOUND_MAX {
            break;
        }
        match world.package(&rules.package, rules.strict) {
            Ok(Some(package)) => look_at(service, rules, &package, &mut world, &mut found),
            // The file is gone: what it said no longer counts.
            Ok(None) => {}
            Err(why) => {
                if unreadable.insert(rules.package.clone()) {
                    found.push(of_file(service, rules, folder, why));
                }
            }
        }
    }
    found.truncate(FOUND_MAX);
    found
}

fn look_at(
    service: &Service,
    rules: &Rules,
    package: &Package,
    world: &mut Folder<'_>,
    found: &mut Vec<Invalid>,
) {
    let mode = match rules.strict {
        true => datatype::Mode::Strict,
        false => datatype::Mode::Compatible,
    };
    let options = rules.options.iter().map(|(option, rule)| (&**option, &**rule));
    let of_type = match datatype::Rules::of(options, mode) {
        Ok(of_type) => of_type,
        // Ours were read before; a message's may be anything, and say nothing of the file.
        Err(problem) => {
            tracing::warn!(
                "service {}: its rules for {}.{} can't be used: {problem}",
                service.name,
                rules.package,
                rules.kind
            );
            return;
        }
    };
    for (section, reference) in package.sections.iter().zip(package.references()) {
        if section.kind != rules.kind {
            continue;
        }
        for outcome in of_type.check(&package.name, &section.name, Some(section), world) {
            // A rule that can't be read says nothing of the value.
            if outcome.verdict != Verdict::Invalid || outcome.problem.is_some() {
                continue;
            }
            found.push(of_option(service, rules, world.folder, &reference, outcome));
            if found.len() >= FOUND_MAX {
                return;
            }
        }
    }
}

fn of_option(
    service: &Service,
    rules: &Rules,
    folder: &Path,
    section: &str,
    outcome: Outcome,
) -> Invalid {
    let Outcome { option, rule, refusals, .. } = outcome;
    let refusal = refusals.into_iter().next_back();
    // What only some may read is not told to everybody who listens.
    let told = is_public(&folder.join(&rules.package));
    Invalid {
        section: section.to_owned(),
        option,
        rule,
        value: refusal.as_ref().filter(|_| told).map(|refusal| refusal.value.clone()),
        ..of_file(service, rules, folder, refusal.map_or_else(String::new, |it| it.allowed))
    }
}

/// Everybody may read the file.
fn is_public(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0)
}

/// The file as a whole can't be used.
fn of_file(service: &Service, rules: &Rules, folder: &Path, text: String) -> Invalid {
    Invalid {
        service: service.name.clone(),
        package: rules.package.clone(),
        file: folder.join(&rules.package).display().to_string(),
        section: String::new(),
        option: String::new(),
        rule: String::new(),
        value: None,
        text,
    }
}

/// The configurations, each read once.
#[derive(Debug)]
struct Folder<'f> {
    folder: &'f Path,
    read: RefCell<BTreeMap<String, Reading>>,
}

/// A package; `None` where there is no such file, and why not where it can't be read.
type Reading = Result<Option<Rc<Package>>, String>;

impl Folder<'_> {
    /// Read as the scripts read it, or strictly.
    fn package(&self, name: &str, strict: bool) -> Reading {
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(format!("{name:?} is no name of a file"));
        }
        let mode = if strict { uci::Mode::Strict } else { uci::Mode::Lenient };
        let key = format!("{mode:?} {name}");
        if let Some(known) = self.read.borrow().get(&key) {
            return known.clone();
        }
        let reading = match bytes_of(&self.folder.join(name)) {
            Ok(bytes) => match uci::parse(name, &bytes, mode) {
                Ok(parsed) => Ok(Some(Rc::new(parsed.package))),
                Err(problem) => Err(problem.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("can't be read: {error}")),
        };
        self.read.borrow_mut().insert(key, reading.clone());
        reading
    }

    fn lenient(&self, name: &str) -> Option<Rc<Package>> {
        self.package(name, false).ok().flatten()
    }
}

fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    files::open_plain(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_MAX} bytes")));
    }
    Ok(bytes)
}

impl World for Folder<'_> {
    fn kind(&self, path: &str) -> Option<FileKind> {
        let kind = fs::metadata(path).ok()?.file_type();
        Some(match () {
            () if kind.is_file() => FileKind::Regular,
            () if kind.is_dir() => FileKind::Directory,
            () if kind.is_block_device() || kind.is_char_device() => FileKind::Device,
            () => FileKind::Other,
        })
    }

    fn values(&self, package: &str, section: &str, option: &str) -> Vec<String> {
        let Some(package) = self.lenient(package) else { return Vec::new() };
        match package.section(section).and_then(|section| section.option(option)) {
            Some(uci::Opt { value: uci::Value::Text(text), .. }) => vec![text.clone()],
            Some(uci::Opt { value: uci::Value::List(items), .. }) => items.clone(),
            None => Vec::new(),
        }
    }

    fn sections(&self, package: &str, kind: &str) -> Vec<String> {
        let Some(package) = self.lenient(package) else { return Vec::new() };
        let of_kind = package.sections.iter().filter(|section| section.kind == kind);
        of_kind.map(|section| section.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::settings::{context::tests::device, procd};

    fn found(rules: serde_json::Value, file: Option<&[u8]>) -> Vec<Invalid> {
        let folder = tempfile::tempdir().unwrap();
        if let Some(file) = file {
            fs::write(folder.path().join("hello"), file).unwrap();
        }
        let message = json!({ "name": "hello", "validate": [
            { "package": "hello", "type": "hello", "data": rules },
            { "package": "other", "type": "hello", "data": { "port": "bool" } },
        ] });
        let service = procd::read(&message, &device(0)).unwrap().over(None);
        find(&service, &["hello".to_owned()].into(), folder.path())
    }

    #[test]
    fn a_value_of_a_file_that_not_everybody_may_read_is_not_told() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        fs::write(&path, "config hello\n\toption key 'secret'\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let rules = json!([{ "package": "hello", "type": "hello", "data": { "key": "port" } }]);
        let service = procd::read(&json!({ "name": "hello", "validate": rules }), &device(0));
        let service = service.unwrap().over(None);
        let found = find(&service, &["hello".to_owned()].into(), folder.path());
        assert_eq!((&*found[0].option, &found[0].value), ("key", &None));
        assert!(!serde_json::to_string(&found).unwrap().contains("secret"));
    }

    #[test]
    fn an_invalid_value_is_named_with_its_place_and_what_would_be_allowed() {
        let file = b"config hello\n\toption port 'x'\nconfig hello 'b'\n\toption port '80'\nconfig else\n\toption port 'y'\n";
        let found = found(json!({ "port": "port", "name": "string" }), Some(file));
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&*one.package, &*one.section, &*one.option), ("hello", "@hello[0]", "port"));
        assert_eq!((&*one.rule, one.value.as_deref()), ("port", Some("x")));
        assert!(one.file.ends_with("/hello") && one.text.contains("65535"), "{one:?}");
    }

    #[test]
    fn what_a_script_checked_by_itself_is_checked_as_well() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("hello"), "config system 'globe'\n\toption delay '201'\n")
            .unwrap();
        let message = json!({ "name": "hello", "checked": [
            { "package": "hello", "type": "system", "data": { "delay": "uinteger(1:200)" } },
        ] });
        let service = procd::read(&message, &device(0)).unwrap().over(None);
        let found = find(&service, &["hello".to_owned()].into(), folder.path());
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!(
            (&*one.section, &*one.option, &*one.rule),
            ("globe", "delay", "uinteger(1:200)")
        );
    }

    #[test]
    fn a_file_that_is_gone_or_good_is_valid_and_a_broken_one_is_not() {
        let port = || json!({ "port": "port" });
        assert_eq!(found(port(), None), []);
        assert_eq!(found(port(), Some(b"config hello\n\toption port '80'\n")), []);
        let broken = found(port(), Some(b"config hello\n\xff\n"));
        assert!(broken[0].text.contains("line 2"), "{broken:?}");
        assert_eq!(broken.len(), 1);
    }

    #[test]
    fn a_rule_that_can_not_be_read_refuses_nothing() {
        let file = Some(&b"config hello\n\toption port 'x'\n"[..]);
        assert_eq!(found(json!({ "port": "'x" }), file), []);
    }

    #[test]
    fn no_more_is_found_than_a_person_reads() {
        let file = "config hello\n\toption port 'x'\n".repeat(100);
        assert_eq!(found(json!({ "port": "port" }), Some(file.as_bytes())).len(), FOUND_MAX);
    }
}
