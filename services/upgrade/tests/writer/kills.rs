//! Killed with -9 at any moment: what runs goes on, and the next push ends well.

use std::fs;

use bundle::Kind;
use rustix::event::{Timespec, poll};

use crate::{
    installs::application,
    support::{Pushed, bundle, noise},
};

#[test]
fn a_push_goes_on_where_a_killed_writer_was() {
    let device = application();
    let image = noise(2, 1 << 20);
    let bytes = bundle("2", 2, &[("application", Kind::Image, &image)]);
    let mut first = device.writer();
    first.until_ready();
    let (pushed, sent) = first.push(&bytes, None, 8);
    assert!(matches!(pushed, Pushed::Stopped), "{pushed:?}");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let mut second = device.writer();
    second.until_ready();
    let all = sent + second.install(&bytes);
    second.until_state(&["confirmed"]);
    assert_eq!(fs::read(device.path("link/app")).unwrap(), image);
    let (_, complete) = {
        let other = application();
        let mut writer = other.writer();
        let sent = writer.install(&bytes);
        writer.end();
        ((), sent)
    };
    // What was written and not flushed before the kill is in the page cache, or was written directly: next to nothing is lost.
    assert!(all <= complete + 17, "{all} chunks were sent, {complete} are needed");
    second.end();
}

#[test]
fn a_second_writer_waits_until_the_first_has_left() {
    let device = application();
    let mut first = device.writer();
    first.until_ready();
    let mut second = device.writer();
    first.install(&bundle("2", 2, &[("application", Kind::Image, &noise(2, 5000))]));
    first.until_state(&["confirmed"]);
    first.end();
    assert_eq!(
        second.status()["state"],
        "confirmed",
        "it has looked only after the first was gone"
    );
    second.end();
}

#[test]
fn killed_at_any_moment_the_device_keeps_a_whole_application_and_takes_the_next_push() {
    let device = application();
    let factory = fs::read(device.path("app-a")).unwrap();
    let images: Vec<Vec<u8>> = (0..20).map(|seed| noise(100 + seed, 1 << 20)).collect();
    let mut known = vec![factory];
    for (round, image) in images.iter().enumerate() {
        let version = (round + 2).to_string();
        let bytes = bundle(&version, round as u64 + 2, &[("application", Kind::Image, image)]);
        let mut writer = device.writer();
        let mut child = std::process::Command::new("/bin/sh");
        // Somewhere between its start and its confirmation, another place each round.
        let delay = Timespec { tv_sec: 0, tv_nsec: 8_000_000 * (round as i64 + 2) };
        let pid = writer.child.id();
        let killer = std::thread::spawn(move || {
            let _ = poll(&mut [], Some(&delay));
            child.args(["-c", &format!("kill -9 {pid}")]).status().unwrap();
        });
        known.push(image.clone());
        let _ = writer.push(&bytes, None, u64::MAX);
        killer.join().unwrap();
        writer.child.wait().unwrap();
        let shown = fs::read(device.path("link/app"));
        if let Ok(shown) = shown {
            assert!(
                known.contains(&shown),
                "round {round}: what the link shows is no whole application"
            );
        }
        let mut writer = device.writer();
        writer.until_ready();
        let shown = fs::read(device.path("link/app")).unwrap();
        assert!(known.contains(&shown), "round {round}: what the link shows after a start");
        let status = writer.until_state(&[
            "idle",
            "receiving",
            "confirmed",
            "failed",
            "rolled-back",
            "written",
        ]);
        if status["state"] != "confirmed" || status["transaction"]["version"] != version.as_str() {
            writer.install(&bytes);
            let status = writer.until_state(&["confirmed", "rolled-back"]);
            assert_eq!(status["state"], "confirmed", "round {round}: {status}");
        }
        assert!(fs::read(device.path("link/app")).unwrap() == *image, "round {round}");
        device.until("the service runs", || device.supervisor.is_running("camera").then_some(()));
        writer.end();
    }
}
