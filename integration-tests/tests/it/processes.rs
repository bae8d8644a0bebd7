//! What a process gets from its definition: environment, files, instances, conditions; and what is left when it ends.

use std::fs;

use rustix::process::Signal;
use testkit::{Device, alive, until};

use crate::support::{demo, device_with, kill, lines, printed, until_other_pid, until_printed};

#[test]
fn a_oneshot_runs_once_before_those_that_require_it_and_counts_as_done() {
    let mut device = Device::new();
    let order = device.folder().join("order");
    let append = format!("append={}", order.display());
    device.define("prepare", &(demo(&[&append, "exit=0"]) + "oneshot = true\n"));
    device.define("app", &(demo(&[&append]) + "requires = [\"prepare\"]\n"));
    device.start();
    let app = device.until_pid("app");
    until("both have run", || (lines(&order).len() == 2).then_some(()));
    assert_eq!(lines(&order)[1], app.to_string(), "the oneshot ended before");
    assert_eq!(device.instance("prepare", "instance1")["state"], "done");
    kill(app, Signal::KILL);
    until_other_pid(&device, "app", app);
    until("the app ran again", || (lines(&order).len() == 3).then_some(()));
    assert_eq!(device.instance("prepare", "instance1")["generation"], 1, "and the oneshot did not");
}

#[test]
fn a_oneshot_that_fails_is_tried_again_and_holds_back_what_requires_it() {
    let mut device = Device::new();
    let (tries, good) = (device.folder().join("tries"), device.folder().join("good"));
    let script = format!("echo x >> {}; test -e {}", tries.display(), good.display());
    device.define("prepare", &format!("command = [\"sh\", \"-c\", {script:?}]\noneshot = true\n"));
    device.define("app", &(demo(&[]) + "requires = [\"prepare\"]\n"));
    device.start();
    until("it is tried again", || (lines(&tries).len() >= 3).then_some(()));
    assert!(device.processes("app").is_empty());
    fs::write(good, "").unwrap();
    device.until_pid("app");
    device.until_state("prepare", "done");
}

#[test]
fn a_service_whose_condition_does_not_hold_is_passed_over_with_its_reason() {
    let mut device = Device::new();
    let path = device.folder().join("camera");
    let condition = |negate: &str| {
        demo(&[]) + &format!("[conditions]\npath-exists = \"{negate}{}\"\n", path.display())
    };
    device.define("camera", &condition(""));
    device.define("dummy", &condition("!"));
    device.define("app", &(demo(&[]) + "requires = [\"camera\"]\n"));
    device.start();
    device.until_pid("dummy");
    device.until_pid("app");
    let seen = device.until_state("camera", "done");
    assert!(seen["last_exit"].as_str().unwrap().contains(path.to_str().unwrap()), "{seen}");
    assert_eq!(seen["generation"], 0);
    // Looked at anew by each start.
    fs::write(&path, "").unwrap();
    device.ctl_ok(&["service", "start", "camera"]);
    device.until_pid("camera");
    device.ctl_ok(&["service", "restart", "dummy"]);
    device.until_state("dummy", "done");
}

#[test]
fn variables_come_from_the_definition_then_from_its_files_and_are_filled_in() {
    let mut device = Device::new();
    let file = device.folder().join("variables");
    fs::write(&file, "# of the device\nOWN=file\nexport FILE='from a file'\n").unwrap();
    let steps =
        ["env=OWN", "env=FILE", "say=${OWN} ${VESTAL_SERVICE} $${OWN} $OWN", "env=HOMELESS"];
    let text = format!(
        "{}env = {{ OWN = \"definition\", HOMELESS = \"${{VESTAL_RUN_DIR}}\" }}\nenv-files = [{:?}, \"-/no/such/file\"]\n",
        demo(&steps),
        file.display().to_string()
    );
    device.define("vars", &text);
    device.start();
    until_printed(&device, "vars", &format!("HOMELESS={}", device.run_dir().display()), 1);
    assert_eq!(
        printed(&device, "vars")[..3],
        ["OWN=definition", "FILE=from a file", "definition vars ${OWN} $OWN"]
    );
}

#[test]
fn a_missing_environment_file_keeps_the_service_from_running_until_it_is_there() {
    let mut device = Device::new();
    let file = device.folder().join("variables");
    device.define("vars", &(demo(&["env=A"]) + &format!("env-files = [{file:?}]\n")));
    device.start();
    until("the file is named", || device.console().contains(file.to_str().unwrap()).then_some(()));
    assert!(device.processes("vars").is_empty());
    fs::write(&file, "A=1\n").unwrap();
    until_printed(&device, "vars", "A=1", 1);
}

#[test]
fn a_pid_file_names_the_running_process_and_goes_with_the_service() {
    let mut device = Device::new();
    let file = device.folder().join("web.pid");
    device.define("web", &(demo(&[]) + &format!("pidfile = {file:?}\n")));
    device.start();
    let read = || lines(&file).first().and_then(|line| line.parse::<i32>().ok());
    let first = device.until_pid("web");
    until("the file names it", || (read() == Some(first)).then_some(()));
    kill(first, Signal::KILL);
    let second = until_other_pid(&device, "web", first);
    until("the file names the next one", || (read() == Some(second)).then_some(()));
    device.ctl_ok(&["service", "stop", "web"]);
    until("the file is gone", || (!file.exists()).then_some(()));
}

#[test]
fn several_instances_share_a_definition_and_live_for_themselves() {
    let text = demo(&["say=${VESTAL_INSTANCE}"])
        + "env = { COLOUR = \"grey\" }\n[instances.left]\n[instances.right]\nnice = 3\n[instances.right.env]\nCOLOUR = \"red\"\n";
    let device = device_with(&[("eyes", text)]);
    let pid = |name: &str| {
        until("it runs", || {
            let pid = device.instance("eyes", name)["pid"].as_i64()?;
            i32::try_from(pid).ok()
        })
    };
    let (left, right) = (pid("left"), pid("right"));
    let variable = |pid: i32| {
        let all = testkit::environment_of(pid).unwrap_or_default();
        all.into_iter().find_map(|entry| entry.strip_prefix("COLOUR=").map(str::to_owned))
    };
    let colours = (variable(left), variable(right));
    assert_eq!(colours, (Some("grey".to_owned()), Some("red".to_owned())));
    device.ctl_ok(&["service", "stop", "eyes", "left"]);
    assert!(!alive(left) && alive(right));
    assert_eq!(device.instance("eyes", "left")["state"], "stopped");
    device.ctl_ok(&["service", "restart", "eyes", "right"]);
    assert!(pid("right") != right && device.processes("eyes").len() == 1);
    device.ctl_ok(&["service", "start", "eyes"]);
    pid("left");
    assert_eq!(device.processes("eyes").len(), 2);
}

#[test]
fn with_kill_mode_main_the_others_live_on() {
    let device = device_with(&[("shell", demo(&["child"]) + "kill-mode = \"main\"\n")]);
    let main = device.until_pid("shell");
    let child = until("the child runs", || {
        device.processes("shell").into_iter().find(|one| one.pid != main).map(|one| one.pid)
    });
    kill(main, Signal::KILL);
    until_other_pid(&device, "shell", main);
    assert!(alive(child));
    device.ctl_ok(&["service", "stop", "shell"]);
    assert!(alive(child));
    assert_eq!(device.instance("shell", "instance1")["state"], "stopped");
}

/// A service that says when it is told to stop.
fn says_when_it_stops(name: &str, log: &std::path::Path, more: &str) -> String {
    let script = format!(
        "trap 'echo {name} >> {}; exit 0' TERM; echo >&4; while :; do sleep 1000 & wait; done",
        log.display()
    );
    format!("command = [\"sh\", \"-c\", {script:?}]\n{more}\n[readiness]\nfd = 4\n")
}

#[test]
fn stop_numbers_say_the_order_of_the_stop_and_without_them_it_is_the_reverse_of_the_start() {
    let orders = [
        [("a", "stop = 10"), ("b", "stop = 20"), ("c", "stop = 30")],
        [("c", "start = 10"), ("b", "start = 20"), ("a", "start = 30")],
    ];
    for definitions in orders {
        let mut device = Device::new();
        let log = device.folder().join("stopped");
        for (name, more) in definitions {
            device.define(name, &says_when_it_stops(name, &log, more));
        }
        device.start();
        definitions.iter().for_each(|(name, _)| drop(device.until_state(name, "ready")));
        assert!(device.stop().success());
        assert_eq!(lines(&log), ["a", "b", "c"]);
    }
}
