//! Scenarios with real folders: bad files, copies, overrides, and every file that is shipped.

use tempfile::TempDir;

use super::*;
use crate::settings::{context::tests::device, toml::CORE};

/// A device's folders.
struct Device {
    root: TempDir,
    context: Context,
}

impl Device {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut context = device(0);
        context.programs = root.path().join("bin");
        fs::create_dir(&context.programs).unwrap();
        Self { root, context }
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        fs::create_dir_all(self.folder()).unwrap();
        fs::write(self.folder().join(name), text).unwrap();
        self
    }

    fn program(&self, name: &str) -> &Self {
        fs::write(self.context.programs.join(name), "").unwrap();
        self
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("services.d")
    }

    fn copies(&self) -> PathBuf {
        self.root.path().join("state/supervisor/last-good")
    }

    fn load(&self) -> Loaded {
        let mut loaded = load(Some(&self.folder()), &self.copies(), &self.context);
        let copies = loaded.take_copies();
        if !copies.is_empty() {
            keep_copies(&self.copies(), &copies).unwrap();
        }
        loaded
    }
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.services.iter().map(|service| service.name.as_str()).collect()
}

fn told(loaded: &Loaded) -> String {
    loaded.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn a_bad_file_costs_only_itself_and_keeps_its_last_good_definition() {
    let device = Device::new();
    device.write("web.toml", "command = [\"/web\"]").write("db.toml", "command = [\"/db\"]");
    assert_eq!(names(&device.load()), ["db", "web"]);

    device.write("web.toml", "command = [\"/new\"]\nrespwan = 1");
    let loaded = device.load();
    assert_eq!(names(&loaded), ["db", "web"]);
    let web = &loaded.services[1];
    assert_eq!(web.source, Source::LastGood(device.folder().join("web.toml")));
    assert_eq!(web.instances.values().next().unwrap().process.command, ["/web"]);
    assert!(told(&loaded).contains("web.toml:2: unknown key \"respwan\""), "{}", told(&loaded));
    assert!(told(&loaded).contains("the last good copy is used instead"));

    device.write("web.toml", "command = [\"/new\"]");
    let loaded = device.load();
    assert!(loaded.problems.is_empty());
    assert_eq!(loaded.services[1].instances.values().next().unwrap().process.command, ["/new"]);
}

#[test]
fn a_bad_file_without_a_copy_is_left_out() {
    let device = Device::new();
    device.write("web.toml", "command = ").write("db.toml", "command = [\"/db\"]");
    let loaded = device.load();
    assert_eq!(names(&loaded), ["db"]);
    assert!(told(&loaded).contains("left out: there is no last good copy"));
}

#[test]
fn a_file_that_was_removed_doesnt_come_back_as_its_copy() {
    let device = Device::new();
    device.write("web.toml", "command = [\"/web\"]");
    device.load();
    assert!(device.copies().join("web.toml").exists());
    fs::remove_file(device.folder().join("web.toml")).unwrap();
    assert!(names(&device.load()).is_empty());
    assert!(!device.copies().join("web.toml").exists());
}

#[test]
fn while_the_folder_cant_be_read_the_copies_are_used() {
    let device = Device::new();
    device.write("web.toml", "command = [\"/web\"]");
    device.load();
    fs::remove_dir_all(device.folder()).unwrap();
    fs::write(device.folder(), "not a folder").unwrap();
    let loaded = device.load();
    assert_eq!(names(&loaded), ["web"]);
    assert!(matches!(loaded.services[0].source, Source::LastGood(_)));
}

#[test]
fn without_any_folder_the_default_applications_run() {
    let device = Device::new();
    for loaded in [device.load(), load(None, &device.copies(), &device.context)] {
        assert_eq!(names(&loaded), ["console", "welcome"], "{}", told(&loaded));
        assert!(loaded.problems.is_empty(), "{}", told(&loaded));
        assert_eq!(loaded.skipped.len(), CORE.len());
    }
    fs::create_dir(device.folder()).unwrap();
    assert!(names(&device.load()).is_empty());
}

#[test]
fn the_core_is_what_lies_beside_the_supervisor_and_files_override_it() {
    let device = Device::new();
    fs::create_dir(device.folder()).unwrap();
    for name in CORE {
        device.program(&format!("vestal-{name}"));
    }
    let loaded = device.load();
    assert_eq!(loaded.services.len(), CORE.len(), "{}", told(&loaded));
    assert!(loaded.services.iter().all(|service| service.core));
    assert!(loaded.problems.is_empty() && loaded.skipped.is_empty());

    device
        .write("log.toml", "command = [\"/my/log\"]")
        .write("driver.toml", "command = [\"/x\"]\nenabled = false");
    let loaded = device.load();
    assert!(!names(&loaded).contains(&"driver"));
    let log = loaded.services.iter().find(|service| service.name.as_str() == "log").unwrap();
    assert!(log.core && matches!(log.source, Source::File(_)));

    // A bad override doesn't take the daemon away.
    device.write("registry.toml", "comand = [\"/x\"]");
    assert!(names(&device.load()).contains(&"registry"));
}

#[test]
fn the_rescue_set_is_a_shell_and_the_log() {
    let device = Device::new();
    device.program("vestal-log");
    let loaded = rescue(&device.context);
    assert_eq!(names(&loaded), ["log", "shell"], "{}", told(&loaded));
}

#[test]
fn a_device_whose_definitions_are_all_bad_runs_the_built_in_ones_and_has_a_shell_where_the_console_is_ours()
 {
    let mut device = Device::new();
    device.program("vestal-log").write("a.toml", "comand = 1").write("b.toml", "[");
    let loaded = device.load();
    assert_eq!(names(&loaded), ["console", "log", "welcome"], "{}", told(&loaded));
    assert!(told(&loaded).contains("services.d: none of the definitions in it can be used"));
    device.context.console = true;
    assert_eq!(names(&device.load()), ["console", "log", "shell", "welcome"]);
    // What can be read but not run is no help either.
    device.write("a.toml", "command = [\"/a\"]\nrequires = [\"none\"]");
    assert_eq!(names(&device.load()), ["log", "shell"]);
    device.context.console = false;
    assert_eq!(names(&device.load()), ["log"]);
    // One good definition is enough, a last good copy too; and so is a person's wish to run nothing.
    device.context.console = true;
    device.write("a.toml", "command = [\"/a\"]");
    assert_eq!(names(&device.load()), ["a", "log"]);
    device.write("a.toml", "comand = 2");
    assert_eq!(names(&device.load()), ["a", "log"]);
    let quiet = Device::new();
    quiet.write("a.toml", "command = [\"/a\"]\nenabled = false");
    assert_eq!(names(&quiet.load()), [""; 0]);
}

#[test]
fn services_left_out_by_the_set_are_told_with_their_file() {
    let device = Device::new();
    device.write("a.toml", "command = [\"/a\"]\nafter = [\"b\"]");
    device.write("b.toml", "command = [\"/b\"]\nafter = [\"a\"]");
    let loaded = device.load();
    assert!(names(&loaded).is_empty());
    assert!(told(&loaded).contains("a -> b -> a"));
}

#[test]
fn check_prints_what_is_wrong_or_a_summary() {
    let device = Device::new();
    device
        .write("good.toml", "command = [\"/x\"]")
        .write("bad.toml", "command = [\"/x\"]\n\n\nrespwan = 1");
    let file = |name| device.folder().join(name);
    let checked = check(&[file("good.toml"), file("bad.toml"), file("none.toml")], &device.context);
    assert!(checked[0].to_string().ends_with("good.toml: good: service good with 1 instance"));
    assert!(
        checked[1]
            .to_string()
            .ends_with("bad.toml:4: unknown key \"respwan\", did you mean \"respawn\"?")
    );
    assert!(checked[2].to_string().contains("none.toml: can't be read: "));
}

/// Every definition below `configs/`; the registry's rules and the daemons' settings have readers of their own.
fn shipped(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let others = ["policy.d", "configs/settings", "configs/autorun"];
            if !others.iter().any(|other| path.ends_with(other)) {
                shipped(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == EXTENSION) {
            found.push(path);
        }
    }
}

#[test]
fn every_shipped_definition_reads_well_for_root_and_for_an_ordinary_user() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut files = Vec::new();
    shipped(&configs, &mut files);
    assert!(files.len() > 20, "{files:?}");
    for uid in [0, 1000] {
        let mut context = device(uid);
        context.variables.insert("VESTAL_CONFIG_DIR".into(), "/etc/vestal".into());
        context.variables.insert("VESTAL_STATE_DIR".into(), "/var/lib/vestal".into());
        for checked in check(&files, &context) {
            let summary = checked.result.as_ref();
            let fine = |summary: &String| {
                !summary.contains("can't be started")
                    || (uid != 0 && summary.contains("without root"))
            };
            assert!(summary.is_ok_and(fine), "{checked}");
        }
    }
}

#[test]
fn the_manual_has_every_key_and_every_fixed_user() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/definitions.md");
    let manual = fs::read_to_string(manual).unwrap();
    for key in toml::SERVICE_KEYS.into_iter().chain(toml::INSTANCE_KEYS) {
        assert!(manual.contains(&format!("`{key}`")), "{key}");
    }
    for (name, uid) in daemon::accounts::BUILT_IN {
        assert!(manual.contains(&format!("| `{name}` | {uid} |")), "{name}");
    }
}
