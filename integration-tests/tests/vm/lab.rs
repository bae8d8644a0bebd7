//! The way into the guest itself: what a test is told is what happened.

use testkit::machine::Setup;

use crate::support::image;

#[test]
fn commands_are_answered_with_output_and_code_and_a_killed_shell_costs_only_its_own_answer() {
    let Some(image) = image() else { return };
    let mut machine = Setup::direct(&image).start();
    let boot = machine.until_lab();
    assert_eq!(machine.run("echo one; echo; printf two >&2; exit 7"), (7, "one\n\ntwo".to_owned()));
    assert_eq!(machine.ok("cat /proc/sys/kernel/random/boot_id"), boot);
    // What a shell, a terminal or the protocol could take for something else.
    assert_eq!(
        machine.ok("printf '%s' '@1=0 \"\\t\" $HOME\t|'; echo \" é\" | wc -c"),
        "@1=0 \"\\t\" $HOME\t|4"
    );
    // The parent of the command's shell is the one that we talk with; who is asked meanwhile has no answer from the next one.
    machine.send("kill -9 $PPID");
    assert_eq!(machine.until_lab(), boot);
    assert_eq!(machine.ok("echo again"), "again");
    machine.send("kill -9 $PPID");
    assert_eq!(machine.until("echo in spite of that"), "in spite of that");
    assert!(machine.port("tcp", 7421) > 0);
    machine.order("system_reset");
    let other = machine.until_other_boot(&boot);
    assert_ne!(other, boot);
    machine.send("poweroff -f");
    assert_eq!(machine.until_off(), "guest-shutdown");
}
