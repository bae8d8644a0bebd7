//! From `CONFIG_DIR/driver.toml` to valid [`Settings`]: every mistake is told with its line, its key and its cure, all at once.

use std::{path::Path, time::Duration};

use daemon::table::{self, Item, Table};
use protocol::driver::Mode;

use super::{Driver, FILE, Settings};

const KEYS: [&str; 1] = ["drivers"];
const DRIVER: [&str; 13] = [
    "object",
    "user",
    "device",
    "probation",
    "drain",
    "threads",
    "checkpoint",
    "max-errors",
    "max-latency",
    "max-memory",
    "hang",
    "dev",
    "mode",
];
const MODES: [&str; 2] = ["table", "jump"];
/// As many as fit into `RUN_DIR/driver.NAME.sock` with the longest run directory.
const NAME_MAX: usize = 16;
const DRIVERS_MAX: usize = 64;
/// The kernel's limit is 255; `ls -l /dev` should stay readable.
const DEVICE_MAX: usize = 64;
const USER_MAX: usize = 32;
const THREADS_MAX: i64 = 64;
const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Reads the file. Where there is none there are no drivers.
///
/// # Errors
/// What is wrong, one a line, each with its place and cure.
pub(crate) fn load(config: Option<&Path>) -> Result<Settings, String> {
    table::load(config, FILE, settings).map(Option::unwrap_or_default)
}

fn settings(top: &Table<'_>) -> Settings {
    top.refuse_others(&KEYS);
    let mut settings = Settings::default();
    let Some(drivers) = top.table("drivers") else { return settings };
    let mut names = drivers.keys();
    names.sort_unstable();
    for name in names {
        let Some(item) = drivers.get(name) else { continue };
        if settings.drivers.len() == DRIVERS_MAX {
            item.wrong(&format!("more than {DRIVERS_MAX} drivers; take some of them out"));
            break;
        }
        if let Some(driver) = driver(name, &item, &settings) {
            settings.drivers.insert(name.to_owned(), driver);
        }
    }
    settings
}

fn driver(name: &str, item: &Item<'_>, before: &Settings) -> Option<Driver> {
    if !is_name(name) {
        item.wrong(&format!(
            "not a driver's name; write a lower-case letter, then up to {} letters, digits, - and _",
            NAME_MAX - 1
        ));
        return None;
    }
    let table = item.table()?;
    table.refuse_others(&DRIVER);
    let object = table.path("object");
    if table.get("object").is_none() {
        item.wrong(&format!(
            "object is missing; name its factory version: object = \"/usr/lib/vestal/drivers/{name}.so\""
        ));
    }
    let duration = |key, low, high, otherwise| table.duration(key, low..=high).unwrap_or(otherwise);
    let number = |key, low, high, otherwise| number(&table, key, low, high).unwrap_or(otherwise);
    let memory = table.get("max-memory").and_then(|item| item.size(64 << 10..=1 << 40));
    let mode = table.get("mode").and_then(|item| item.word(&MODES));
    Some(Driver {
        object: object?,
        user: table.get("user").and_then(|item| item.parsed(user)),
        device: table.get("device").and_then(|item| device(&item, before)),
        probation: duration("probation", 10 * MILLISECOND, DAY, Duration::from_secs(30)),
        drain: duration("drain", MILLISECOND, Duration::from_secs(10), Duration::from_millis(100)),
        threads: table.integer("threads", 1..=THREADS_MAX).unwrap_or(4),
        checkpoint: duration("checkpoint", 10 * MILLISECOND, DAY, Duration::from_secs(1)),
        max_errors: number("max-errors", 0.0, 1.0, 0.05),
        max_latency: number("max-latency", 1.0, 100_000.0, 10.0),
        max_memory: memory.unwrap_or(16 << 20),
        hang: duration("hang", 10 * MILLISECOND, 60 * MINUTE, Duration::from_secs(1)),
        dev: table.boolean("dev").unwrap_or(false),
        mode: if mode == Some(1) { Mode::Jump } else { Mode::Table },
    })
}

/// Whether a driver can be called so: services, sockets and folders are named after it.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_".contains(letter)
    };
    name.starts_with(|letter: char| letter.is_ascii_lowercase())
        && name.len() <= NAME_MAX
        && name.chars().all(allowed)
}

fn number(table: &Table<'_>, key: &str, low: f64, high: f64) -> Option<f64> {
    let item = table.get(key)?;
    let number = item.number()?;
    if (low..=high).contains(&number) {
        return Some(number);
    }
    item.wrong(&format!("{number} is out of range; allowed are {low} to {high}"));
    None
}

/// Only what can stand in a definition without quoting.
fn user(text: &str) -> Result<String, String> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if !text.is_empty() && text.len() <= USER_MAX && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:.60?} is not a user; write a name of /etc/passwd, or a number, of at most {USER_MAX} characters"
    ))
}

fn device(item: &Item<'_>, before: &Settings) -> Option<String> {
    let name = item.text()?;
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let plain = name.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    if !plain || name.len() > DEVICE_MAX || !name.chars().all(allowed) {
        item.wrong(&format!(
            "{name:.80?} is not a device's name; write it without /dev/, in at most {DEVICE_MAX} letters, digits, -, _ and ."
        ));
        return None;
    }
    let taken = |(_, driver): &(&String, &Driver)| driver.device.as_deref() == Some(name);
    if let Some((other, _)) = before.drivers.iter().find(taken) {
        item.wrong(&format!("/dev/{name} is the device of {other} already; give it another name"));
        return None;
    }
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        table::parse(Path::new(FILE), text, settings)
    }

    #[test]
    fn everything_that_can_be_written_is_read() {
        let text = r#"
    [drivers.serial]
    object = "/usr/lib/vestal/drivers/serial.so"
    user = "dialout"
    device = "ttyV0"
    probation = "10s"
    drain = "50ms"
    threads = 8
    checkpoint = "200ms"
    max-errors = 0.5
    max-latency = 3
    max-memory = "1MiB"
    hang = "2s"
    dev = true
    mode = "jump"

    [drivers.counter]
    object = "/usr/lib/vestal/drivers/counter.so"
    "#;
        let settings = read(text).unwrap();
        let serial = &settings.drivers["serial"];
        assert_eq!(
            (serial.user.as_deref(), serial.device.as_deref()),
            (Some("dialout"), Some("ttyV0"))
        );
        assert_eq!((serial.threads, serial.max_memory, serial.mode), (8, 1 << 20, Mode::Jump));
        assert_eq!((serial.drain, serial.hang), (50 * MILLISECOND, Duration::from_secs(2)));
        assert!(serial.dev && (serial.max_errors, serial.max_latency) == (0.5, 3.0));
        let counter = &settings.drivers["counter"];
        assert_eq!((counter.probation, counter.threads), (Duration::from_secs(30), 4));
        assert!(!counter.dev && counter.mode == Mode::Table && counter.user.is_none());
    }

    #[test]
    fn mistakes_are_told_with_line_key_and_cure_all_at_once() {
        let text = r#"[drivers.a]
    object = "counter.so"
    [drivers.b]
    [drivers.Counter]
    object = "/x.so"
    [drivers.c]
    object = "/x.so"
    device = "tty0"
    [drivers.d]
    object = "/x.so"
    user = "a b"
    device = "tty0"
    threads = 0
    drain = "11s"
    max-errors = 5
    max-memory = "1MB"
    hangs = "1s"
    mode = "swap"
    [drivers.e]
    object = "/x.so"
    device = "/dev/x"
    [driver]
    "#;
        let told = read(text).unwrap_err();
        for part in [
            "driver.toml:2: drivers.a.object: \"counter.so\" is not a path from the root folder on",
            "driver.toml:3: drivers.b: object is missing; name its factory version",
            "driver.toml:4: drivers.Counter: not a driver's name",
            "drivers.d.user: \"a b\" is not a user",
            "driver.toml:12: drivers.d.device: /dev/tty0 is the device of c already",
            "drivers.d.threads: 0 is out of range; allowed are 1 to 64",
            "drivers.d.drain: 11000 ms is out of range",
            "drivers.d.max-errors: 5 is out of range; allowed are 0 to 1",
            "drivers.d.max-memory: \"1MB\" is not allowed here",
            "unknown key \"drivers.d.hangs\", did you mean \"hang\"?",
            "drivers.d.mode: \"swap\" is not allowed here; write one of",
            "drivers.e.device: \"/dev/x\" is not a device's name; write it without /dev/",
            "unknown key \"driver\", did you mean \"drivers\"?",
        ] {
            assert!(told.contains(part), "{part} is missing in:\n{told}");
        }
    }

    #[test]
    fn an_empty_file_and_none_mean_no_drivers() {
        assert_eq!(read(""), Ok(Settings::default()));
        assert_eq!(load(None), Ok(Settings::default()));
    }

    #[test]
    fn a_driver_is_called_so_that_its_socket_fits() {
        assert!(is_name("can0") && is_name("a") && is_name("abcdefghijklmnop"));
        for name in ["", "0a", "A", "a.b", "a/b", "abcdefghijklmnopq", "ä"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
