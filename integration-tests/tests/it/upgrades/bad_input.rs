//! Bundles that are broken, too long or for smaller slots, and peers that only take room: what runs is untouched, and the next push
//! works.

use std::{fs, io::Read as _, net::TcpStream, time::Duration};

use testkit::until;

use super::{Bench, MIB, good, is_blank};

fn two() -> Vec<u8> {
    good("two", MIB)
}

/// The running slot is as it was, and a good bundle is taken.
#[track_caller]
fn is_unharmed(bench: &Bench, before: &[u8]) {
    assert!(fs::read(bench.place("app-a")).unwrap() == before);
    assert_eq!(bench.in_use(), bench.place("app-a"));
    assert_eq!(bench.runs(), ["one"]);
    bench.bundle("good.vestal", "2", 2, &[("application", &two())]);
    bench.vestal_ok(&bench.push("good.vestal"));
    assert_eq!(bench.runs(), ["one", "two"]);
}

#[test]
fn a_bundle_with_a_wrong_bit_anywhere_is_refused() {
    let bench = Bench::started();
    let before = fs::read(bench.place("app-a")).unwrap();
    bench.bundle("good.vestal", "2", 2, &[("application", &two())]);
    let bytes = fs::read(bench.file("good.vestal")).unwrap();
    // Magic, lengths, signature, manifest, index, and chunks from the first to the last.
    let near = [0, 8, 17, 41, 49, 70, 130, 300, 600, 900, 1400];
    let far = (1..=8).map(|part| part * (bytes.len() - 1) / 8);
    for at in near.into_iter().chain(far) {
        let mut broken = bytes.clone();
        broken[at] ^= 1 << (at % 8);
        fs::write(bench.file("bad.vestal"), broken).unwrap();
        let output = bench.vestal(&bench.push("bad.vestal"));
        assert!(!output.status.success(), "octet {at}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            error.starts_with("vestal: ") && error.trim_end().ends_with(')'),
            "octet {at}: {error}"
        );
    }
    is_unharmed(&bench, &before);
}

#[test]
fn a_bundle_that_ends_too_early_or_too_late_is_refused() {
    let bench = Bench::started();
    let before = fs::read(bench.place("app-a")).unwrap();
    bench.bundle("good.vestal", "2", 2, &[("application", &two())]);
    let bytes = fs::read(bench.file("good.vestal")).unwrap();
    for length in [0, 47, 48, 200, 1000, bytes.len() / 2, bytes.len() - 1] {
        fs::write(bench.file("bad.vestal"), &bytes[..length]).unwrap();
        for said in [
            bench.vestal_fails(&bench.push("bad.vestal")),
            bench.device.ctl(&["upgrade", "install", &bench.file("bad.vestal")]).stderr,
        ] {
            assert!(said.contains("bad.vestal"), "{length}: {said}");
        }
    }
    fs::write(bench.file("bad.vestal"), [&bytes[..], b"more"].concat()).unwrap();
    bench.vestal_fails(&bench.push("bad.vestal"));
    is_unharmed(&bench, &before);
}

#[test]
fn an_image_that_is_longer_than_its_slot_is_refused_before_anything_is_written() {
    let bench = Bench::started();
    let before = fs::read(bench.place("app-a")).unwrap();
    bench.bundle("long.vestal", "2", 2, &[("application", &good("two", 4 * MIB + 1))]);
    let error = bench.vestal_fails(&bench.push("long.vestal"));
    assert!(error.contains("(slot-too-small)"), "{error}");
    assert!(is_blank(&bench.place("app-b")));
    is_unharmed(&bench, &before);
}

#[test]
fn a_slot_that_cannot_be_opened_is_named_and_works_once_it_is_repaired() {
    let bench = Bench::started();
    let before = fs::read(bench.place("app-a")).unwrap();
    fs::create_dir(bench.place("app-b")).unwrap();
    bench.bundle("good.vestal", "2", 2, &[("application", &two())]);
    let error = bench.vestal_fails(&bench.push("good.vestal"));
    assert!(error.contains("app-b"), "{error}");
    fs::remove_dir(bench.place("app-b")).unwrap();
    is_unharmed(&bench, &before);
}

#[test]
fn whoever_comes_second_is_told_who_is_writing() {
    let bench = Bench::started();
    bench.bundle("app-2.vestal", "2", 2, &[("application", &two())]);
    let before = bench.relay.sent();
    bench.relay.hold_after(MIB as u64 / 2);
    let first = bench.begin(&bench.push("app-2.vestal"));
    bench.until_sent(before, MIB as u64 / 2);
    bench.until_upgrade_is("receiving");
    let operator = fs::read_to_string(bench.file("keys/operator.key.pub")).unwrap();
    let who = bench.status()["transaction"]["who"].as_str().unwrap().to_owned();
    assert_eq!(who.len(), 64, "{operator}");
    let second = bench.device.ctl(&["upgrade", "install", &bench.file("app-2.vestal")]);
    assert!(!second.status.success());
    assert!(second.stderr.contains(&who[..16]), "{second:?}");
    bench.relay.go_on();
    let (status, error) = first.wait();
    assert!(status.success(), "{error}");
    assert_eq!(bench.runs(), ["one", "two"]);
}

#[test]
fn hundreds_of_peers_that_say_nothing_keep_nobody_on_the_device_waiting_and_are_cut_off() {
    const PEERS: usize = 400;
    let bench = Bench::started();
    let address = fs::read_to_string(bench.device.run_dir().join("upgrade/addr")).unwrap();
    let mut peers: Vec<TcpStream> =
        (0..PEERS).map(|_| TcpStream::connect(address.trim()).unwrap()).collect();
    assert_eq!(bench.status()["state"], "idle");
    let before = fs::read(bench.place("app-a")).unwrap();
    // All but those that may shake hands are cut off at once.
    let mut open = peers.len();
    until("most are cut off", || {
        peers.retain_mut(|peer| {
            peer.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            match peer.read(&mut [0; 1]) {
                Ok(0) => false,
                Ok(_) => true,
                Err(error) => error.kind() != std::io::ErrorKind::ConnectionReset,
            }
        });
        open = peers.len();
        (open <= 8).then_some(())
    });
    drop(peers);
    until("there is room again", || {
        let words = format!("status {} --key keys/operator.key", bench.address());
        bench.vestal(&words).status.success().then_some(())
    });
    is_unharmed(&bench, &before);
}
