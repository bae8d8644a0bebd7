//! The application alone: switched on the running device, kept where it is healthy, and taken back at once where it is not.

use std::fs;

use testkit::{alive, until};

use super::{Bench, MIB, application, good, holds};

#[test]
fn an_application_is_upgraded_over_the_network_while_the_device_runs() {
    let bench = Bench::started();
    let pid = |service| bench.device.until_pid(service);
    let (camera, bystander) = (pid("camera"), pid("bystander"));
    let supervisor = bench.device.supervisor_pid();
    assert_eq!(bench.in_use(), bench.place("app-a"));
    let two = good("two", 2 * MIB);
    bench.bundle("app-2.vestal", "2", 2, &[("application", &two)]);
    let said = bench.vestal_ok(&bench.push("app-2.vestal"));
    assert!(said.contains("confirmed"), "{said}");

    assert_eq!(bench.in_use(), bench.place("app-b"));
    assert!(holds(&bench.place("app-b"), &two));
    assert_eq!(bench.runs(), ["one", "two"]);
    assert!(!alive(camera));
    assert_eq!(pid("bystander"), bystander);
    assert_eq!(bench.device.supervisor_pid(), supervisor);

    let last = bench.last();
    assert_eq!(last["state"], "confirmed");
    assert_eq!(last["transaction"]["version"], "2");
    assert!(last["outage_ms"].as_u64().unwrap() < 10_000, "{last}");
    let told = bench.vestal_ok(&format!("history {} --key keys/operator.key", bench.address()));
    assert!(told.contains(&format!("{} ms", last["outage_ms"])), "{told}");
    assert_eq!(bench.slot("application", "B")["state"], "active");
    assert_eq!(bench.slot("application", "A")["state"], "good");
}

/// Pushes an application that is no good; the device must go back by itself, say why, and take the next one.
#[track_caller]
fn goes_back(bench: &Bench, bad: &[u8], next: &[u8], why: &str) {
    bench.bundle("bad.vestal", "2", 2, &[("application", bad)]);
    let error = bench.vestal_fails(&bench.push("bad.vestal"));
    assert!(error.contains("rolled-back") && error.contains(why), "{error}");

    // It is journaled before it is done.
    until("the old one is in use", || (bench.in_use() == bench.place("app-a")).then_some(()));
    bench.until_up();
    let runs = bench.runs();
    assert!(runs.contains(&"bad".to_owned()), "{runs:?}");
    assert_eq!(runs.last().unwrap(), "one");
    let last = bench.last();
    assert_eq!(last["state"], "rolled-back");
    assert!(last["reason"].as_str().unwrap().contains(why), "{last}");
    assert_eq!(bench.slot("application", "A")["state"], "active");
    assert_eq!(bench.slot("application", "B")["state"], "bad");

    bench.bundle("good.vestal", "3", 3, &[("application", next)]);
    bench.vestal_ok(&bench.push("good.vestal"));
    assert_eq!(bench.in_use(), bench.place("app-b"));
    assert_eq!(bench.runs().last().unwrap(), "three");
}

#[test]
fn an_application_that_crashes_goes_back_by_itself() {
    goes_back(
        &Bench::started(),
        &application("bad", &["exit=1"], MIB),
        &good("three", MIB),
        "camera",
    );
}

#[test]
fn an_application_that_is_never_ready_goes_back_by_itself() {
    goes_back(&Bench::started(), &application("bad", &[], MIB), &good("three", MIB), "camera");
}

#[test]
fn an_application_that_hangs_after_it_was_ready_goes_back_by_itself() {
    let mut bench = Bench::new();
    bench.settings("", "health = { timeout = \"4s\", stable = \"2s\" }\n");
    bench.camera("watchdog = \"400ms\"\n");
    let alive = |name| application(name, &["notify=READY=1", "pet=50"], MIB);
    fs::write(bench.place("app-a"), alive("one")).unwrap();
    bench.start();
    let bad = good("bad", MIB);
    goes_back(&bench, &bad, &alive("three"), "camera");
}

#[test]
fn many_components_travel_in_one_bundle_and_none_overtakes_what_came_before_it() {
    const PARTS: usize = 12;
    let mut bench = Bench::new();
    let name = |part: usize| format!("part-{part}");
    let mut components = String::new();
    for part in 0..PARTS {
        let slot = |letter| {
            let place = bench.place(&format!("{}-{letter}", name(part)));
            format!("{{ path = {place:?}, size = \"1MiB\" }}")
        };
        let slots = format!("slots = [{}, {}]", slot("a"), slot("b"));
        components += &format!("[components.{}]\n{slots}\n", name(part));
    }
    bench.settings(&components, super::HEALTH);
    bench.start();
    // What compresses well takes longer to unpack than to send.
    let image = |part: usize| format!("part {part} of {PARTS};").repeat(MIB / 16).into_bytes();
    let images: Vec<(String, Vec<u8>)> = (0..PARTS).map(|part| (name(part), image(part))).collect();
    let images: Vec<(&str, &[u8])> =
        images.iter().map(|(name, image)| (name.as_str(), image.as_slice())).collect();
    bench.bundle("parts.vestal", "2", 2, &images);
    bench.vestal_ok(&bench.push("parts.vestal"));
    for (name, image) in images {
        assert!(holds(&bench.place(&format!("{name}-b")), image), "{name}");
    }
}
