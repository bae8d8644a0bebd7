//! Random numbers of several lives of one image. The kernel goes on from where its generator was in the image, and each number is
//! derived from the one before: two lives draw the same sequence, one of them some numbers ahead of the other. So what is compared is not
//! single numbers but many of them, as sets.
//!
//! What was drawn before the engine reseeded must show that: where lives share nothing even then, that they share nothing afterwards
//! proves nothing.

use testkit::machine::Machine;

/// What the target draws in one life; `overlay/usr/lib/product/random`.
const DRAWN: usize = 500;

/// The kernel's generator is reseeded now, as at any wake-up: so it won't do that by itself between the image and the first numbers of
/// its lives, which would make them differ without the engine.
pub(super) fn reseed(machine: &Machine) {
    machine.ok("vestalctl autorun notify-post suspend");
    machine.until_console("woke up");
    // That was no life.
    machine.ok("rm /run/product/ran /data/ran");
}

/// Looks at what so many lives have left on the data disk.
#[track_caller]
pub(super) fn repeat_only_before_the_engine_reseeds(machine: &Machine, lives: u64) {
    let shared = machine.ok("sort /data/too_early | uniq -d | wc -l");
    eprintln!("{lives} lives share {shared} random numbers before the reseed");
    assert_ne!(shared, "0", "the kernel has reseeded by itself: nothing is proved by this");

    let drawn: u64 = machine.ok("grep -cE '^[0-9a-f]{64}$' /data/random").parse().unwrap();
    assert_eq!(drawn, lives * DRAWN as u64);
    let twice = "sort -u /data/too_early | cat - /data/random | sort | uniq -d | head -n 3";
    assert_eq!(machine.ok(twice), "", "random numbers have come twice");
}
