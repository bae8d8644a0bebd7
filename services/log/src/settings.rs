//! `CONFIG_DIR/log.toml`: what a person wrote, or what holds without it. Every mistake is told with its file, line, key and cure.

use std::{collections::HashMap, path::Path};

use daemon::table::{self, Item, Table};

use crate::{
    machine::{
        Choices,
        rate::{Rate, Rates},
    },
    store::{SIZE_MAX, SIZE_MIN},
};

const FILE: &str = "log.toml";
const KEYS: [&str; 9] = [
    "store",
    "size",
    "rate",
    "burst",
    "rates",
    "stdout-priority",
    "stderr-priority",
    "kernel",
    "syslog",
];
const PRIORITIES: [&str; 8] =
    ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// What the log is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Settings {
    pub(crate) on_disk: bool,
    /// Bytes of the store.
    pub(crate) size: u64,
    pub(crate) choices: Choices,
    /// Keep what the kernel says.
    pub(crate) kernel: bool,
    /// Listen for syslog datagrams here.
    pub(crate) syslog: Option<SyslogPath>,
}

/// Where the syslog socket is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum SyslogPath {
    Absolute(String),
    /// A name in RUN_DIR.
    InRunDir(String),
}

impl Default for Settings {
    fn default() -> Self {
        let rates = Rates {
            default: Some(Rate { per_second: 1000, burst: 5000 }),
            services: HashMap::new(),
        };
        Self {
            on_disk: false,
            size: 4 << 20,
            choices: Choices { rates, stdout_priority: 6, stderr_priority: 4 },
            kernel: false,
            syslog: None,
        }
    }
}

impl Settings {
    /// Reads the file in `folder`, if there is one.
    ///
    /// # Errors
    /// A text for a person: file, line, key, what is allowed.
    pub(crate) fn load(folder: Option<&Path>) -> Result<Self, String> {
        Ok(table::load(folder, FILE, Self::read)?.unwrap_or_default())
    }

    fn read(top: &Table<'_>) -> Self {
        top.refuse_others(&KEYS);
        let mut settings = Self::default();
        if let Some(1) = top.get("store").and_then(|item| item.word(&["memory", "disk"])) {
            settings.on_disk = true;
            settings.size = 16 << 20;
        }
        let size = top.get("size").and_then(|item| item.size(SIZE_MIN..=SIZE_MAX));
        settings.size = size.unwrap_or(settings.size);
        settings.kernel = top.boolean("kernel").unwrap_or(settings.kernel);
        settings.syslog = top.get("syslog").and_then(|item| item.parsed(socket));
        let choices = &mut settings.choices;
        choices.rates = rates(top, choices.rates.default);
        let urgency = |key, plain| top.get(key).and_then(|item| priority(&item)).unwrap_or(plain);
        choices.stdout_priority = urgency("stdout-priority", choices.stdout_priority);
        choices.stderr_priority = urgency("stderr-priority", choices.stderr_priority);
        settings
    }
}

fn rates(top: &Table<'_>, plain: Option<Rate>) -> Rates {
    let default = top.get("rate").and_then(|item| rate(&item)).unwrap_or(plain);
    let mut rates = Rates { default, services: HashMap::new() };
    if let Some(table) = top.table("rates") {
        for name in table.keys() {
            let given = table.get(name).and_then(|item| rate(&item));
            rates.services.extend(given.map(|given| (name.to_owned(), given)));
        }
    }
    if let Some(burst) = top.integer("burst", 1..=1_000_000) {
        let all = rates.services.values_mut().chain([&mut rates.default]);
        all.flatten().for_each(|rate| rate.burst = burst);
    }
    rates
}

/// `"off"`, or lines a second: a number, or `"N/s"`.
fn rate(item: &Item<'_>) -> Option<Option<Rate>> {
    let text = item.value().as_str();
    if text == Some("off") {
        return Some(None);
    }
    let with_unit = || text?.strip_suffix("/s")?.parse::<u64>().ok();
    let lines = item.whole().or_else(with_unit).and_then(|lines| u32::try_from(lines).ok());
    match lines.filter(|lines| (1..=1_000_000).contains(lines)) {
        // Five seconds' worth at once, as with the default.
        Some(per_second) => Some(Some(Rate { per_second, burst: per_second.saturating_mul(5) })),
        None => item.wrong_type("\"off\", or lines a second from 1 to 1000000, such as \"1000/s\""),
    }
}

fn priority(item: &Item<'_>) -> Option<u8> {
    let by_name = || {
        let at = PRIORITIES.iter().position(|name| Some(*name) == item.value().as_str());
        at.and_then(|at| u8::try_from(at).ok())
    };
    let by_number = item.whole().and_then(|number| u8::try_from(number).ok());
    let found = by_number.filter(|number| *number <= 7).or_else(by_name);
    found.or_else(|| item.wrong_type(&format!("0 to 7, or one of {PRIORITIES:?}")))
}

/// An absolute path, or `run:NAME`.
fn socket(text: &str) -> Result<SyslogPath, String> {
    if text.starts_with('/') && text.len() > 1 {
        return Ok(SyslogPath::Absolute(text.to_owned()));
    }
    match text.strip_prefix("run:") {
        Some(name) if !name.is_empty() && !name.contains(['/', '\0']) => {
            Ok(SyslogPath::InRunDir(name.to_owned()))
        }
        _ => Err(format!(
            "{text:?} is no place for a socket; write a path such as \"/dev/log\", or \"run:syslog\" for a name in the run directory"
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        table::parse(Path::new(FILE), text, Settings::read)
    }

    #[test]
    fn an_empty_file_and_none_are_the_defaults() {
        assert_eq!(read(""), Ok(Settings::default()));
        assert_eq!(Settings::load(None), Ok(Settings::default()));
        assert_eq!(Settings::load(Some(Path::new("/nonexistent"))), Ok(Settings::default()));
    }

    #[test]
    fn everything_that_can_be_said_is_understood() {
        let text = "
            store = \"disk\"
            size = \"32MiB\"
            rate = \"200/s\"
            burst = 300
            stdout-priority = 5
            stderr-priority = \"err\"
            kernel = true
            syslog = \"run:syslog\"
            [rates]
            camera = \"off\"
            web = 10
        ";
        let settings = read(text).unwrap();
        let services = HashMap::from([
            ("camera".to_owned(), None),
            ("web".to_owned(), Some(Rate { per_second: 10, burst: 300 })),
        ]);
        let default = Some(Rate { per_second: 200, burst: 300 });
        let rates = Rates { default, services };
        let expected = Settings {
            on_disk: true,
            size: 32 << 20,
            choices: Choices { rates, stdout_priority: 5, stderr_priority: 3 },
            kernel: true,
            syslog: Some(SyslogPath::InRunDir("syslog".to_owned())),
        };
        assert_eq!(settings, expected);
        assert_eq!(read("store = \"disk\"").unwrap().size, 16 << 20);
        assert_eq!(read("rate = \"off\"").unwrap().choices.rates.default, None);
    }

    #[test]
    fn every_mistake_names_its_line_its_key_and_the_cure() {
        for (text, line, parts) in [
            ("\nsise = 3", 2, &["unknown key \"sise\", did you mean \"size\"?"][..]),
            ("colour = 1", 1, &["unknown key \"colour\", known are store"]),
            ("store = \"tape\"", 1, &["store: \"tape\"", "\"memory\", \"disk\""]),
            ("size = \"1KiB\"", 1, &["size: \"1KiB\"", "from 524288"]),
            ("size = \"99999999999999GiB\"", 1, &["to 4294967296"]),
            ("rate = 0", 1, &["rate: 0", "\"off\""]),
            ("rate = -1", 1, &["rate: -1"]),
            ("kernel = 1", 1, &["true or false"]),
            ("syslog = \"log\"", 1, &["/dev/log"]),
            ("syslog = \"run:../x\"", 1, &["run:syslog"]),
            ("stderr-priority = 8", 1, &["0 to 7", "warning"]),
            ("rates = 3", 1, &["a table"]),
            ("[rates]\nweb = \"fast\"", 2, &["rates.web: \"fast\""]),
            ("x = \n", 1, &[]),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(&format!("log.toml:{line}: ")), "{text}: {told}");
            parts.iter().for_each(|part| assert!(told.contains(part), "{told}"));
        }
    }

    #[test]
    fn a_mistake_in_the_file_is_told_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "kernel = 1").unwrap();
        let told = Settings::load(Some(folder.path())).unwrap_err();
        assert!(told.contains("log.toml:1: kernel: 1"), "{told}");
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in "(store|size|rate|kernel|syslog|rates)? ?=? ?\\PC{0,30}") {
            let _ = read(&text);
        }
    }
}
