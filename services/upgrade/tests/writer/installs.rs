//! An application without a reboot, a set with one, folders, and what a second process takes over.

use std::fs;

use bundle::Kind;
use serde_json::json;

use crate::support::{Device, bundle, noise};

/// An application in two files, shown by a link, with one service.
pub(crate) const APPLICATION: &str = r#"
[components.application]
slots = [{ path = "DIR/app-a", size = "1MiB" }, { path = "DIR/app-b", size = "1MiB" }]
method = "symlink"
link = "DIR/link/app"
services = ["camera"]
"#;

pub(crate) fn application() -> Device {
    let device = Device::new(APPLICATION);
    device.supervisor.add("camera");
    // From the factory.
    fs::write(device.path("app-a"), noise(1, 1 << 20)).unwrap();
    device
}

fn starts_with(device: &Device, name: &str, image: &[u8]) -> bool {
    fs::read(device.path(name)).unwrap().starts_with(image)
}

#[test]
fn an_application_is_switched_while_its_service_is_stopped_and_confirmed_when_it_is_healthy() {
    let device = application();
    let mut writer = device.writer();
    writer.until_ready();
    assert_eq!(fs::read_link(device.path("link/app")).unwrap(), device.path("app-a"));
    let image = noise(2, 300_000);
    writer.install(&bundle("2", 2, &[("application", Kind::Image, &image)]));
    let status = writer.until_state(&["confirmed", "rolled-back"]);
    assert_eq!(status["state"], "confirmed", "{status}");
    let mut words = writer.words.iter().rev().filter_map(|word| word.get("progress"));
    let last = words.find(|progress| progress["state"] == "receiving").unwrap();
    assert_eq!(last["done"], 300_000, "the last progress is always told");
    assert_eq!(fs::read_link(device.path("link/app")).unwrap(), device.path("app-b"));
    assert!(starts_with(&device, "link/app", &image));
    assert_eq!(device.supervisor.calls(), ["service.stop camera", "service.start camera"]);
    let history = writer.answer(&json!("history"));
    assert_eq!(history[0]["state"], "confirmed");
    assert!(history[0]["outage_ms"].is_number(), "{history}");
    let slots = writer.answer(&json!("slots"));
    assert_eq!(
        (&slots[1]["state"], &slots[1]["version"]),
        (&json!("active"), &json!("2")),
        "{slots}"
    );
    writer.end();

    let mut writer = device.writer();
    writer.until_ready();
    assert_eq!(fs::read_link(device.path("link/app")).unwrap(), device.path("app-b"));
    let small = [&image[..100_000], &noise(3, 5_000), &image[100_000..]].concat();
    let sent = writer.install(&bundle("3", 3, &[("application", Kind::Image, &small)]));
    writer.until_state(&["confirmed"]);
    assert!(sent < 5, "most of it was there already, {sent} chunks were sent");
    assert!(starts_with(&device, "link/app", &small));
    writer.end();
}

#[test]
fn a_version_whose_service_crashes_goes_back_at_once() {
    let device = application();
    let mut writer = device.writer();
    writer.until_ready();
    let image = noise(2, 1 << 20);
    device.supervisor.breaks_with(device.path("link/app"), &image);
    writer.install(&bundle("2", 2, &[("application", Kind::Image, &image)]));
    let status = writer.until_state(&["confirmed", "rolled-back"]);
    assert_eq!(status["state"], "rolled-back", "{status}");
    assert!(status["reason"].as_str().unwrap().contains("camera crashes"), "{status}");
    device.until("the old version runs again", || {
        let calls = device.supervisor.calls();
        (calls.last()? == "service.start camera" && calls.len() == 4).then_some(())
    });
    assert!(device.supervisor.is_running("camera"));
    assert_eq!(fs::read_link(device.path("link/app")).unwrap(), device.path("app-a"));
    let slots = writer.answer(&json!("slots"));
    assert_eq!(slots[1]["state"], "bad", "{slots}");
    writer.end();
}

#[test]
fn a_link_that_can_not_be_changed_leaves_the_service_running_on_the_old_version() {
    let device = application();
    let mut writer = device.writer();
    writer.until_ready();
    fs::remove_file(device.path("link/app")).unwrap();
    fs::create_dir(device.path("link/app")).unwrap();
    let image = noise(2, 300_000);
    writer.install(&bundle("2", 2, &[("application", Kind::Image, &image)]));
    let status = writer.until_state(&["confirmed", "rolled-back"]);
    assert_eq!(status["state"], "rolled-back", "{status}");
    assert!(status["reason"].as_str().unwrap().contains("something else is there"), "{status}");
    device.until("camera runs", || {
        let calls = device.supervisor.calls();
        (device.supervisor.is_running("camera") && calls.len() == 4).then_some(())
    });
    writer.end();
}

#[test]
fn services_that_were_stopped_when_the_writer_died_are_started_by_the_next() {
    let device = application();
    device.supervisor.stop("camera");
    fs::create_dir(device.path("state/upgrade")).unwrap();
    fs::write(device.path("state/upgrade/stopped.json"), r#"["camera"]"#).unwrap();
    let mut writer = device.writer();
    writer.until_ready();
    device.until("camera runs", || device.supervisor.is_running("camera").then_some(()));
    device.until("nothing is left to be started", || {
        (!device.path("state/upgrade/stopped.json").exists()).then_some(())
    });
    writer.end();
}

/// A device with two sets, of which A runs.
struct Booted {
    device: Device,
}

impl Booted {
    fn new(health: &str) -> Self {
        let settings = r#"
            boot-control = { kind = "file", path = "DIR/record" }
            [components.kernel]
            slots = ["DIR/kernel-a", "DIR/kernel-b"]
            [components.rootfs]
            slots = ["DIR/rootfs-a", "DIR/rootfs-b"]
        "#;
        let device = Device::new(&format!("{health}{settings}"));
        for name in ["kernel-a", "kernel-b", "rootfs-a", "rootfs-b"] {
            let image = if name.ends_with('a') { noise(1, 200_000) } else { vec![0; 200_000] };
            fs::write(device.path(name), image).unwrap();
        }
        let booted = Self { device };
        booted.run("boot-init");
        booted.boot();
        booted
    }

    fn run(&self, word: &str) -> String {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vestal-upgrade"));
        let output = command.arg(word).arg(self.device.path("record")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What an initramfs does; which letter was chosen.
    fn boot(&self) -> String {
        let letter = self.run("boot-select");
        fs::write(self.device.path("cmdline"), format!("quiet vestal.slot={letter}\n")).unwrap();
        let path = self.device.path("boot-id");
        let boot: u32 = fs::read_to_string(&path).unwrap().parse().unwrap();
        fs::write(path, (boot + 1).to_string()).unwrap();
        letter
    }
}

#[test]
fn a_set_is_activated_by_the_boot_record_and_confirmed_after_the_boot() {
    let booted = Booted::new("");
    let device = &booted.device;
    let mut writer = device.writer();
    writer.until_ready();
    let new = noise(2, 150_000);
    writer.install(&bundle("2", 2, &[("rootfs", Kind::Image, &new)]));
    writer.until_state(&["activated"]);
    assert!(starts_with(device, "rootfs-b", &new));
    assert!(starts_with(device, "kernel-b", &noise(1, 200_000)), "the set is whole");
    writer.end();

    assert_eq!(booted.boot(), "B");
    let mut writer = device.writer();
    let status = writer.until_state(&["confirmed", "rolled-back"]);
    assert_eq!((&status["state"], &status["set"]), (&json!("confirmed"), &json!("B")));
    writer.end();
    for _ in 0..3 {
        assert_eq!(booted.run("boot-select"), "B", "it has all its tries back");
    }
}

#[test]
fn a_set_on_trial_that_is_rolled_back_reboots_into_the_old_one() {
    let booted = Booted::new("health = { timeout = \"1h\", stable = \"50m\" }\n");
    let device = &booted.device;
    let mut writer = device.writer();
    writer.until_ready();
    let image = noise(2, 150_000);
    writer.install(&bundle("2", 2, &[("kernel", Kind::Image, &image)]));
    writer.until_state(&["activated"]);
    writer.end();
    assert_eq!(booted.boot(), "B");
    let mut writer = device.writer();
    writer.until_state(&["trial"]);
    assert_eq!(writer.answer(&json!({ "rollback": {} }))["state"], "rolled-back");
    device.until("the reboot is asked for", || {
        device.supervisor.calls().contains(&"system.reboot".to_owned()).then_some(())
    });
    writer.end();
    assert_eq!(booted.boot(), "A");
    let mut writer = device.writer();
    assert_eq!(writer.status()["state"], "rolled-back");
    writer.end();
}

#[test]
fn a_set_that_never_says_that_it_is_good_is_given_up_by_the_loader() {
    let booted = Booted::new("health = { timeout = \"1h\", stable = \"50m\" }\n");
    let device = &booted.device;
    let mut writer = device.writer();
    let image = noise(2, 150_000);
    writer.install(&bundle("2", 2, &[("kernel", Kind::Image, &image)]));
    writer.until_state(&["activated"]);
    writer.end();
    for _ in 0..3 {
        assert_eq!(booted.boot(), "B");
    }
    assert_eq!(booted.boot(), "A");
    let mut writer = device.writer();
    writer.until_ready();
    let status = writer.status();
    assert_eq!(status["state"], "rolled-back", "{status}");
    assert!(status["reason"].as_str().unwrap().contains("the loader booted A"), "{status}");
    writer.end();
}

#[test]
fn a_folder_is_unpacked_beside_the_one_in_use() {
    let device = Device::new(
        r#"
        [components.web]
        kind = "directory"
        slots = ["DIR/web-a", "DIR/web-b"]
        method = "symlink"
        link = "DIR/www"
        "#,
    );
    fs::create_dir(device.path("web-a")).unwrap();
    fs::write(device.path("web-a/index.html"), "old").unwrap();
    let pack = |text: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        let own = fs::metadata("/proc/self").unwrap();
        header.set_uid(std::os::unix::fs::MetadataExt::uid(&own).into());
        header.set_gid(std::os::unix::fs::MetadataExt::gid(&own).into());
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, "pages/index.html", text).unwrap();
        builder.into_inner().unwrap()
    };
    let mut writer = device.writer();
    writer.until_ready();
    for (version, text, slot) in [(2, noise(7, 150_000), "web-b"), (3, noise(8, 50_000), "web-a")] {
        let tar = pack(&text);
        writer.install(&bundle(&version.to_string(), version, &[("web", Kind::Directory, &tar)]));
        writer.until_state(&["confirmed"]);
        assert_eq!(fs::read_link(device.path("www")).unwrap(), device.path(slot));
        assert_eq!(fs::read(device.path("www/pages/index.html")).unwrap(), text);
    }
    assert!(!device.path("web-a/index.html").exists());
    writer.end();
}
