//! From `CONFIG_DIR/upgrade.toml` to valid [`Settings`]: every mistake is told with its line, its key and its cure, all at once.

use std::{path::Path, time::Duration};

use daemon::table::{self, Item, Table, absolute};

use super::{BootControlSettings, BootKind, Component, Health, Method, Settings, Target};
use crate::{disk::BLOCK, engine::contract::Activation};

const FILE: &str = "upgrade.toml";
const KEYS: [&str; 8] = [
    "product",
    "revision",
    "listen",
    "activate",
    "boot-control",
    "health",
    "trial-limit",
    "components",
];
const BOOT: [&str; 6] = ["kind", "path", "config", "device", "offset", "tries"];
const KINDS: [&str; 4] = ["none", "file", "uboot", "grub"];
const HEALTH: [&str; 3] = ["timeout", "stable", "command"];
const COMPONENT: [&str; 7] = ["slots", "activate", "kind", "method", "link", "driver", "services"];
const TARGET: [&str; 3] = ["path", "offset", "size"];
const ACTIVATIONS: [(&str, Activation); 5] = [
    ("reboot", Activation::Reboot),
    ("restart", Activation::Restart),
    ("mirror", Activation::Mirror),
    ("driver", Activation::Driver),
    ("livepatch", Activation::Livepatch),
];
const METHODS: [&str; 3] = ["symlink", "bind", "device"];
/// What the records of 4 KiB have room for.
const COMPONENTS_MAX: usize = 32;
const NAME_MAX: usize = 32;
/// What the drivers' manager takes.
const DRIVER_MAX: usize = 16;
const SERVICES_MAX: usize = 64;
const TRIES: u32 = 3;
const NO_BOOT: BootControlSettings = BootControlSettings { kind: BootKind::None, tries: TRIES };
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Reads the file. Nothing where there is none: then nothing of the device can be upgraded.
///
/// # Errors
/// What is wrong, one a line, each with its place and cure.
pub(crate) fn load(config: Option<&Path>) -> Result<Option<Settings>, String> {
    let settings = table::load(config, FILE, settings)?;
    settings.map(complete).transpose()
}

/// Without its names nothing can be said to be made for the device.
fn complete(settings: Settings) -> Result<Settings, String> {
    let keys = [("product", &settings.product), ("revision", &settings.revision)];
    match keys.iter().find(|(_, value)| value.is_empty()) {
        None => Ok(settings),
        Some((key, _)) => Err(format!(
            "{FILE}: {key} is missing: bundles are made for a product and its revision"
        )),
    }
}

fn settings(top: &Table<'_>) -> Settings {
    top.refuse_others(&KEYS);
    let limit = top.duration("trial-limit", Duration::from_secs(60)..=DAY);
    let mut settings = Settings {
        product: needed(top, "product"),
        revision: needed(top, "revision"),
        listen: top.get("listen").and_then(|item| item.parsed(address)),
        activate: top.boolean("activate").unwrap_or(true),
        boot_control: top
            .get("boot-control")
            .and_then(|item| boot_control(&item))
            .unwrap_or(NO_BOOT),
        health: health(top),
        trial_limit: limit.unwrap_or(Duration::from_secs(600)),
        components: Vec::new(),
        warnings: Vec::new(),
    };
    let Some(components) = top.table("components") else { return settings };
    for name in components.keys() {
        let Some(item) = components.get(name) else { continue };
        if let Some(component) = component(name, &item, &mut settings) {
            settings.components.push(component);
        }
        if settings.components.len() > COMPONENTS_MAX {
            item.wrong(&format!("more than {COMPONENTS_MAX} components; join some of them"));
            break;
        }
    }
    settings
}

fn needed(table: &Table<'_>, key: &str) -> String {
    let text = table.text(key).unwrap_or("");
    let printable = text.chars().all(|letter| letter.is_ascii_graphic() || letter == ' ');
    if text.is_empty() || text.len() > 64 || !printable {
        let text = "name the device, in 1 to 64 printable ASCII characters: bundles are made for such names";
        if let Some(item) = table.get(key) {
            item.wrong(text);
        }
    }
    text.to_owned()
}

fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address; write \"[::]:7421\" or \"10.0.0.7:7421\"")
    })
}

fn boot_control(item: &Item<'_>) -> Option<BootControlSettings> {
    let table = item.table()?;
    table.refuse_others(&BOOT);
    let tries = table.integer("tries", 1..=100).unwrap_or(TRIES);
    let Some(kind) = table.get("kind") else {
        item.wrong(&format!("kind is missing; write one of {KINDS:?}"));
        return None;
    };
    let path = |key| {
        if table.get(key).is_none() {
            item.wrong(&format!("this kind needs {key}, a path from the root folder on"));
        }
        table.path(key)
    };
    let kind = match kind.word(&KINDS)? {
        1 => BootKind::File { path: path("path")? },
        2 => BootKind::Uboot { config: path("config")? },
        3 => {
            let offset = table.get("offset").and_then(|item| item.size(0..=1 << 50));
            BootKind::Grub { device: path("device")?, offset: offset.unwrap_or(0) }
        }
        _ => BootKind::None,
    };
    Some(BootControlSettings { kind, tries })
}

fn health(top: &Table<'_>) -> Health {
    let mut health = Health {
        timeout: Duration::from_secs(120),
        stable: Duration::from_secs(30),
        command: Vec::new(),
    };
    let Some(table) = top.table("health") else { return health };
    table.refuse_others(&HEALTH);
    let second = Duration::from_secs(1);
    health.timeout = table.duration("timeout", second..=DAY).unwrap_or(health.timeout);
    health.stable = table.duration("stable", Duration::ZERO..=DAY).unwrap_or(health.stable);
    if health.stable > health.timeout
        && let Some(item) = table.get("stable").or_else(|| table.get("timeout"))
    {
        item.wrong(
            "it can't be healthy for longer than it is watched; make timeout longer than stable",
        );
    }
    if let Some(item) = table.get("command") {
        health.command = item.some(|text| Ok(text.to_owned()));
        match health.command.first() {
            Some(program) if Path::new(program).is_absolute() => {}
            _ => item.wrong("name a program from the root folder on, and its arguments: [\"/usr/bin/check\", \"-q\"]"),
        }
    }
    health
}

fn component(name: &str, item: &Item<'_>, settings: &mut Settings) -> Option<Component> {
    let allowed = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_".contains(letter)
    };
    if !name.starts_with(|letter: char| letter.is_ascii_lowercase())
        || name.len() > NAME_MAX
        || !name.chars().all(allowed)
    {
        let text = format!(
            "not a component's name; write a lower-case letter, then up to {} letters, digits, - and _",
            NAME_MAX - 1
        );
        item.wrong(&text);
        return None;
    }
    let table = item.table()?;
    table.refuse_others(&COMPONENT);
    let slots = slots(&table, item)?;
    let activation = match (table.get("activate"), name) {
        (Some(item), _) => {
            item.word(&ACTIVATIONS.map(|(word, _)| word)).map(|at| ACTIVATIONS[at].1)?
        }
        (None, "boot") => Activation::Mirror,
        (None, "kernel" | "rootfs") => Activation::Reboot,
        (None, _) => Activation::Restart,
    };
    let directory =
        table.get("kind").and_then(|item| item.word(&["image", "directory"])) == Some(1);
    let services = table.get("services").map(|item| item.some(|text| Ok(text.to_owned())));
    let services = services.unwrap_or_default();
    if services.len() > SERVICES_MAX {
        item.wrong(&format!(
            "{} services; at most {SERVICES_MAX} are switched at once",
            services.len()
        ));
    }
    let method = method(&table, item, activation);
    let driver = driver(&table, item, activation);
    let alone = slots.len() == 1;
    if alone && activation == Activation::Reboot {
        item.wrong(
            "a component that is booted needs two slots: one runs while the other one is written",
        );
    }
    if alone && activation.is_loaded() {
        item.wrong("what is loaded into memory needs two slots: the old one is loaded again when the new one is no good");
    }
    if alone {
        settings.warnings.push(format!(
            "component {name} has one slot: it is written in place, and when that goes wrong nothing brings the old version \
             back; give it a second slot"
        ));
    }
    if activation == Activation::Reboot && settings.boot_control.kind == BootKind::None {
        item.wrong("activate = \"reboot\" needs boot-control = { kind = \"file\" | \"uboot\" | \"grub\", ... }");
    }
    if activation == Activation::Mirror && directory {
        item.wrong("a folder can't be mirrored; write activate = \"restart\"");
    }
    if activation.is_loaded() && directory {
        item.wrong("a folder can't be loaded into memory; take out kind = \"directory\"");
    }
    let name = name.to_owned();
    Some(Component { name, slots, activation, directory, method, driver, services })
}

fn slots(table: &Table<'_>, item: &Item<'_>) -> Option<Vec<Target>> {
    let Some(list) = table.get("slots") else {
        item.wrong(
            "slots is missing; name one or two: slots = [\"/dev/disk/by-partlabel/rootfs-a\", ...]",
        );
        return None;
    };
    let slots: Vec<Target> = list.list()?.iter().filter_map(target).collect();
    if !(1..=2).contains(&slots.len()) {
        item.wrong("a component has one slot or two");
        return None;
    }
    if let [a, b] = &slots[..]
        && a.path == b.path
        && !apart(a, b)
    {
        item.wrong("its slots are the same place, or overlap; each needs bytes of its own");
    }
    Some(slots)
}

fn apart(one: &Target, other: &Target) -> bool {
    let (first, last) = if one.offset <= other.offset { (one, other) } else { (other, one) };
    let end = first.size.and_then(|size| first.offset.checked_add(size));
    end.is_some_and(|end| end <= last.offset)
}

fn target(item: &Item<'_>) -> Option<Target> {
    if item.value().as_str().is_some() {
        let path = item.parsed(absolute)?;
        return Some(Target { path, offset: 0, size: None });
    }
    let table = item.table()?;
    table.refuse_others(&TARGET);
    let blocks = |key: &str, low: u64| {
        let item = table.get(key)?;
        let size = item.size(low..=1 << 50)?;
        if size.is_multiple_of(BLOCK as u64) {
            return Some(size);
        }
        item.wrong(&format!("{size} bytes are not whole blocks of {BLOCK}"));
        None
    };
    let path = table.path("path");
    if table.get("path").is_none() {
        item.wrong("path is missing; a slot is somewhere: path = \"/dev/mmcblk0\"");
    }
    Some(Target { path: path?, offset: blocks("offset", 0).unwrap_or(0), size: blocks("size", 1) })
}

/// The driver that a component is the code of.
fn driver(table: &Table<'_>, item: &Item<'_>, activation: Activation) -> Option<String> {
    let driver = table.get("driver").and_then(|item| item.parsed(driver_name));
    match (activation == Activation::Driver, table.get("driver").is_some()) {
        (true, false) => {
            item.wrong("driver is missing; name it as driver.toml does: driver = \"serial\"");
        }
        (false, true) => item.wrong("driver is for activate = \"driver\"; take it out"),
        _ => {}
    }
    driver
}

fn driver_name(text: &str) -> Result<String, String> {
    let allowed = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_".contains(letter)
    };
    let begins = text.starts_with(|letter: char| letter.is_ascii_lowercase());
    match begins && text.len() <= DRIVER_MAX && text.chars().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is not a driver's name; write a lower-case letter, then up to {} letters, digits, - and _",
            DRIVER_MAX - 1
        )),
    }
}

fn method(table: &Table<'_>, item: &Item<'_>, activation: Activation) -> Option<Method> {
    let method = table.get("method").and_then(|item| item.word(&METHODS));
    let link = table.path("link");
    if activation != Activation::Restart {
        if method.is_some() || link.is_some() {
            item.wrong("method and link are for activate = \"restart\"; take them out");
        }
        return None;
    }
    match (method, link) {
        (Some(0), Some(link)) => Some(Method::Symlink { link }),
        (Some(1), Some(link)) => Some(Method::Bind { link }),
        (Some(_), Some(link)) => Some(Method::Device { link }),
        (None, None) => None,
        _ => {
            item.wrong(
                "method and link belong together: method = \"symlink\", link = \"/run/app\"",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        table::parse(Path::new(FILE), text, settings).and_then(complete)
    }

    const DEVICE: &str = r#"
    product = "demo-board"
    revision = "a1"
    listen = "[::]:7421"
    boot-control = { kind = "uboot", config = "/etc/fw_env.config", tries = 5 }
    health = { timeout = "3m", stable = "20s", command = ["/usr/bin/check", "-q"] }

    [components.rootfs]
    slots = ["/dev/disk/by-partlabel/rootfs-a", "/dev/disk/by-partlabel/rootfs-b"]
    activate = "reboot"

    [components.application]
    slots = ["/var/lib/vestal/app-a.img", "/var/lib/vestal/app-b.img"]
    method = "symlink"
    link = "/run/app"
    services = ["camera"]
    activate = "restart"

    [components.boot]
    slots = [{ path = "/dev/mmcblk0", offset = "1MiB", size = "1MiB" }, { path = "/dev/mmcblk0", offset = "2MiB", size = "1MiB" }]

    [components.fpga]
    slots = ["/dev/mtdblock3"]

    [components.serial-driver]
    slots = ["/var/lib/vestal/drv-a.img", "/var/lib/vestal/drv-b.img"]
    activate = "driver"
    driver = "serial"
    services = ["logger"]

    [components.hotfix]
    slots = ["/var/lib/vestal/fix-a.img", "/var/lib/vestal/fix-b.img"]
    activate = "livepatch"
    "#;

    #[test]
    fn everything_that_can_be_written_is_read() {
        let settings = read(DEVICE).unwrap();
        let names: Vec<_> =
            settings.components.iter().map(|component| component.name.as_str()).collect();
        let at =
            |name| settings.components.iter().find(|component| component.name == name).unwrap();
        assert_eq!(names.len(), 6);
        assert_eq!(at("serial-driver").activation, Activation::Driver);
        assert_eq!(at("serial-driver").driver.as_deref(), Some("serial"));
        assert_eq!(at("hotfix").activation, Activation::Livepatch);
        assert_eq!(at("rootfs").activation, Activation::Reboot);
        assert_eq!(at("boot").activation, Activation::Mirror);
        assert_eq!(at("boot").slots[1].offset, 2 << 20);
        assert_eq!(at("application").method, Some(Method::Symlink { link: "/run/app".into() }));
        assert_eq!(
            settings.boot_control.kind,
            BootKind::Uboot { config: "/etc/fw_env.config".into() }
        );
        assert_eq!((settings.boot_control.tries, settings.health.command.len()), (5, 2));
        assert!(settings.warnings.len() == 1 && settings.warnings[0].contains("fpga has one slot"));
        let rules = settings.rules();
        assert!(
            rules.components.iter().any(|component| component.name == "fpga" && component.single)
        );
    }

    #[test]
    fn mistakes_are_told_with_line_key_and_cure_all_at_once() {
        let text = r#"product = ""
    revision = "a1"
    boot-control = { kind = "file" }
    health = { timeout = "1s", stable = "2s" }
    [components.rootfs]
    slots = ["/dev/a"]
    [components.app]
    slots = ["/dev/a", "/dev/a"]
    link = "/run/app"
    [components.X]
    slots = ["/dev/a"]
    [components.boot]
    slots = [{ path = "/dev/a", offset = 7 }]
    activat = "mirror"
    [components.serial]
    slots = ["/dev/s"]
    activate = "driver"
    method = "symlink"
    link = "/run/x"
    [components.hotfix]
    slots = ["/dev/a1", "/dev/b1"]
    activate = "livepatch"
    kind = "directory"
    driver = "Serial"
    "#;
        let told = read(text).unwrap_err();
        for part in [
            "upgrade.toml:1: product: name the device",
            "upgrade.toml:3: boot-control: this kind needs path",
            "upgrade.toml:4: health.stable: it can't be healthy for longer",
            "upgrade.toml:5: components.rootfs: a component that is booted needs two slots",
            "components.rootfs: activate = \"reboot\" needs boot-control",
            "upgrade.toml:7: components.app: its slots are the same place",
            "components.app: method and link belong together",
            "upgrade.toml:10: components.X: not a component's name",
            "components.boot.slots[0].offset: 7 bytes are not whole blocks",
            "unknown key \"components.boot.activat\", did you mean \"activate\"?",
            "components.serial: driver is missing; name it as driver.toml does",
            "components.serial: what is loaded into memory needs two slots",
            "components.serial: method and link are for activate = \"restart\"",
            "components.hotfix: a folder can't be loaded into memory",
            "components.hotfix: driver is for activate = \"driver\"; take it out",
            "\"Serial\" is not a driver's name",
        ] {
            assert!(told.contains(part), "{part} is missing in:\n{told}");
        }
        assert!(read("revision = \"a\"").unwrap_err().contains("product is missing"));
    }
}
