//! The product with its image on a disk of its own: it is hibernated once, and from then on whoever switches it on gets another life of the
//! image; nobody puts anything back. Until the image is invalid, or was changed, or does not live long enough: then the next boot is cold.

use std::{fs, os::unix::fs::FileExt as _};

use testkit::machine::Machine;
use vestal_autorun::{
    image::{Head, STREAM, TRIES_MAX, Verdict},
    journal::{Mark, Stage},
};

use super::{
    RAN, TARGETS, both_work, draw_frames, one_life,
    product::{Product, Settings},
};
use crate::support::image;

const LIVES: u64 = 3;

#[test]
fn an_image_on_its_own_disk_is_resumed_at_every_boot_until_it_is_invalidated() {
    let Some(image) = image() else { return };
    let mut product = Product::new(&image, Settings::Snapshot);
    let machine = product.boot();
    assert_eq!(machine.json("vestalctl --json autorun status")["state"], "cold");
    let check = machine.json("vestalctl --json autorun check");
    assert_eq!(check["problems"].as_array().map(Vec::len), Some(0), "{check}");
    assert!(check["notes"][0].as_str().unwrap().starts_with("back end snapshot"), "{check}");
    hibernate(&product, machine);
    let taken = head(&product).expect("it was just written");
    assert_eq!((taken.tries, taken.verdict), (0, Verdict::Good));

    for life in 1..=LIVES {
        let mut machine = product.switch_on();
        machine.until_console(&format!("life {life} was lived"));
        machine.until("! pidof vestal-autorun");
        one_life(&machine.ok("cat /run/product/ran"), life);
        both_work(&machine);
        // Its lives are no tries: each was done.
        let resumed = head(&product).expect("nobody destroys it");
        assert_eq!(Head { sequence: taken.sequence, ..resumed }, taken);
        if life == LIVES {
            machine.ok("vestalctl autorun invalidate --reason tested");
        }
        machine.send("vestalctl system poweroff");
        assert_eq!(machine.until_off(), "guest-shutdown");
        product.keep(&machine);
        let record = product.journal().expect("it was just written");
        assert_eq!((record.ordinal, record.stage), (life, Stage::Done), "{record:?}");
        let marks: Vec<_> = record.entries.iter().map(|entry| (entry.mark, entry.status)).collect();
        assert_eq!(marks, [(Mark::Done, 0); TARGETS.len()], "{record:?}");
    }

    let machine = cold(&mut product, "not to be resumed any more");
    let ran = machine.ok("cat /data/ran");
    let ran: Vec<&str> = ran.lines().collect();
    assert!(ran.chunks(RAN.len()).all(|life| life == RAN), "{ran:?}");
    assert_eq!(ran.len() as u64, LIVES * RAN.len() as u64);
    machine.ok(&format!("test -s /data/life-{LIVES}/file-6 && ! test -e /run/product/ran"));
}

#[test]
fn an_image_that_never_lives_long_enough_or_was_changed_is_not_resumed_any_more() {
    if std::env::var_os("VESTAL_FULL").is_none() {
        eprintln!("takes a minute, and so VESTAL_FULL: not tried");
        return;
    }
    let Some(image) = image() else { return };
    let mut product = Product::new(&image, Settings::Snapshot);
    let machine = product.boot();
    hibernate(&product, machine);

    for tries in 1..=TRIES_MAX {
        let mut machine = product.switch_on();
        machine.until_console("the image goes on");
        machine.pull_the_plug();
        product.keep(&machine);
        assert_eq!(head(&product).map(|head| head.tries), Some(tries));
    }
    let machine = cold(&mut product, "was resumed 2 times");
    let status = machine.json("vestalctl --json autorun status");
    assert!(status["reason"].as_str().unwrap().contains("was resumed 2 times"), "{status}");
    assert_eq!(head(&product).map(|head| head.verdict), Some(Verdict::Tried));

    // A new one takes its place. One octet in the middle of it is another one then.
    hibernate(&product, machine);
    let length = head(&product).expect("it was just written").length;
    let disk = fs::OpenOptions::new().read(true).write(true).open(product.swap()).unwrap();
    let mut octet = [0];
    disk.read_exact_at(&mut octet, STREAM + length / 2).unwrap();
    disk.write_all_at(&[!octet[0]], STREAM + length / 2).unwrap();
    let machine = cold(&mut product, "it is not what was written");
    draw_frames(&machine);
    drop(machine);
    assert_eq!(product.journal().map(|record| record.image), Some([0; 32]));
}

/// Takes the image and switches off.
#[track_caller]
fn hibernate(product: &Product<'_>, mut machine: Machine) {
    product.ask(&machine);
    assert_eq!(machine.until_off(), "guest-shutdown");
    product.keep(&machine);
}

/// Switches it on, and it boots cold for this reason.
#[track_caller]
fn cold<'image>(product: &mut Product<'image>, why: &str) -> Machine {
    let machine = product.boot();
    let console = machine.console();
    assert!(console.contains(why), "{console}");
    assert_eq!(machine.json("vestalctl --json autorun status")["state"], "cold");
    machine.ok("! test -e /run/product/ran");
    product.keep(&machine);
    machine
}

/// The newest whole head on the disk of the image.
fn head(product: &Product<'_>) -> Option<Head> {
    let disk = fs::File::open(product.swap()).unwrap();
    let heads = [0, 4096].map(|at| {
        let mut block = [0; 4096];
        disk.read_exact_at(&mut block, at).unwrap();
        Head::decode(&block, disk.metadata().unwrap().len()).ok()
    });
    heads.into_iter().flatten().max_by_key(|head| head.sequence)
}
