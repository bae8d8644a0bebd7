//! A kernel that doesn't write the image: everything goes on as before, and no target runs. And what looks like a life but is none: a
//! clock that is set, and a suspend.

use testkit::machine::Machine;
use vestal_autorun::journal::Stage;

use super::{
    draw_frames,
    product::{Product, SWAP, Settings},
};
use crate::support::image;

/// Steps of the clock, of a day each.
const STEPS: u32 = 20;

#[test]
fn what_the_kernel_refuses_is_taken_back_and_no_step_of_the_clock_and_no_suspend_is_a_life() {
    let Some(image) = image() else { return };
    let mut product = Product::new(&image, Settings::Good);
    let machine = product.boot_without_swap();

    let check = machine.run("vestalctl --json autorun check");
    assert!(check.0 == 1 && check.1.contains("swapon it first"), "{check:?}");
    let told = refused(&machine);
    assert!(told.contains("no active swap is on /dev/vdb"), "{told}");
    // Nothing was begun.
    assert_eq!(machine.ok("sort /run/product/started"), "df_logo\nhaier_board");

    // So little that no image fits, and nothing of that can be known before it is made.
    machine.ok(&format!("mkswap {SWAP} 4096 && swapon {SWAP} && echo 0 > /sys/power/image_size"));
    machine.ok("vestalctl autorun check");
    let told = refused(&machine);
    assert!(told.contains("/sys/power/state") && told.contains("No space left"), "{told}");
    eprintln!("{}", machine.ok("vestalctl log autorun --monotonic -n 2"));
    assert_eq!(machine.ok("sort /run/product/started"), "df_logo\nhaier_board\nhaier_board");
    product.keep(&machine);
    let journal = product.journal().expect("it was just written");
    assert_eq!((journal.image, journal.stage), ([0; 32], Stage::Cold), "{journal:?}");

    let step = "date -s @$(($(date +%s) + 86400)) > /run/date || exit 1";
    machine.ok(&format!("n=0; while [ $n -lt {STEPS} ]; do {step}; n=$((n + 1)); done"));
    // The engine hears of it as soon as it has answered.
    cold(&machine);
    cold(&machine);

    suspended(&machine);
    assert_eq!(machine.ok("cat /run/product/ran"), "network\nwoken");
    draw_frames(&machine);
    product.keep(&machine);
    assert_eq!(product.journal(), Some(journal), "a suspend was counted");
}

/// Asks for an image and gets none; returns why.
#[track_caller]
fn refused(machine: &Machine) -> String {
    let (code, told) = machine.run("vestalctl hibernate");
    assert_ne!(code, 0, "{told}");
    cold(machine);
    machine.ok("grep -q ' /data ext4 rw' /proc/mounts && touch /data/writable");
    draw_frames(machine);
    told
}

/// No life is known of, and no target has run.
#[track_caller]
fn cold(machine: &Machine) {
    let status = machine.json("vestalctl --json autorun status");
    assert_eq!(status["state"], "cold", "{status}");
    assert!(status["ordinal"].is_null() && status["run"].is_null(), "{status}");
    machine.ok("! test -e /run/product/ran && ! test -e /data/ran");
}

/// To memory and back.
#[track_caller]
fn suspended(machine: &Machine) {
    machine.ok("vestalctl suspend > /run/product/suspended 2>&1 &");
    machine.until_event("SUSPEND");
    machine.order("system_wakeup");
    machine.until_event("WAKEUP");
    machine.until_console("woke up");
    let status = machine.json("vestalctl --json autorun status");
    assert!(status["ordinal"].is_null() && status["run"].is_null(), "{status}");
}
