//! The plug is pulled at any moment from the order to hibernate to the last target: the next boot is a cold one or a whole life, never
//! half of one, and the journal can be read.

use std::time::Duration;

use testkit::{
    machine::{LIMIT, Machine},
    within,
};
use vestal_autorun::journal::{Mark, Stage};

use super::product::{Product, Settings};
use crate::support::image;

/// Moments, half of them before the image is whole; VESTAL_CUTS is another number.
const CUTS: u64 = 50;
const LIVED: &str = " was lived";
/// What the service `ready` says once in each boot.
const BOOTED: &str = " s after the kernel";
/// Milliseconds, longer than an image takes to be written and longer than a life takes from the kernel's start, where not much else
/// goes on; a cut after that is one of its end.
const WRITTEN: u64 = 10_000;
const WHOLE: u64 = 20_000;

/// Moments, the same ones for the same seed.
struct Random(u64);

impl Random {
    fn moment(&mut self, before: u64) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let moment = Duration::from_millis(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % before);
        eprintln!("cut after {moment:?}");
        moment
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Until it has lived, but at most so long; then the plug is pulled.
fn cut(product: &Product<'_>, mut machine: Machine, after: Duration) {
    within(after, || machine.console().contains(LIVED).then_some(()));
    machine.pull_the_plug();
    product.keep(&machine);
}

/// What comes after a cut.
fn next_boot(product: &mut Product<'_>) {
    let mut machine = product.switch_on();
    let lived = within(LIMIT, || {
        let console = machine.console();
        let lived = console.contains(LIVED);
        (lived || console.contains(BOOTED)).then_some(lived)
    });
    let lived = lived.unwrap_or_else(|| panic!("neither cold nor alive: {}", machine.console()));
    eprintln!("then {}", if lived { "a whole life" } else { "a cold boot" });
    if !lived {
        machine.until_lab();
        assert_eq!(machine.json("vestalctl --json autorun status")["state"], "cold");
        machine.ok("! test -e /run/product/ran");
    }
    machine.send("vestalctl system poweroff");
    assert_eq!(machine.until_off(), "guest-shutdown");
    product.keep(&machine);
    // It can be read, though nothing may have been written yet.
    let record = product.journal();
    if lived {
        let record = record.expect("this life is recorded");
        assert_eq!(record.stage, Stage::Done, "{record:?}");
        assert!(record.entries.iter().all(|entry| entry.mark == Mark::Done), "{record:?}");
    }
}

#[test]
fn after_a_power_cut_at_any_moment_the_next_boot_is_a_cold_one_or_a_whole_life() {
    if std::env::var_os("VESTAL_FULL").is_none() {
        eprintln!("takes half an hour, and so VESTAL_FULL: not tried");
        return;
    }
    let Some(image) = image() else { return };
    let cuts = number("VESTAL_CUTS").unwrap_or(CUTS);
    let seed = number("VESTAL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("VESTAL_SEED={seed}");
    let mut random = Random(seed | 1);
    let mut product = Product::new(&image, Settings::Good);
    for _ in 0..cuts / 2 {
        let machine = product.boot();
        product.ask(&machine);
        cut(&product, machine, random.moment(WRITTEN));
        next_boot(&mut product);
    }
    let machine = product.boot();
    product.hibernate(machine);
    for _ in cuts / 2..cuts {
        let (machine, _) = product.resume();
        cut(&product, machine, random.moment(WHOLE));
        next_boot(&mut product);
    }
}
