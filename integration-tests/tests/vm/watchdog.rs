//! The hardware watchdog: fed while all is well, and it resets the machine when nothing is. It takes the full kernel's driver, so
//! `VESTAL_IMAGE_FULL` names an image with that one (`scripts/image --kernel full`).

use testkit::machine::{Image, Setup};

use crate::support::until_up;

#[test]
fn the_watchdog_is_fed_and_resets_a_machine_that_hangs_and_the_next_boot_knows() {
    let Some(image) = Image::from_env("VESTAL_IMAGE_FULL") else { return };
    // A kernel that panics stops, instead of rebooting by itself.
    let words = Setup::direct(&image).watchdog().word("vestal.watchdog=5").word("panic=0");
    let mut machine = words.start();
    until_up(&machine);
    let boot = machine.ok("cat /proc/sys/kernel/random/boot_id");
    assert_eq!(machine.until("cat /sys/class/watchdog/watchdog0/state"), "active");
    assert_eq!(machine.ok("cat /sys/class/watchdog/watchdog0/timeout"), "5");
    // Longer than its patience; the guest's own time counts.
    machine.ok("read now rest < /proc/uptime; end=$((${now%.*} + 12)); until read now rest < /proc/uptime && [ ${now%.*} -ge $end ]; do usleep 500000; done");
    assert_eq!(machine.ok("cat /proc/sys/kernel/random/boot_id"), boot);

    machine.send("echo c > /proc/sysrq-trigger");
    machine.until_event("WATCHDOG");
    machine.until_other_boot(&boot);
    machine.until("vestalctl --json boot blame | grep -q all_ready_ms");
    let blame = machine.json("vestalctl --json boot blame");
    assert_eq!(blame["reset"]["cause"], "watchdog", "{blame}");
    machine.send("vestalctl system poweroff");
    assert_eq!(machine.until_off(), "guest-shutdown");
}
