//! `CONFIG_DIR/config.toml`: what is watched and when it is announced, or what holds without the file. Every mistake is told with
//! its file, line, key and cure.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use daemon::{
    places::Places,
    table::{self, Item, Table},
};
use protocol::{config::Mode, policy::matches};
use uci::canonical::Format;

const FILE: &str = "config.toml";
const KEYS: [&str; 9] =
    ["mode", "quiet", "longest", "new-files", "uncommitted", "md5", "ignore", "sources", "limits"];
const SOURCE: [&str; 3] = ["path", "format", "comment"];
const LIMITS: [&str; 4] = ["file", "files", "kept-file", "kept"];
const FORMATS: [&str; 6] = ["uci", "json", "toml", "ini", "lines", "bytes"];
/// Sources that can be given: each costs a few inotify watches.
const SOURCES_MAX: usize = 64;
/// Patterns that can be given.
const IGNORE_MAX: usize = 64;
/// Where OpenWrt keeps its configuration, and what programs make at run time beside it.
const SYSTEM: &str = "/etc/config";
const SYSTEM_RUN: &str = "/var/run/uci";
/// What editors, package managers and `uci` itself leave beside a file.
const IGNORED: [&str; 8] = [".*", "*~", "*.swp", "*.swx", "*.tmp", "*.orig", "*-opkg", "*.apk-new"];

/// What the watcher is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    /// After the last close or rename of a file it is looked at.
    pub(crate) quiet: Duration,
    /// So long after the first one it is looked at, even where there is no quiet.
    pub(crate) longest: Duration,
    /// A file that was not there before is announced.
    pub(crate) new_files: bool,
    /// Where `uci set` leaves what isn't committed, if that is to count.
    pub(crate) uncommitted: Option<PathBuf>,
    /// Where the digests are written for OpenWrt's scripts.
    pub(crate) md5: Option<PathBuf>,
    /// Patterns of file names that are no packages.
    pub(crate) ignore: Vec<String>,
    pub(crate) sources: Vec<Source>,
    pub(crate) limits: Limits,
}

/// A folder, or one file; which of both is seen when it is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    /// Absolute, without a slash at its end.
    pub(crate) path: Arc<str>,
    pub(crate) format: Format,
}

/// What the watcher reads and keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Limits {
    /// Bytes of a file.
    pub(crate) file: u64,
    /// Files in all.
    pub(crate) files: usize,
    /// Bytes of a file whose content is kept for `diff` and `revert`.
    pub(crate) kept_file: u64,
    /// Bytes of all that are kept.
    pub(crate) kept: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Automatic,
            quiet: Duration::from_millis(50),
            longest: Duration::from_millis(500),
            new_files: true,
            uncommitted: None,
            md5: None,
            ignore: IGNORED.map(str::to_owned).to_vec(),
            sources: Vec::new(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { file: 16 << 20, files: 4096, kept_file: 1 << 20, kept: 16 << 20 }
    }
}

impl Settings {
    /// Reads the file, if there is one. Without `sources` OpenWrt's folders are watched, where there are any.
    ///
    /// # Errors
    /// What is wrong, one a line: file, line, key, cure.
    pub(crate) fn load(places: &Places) -> Result<Self, String> {
        let read = table::load(places.config.as_deref(), FILE, read)?;
        let mut settings = read.unwrap_or_default();
        if settings.sources.is_empty()
            && let Some(uci) = places.uci.as_ref().and_then(|path| path.to_str())
        {
            let run = (uci == SYSTEM).then_some(SYSTEM_RUN);
            settings.sources = [uci].into_iter().chain(run).map(uci_source).collect();
        }
        Ok(settings)
    }

    /// Whether a file of this name in a folder is no package.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        self.ignore.iter().any(|pattern| matches(pattern, name))
    }
}

fn uci_source(path: &str) -> Source {
    Source { path: Arc::from(path), format: Format::Uci }
}

fn read(top: &Table<'_>) -> Settings {
    top.refuse_others(&KEYS);
    let plain = Settings::default();
    let time = Duration::from_millis(1)..=Duration::from_secs(60);
    let word = |key, words: &[&str]| top.get(key).and_then(|item| item.word(words));
    let settings = Settings {
        mode: match word("mode", &["automatic", "manual"]) {
            Some(1) => Mode::Manual,
            _ => Mode::Automatic,
        },
        quiet: top.duration("quiet", time.clone()).unwrap_or(plain.quiet),
        longest: top.duration("longest", time).unwrap_or(plain.longest),
        new_files: top.boolean("new-files").unwrap_or(plain.new_files),
        uncommitted: top.path("uncommitted"),
        md5: top.path("md5"),
        ignore: top.get("ignore").map_or(plain.ignore, |item| ignored(&item)),
        sources: sources(top),
        limits: top.table("limits").map_or(plain.limits, |table| limits(&table)),
    };
    if settings.quiet > settings.longest
        && let Some(item) = top.get("longest").or_else(|| top.get("quiet"))
    {
        item.wrong("`longest` must not be shorter than `quiet`");
    }
    settings
}

fn ignored(item: &Item<'_>) -> Vec<String> {
    let patterns = item.some(|text| Ok(text.to_owned()));
    if patterns.len() > IGNORE_MAX {
        item.wrong(&format!("{} patterns; at most {IGNORE_MAX} can be given", patterns.len()));
    }
    patterns
}

fn limits(table: &Table<'_>) -> Limits {
    table.refuse_others(&LIMITS);
    let plain = Limits::default();
    let size = |key, range| table.get(key).and_then(|item| item.size(range));
    Limits {
        file: size("file", 1..=64 << 20).unwrap_or(plain.file),
        files: table.integer("files", 1..=65_536).unwrap_or(plain.files),
        kept_file: size("kept-file", 0..=64 << 20).unwrap_or(plain.kept_file),
        kept: size("kept", 0..=1 << 30).unwrap_or(plain.kept),
    }
}

fn sources(top: &Table<'_>) -> Vec<Source> {
    let mut seen = BTreeSet::new();
    let mut sources = Vec::new();
    for table in top.tables("sources") {
        table.refuse_others(&SOURCE);
        let Some(path) = path(&table, top) else { continue };
        let format = format(&table);
        if !seen.insert(path.clone()) {
            if let Some(item) = table.get("path") {
                item.wrong(&format!("{path} is a source already"));
            }
            continue;
        }
        sources.push(Source { path: Arc::from(path), format });
    }
    if sources.len() > SOURCES_MAX
        && let Some(item) = top.get("sources")
    {
        item.wrong(&format!("{} sources; at most {SOURCES_MAX} can be given", sources.len()));
    }
    sources
}

fn path(table: &Table<'_>, top: &Table<'_>) -> Option<String> {
    let Some(item) = table.get("path") else {
        if let Some(item) = top.get("sources") {
            item.wrong(
                "a source without `path`; write { path = \"/etc/config\", format = \"uci\" }",
            );
        }
        return None;
    };
    item.parsed(|text| {
        let path = table::absolute(text)?;
        let plain = path.components().all(|part| part.as_os_str() != "..");
        let clean: PathBuf = path.components().collect();
        let clean = clean.to_str().filter(|clean| plain && clean.len() > 1);
        let whole = clean.filter(|clean| !clean.contains(char::is_control));
        whole.map(str::to_owned).ok_or_else(|| {
            format!(
                "{text:?} can't be watched; write a path without \"..\", such as \"/etc/config\""
            )
        })
    })
}

fn format(table: &Table<'_>) -> Format {
    let word = table.get("format").map_or(Some(0), |item| item.word(&FORMATS));
    if let Some(item) = table.get("comment")
        && word != Some(4)
    {
        item.wrong("only format = \"lines\" has a comment sign of its own");
    }
    match word {
        Some(1) => Format::Json,
        Some(2) => Format::Toml,
        Some(3) => Format::Ini,
        Some(4) => {
            let comment = table.text("comment").unwrap_or("#").to_owned();
            Format::Lines { comment }
        }
        Some(5) => Format::Bytes,
        // A wrong word was reported.
        _ => Format::Uci,
    }
}

/// As the settings and `status` call it.
pub(crate) fn format_name(format: &Format) -> &'static str {
    match format {
        Format::Uci => "uci",
        Format::Json => "json",
        Format::Toml => "toml",
        Format::Ini => "ini",
        Format::Lines { .. } => "lines",
        Format::Bytes => "bytes",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        table::parse(Path::new(FILE), text, read)
    }

    #[test]
    fn everything_that_can_be_said_is_understood() {
        let text = "
            mode = \"manual\"
            quiet = \"20ms\"
            longest = \"2s\"
            new-files = false
            uncommitted = \"/tmp/.uci\"
            md5 = \"/var/run/config.md5\"
            ignore = [\".*\"]
            sources = [
                { path = \"/etc/config/\" },
                { path = \"/etc/app.json\", format = \"json\" },
                { path = \"/etc/hosts\", format = \"lines\", comment = \";\" },
            ]
            [limits]
            file = \"1MiB\"
            files = 10
            kept-file = 0
            kept = \"64KiB\"
        ";
        let source = |path, format| Source { path: Arc::from(path), format };
        let expected = Settings {
            mode: Mode::Manual,
            quiet: Duration::from_millis(20),
            longest: Duration::from_secs(2),
            new_files: false,
            uncommitted: Some("/tmp/.uci".into()),
            md5: Some("/var/run/config.md5".into()),
            ignore: vec![".*".to_owned()],
            sources: vec![
                source("/etc/config", Format::Uci),
                source("/etc/app.json", Format::Json),
                source("/etc/hosts", Format::Lines { comment: ";".to_owned() }),
            ],
            limits: Limits { file: 1 << 20, files: 10, kept_file: 0, kept: 64 << 10 },
        };
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(""), Ok(Settings::default()));
    }

    #[test]
    fn the_shipped_example_says_what_holds_without_it() {
        let text = include_str!("../../../configs/settings/config.toml");
        let settings = parse(text).unwrap();
        let sources = [SYSTEM, SYSTEM_RUN].map(uci_source).to_vec();
        assert_eq!(settings, Settings { sources, ..Settings::default() });
    }

    #[test]
    fn every_mistake_is_told_with_its_line_key_and_cure() {
        for (text, part) in [
            ("\nmod = 1", "config.toml:2: unknown key \"mod\", did you mean \"mode\"?"),
            ("mode = \"off\"", "one of [\"automatic\", \"manual\"]"),
            ("quiet = \"1s\"", "`longest` must not be shorter than `quiet`"),
            ("quiet = 50", "quiet: 50 is not allowed here"),
            ("sources = [{ format = \"uci\" }]", "a source without `path`"),
            ("sources = [{ path = \"etc\" }]", "is not a path from the root folder on"),
            ("sources = [{ path = \"/a/../b\" }]", "without \"..\""),
            ("sources = [{ path = \"/\" }]", "can't be watched"),
            ("sources = [{ path = \"/a\" }, { path = \"/a/\" }]", "/a is a source already"),
            ("sources = [{ path = \"/a\", format = \"yaml\" }]", "\"bytes\""),
            ("sources = [{ path = \"/a\", comment = \";\" }]", "only format = \"lines\""),
            ("[limits]\nfile = \"1TiB\"", "config.toml:2: limits.file: "),
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.contains(part), "{text}: {told}");
        }
    }

    #[test]
    fn what_editors_and_package_managers_leave_is_no_package() {
        let settings = Settings::default();
        for name in [".hello.swp", "hello~", "hello.swp", "network-opkg", "hello.tmp"] {
            assert!(settings.ignores(name), "{name}");
        }
        for name in ["hello", "my config", "hello.bak", "übung"] {
            assert!(!settings.ignores(name), "{name}");
        }
    }
}
