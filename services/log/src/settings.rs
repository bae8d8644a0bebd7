//! `CONFIG_DIR/log.toml`: what a person wrote, or what holds without it. Every mistake is told with its file, line, key and cure.

use std::{collections::HashMap, io, path::Path};

use daemon::files::read_text;
use protocol::objects::nearest;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    machine::{
        Choices,
        rate::{Rate, Rates},
    },
    store::{SIZE_MAX, SIZE_MIN},
};

/// A longer file is not read.
const FILE_MAX: u64 = 256 << 10;
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
        let Some(path) = folder.map(|folder| folder.join(FILE)) else { return Ok(Self::default()) };
        let text = match read_text(&path, FILE_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        Self::read(&text).map_err(|(line, text)| format!("{}:{line}: {text}", path.display()))
    }

    /// Reads the text of the file; an error has its line.
    fn read(text: &str) -> Result<Self, (usize, String)> {
        let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let table = DeTable::parse(text).map_err(|error| {
            (line(error.span().map_or(0, |span| span.start)), error.message().to_owned())
        })?;
        Self::of(table.get_ref()).map_err(|wrong| (line(wrong.at), wrong.text))
    }

    fn of(table: &DeTable<'_>) -> Result<Self, Wrong> {
        let mut settings = Self::default();
        let (mut size, mut burst) = (None, None);
        let mut default_rate = settings.choices.rates.default;
        for (key, value) in table {
            let item = Item { key: key.get_ref(), value };
            match &**key.get_ref() {
                "store" => settings.on_disk = item.word(&["memory", "disk"])? == 1,
                "size" => size = Some(item.size()?),
                "rate" => default_rate = item.rate()?,
                "burst" => burst = Some(item.integer(1, 1_000_000)?),
                "rates" => settings.choices.rates.services = item.rates()?,
                "stdout-priority" => settings.choices.stdout_priority = item.priority()?,
                "stderr-priority" => settings.choices.stderr_priority = item.priority()?,
                "kernel" => settings.kernel = item.boolean()?,
                "syslog" => settings.syslog = Some(item.socket()?),
                unknown => {
                    let near =
                        nearest(unknown, KEYS).map(|near| format!(", did you mean {near:?}?"));
                    let near = near.unwrap_or_else(|| format!("; known are {}", KEYS.join(", ")));
                    return Err(Wrong {
                        at: key.span().start,
                        text: format!("unknown key {unknown:?}{near}"),
                    });
                }
            }
        }
        if settings.on_disk {
            settings.size = 16 << 20;
        }
        settings.size = size.unwrap_or(settings.size);
        let rates = &mut settings.choices.rates;
        rates.default = default_rate;
        if let Some(burst) = burst {
            let all = rates.services.values_mut().chain([&mut rates.default]);
            all.flatten().for_each(|rate| rate.burst = burst);
        }
        Ok(settings)
    }
}

/// What is wrong, and at which byte.
#[derive(Debug)]
struct Wrong {
    at: usize,
    text: String,
}

/// A key and its value.
#[derive(Clone, Copy)]
struct Item<'t> {
    key: &'t str,
    value: &'t Spanned<DeValue<'t>>,
}

impl Item<'_> {
    fn wrong<T>(&self, cure: &str) -> Result<T, Wrong> {
        let shown = match self.value.get_ref() {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Boolean(yes) => yes.to_string(),
            other => format!("a {}", other.type_str()),
        };
        let text = format!("{} = {shown} makes no sense; write {cure}", self.key);
        Err(Wrong { at: self.value.span().start, text })
    }

    fn text(&self) -> Option<&str> {
        self.value.get_ref().as_str()
    }

    fn number(&self) -> Option<u64> {
        let number = self.value.get_ref().as_integer()?;
        u64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    fn boolean(&self) -> Result<bool, Wrong> {
        self.value.get_ref().as_bool().map_or_else(|| self.wrong("true or false"), Ok)
    }

    fn integer(&self, min: u32, max: u32) -> Result<u32, Wrong> {
        let number = self.number().and_then(|number| u32::try_from(number).ok());
        let good = number.filter(|number| (min..=max).contains(number));
        good.map_or_else(|| self.wrong(&format!("a number from {min} to {max}")), Ok)
    }

    /// The place of a word among those that are allowed.
    fn word(&self, words: &[&str]) -> Result<usize, Wrong> {
        let found = self.text().and_then(|text| words.iter().position(|word| *word == text));
        found.map_or_else(|| self.wrong(&format!("one of {words:?}")), Ok)
    }

    fn priority(&self) -> Result<u8, Wrong> {
        let by_number = self.number().and_then(|number| u8::try_from(number).ok());
        let by_name = || {
            let at = PRIORITIES.iter().position(|name| Some(*name) == self.text());
            at.and_then(|at| u8::try_from(at).ok())
        };
        let found = by_number.filter(|number| *number <= 7).or_else(by_name);
        found.map_or_else(|| self.wrong(&format!("0 to 7, or one of {PRIORITIES:?}")), Ok)
    }

    /// Bytes: a number, or one with KiB, MiB or GiB.
    fn size(&self) -> Result<u64, Wrong> {
        let with_unit = || {
            let text = self.text()?;
            let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
            let (number, unit) = text.split_at(end);
            let shift = match unit.trim() {
                "" => 0,
                "KiB" => 10,
                "MiB" => 20,
                "GiB" => 30,
                _ => return None,
            };
            number.parse::<u64>().ok()?.checked_mul(1 << shift)
        };
        let size = self.number().or_else(with_unit);
        let good = size.filter(|size| (SIZE_MIN..=SIZE_MAX).contains(size));
        good.map_or_else(|| self.wrong("a size from \"512KiB\" to \"4GiB\""), Ok)
    }

    /// `"off"`, or lines a second: a number, or `"N/s"`.
    fn rate(&self) -> Result<Option<Rate>, Wrong> {
        if self.text() == Some("off") {
            return Ok(None);
        }
        let with_unit = || self.text()?.strip_suffix("/s")?.parse::<u64>().ok();
        let lines = self.number().or_else(with_unit).and_then(|lines| u32::try_from(lines).ok());
        match lines.filter(|lines| (1..=1_000_000).contains(lines)) {
            // Five seconds' worth at once, as with the default.
            Some(per_second) => Ok(Some(Rate { per_second, burst: per_second.saturating_mul(5) })),
            None => self.wrong("\"off\", or lines a second from 1 to 1000000, such as \"1000/s\""),
        }
    }

    /// Rates by service.
    fn rates(&self) -> Result<HashMap<String, Option<Rate>>, Wrong> {
        let Some(table) = self.value.get_ref().as_table() else {
            return self.wrong("a table of services, such as { camera = \"off\" }");
        };
        let one = |(key, value): (&Spanned<_>, _)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            Item { key, value }.rate().map(|rate| (key.clone().into_owned(), rate))
        };
        table.iter().map(one).collect()
    }

    /// An absolute path, or `run:NAME`.
    fn socket(&self) -> Result<SyslogPath, Wrong> {
        let cure = "an absolute path such as \"/dev/log\", or \"run:syslog\" for a name in the run directory";
        match self.text() {
            Some(path) if path.starts_with('/') && path.len() > 1 => {
                Ok(SyslogPath::Absolute(path.to_owned()))
            }
            Some(text) => match text.strip_prefix("run:") {
                Some(name) if !name.is_empty() && !name.contains(['/', '\0']) => {
                    Ok(SyslogPath::InRunDir(name.to_owned()))
                }
                _ => self.wrong(cure),
            },
            None => self.wrong(cure),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_file_and_none_are_the_defaults() {
        assert_eq!(Settings::read(""), Ok(Settings::default()));
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
        let settings = Settings::read(text).unwrap();
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
        assert_eq!(Settings::read("store = \"disk\"").unwrap().size, 16 << 20);
        assert_eq!(Settings::read("rate = \"off\"").unwrap().choices.rates.default, None);
    }

    #[test]
    fn every_mistake_names_its_line_its_key_and_the_cure() {
        for (text, line, parts) in [
            ("\nsise = 3", 2, &["unknown key \"sise\", did you mean \"size\"?"][..]),
            ("colour = 1", 1, &["unknown key \"colour\"; known are store"]),
            ("store = \"tape\"", 1, &["store = \"tape\"", "\"memory\", \"disk\""]),
            ("size = \"1KiB\"", 1, &["size = \"1KiB\"", "512KiB"]),
            ("size = \"99999999999999GiB\"", 1, &["4GiB"]),
            ("rate = 0", 1, &["rate = 0", "\"off\""]),
            ("rate = -1", 1, &["rate = -1"]),
            ("kernel = 1", 1, &["true or false"]),
            ("syslog = \"log\"", 1, &["/dev/log"]),
            ("syslog = \"run:../x\"", 1, &["run:syslog"]),
            ("stderr-priority = 8", 1, &["0 to 7", "warning"]),
            ("rates = 3", 1, &["a table of services"]),
            ("[rates]\nweb = \"fast\"", 2, &["web = \"fast\""]),
            ("x = \n", 1, &[]),
        ] {
            let (at, told) = Settings::read(text).unwrap_err();
            assert_eq!(at, line, "{text}: {told}");
            parts.iter().for_each(|part| assert!(told.contains(part), "{told}"));
        }
    }

    #[test]
    fn a_mistake_in_the_file_is_told_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "kernel = 1").unwrap();
        let told = Settings::load(Some(folder.path())).unwrap_err();
        assert!(told.contains("log.toml:1: kernel = 1"), "{told}");
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in "(store|size|rate|kernel|syslog|rates)? ?=? ?\\PC{0,30}") {
            let _ = Settings::read(&text);
        }
    }
}
