//! What must never come near a driver: objects that are damaged, foreign, older, unsealed or changed on their way, and versions
//! that fail before they serve. All are refused with a reason, and the driver notices nothing.

use rustix::fs::SealFlags;

use super::*;

/// A driver at work, which must not notice anything.
struct Undisturbed {
    bench: Bench,
    handle: Handle,
    pid: Option<i32>,
    calls: u64,
}

impl Undisturbed {
    fn start(settings: &str) -> Self {
        let bench = Bench::start(settings);
        let handle = bench.open();
        handle.write(b"well").unwrap();
        let pid = bench.until_serving().pid;
        Self { bench, handle, pid, calls: 1 }
    }

    #[track_caller]
    fn check(&mut self) {
        self.handle.write(b"well").unwrap();
        self.calls += 1;
        assert_eq!(
            (version(&self.handle), counters(&self.handle).calls),
            ("1".to_owned(), self.calls)
        );
    }

    /// At the end: nothing is left over.
    #[track_caller]
    fn finish(mut self) {
        self.check();
        let status = self.bench.until_serving();
        assert_eq!((status.pid, status.upgrades, status.rollbacks), (self.pid, 0, 0), "{status:?}");
        let record = self.bench.record();
        assert_eq!(
            (&record["probation"], &record["previous"]),
            (&false.into(), &serde_json::Value::Null)
        );
    }

    #[track_caller]
    fn refused(&mut self, object: &[u8], version: &str) -> Failure {
        let refused = self.bench.refused(object, version);
        self.check();
        refused
    }
}

/// Where `struct vestal_driver` lies in the file: its size, the ABI 1 and this minor.
fn structure(object: &[u8]) -> usize {
    let found = object.windows(8).position(|bytes| {
        let number = |at: usize| u32::from_le_bytes(bytes[at..][..4].try_into().unwrap());
        (64..512).contains(&number(0))
            && number(4) == 1
            && number(0).is_multiple_of(8)
            && object_has_size(number(0))
    });
    found.expect("counter.so has its structure")
}

fn object_has_size(size: u32) -> bool {
    usize::try_from(size).is_ok_and(|size| size == size_of_driver())
}

/// `sizeof(struct vestal_driver)` of a 64-bit machine.
fn size_of_driver() -> usize {
    4 * 4 + 3 * 8 + 2 * 4 + 4 * 8 + 8 + 2 * 4 + 8
}

#[test]
fn damaged_and_foreign_objects_are_refused_and_the_driver_notices_nothing() {
    if !may_upgrade("damaged_and_foreign_objects") {
        return;
    }
    let mut driver = Undisturbed::start(CALM);
    let good = driver.bench.object("2", &[]);
    for part in 0..8 {
        let refused = driver.refused(&good[..good.len() * part / 8], "2");
        assert!(!reason_of(&refused).is_empty(), "{part}: {refused:?}");
    }
    let patched = |at: usize, bytes: &[u8]| {
        let mut object = good.clone();
        object[at..at + bytes.len()].copy_from_slice(bytes);
        object
    };
    // e_machine: RISC-V.
    let refused = driver.refused(&patched(18, &[243, 0]), "2");
    assert_eq!(reason_of(&refused), "wrong-machine", "{refused}");
    // A later ABI.
    let refused = driver.refused(&patched(structure(&good) + 4, &[9, 0, 0, 0]), "2");
    assert_eq!(reason_of(&refused), "abi", "{refused}");
    let refused = driver.refused(b"#!/bin/sh\n", "2");
    assert_eq!(reason_of(&refused), "not-elf", "{refused}");
    driver.finish();
}

#[test]
fn a_flipped_bit_anywhere_is_caught_by_the_hash_and_in_the_headers_also_without() {
    if !may_upgrade("a_flipped_bit") {
        return;
    }
    let mut driver = Undisturbed::start(CALM);
    let good = driver.bench.object("2", &[]);
    let request = driver.bench.request(&good, "2");
    for number in 0..24 {
        let mut object = good.clone();
        let at = object.len() * number / 24;
        object[at] ^= 1 << (number % 8);
        let outcome = driver.bench.call::<Report>("upgrade", &request, &[&sealed(&object)]);
        assert_eq!(reason_of(&failure(outcome)), "hash", "bit in octet {at}");
    }
    driver.check();
    // Told by its own hash it has only its form to speak against it.
    for at in 0..20 {
        let mut object = good.clone();
        object[at] ^= 0x80;
        let outcome = driver.bench.try_upgrade(&object, "2");
        // Octets 7 to 15 mean nothing to anybody.
        if !(7..16).contains(&at) {
            let refused = failure(outcome);
            assert!(!reason_of(&refused).is_empty(), "octet {at}: {refused:?}");
        } else if outcome.is_ok() {
            driver.bench.settled();
            driver.bench.named::<Report>("rollback").unwrap();
        }
    }
    assert_eq!(version(&driver.handle), "1");
}

#[test]
fn what_can_still_be_changed_or_was_changed_is_refused() {
    if !may_upgrade("what_can_still_be_changed") {
        return;
    }
    let driver = Undisturbed::start(CALM);
    let good = driver.bench.object("2", &[]);
    let request = driver.bench.request(&good, "2");
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    for missing in [SealFlags::SEAL, SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE] {
        let fd = memfd(&good, all.difference(missing));
        let refused = failure(driver.bench.call::<Report>("upgrade", &request, &[&fd]));
        assert_eq!(reason_of(&refused), "not-sealed", "{refused}");
    }
    let path = driver.bench.objects.path().join("plain.so");
    fs::write(&path, &good).unwrap();
    let file = OwnedFd::from(fs::File::open(&path).unwrap());
    let refused = failure(driver.bench.call::<Report>("upgrade", &request, &[&file]));
    assert_eq!(reason_of(&refused), "not-sealed", "{refused}");
    let refused = failure(driver.bench.call::<Report>("upgrade", &request, &[]));
    assert!(refused.text.contains("one descriptor"), "{refused}");
    let other = driver.bench.object("3", &[]);
    let refused = failure(driver.bench.call::<Report>("upgrade", &request, &[&sealed(&other)]));
    assert_eq!(reason_of(&refused), "hash", "{refused}");
    let wrong = Upgrade { hash: "../../x".to_owned(), ..request };
    let refused = failure(driver.bench.call::<Report>("upgrade", &wrong, &[&sealed(&good)]));
    assert_eq!(refused.code, protocol::failure::Code::InvalidArgument, "{refused}");
    driver.finish();
}

#[test]
fn versions_that_fail_before_they_serve_are_refused_each_with_its_reason() {
    if !may_upgrade("versions_that_fail_before_they_serve") {
        return;
    }
    let mut driver = Undisturbed::start(CALM);
    for (option, word) in [
        ("-DSELF_TEST_FAILS", "self"),
        ("-DIMPORT_FAILS", "import"),
        ("-DINIT_CRASHES", "SIGSEGV"),
        ("-DCRASH_AT=1", "SIGSEGV"),
        ("-DLOSE_STATE", "state"),
    ] {
        let object = driver.bench.object("2", &[option]);
        let refused = driver.refused(&object, "2");
        let told = format!("{} {}", reason_of(&refused), refused.text);
        assert!(told.contains(word) || told.contains("signal 11"), "{option}: {told}");
    }
    driver.finish();
}

#[test]
fn an_older_version_is_refused_and_a_raw_object_where_the_settings_want_bundles() {
    if !may_upgrade("an_older_version_is_refused") {
        return;
    }
    let bench = Bench::start(&CALM.replace("dev = true\n", ""));
    let (two, three) = (bench.object("2", &[]), bench.object("3", &[]));
    let of_bundle = |object: &[u8], version: &str, rollback_index| Upgrade {
        rollback_index,
        dev: false,
        ..bench.request(object, version)
    };
    let refused = bench.refused(&two, "2");
    assert_eq!(reason_of(&refused), "dev", "{refused}");
    let taken = bench.call::<Report>("upgrade", &of_bundle(&two, "2", 5), &[&sealed(&two)]);
    assert_eq!(taken.unwrap().to.version, "2");
    assert_eq!(bench.settled().outcome, Outcome::Confirmed);
    let older = bench.call::<Report>("upgrade", &of_bundle(&three, "3", 4), &[&sealed(&three)]);
    assert_eq!(reason_of(&failure(older)), "rollback-index");
    assert_eq!(bench.record()["floor"], 5);
    assert_eq!(version(&bench.open()), "2");
}
