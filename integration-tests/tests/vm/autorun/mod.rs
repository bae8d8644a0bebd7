//! A machine that is hibernated once and resumed from the same image again and again, as a product with a fast boot is. The image lies
//! on a disk of its own, a copy of which is put back before each life; the other disk, with the journal and the data, is carried over
//! from life to life, as hardware does it.
//!
//! `overlay/` is the product: its root file system is read-only, and of its two programs one is alive and draws nothing any more after a
//! resume, the other one is not there.

mod cuts;
mod failures;
mod product;
mod random;
mod snapshot;

use std::collections::HashSet;

use testkit::machine::Machine;
use vestal_autorun::journal::{Mark, Record, Stage};

use self::product::{Product, Settings};
use crate::support::image;

/// Lives of the one image.
const LIVES: u64 = 20;
/// What runs in each life, in this order.
const RAN: [&str; 6] = ["network", "random", "woken", "step1", "step2", "files"];
/// The targets in the order of their levels.
const TARGETS: [&str; 7] = ["random", "woken", "df_logo", "haier_board", "step1", "step2", "files"];

fn lives() -> u64 {
    if std::env::var_os("VESTAL_FULL").is_some() { LIVES } else { 3 }
}

#[test]
fn an_image_is_resumed_again_and_again_and_each_time_every_target_runs_once_in_order() {
    let Some(image) = image() else { return };
    let mut product = Product::new(&image, Settings::Vendor);
    // The first boot: the engine is up, nothing is armed, and no target has run.
    let machine = product.boot();
    assert_eq!(machine.json("vestalctl --json autorun status")["state"], "cold");
    let check = machine.json("vestalctl --json autorun check");
    assert_eq!(check["problems"].as_array().map(Vec::len), Some(0), "{check}");
    machine.ok("! test -e /run/product/ran && ! test -e /data/ran");
    random::reseed(&machine);
    product.hibernate(machine);

    let mut runs = HashSet::new();
    for life in 1..=lives() {
        let (mut machine, before) = product.resume();
        machine.until_console(&format!("life {life} was lived"));
        // The engine has left, and nothing of it is in the way.
        machine.until("! pidof vestal-autorun");
        one_life(&machine.ok("cat /run/product/ran"), life);
        both_work(&machine);
        let now: u64 = machine.ok("date +%s").parse().unwrap();
        assert!(now >= before && now < before + 600, "{now} by its clock, {before} by ours");
        machine.send("vestalctl system poweroff");
        assert_eq!(machine.until_off(), "guest-shutdown");
        product.keep(&machine);

        let record = product.journal().expect("it was just written");
        assert_eq!((record.ordinal, record.stage), (life, Stage::Done), "{record:?}");
        let marks: Vec<_> = record.entries.iter().map(|entry| (entry.mark, entry.status)).collect();
        assert_eq!(marks, [(Mark::Done, 0); TARGETS.len()], "{record:?}");
        assert!(runs.insert(record.run), "two lives have the same run id");
    }
    another_root_is_refused(&mut product);

    // By a machine that was never hibernated.
    let machine = product.boot();
    assert_eq!(machine.json("vestalctl --json autorun status")["state"], "cold");
    random::repeat_only_before_the_engine_reseeds(&machine, lives());
    let ran = machine.ok("cat /data/ran");
    let ran: Vec<&str> = ran.lines().collect();
    assert!(ran.chunks(RAN.len()).all(|life| life == RAN), "{ran:?}");
    assert_eq!(ran.len() as u64, lives() * RAN.len() as u64);
    for life in 1..=lives() {
        machine.ok(&format!(
            "for i in 1 2 3 4 5 6; do test -s /data/life-{life}/file-$i || exit 1; done"
        ));
    }
    machine.ok("! test -e /run/product/ran");
}

/// A root file system that the image doesn't know. The image has it mounted, and so must not run on.
#[track_caller]
fn another_root_is_refused(product: &mut Product<'_>) {
    product.change_root();
    let (mut machine, _) = product.resume();
    assert_eq!(machine.until_off(), "guest-reset");
    product.keep(&machine);
    let Record { image, ordinal, .. } = product.journal().expect("it was just written");
    assert_eq!((image, ordinal), ([0; 32], lives() + 1), "the image may be resumed again");
}

/// What has run in this life, which is all that the image's memory knows of.
#[track_caller]
fn one_life(ran: &str, life: u64) {
    assert_eq!(ran.lines().collect::<Vec<_>>(), RAN, "life {life}");
}

/// Each was started once at the boot and once in this life, and makes progress.
#[track_caller]
fn both_work(machine: &Machine) {
    let started = machine.ok("sort /run/product/started");
    assert_eq!(started, "df_logo\ndf_logo\nhaier_board\nhaier_board");
    draw_frames(machine);
}

/// Both programs make progress.
#[track_caller]
fn draw_frames(machine: &Machine) {
    for program in ["df_logo", "haier_board"] {
        let frames = format!("/run/product/{program}");
        let first = machine.ok(&format!("cat {frames}"));
        machine.until(&format!("[ $(cat {frames}) -gt {first} ]"));
    }
}

#[test]
fn a_disk_that_was_written_since_the_image_was_taken_is_not_touched_and_the_machine_boots_cold() {
    let Some(image) = image() else { return };
    let mut product = Product::new(&image, Settings::Trap);
    let machine = product.boot();
    product.hibernate(machine);

    // The first life finds the disk as it was left: it may go on with what it has in its memory.
    let (mut machine, _) = product.resume();
    machine.until_console("life 1 was lived");
    machine.send("vestalctl system poweroff");
    assert_eq!(machine.until_off(), "guest-shutdown");
    product.keep(&machine);
    let before = product.data();

    // To the second one the disk is older than it is: whatever it wrote would undo the first one's.
    let (mut machine, _) = product.resume();
    assert_eq!(machine.until_off(), "guest-reset");
    product.keep(&machine);
    assert!(product.data() == before, "something was written to the data");
    let Record { image, stage, .. } = product.journal().expect("it was just written");
    assert_eq!(image, [0; 32], "the image may be resumed again: {stage:?}");

    // The mark is put back all the same: the initramfs asks before the kernel looks at it, else this would go on for ever.
    let (machine, _) = product.resume();
    machine.until_lab();
    machine.until("vestalctl --json autorun status");
    let console = machine.console();
    assert!(console.contains("nothing is resumed from a swap"), "{console}");
    let told = machine.ok("cat /data/life-1/file-1; ls -d /data/life-*");
    assert!(told.ends_with("/data/life-1"), "{told}");
    assert_eq!(machine.json("vestalctl --json autorun status")["state"], "cold");
}
