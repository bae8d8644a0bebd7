//! Every process but PID 1 is killed, one after the other: each time everything is ready again.

use std::collections::BTreeSet;

use rustix::process::Signal;

use crate::container::{Container, image, kill};

#[test]
fn whatever_is_killed_all_are_ready_again() {
    let Some(image) = image() else { return };
    let container = Container::start(&image, |_| ());
    container.until_all_ready();
    // By name, for who is killed comes back under another number, and some bring others down with them.
    let mut killed = BTreeSet::new();
    loop {
        let left = container.processes().into_iter().find(|(_, name)| !killed.contains(name));
        let Some((pid, name)) = left else { break };
        kill(pid, Signal::KILL);
        container.until(&format!("{name} is gone"), |_| !testkit::alive(pid));
        container.until_all_ready();
        container.until(&format!("{name} is back"), |it| {
            it.processes().iter().any(|(other, again)| *other != pid && *again == name)
        });
        killed.insert(name);
    }
    for name in ["vestal-supervis", "vestal-registry", "vestal-log", "vestal-upgrade"] {
        assert!(killed.contains(name), "{name} was not there to be killed: {killed:?}");
    }
}
