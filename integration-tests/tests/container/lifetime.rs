//! From the first process to the last one.

use rustix::process::Signal;

use crate::container::{Container, image};

#[test]
fn everything_gets_ready_and_a_term_to_pid_one_ends_everything_in_order() {
    let Some(image) = image() else { return };
    let mut container = Container::start(&image, |_| ());
    container.until_all_ready();
    let report = container.json("vestalctl --json call service report");
    assert_eq!((&report["keeper"]["pid"], &report["keeper"]["pid_one"]), (&1.into(), &true.into()));
    // Only the machine's first process mounts, checks disks and resets the machine.
    assert!(!container.ok("cat /proc/mounts").contains(" /dev/pts "));
    assert!(!container.console().contains("panic"), "{}", container.console());
    let names: Vec<String> = container.processes().into_iter().map(|(_, name)| name).collect();
    assert!(names.iter().any(|name| name == "vestal-registry"), "{names:?}");
    container.signal(Signal::TERM);
    container.until_ended();
    assert_eq!(container.processes(), []);
    let console = container.console();
    assert!(console.contains("everything is stopped"), "{console}");
}
