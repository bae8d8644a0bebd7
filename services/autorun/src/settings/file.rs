//! From `CONFIG_DIR/autorun.toml` and `CONFIG_DIR/autorun.d/*.toml` to valid [`Settings`]: every mistake of every file is told
//! with its line, its key and its cure, all at once.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon::{
    accounts::Accounts,
    files::read_text,
    table::{self, FILE_MAX, Item, Table, absolute},
};
use protocol::name::Name;
use sha2::{Digest as _, Sha256};

use super::{BackEnd, Clock, Linger, OnMismatch, Once, Place, Settings, levels, target};
use crate::journal::{RECORD, TARGETS_MAX};

const FILE: &str = "autorun.toml";
const FOLDER: &str = "autorun.d";
const KEYS: [&str; 17] = [
    "journal",
    "back-end",
    "image",
    "exec",
    "linger",
    "parallel",
    "wait-for",
    "prepare-timeout",
    "step-timeout",
    "unmount",
    "mount",
    "freeze-mounted",
    "guard",
    "swapoff",
    "network",
    "clock",
    "on-mismatch",
];
const PLACE: [&str; 2] = ["path", "offset"];
/// Paths, names or commands in one list.
const LIST_MAX: usize = 64;
/// Files in `autorun.d` that are looked at, targets or not.
const FOLDER_MAX: usize = 1_024;
const HOUR: Duration = Duration::from_secs(3_600);

/// Reads all files. Without any of them: settings with no target and nothing to prepare.
///
/// # Errors
/// What is wrong, one a line, each with its place and cure.
pub(crate) fn load(config: Option<&Path>, accounts: &Accounts) -> Result<Settings, String> {
    let Some(config) = config else { return Ok(Settings::default()) };
    let mut problems = Vec::new();
    let mut digest = Sha256::new();
    let mut settings = Settings::default();
    let file = config.join(FILE);
    match read_text(&file, FILE_MAX) {
        Ok(text) => match table::parse(&file, &text, read) {
            Ok(read) => {
                add(&mut digest, FILE, &text);
                settings = read;
            }
            Err(why) => problems.push(why),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => problems.push(format!("{}: {error}", file.display())),
    }
    let mut written = Vec::new();
    for (name, path) in targets(&config.join(FOLDER))? {
        let read =
            read_text(&path, FILE_MAX).map_err(|error| format!("{}: {error}", path.display()));
        let parse =
            |text: &String| table::parse(&path, text, |top| target::read(top, name, accounts));
        match read.and_then(|text| parse(&text).map(|target| (text, target))) {
            Ok((text, Some(target))) => {
                add(&mut digest, target.target.name.as_str(), &text);
                written.push(target);
            }
            Ok((_, None)) => problems.push(format!(
                "{}: there is nothing to run; write command = [\"/usr/bin/logo\"] or service = \"ui\"",
                path.display()
            )),
            Err(why) => problems.push(why),
        }
    }
    if problems.is_empty() {
        settings.targets = levels::order(written).unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        });
    }
    problems.extend(apart(&settings));
    settings.digest = digest.finalize().into();
    if problems.is_empty() { Ok(settings) } else { Err(problems.join("\n")) }
}

/// Lengths first, so that no other names and texts give the same digest.
fn add(digest: &mut Sha256, name: &str, text: &str) {
    for part in [name, text] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
}

/// What can't be seen in one file alone.
fn apart(settings: &Settings) -> Vec<String> {
    let mut problems = Vec::new();
    let mut hashes = HashMap::new();
    for target in &settings.targets {
        if let Some(other) = hashes.insert(target.hash, &target.name) {
            let name = &target.name;
            problems.push(format!(
                "{FOLDER}: {name} and {other} are the same to the journal; rename one of them"
            ));
        }
        if target.once == Once::Image && settings.journal.is_none() {
            problems.push(format!(
                "{FOLDER}/{}.toml: once = \"image\" needs a journal, which remembers it from one life to the next; \
                 set journal in {FILE}",
                target.name
            ));
        }
    }
    problems
}

/// The files of the folder, by name.
fn targets(folder: &Path) -> Result<Vec<(Name, PathBuf)>, String> {
    let told = |error: io::Error| format!("{}: {error}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(told(error)),
    };
    let mut files = Vec::new();
    for (count, entry) in entries.enumerate() {
        if count >= FOLDER_MAX {
            return Err(format!("{}: more than {FOLDER_MAX} files", folder.display()));
        }
        let path = entry.map_err(told)?.path();
        let stem = path.file_stem().and_then(OsStr::to_str).filter(|stem| !stem.starts_with('.'));
        let Some(stem) = stem.filter(|_| path.extension() == Some(OsStr::new("toml"))) else {
            continue;
        };
        let name = Name::new(stem).map_err(|why| format!("{}: {why}", path.display()))?;
        files.push((name, path));
    }
    if files.len() > TARGETS_MAX {
        let count = files.len();
        return Err(format!(
            "{}: {count} targets; a record of the journal has room for {TARGETS_MAX}: join some of them",
            folder.display()
        ));
    }
    files.sort();
    Ok(files)
}

fn read(top: &Table<'_>) -> Settings {
    top.refuse_others(&KEYS);
    let plain = Settings::default();
    let word = |key, words: &[&str]| top.get(key).and_then(|item: Item<'_>| item.word(words));
    let unmount = paths(top, "unmount");
    let settings = Settings {
        journal: top.get("journal").and_then(|item| place(&item)),
        back_end: match word("back-end", &["auto", "snapshot", "sysfs", "exec", "none"]) {
            Some(1) => BackEnd::Snapshot,
            Some(2) => BackEnd::Sysfs,
            Some(3) => BackEnd::Exec,
            Some(4) => BackEnd::None,
            _ => BackEnd::Auto,
        },
        image: top.path("image"),
        exec: top.get("exec").map(|item| command(&item)).unwrap_or_default(),
        linger: match word("linger", &["exit", "stay"]) {
            Some(1) => Linger::Stay,
            _ => Linger::Exit,
        },
        parallel: top.integer("parallel", 1..=64).unwrap_or(plain.parallel),
        wait_for: top
            .get("wait-for")
            .map(|item| {
                few(&item, item.some(|text| Name::new(text).map_err(|why| why.to_string())))
            })
            .unwrap_or_default(),
        prepare_timeout: time(top, "prepare-timeout").unwrap_or(plain.prepare_timeout),
        step_timeout: time(top, "step-timeout").unwrap_or(plain.step_timeout),
        // What was taken off last is put back first, unless somebody knows better.
        mount: match top.get("mount") {
            Some(_) => paths(top, "mount"),
            None => unmount.iter().rev().cloned().collect(),
        },
        unmount,
        freeze_mounted: top.boolean("freeze-mounted").unwrap_or(plain.freeze_mounted),
        guard: paths(top, "guard"),
        swapoff: paths(top, "swapoff"),
        network: top.get("network").map(|item| commands(&item)).unwrap_or_default(),
        clock: match word("clock", &["rtc", "keep"]) {
            Some(1) => Clock::Keep,
            _ => Clock::Rtc,
        },
        on_mismatch: match word("on-mismatch", &["reboot-cold", "continue"]) {
            Some(1) => OnMismatch::Continue,
            _ => OnMismatch::RebootCold,
        },
        ..plain
    };
    if let Some(item) = top.get("back-end").filter(|_| settings.back_end == BackEnd::Exec)
        && settings.exec.is_empty()
    {
        item.wrong("\"exec\" needs to know what to run: exec = [\"/usr/bin/fast-boot\"]");
    }
    if let Some(item) = top.get("back-end").filter(|_| settings.back_end == BackEnd::Snapshot)
        && settings.image.is_none()
    {
        item.wrong("\"snapshot\" needs a device: image = \"/dev/disk/by-partlabel/image\"");
    }
    if let (Some(item), Some(image)) = (top.get("image"), &settings.image) {
        match &settings.journal {
            Some(place) if place.path == *image => {
                item.wrong("the journal is there; an image needs a device of its own");
            }
            Some(_) => {}
            None => item.wrong(
                "without a journal nobody knows whether it may be resumed; set journal, too",
            ),
        }
    }
    settings
}

fn time(top: &Table<'_>, key: &str) -> Option<Duration> {
    top.duration(key, Duration::from_millis(10)..=HOUR)
}

fn paths(top: &Table<'_>, key: &str) -> Vec<PathBuf> {
    top.get(key).map(|item| few(&item, item.some(absolute))).unwrap_or_default()
}

fn few<T>(item: &Item<'_>, list: Vec<T>) -> Vec<T> {
    if list.len() > LIST_MAX {
        item.wrong(&format!("{} of them; at most {LIST_MAX} are allowed", list.len()));
    }
    list
}

/// `"/dev/disk/by-partlabel/autorun"` or `{ path = "/dev/mtdblock3", offset = "64KiB" }`.
fn place(item: &Item<'_>) -> Option<Place> {
    if item.value().as_str().is_some() {
        return Some(Place { path: item.parsed(absolute)?, offset: 0 });
    }
    let table = item.table()?;
    table.refuse_others(&PLACE);
    if table.get("path").is_none() {
        item.wrong(
            "path is missing; name the device: { path = \"/dev/mtdblock3\", offset = \"64KiB\" }",
        );
    }
    let offset = match table.get("offset") {
        Some(item) => {
            let offset = item.size(0..=1 << 50)?;
            if !offset.is_multiple_of(RECORD as u64) {
                item.wrong(&format!(
                    "{offset} is not a multiple of {RECORD}, the size of a record"
                ));
            }
            offset
        }
        None => 0,
    };
    Some(Place { path: table.path("path")?, offset })
}

/// A program from the root folder on, and its arguments.
pub(super) fn command(item: &Item<'_>) -> Vec<String> {
    let command = few(item, item.some(|text| Ok(text.to_owned())));
    match command.first() {
        Some(program)
            if Path::new(program).is_absolute()
                && !command.iter().any(|part| part.contains('\0')) => {}
        _ => item.wrong(
            "name a program from the root folder on, and its arguments: [\"/usr/bin/logo\", \"-q\"]",
        ),
    }
    command
}

fn commands(item: &Item<'_>) -> Vec<Vec<String>> {
    let list = item.list().unwrap_or_default();
    if list.iter().any(|one| one.value().is_array()) || list.is_empty() {
        return few(item, list.iter().map(command).collect());
    }
    vec![command(item)]
}
