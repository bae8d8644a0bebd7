//! From `CONFIG_DIR/heartbeat.toml`, `--listen` and `VESTAL_HEARTBEAT_LISTEN` to valid [`Settings`]. A key is read from a file
//! of its own, which others must not be able to read, and is never shown.

use std::{
    collections::BTreeMap, ffi::OsStr, io::Read as _, net::SocketAddr,
    os::unix::fs::MetadataExt as _, path::Path, time::Duration,
};

use daemon::{
    files::open_plain,
    table::{self, Item, Table},
};
use protocol::heartbeat::Key;

use super::{
    App, Legacy, Limits, Rules, Settings,
    address::{host, socket_address},
    key_of_digits,
};

const FILE: &str = "heartbeat.toml";
/// Addresses that can be listened on.
const LISTEN_MAX: usize = 8;
const KEYS: [&str; 6] =
    ["listen", "allow-unexpected", "detector", "phi-threshold", "limits", "apps"];
const LIMITS: [&str; 7] = [
    "applications",
    "unexpected",
    "sessions-per-address",
    "period-min",
    "period-max",
    "period",
    "misses",
];
const APP: [&str; 7] = ["key-file", "period", "misses", "progress", "detector", "remote", "legacy"];

/// Reads the file, if there is one; `listen` (addresses with commas) replaces what it says.
///
/// # Errors
/// What is wrong, one a line, each with its place and cure.
pub(crate) fn load(config: Option<&Path>, listen: Option<&OsStr>) -> Result<Settings, String> {
    let mut settings = table::load(config, FILE, read)?.unwrap_or_default();
    if let Some(listen) = listen {
        settings.listen = addresses(listen).map_err(|why| format!("listen address {why}"))?;
        settings.chosen = true;
    }
    Ok(settings)
}

fn addresses(listen: &OsStr) -> Result<Vec<SocketAddr>, String> {
    let text = listen.to_str().ok_or("is not a text")?;
    let all: Vec<SocketAddr> =
        text.split(',').map(|one| socket_address(one.trim())).collect::<Result<_, _>>()?;
    few(all)
}

fn few(all: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
    match all.len() {
        1..=LISTEN_MAX => Ok(all),
        count => Err(format!("{count} addresses; 1 to {LISTEN_MAX} can be listened on")),
    }
}

fn read(top: &Table<'_>) -> Settings {
    top.refuse_others(&KEYS);
    let mut settings = Settings::default();
    if let Some(item) = top.get("listen") {
        settings.chosen = true;
        match few(item.some(socket_address)) {
            Ok(listen) => settings.listen = listen,
            Err(why) => item.wrong(&why),
        }
    }
    let rules = &mut settings.rules;
    rules.allow_unexpected = top.boolean("allow-unexpected").unwrap_or(false);
    rules.adaptive = top.get("detector").and_then(|item| item.parsed(detector)).unwrap_or(false);
    if let Some(item) = top.get("phi-threshold")
        && let Some(threshold) = item.number()
    {
        if (1.0..=100.0).contains(&threshold) {
            rules.phi_threshold = threshold;
        } else {
            item.wrong(&format!("{threshold} is out of range; allowed are 1 to 100"));
        }
    }
    if let Some(table) = top.table("limits") {
        rules.limits = limits(&table);
    }
    if let Some(table) = top.table("apps") {
        rules.apps = apps(&table, rules, top.file());
    }
    settings
}

fn limits(table: &Table<'_>) -> Limits {
    table.refuse_others(&LIMITS);
    let plain = Limits::default();
    let any = Duration::from_millis(10)..=Duration::from_secs(24 * 3_600);
    let time = |key, plain| table.duration(key, any.clone()).unwrap_or(plain);
    let limits = Limits {
        applications: table.integer("applications", 1..=1_000_000).unwrap_or(plain.applications),
        unexpected: table.integer("unexpected", 0..=10_000).unwrap_or(plain.unexpected),
        sessions_per_address: table
            .integer("sessions-per-address", 1..=10_000)
            .unwrap_or(plain.sessions_per_address),
        period_min: time("period-min", plain.period_min),
        period_max: time("period-max", plain.period_max),
        period: time("period", plain.period),
        misses: table.integer("misses", 1..=255).unwrap_or(plain.misses),
    };
    if !(limits.period_min..=limits.period_max).contains(&limits.period) {
        let item = ["period", "period-min", "period-max"].iter().find_map(|key| table.get(key));
        if let Some(item) = item {
            item.wrong("period must lie between period-min and period-max");
        }
    }
    limits
}

fn apps(table: &Table<'_>, rules: &Rules, file: &Path) -> BTreeMap<i32, App> {
    let mut apps = BTreeMap::new();
    for name in table.keys() {
        let Some(item) = table.get(name) else { continue };
        let Ok(id) = name.parse::<i32>() else {
            item.wrong("an application id is a whole number of 32 bits, as [apps.7]");
            continue;
        };
        let Some(table) = table.table(name) else { continue };
        if apps.insert(id, app(&table, rules, file)).is_some() {
            item.wrong(&format!("application {id} is named twice"));
        }
        if apps.len() > rules.limits.applications {
            item.wrong(&format!(
                "more than {} applications; raise limits.applications",
                rules.limits.applications
            ));
            break;
        }
    }
    apps
}

fn app(table: &Table<'_>, rules: &Rules, file: &Path) -> App {
    table.refuse_others(&APP);
    let limits = &rules.limits;
    let app = App {
        key: table.get("key-file").and_then(|item| key(&item, file)),
        period: table.duration("period", limits.period_min..=limits.period_max),
        misses: table.integer("misses", 1..=255),
        progress: table.duration("progress", limits.period_min..=Duration::from_secs(24 * 3_600)),
        adaptive: table.get("detector").and_then(|item| item.parsed(detector)),
        remote: table.get("remote").map(|item| item.some(host)).unwrap_or_default(),
        legacy: table.get("legacy").and_then(|item| item.parsed(legacy)),
    };
    if let Some(item) = table.get("legacy")
        && (table.get("key-file").is_some() || table.get("remote").is_some())
    {
        item.wrong("a peer of plain Reliable UDP has neither key-file nor remote; leave these out");
    }
    app
}

fn detector(text: &str) -> Result<bool, String> {
    match text {
        "deadline" => Ok(false),
        "phi" => Ok(true),
        other => Err(format!("{other:?} is no detector; allowed are \"deadline\" and \"phi\"")),
    }
}

/// `10.0.0.7` or `10.0.0.7:5000`; on this host every program shares the address, so the port must be there.
fn legacy(text: &str) -> Result<Legacy, String> {
    let legacy = match socket_address(text) {
        Ok(address) => Legacy { address: address.ip().to_canonical(), port: Some(address.port()) },
        Err(_) => Legacy { address: host(text)?, port: None },
    };
    if legacy.address.is_loopback() && legacy.port.is_none_or(|port| port == 0) {
        return Err(format!(
            "{text:?} is every program of this host; add the peer's port, as \"{text}:5000\""
        ));
    }
    Ok(legacy)
}

/// The key in a file beside the settings: 32 hexadecimal digits, or 16 octets as they are.
fn key(item: &Item<'_>, settings: &Path) -> Option<Key> {
    let path = settings.parent().unwrap_or(Path::new("/")).join(item.text()?);
    match read_key(&path) {
        Ok(key) => Some(key),
        Err(why) => {
            item.wrong(&format!("{}: {why}", path.display()));
            None
        }
    }
}

fn read_key(path: &Path) -> Result<Key, String> {
    let file = open_plain(path).map_err(|error| error.to_string())?;
    let about = file.metadata().map_err(|error| error.to_string())?;
    let mode = about.mode() & 0o777;
    if mode & 0o027 != 0 {
        return Err(format!(
            "mode {mode:04o} lets others at the key; chmod 0640 and make it root's, with the broker's group"
        ));
    }
    let mut octets = Vec::new();
    file.take(64).read_to_end(&mut octets).map_err(|error| error.to_string())?;
    if let Ok(key) = <[u8; 16]>::try_from(octets.as_slice()) {
        return Ok(Key(key));
    }
    let digits = std::str::from_utf8(&octets).ok().map(str::trim_end);
    digits.and_then(key_of_digits).ok_or_else(|| {
        format!(
            "{} octets that are no key; 16 octets or 32 hexadecimal digits are needed",
            octets.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn read_file(text: &str) -> Result<Settings, String> {
        table::parse(Path::new(FILE), text, read)
    }

    #[test]
    fn without_a_file_the_broker_listens_on_loopback_and_takes_nobody_unnamed() {
        let folder = tempfile::tempdir().unwrap();
        let settings = load(Some(folder.path()), None).unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.listen, ["127.0.0.1:7420".parse().unwrap()]);
        assert!(!settings.rules.allow_unexpected);
    }

    #[test]
    fn everything_that_can_be_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("heartbeat.toml");
        let key = folder.path().join("seven.key");
        std::fs::write(&key, "000102030405060708090a0b0c0d0e0f\n").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        let text = r#"
            listen = ["127.0.0.1:1", "[::1]:2"]
            allow-unexpected = true
            detector = "phi"
            phi-threshold = 12.5
            [limits]
            applications = 100
            period-max = "2m"
            [apps.7]
            key-file = "seven.key"
            period = "250ms"
            misses = 4
            progress = "30s"
            detector = "deadline"
            remote = "10.0.0.7"
            [apps.-1]
            legacy = "10.0.0.8"
        "#;
        std::fs::write(&file, text).unwrap();
        let settings = load(Some(folder.path()), None).unwrap();
        let rules = &settings.rules;
        assert_eq!(settings.listen.len(), 2);
        assert!(rules.allow_unexpected && rules.adaptive && rules.phi_threshold > 12.0);
        assert_eq!(rules.limits.period_max, Duration::from_secs(120));
        let seven = &rules.apps[&7];
        assert_eq!(seven.key.unwrap().0[15], 15);
        assert_eq!((seven.misses, seven.adaptive), (Some(4), Some(false)));
        assert!(seven.admits("10.0.0.7:99".parse().unwrap()));
        assert!(!seven.admits("127.0.0.1:99".parse().unwrap()));
        assert!(rules.apps[&-1].legacy.unwrap().is("10.0.0.8:5".parse().unwrap()));
        let other = load(Some(folder.path()), Some(OsStr::new("127.0.0.1:0"))).unwrap();
        assert_eq!(other.listen, ["127.0.0.1:0".parse().unwrap()]);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "f00102030405060708090a0b0c0d0e0f").unwrap();
        for (mode, cure) in [(0o644, "chmod 0640"), (0o660, "chmod 0640")] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(read_key(&path).unwrap_err().contains(cure), "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_key(&path).is_ok());
        std::fs::write(&path, "f001").unwrap();
        let why = read_key(&path).unwrap_err();
        assert!(why.contains("4 octets") && !why.contains("f001"), "{why}");
    }

    #[test]
    fn mistakes_are_told_with_line_key_and_cure_all_at_once() {
        let text = "lisen = \"x\"\nlisten = \"here\"\n[apps.7]\nperiod = 5\nmisses = 0\n[apps.x]\n\
                    [apps.8]\nlegacy = \"127.0.0.1\"\n[limits]\nperiod = \"1ms\"\n";
        let told = read_file(text).unwrap_err();
        for part in [
            "heartbeat.toml:1: unknown key \"lisen\", did you mean \"listen\"?",
            "heartbeat.toml:2: listen: \"here\" is not an address",
            "heartbeat.toml:4: apps.7.period: 5 is not allowed here",
            "heartbeat.toml:5: apps.7.misses: 0 is out of range; allowed are 1 to 255",
            "heartbeat.toml:6: apps.x: an application id is a whole number",
            "heartbeat.toml:8: apps.8.legacy: \"127.0.0.1\" is every program of this host",
            "heartbeat.toml:10: limits.period: 1 ms is out of range",
        ] {
            assert!(told.contains(part), "{part} is missing in:\n{told}");
        }
    }
}
