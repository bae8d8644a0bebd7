//! The kernel holds the limits of a service's cgroup, and the supervisor says which one it was. (Where CI's kernel has the controllers in
//! cgroup v1 only this machine is the place to see it.)

use testkit::machine::Setup;

use crate::support::{image, instance, until_up};

/// A line of a file in the group of a service's only instance.
fn group(service: &str, file: &str) -> String {
    format!("cat /sys/fs/cgroup/services/{service}/instance1/{file}")
}

#[test]
fn a_service_gets_no_more_processes_and_no_more_memory_than_it_may_have() {
    let Some(image) = image() else { return };
    let machine = Setup::direct(&image).start();
    until_up(&machine);

    machine.ok("vestalctl service start crowded");
    machine.until(&format!("{} | grep -q '^max [1-9]'", group("crowded", "pids.events")));
    assert_eq!(machine.ok(&group("crowded", "pids.max")), "5");
    let current: u32 = machine.ok(&group("crowded", "pids.current")).parse().unwrap();
    assert!(current <= 5, "{current}");
    machine.ok("vestalctl service stop crowded");

    machine.ok("vestalctl service start hungry");
    machine.until("vestalctl --json service list hungry | grep -q oom");
    let hungry = instance(&machine, "hungry");
    assert_eq!(hungry["last_exit"], "oom", "{hungry}");
    // Nobody else had to die for it.
    let web = instance(&machine, "web");
    assert_eq!((&web["state"], &web["restarts"]), (&"ready".into(), &0.into()), "{web}");
}
