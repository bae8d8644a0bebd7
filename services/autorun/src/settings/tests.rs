//! Whole configuration folders, right and wrong.

use std::path::Path;

use daemon::accounts::Accounts;

use super::*;

fn accounts() -> Accounts {
    Accounts::parse("tv:x:500:500::/:/bin/sh\n", "tv:x:500:\nvideo:x:44:tv\n")
}

/// Settings of these files: (name in the folder, text).
pub(crate) fn folder(files: &[(&str, &str)]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("autorun.d")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let told = load(Some(folder.path()), &accounts());
    told.map_err(|why| why.replace(&format!("{}/", folder.path().display()), ""))
}

#[test]
fn without_files_nothing_is_prepared_and_nothing_runs() {
    assert_eq!(load(None, &accounts()), Ok(Settings::default()));
    let settings = load(Some(Path::new("/nowhere")), &accounts()).unwrap();
    assert!(settings.targets.is_empty() && settings.journal.is_none());
}

const ALL: &str = r#"
journal = { path = "/dev/mtdblock3", offset = "64KiB" }
back-end = "exec"
exec = ["/usr/bin/fast-boot", "-x"]
linger = "stay"
parallel = 2
wait-for = ["dvr"]
prepare-timeout = "3s"
step-timeout = "4s"
unmount = ["/data", "/data/log"]
freeze-mounted = false
guard = ["/dev/sda1"]
swapoff = "/dev/sdb1"
network = [["/sbin/udhcpc", "-n"], ["/sbin/arping"]]
clock = "keep"
on-mismatch = "continue"
"#;

const UI: &str = r#"
description = "the screen"
phase = "ui"
service = "ui"
command = ["/usr/bin/ui-repair"]
user = "tv"
group = "video"
environment = { DISPLAY = ":0" }
after = ["splash"]
before-image = "freeze"
on-resume = "restart-if-broken"
probe = { file = "/run/ui/frames", within = "2s" }
limit = { soft = "1s", hard = "5s" }
retries = 2
backoff = "100ms"
once = "always"
idempotent = true
on-fail = "reboot-cold"
on-any-wake = true
"#;

#[test]
fn everything_that_can_be_written_is_read() {
    let splash = "phase = \"ui\"\ncommand = [\"/bin/splash\"]\nonce = \"image\"\n";
    let tune = "service = \"tuner\"\non-resume = { signal = 10 }\nbefore-image = \"quiesce\"\n";
    let settings = folder(&[
        ("autorun.toml", ALL),
        ("autorun.d/ui.toml", UI),
        ("autorun.d/splash.toml", splash),
        ("autorun.d/tuner.toml", tune),
        ("autorun.d/README", "not a target"),
        ("autorun.d/.hidden.toml", "not one either"),
    ])
    .unwrap();
    assert_eq!(settings.journal, Some(Place { path: "/dev/mtdblock3".into(), offset: 65_536 }));
    assert_eq!((settings.back_end, settings.linger), (BackEnd::Exec, Linger::Stay));
    assert_eq!(settings.exec, ["/usr/bin/fast-boot", "-x"]);
    assert_eq!((settings.parallel, settings.wait_for.len()), (2, 1));
    assert_eq!(settings.mount, [Path::new("/data/log"), Path::new("/data")]);
    assert!(!settings.freeze_mounted && settings.network.len() == 2);
    assert_eq!((settings.clock, settings.on_mismatch), (Clock::Keep, OnMismatch::Continue));
    let [splash, tuner, ui] = &settings.targets[..] else { panic!("{settings:?}") };
    assert_eq!((splash.level, ui.level, tuner.level), (0, 1, 2));
    assert_eq!((splash.before_image, splash.once), (BeforeImage::Keep, Once::Image));
    assert_eq!(ui.after, [0]);
    assert_eq!(ui.work, Work::Program(vec!["/usr/bin/ui-repair".into()]));
    assert_eq!(ui.identity, Some(Identity { uid: 500, gid: 44, groups: vec![44] }));
    assert!(ui.if_broken && ui.on_any_wake && ui.idempotent && ui.environment["DISPLAY"] == ":0");
    assert_eq!((ui.soft, ui.hard), (Some(Duration::from_secs(1)), Duration::from_secs(5)));
    assert_eq!(ui.probe.as_ref().unwrap().by, ProbeBy::File("/run/ui/frames".into()));
    assert_eq!((ui.retries, ui.once, ui.on_fail), (2, Once::Always, OnFail::RebootCold));
    let service = Name::new("tuner").unwrap();
    assert_eq!(tuner.work, Work::Signal(service, 10));
    assert_eq!(tuner.before_image, BeforeImage::Quiesce);
}

#[test]
fn any_change_of_any_file_changes_the_digest() {
    let plain = [("autorun.toml", "parallel = 1\n"), ("autorun.d/a.toml", "command = [\"/a\"]\n")];
    let digest = |files: &[(&str, &str)]| folder(files).unwrap().digest;
    let first = digest(&plain);
    assert_eq!(first, digest(&plain));
    let texts = [("autorun.toml", "parallel = 2\n"), plain[1]];
    let names = [plain[0], ("autorun.d/b.toml", plain[1].1)];
    for other in [&texts[..], &names, &plain[..1]] {
        assert_ne!(first, digest(other), "{other:?}");
    }
}

#[test]
fn mistakes_of_all_files_are_told_at_once() {
    let told = folder(&[
        ("autorun.toml", "jornal = \"/dev/a\"\njournal = { path = \"/dev/a\", offset = 7 }\nback-end = \"exec\"\n"),
        ("autorun.d/a.toml", "command = [\"logo\"]\nretries = 1\non-any-wake = true\nonce = \"always\"\n"),
        ("autorun.d/b.toml", "before-image = \"stop\"\ncommand = [\"/b\"]\nuser = \"nobody-here\"\n"),
        ("autorun.d/c.toml", "on-resume = \"restart-if-broken\"\nservice = \"c\"\nlimit = { soft = \"2s\", hard = \"1s\" }\n"),
        ("autorun.d/d.toml", "on-resume = \"signal\"\n"),
        ("autorun.d/e.toml", "on-resume = \"restart\"\ncommand = [\"/e\"]\nprobe = { within = \"1s\" }\n"),
        ("autorun.d/f.toml", "phase = \"early\"\n"),
        ("autorun.d/g.toml", "command = [\"/g\"]\ngroup = \"video\"\nenvironment = { \"A=\" = \"x\" }\n"),
    ])
    .unwrap_err();
    for part in [
        "autorun.toml:1: unknown key \"jornal\", did you mean \"journal\"?",
        "autorun.toml:2: journal.offset: 7 is not a multiple of 4096",
        "autorun.toml:3: back-end: \"exec\" needs to know what to run",
        "autorun.d/a.toml:1: command: name a program from the root folder on",
        "autorun.d/a.toml:2: retries: this may run it twice in one life",
        "autorun.d/a.toml:3: on-any-wake: this may run it twice",
        "autorun.d/a.toml:4: once: this may run it twice",
        "autorun.d/b.toml:1: before-image: of what?",
        "autorun.d/b.toml:3: user: \"nobody-here\" is no user",
        "autorun.d/c.toml:1: on-resume: how to see that it is broken?",
        "autorun.d/c.toml:3: limit: soft is a note",
        "autorun.d/d.toml:1: on-resume: which signal?",
        "autorun.d/e.toml:2: command: this on-resume never runs a command",
        "autorun.d/e.toml:3: probe: one of command, file and heartbeat",
        "autorun.d/f.toml: there is nothing to run",
        "autorun.d/g.toml:2: group: a group without a user",
        "autorun.d/g.toml:3: environment.A=: a variable has a name without =",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
}

#[test]
fn an_image_has_a_device_of_its_own_and_a_journal_that_is_elsewhere() {
    for (text, expected) in [
        ("back-end = \"snapshot\"\n", "autorun.toml:1: back-end: \"snapshot\" needs a device"),
        ("image = \"/dev/a\"\n", "autorun.toml:1: image: without a journal nobody knows"),
        (
            "journal = \"/dev/a\"\nimage = \"/dev/a\"\n",
            "autorun.toml:2: image: the journal is there",
        ),
        ("journal = \"/dev/a\"\nimage = \"a\"\n", "autorun.toml:2: image: "),
    ] {
        let told = folder(&[("autorun.toml", text)]).unwrap_err();
        assert!(told.contains(expected), "{told}");
    }
    let text = "journal = \"/dev/a\"\nimage = \"/dev/b\"\nback-end = \"snapshot\"\n";
    let settings = folder(&[("autorun.toml", text)]).unwrap();
    assert_eq!(settings.image.as_deref(), Some(Path::new("/dev/b")));
    assert_eq!(settings.back_end, BackEnd::Snapshot);
}

#[test]
fn what_only_the_files_together_show_is_refused() {
    let target = |after: &str, more: &str| format!("command = [\"/x\"]\nafter = [{after}]\n{more}");
    let told = |files: &[(&str, String)]| {
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        folder(&files).unwrap_err()
    };
    let circle = told(&[
        ("autorun.d/a.toml", target("\"b\"", "")),
        ("autorun.d/b.toml", target("\"c\"", "")),
        ("autorun.d/c.toml", target("\"d\", \"b\"", "")),
        ("autorun.d/d.toml", target("", "")),
    ]);
    assert_eq!(circle, "autorun.d: b after c after b go round in a circle; take one after out");
    let own = told(&[("autorun.d/a.toml", target("\"a\"", ""))]);
    assert!(own.contains("a after a go round"), "{own}");
    let missing = told(&[("autorun.d/a.toml", target("\"b\"", ""))]);
    assert_eq!(missing, "autorun.d/a.toml: after: there is no autorun.d/b.toml");
    let later = told(&[
        ("autorun.d/a.toml", target("\"b\"", "phase = \"early\"")),
        ("autorun.d/b.toml", target("", "")),
    ]);
    assert!(later.contains("b runs in the later phase Late"), "{later}");
    let image = told(&[("autorun.d/a.toml", target("", "once = \"image\""))]);
    assert!(image.contains("needs a journal"), "{image}");
    let many: Vec<_> = (0..65).map(|at| (format!("autorun.d/{at}.toml"), target("", ""))).collect();
    let many: Vec<_> = many.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert!(
        folder(&many).unwrap_err().contains("65 targets; a record of the journal has room for 64")
    );
    assert!(folder(&many[..64]).is_ok());
}

#[test]
fn the_shipped_example_is_right() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/autorun");
    let settings = load(Some(&shipped), &accounts()).unwrap();
    let names: Vec<&str> = settings.targets.iter().map(|target| target.name.as_str()).collect();
    assert_eq!(names, ["count", "logo", "recorder", "ui", "upgrade"]);
    assert!(settings.journal.is_some() && settings.image.is_some() && settings.guard.len() == 1);
}
