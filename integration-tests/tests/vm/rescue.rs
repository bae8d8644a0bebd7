//! When nothing else is left there is a shell on the console: because somebody wanted it, or because nothing that is defined can be read.

use testkit::machine::{Machine, Setup};

use crate::support::image;

/// Waits for the shell's prompt on the console.
#[track_caller]
fn until_prompt(machine: &Machine) {
    machine.until_console("# ");
}

/// A command in that shell succeeds. What is typed, which the terminal shows too, is not what is waited for.
#[track_caller]
fn succeeds(machine: &Machine, command: &str, number: u32) {
    machine.type_in(&format!("{command} && echo check $(({number} + 1000)) passed\n"));
    machine.until_console(&format!("check {} passed", number + 1000));
}

#[test]
fn the_kernels_command_line_asks_for_a_shell_and_nothing_else_is_started() {
    let Some(image) = image() else { return };
    let mut machine = Setup::direct(&image).word("vestal.rescue").start();
    until_prompt(&machine);
    succeeds(&machine, "vestalctl --json boot blame | grep -q '\"rescue\"'", 1);
    succeeds(&machine, "! vestalctl service list web | grep -q web", 2);
    // Somebody who is to mend the device wants to see its data.
    succeeds(&machine, "grep -q ' /data ext4 ' /proc/mounts", 3);
    machine.type_in("vestalctl system poweroff\n");
    assert_eq!(machine.until_off(), "guest-shutdown");
}

#[test]
fn a_device_whose_every_definition_is_broken_still_has_a_shell() {
    let Some(image) = image() else { return };
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.squashfs");
    image.pack_rootfs(&broken, |root| {
        let definitions = root.join("etc/vestal/services.d");
        for entry in std::fs::read_dir(definitions).unwrap() {
            std::fs::write(entry.unwrap().path(), "command = [\n").unwrap();
        }
    });
    let mut machine = Setup::direct(&image).slot('B').content("rootfs-b", &broken).start();
    until_prompt(&machine);
    succeeds(&machine, "vestalctl status", 1);
    machine.type_in("vestalctl system poweroff\n");
    assert_eq!(machine.until_off(), "guest-shutdown");
}
