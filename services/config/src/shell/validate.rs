//! `validate`: what packages say now, against the rules of the services. The supervisor has the rules and checks by itself
//! before it reloads anything; this is for whoever wants to know before.

use std::{
    cell::RefCell, collections::BTreeMap, fs, os::unix::fs::FileTypeExt as _, path::Path, rc::Rc,
};

use endpoint::{CallOptions, Client, Code, Failure};
use protocol::{config::Invalid, name::Name};
use serde_json::Value;
use uci::{
    Package,
    datatype::{self, FileKind, Outcome, Verdict, World},
};

use super::store::{Trouble, read_whole};
use crate::machine::{FilePath, package};

/// Findings that are told.
const FOUND_MAX: usize = 256;

/// What one service wants of the sections of one type.
#[derive(Debug)]
struct Wish {
    service: Name,
    package: String,
    kind: String,
    options: Vec<(String, String)>,
    strict: bool,
}

/// Checks these files of UCI.
///
/// # Errors
/// Where the supervisor doesn't tell the rules.
pub(super) async fn validate(
    supervisor: Client,
    files: Vec<FilePath>,
    limit: u64,
) -> Result<Vec<Invalid>, Failure> {
    let args = serde_json::json!({ "verbose": true });
    let listed = supervisor.call("service", "list", &args, CallOptions::safe()).await;
    let listed = listed
        .map_err(|error| error.to_string())
        .and_then(|listed| listed.parse::<Value>().map_err(|error| error.to_string()));
    let listed = listed.map_err(|why| {
        Failure::new(Code::Failed, format!("the supervisor does not tell the rules: {why}"))
    })?;
    let checking = tokio::task::spawn_blocking(move || {
        let files = files.iter().map(|path| (package(path), &**path)).collect();
        check(&wishes(&listed), &Files { files, limit, read: RefCell::default() })
    });
    checking.await.map_err(|_| Failure::new(Code::Failed, "the check ended without an answer"))
}

/// What the services of procd's list want. What isn't of the right shape is left out, as the supervisor does it.
fn wishes(listed: &Value) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for (name, service) in listed.as_object().into_iter().flatten() {
        let Ok(name) = Name::new(name) else { continue };
        // Rules of a definition are ours, those of a message are procd's.
        let strict = service["source"].as_str().is_some_and(|source| source != "message");
        for row in service["validate"].as_array().into_iter().flatten() {
            let (Some(package), Some(kind), Some(rules)) =
                (row["package"].as_str(), row["type"].as_str(), row["rules"].as_object())
            else {
                continue;
            };
            let rule = |(option, rule): (&String, &Value)| {
                Some((option.clone(), rule.as_str()?.to_owned()))
            };
            wishes.push(Wish {
                service: name.clone(),
                package: package.to_owned(),
                kind: kind.to_owned(),
                options: rules.iter().filter_map(rule).collect(),
                strict,
            });
        }
    }
    wishes
}

fn check(wishes: &[Wish], files: &Files<'_>) -> Vec<Invalid> {
    let mut found = Vec::new();
    for wish in wishes {
        let Some(path) = files.files.get(&*wish.package) else { continue };
        match files.package(&wish.package, wish.strict) {
            Ok(package) => sections(wish, path, &package, files, &mut found),
            Err(text) => found.push(Invalid { text, ..of_file(wish, path) }),
        }
        if found.len() >= FOUND_MAX {
            found.truncate(FOUND_MAX);
            break;
        }
    }
    found
}

fn sections(
    wish: &Wish,
    path: &str,
    package: &Package,
    files: &Files<'_>,
    found: &mut Vec<Invalid>,
) {
    let mode = if wish.strict { datatype::Mode::Strict } else { datatype::Mode::Compatible };
    let options = wish.options.iter().map(|(option, rule)| (&**option, &**rule));
    let rules = match datatype::Rules::of(options, mode) {
        Ok(rules) => rules,
        Err(problem) => {
            let text = format!("the rules of service {} can't be used: {problem}", wish.service);
            return found.push(Invalid { text, ..of_file(wish, path) });
        }
    };
    for (section, reference) in package.sections.iter().zip(package.references()) {
        if section.kind != wish.kind || found.len() >= FOUND_MAX {
            continue;
        }
        for outcome in rules.check(&package.name, &section.name, Some(section), files) {
            if outcome.verdict == Verdict::Invalid && outcome.problem.is_none() {
                found.push(of_option(wish, path, &reference, outcome));
            }
        }
    }
}

fn of_option(wish: &Wish, path: &str, section: &str, outcome: Outcome) -> Invalid {
    let refusal = outcome.refusals.into_iter().next_back();
    let (value, text) = refusal.map_or((None, String::new()), |it| (Some(it.value), it.allowed));
    Invalid {
        section: section.to_owned(),
        option: outcome.option,
        rule: outcome.rule,
        value,
        text,
        ..of_file(wish, path)
    }
}

fn of_file(wish: &Wish, path: &str) -> Invalid {
    Invalid {
        service: wish.service.clone(),
        package: wish.package.clone(),
        file: path.to_owned(),
        section: String::new(),
        option: String::new(),
        rule: String::new(),
        value: None,
        text: String::new(),
    }
}

/// The packages, each read once.
#[derive(Debug)]
struct Files<'f> {
    /// By the package's name.
    files: BTreeMap<&'f str, &'f str>,
    limit: u64,
    read: RefCell<BTreeMap<(String, bool), Rc<Package>>>,
}

impl Files<'_> {
    /// As its readers read it: strictly, or as OpenWrt's scripts.
    fn package(&self, name: &str, strict: bool) -> Result<Rc<Package>, String> {
        let key = (name.to_owned(), strict);
        if let Some(package) = self.read.borrow().get(&key) {
            return Ok(Rc::clone(package));
        }
        let path = self.files.get(name).ok_or("it is not there")?;
        let bytes = read_whole(path, self.limit).map_err(|trouble| match trouble {
            Trouble::Gone => "it is not there".to_owned(),
            Trouble::Moving => "it is being written; try again".to_owned(),
            Trouble::Told(text) => text,
        })?;
        let mode = if strict { uci::Mode::Strict } else { uci::Mode::Lenient };
        let parsed = uci::parse(name, &bytes, mode).map_err(|problem| problem.to_string())?;
        let package = Rc::new(parsed.package);
        self.read.borrow_mut().insert(key, Rc::clone(&package));
        Ok(package)
    }
}

impl World for Files<'_> {
    fn kind(&self, path: &str) -> Option<FileKind> {
        let kind = fs::metadata(Path::new(path)).ok()?.file_type();
        Some(match () {
            () if kind.is_file() => FileKind::Regular,
            () if kind.is_dir() => FileKind::Directory,
            () if kind.is_block_device() || kind.is_char_device() => FileKind::Device,
            () => FileKind::Other,
        })
    }

    fn values(&self, package: &str, section: &str, option: &str) -> Vec<String> {
        let Ok(package) = self.package(package, false) else { return Vec::new() };
        let option = package.section(section).and_then(|section| section.option(option));
        option.map(|option| option.value.items().to_vec()).unwrap_or_default()
    }

    fn sections(&self, package: &str, kind: &str) -> Vec<String> {
        let Ok(package) = self.package(package, false) else { return Vec::new() };
        let sections = package.sections.iter().filter(|section| section.kind == kind);
        sections.map(|section| section.name.clone()).collect()
    }
}
