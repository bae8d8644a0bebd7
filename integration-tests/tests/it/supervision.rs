//! What every user sees first: services start in order, crashes are healed, stop means stopped.

use std::fs;

use rustix::process::Signal;
use testkit::{Device, alive, until};

use crate::support::{demo, device_with, kill, lines, ordinary_device_with};

#[test]
fn a_killed_service_comes_back_as_a_new_process() {
    for device in [device_with(&[("web", demo(&[]))]), ordinary_device_with(&[("web", demo(&[]))])]
    {
        let first = device.until_pid("web");
        kill(first, Signal::KILL);
        let second =
            until("a new process", || Some(device.until_pid("web")).filter(|pid| *pid != first));
        assert!(alive(second) && !alive(first));
        let seen = device.until_state("web", "ready");
        assert_eq!(seen["restarts"], 1);
        assert!(seen["last_exit"].as_str().unwrap().contains('9'), "{seen}");
    }
}

#[test]
fn services_wait_for_the_readiness_of_what_they_come_after() {
    let mut device = Device::new();
    let order = device.folder().join("order");
    let gate = device.folder().join("gate");
    let append = format!("append={}", order.display());
    device.define(
        "base",
        &(demo(&[&format!("until={}", gate.display()), &append, "notify=READY=1"])
            + "[readiness]\nnotify = true\n"),
    );
    device.define("app", &(demo(&[&append]) + "after = [\"base\"]\n"));
    device.start();
    device.until_state("base", "starting");
    assert_eq!(device.instance("app", "instance1")["state"], "waiting");
    assert!(device.processes("app").is_empty());
    fs::write(&gate, "").unwrap();
    let app = device.until_pid("app");
    until("both have run", || (lines(&order).len() == 2).then_some(()));
    assert_eq!(lines(&order)[1], app.to_string());
}

#[test]
fn each_kind_of_readiness_is_seen() {
    let mut device = Device::new();
    let socket = device.folder().join("probe.sock");
    let file = device.folder().join("good");
    device.define("fd", &(demo(&["ready-fd=4"]) + "[readiness]\nfd = 4\n"));
    device.define(
        "unix",
        &(demo(&[&format!("unix={}", socket.display())])
            + &format!("[readiness]\nunix = {socket:?}\n")),
    );
    device.define(
        "command",
        &(demo(&[]) + &format!("[readiness]\ncommand = [\"test\", \"-e\", {file:?}]\n")),
    );
    device.start();
    device.until_state("fd", "ready");
    device.until_state("unix", "ready");
    assert_eq!(device.instance("command", "instance1")["state"], "starting");
    fs::write(&file, "").unwrap();
    device.until_state("command", "ready");
}

#[test]
fn a_service_that_is_never_ready_is_restarted_with_that_reason() {
    let device =
        device_with(&[("slow", demo(&[]) + "[readiness]\nnotify = true\ntimeout = \"100ms\"\n")]);
    until("a restart by time-out", || {
        let seen = device.instance("slow", "instance1");
        let reason = seen["last_exit"].as_str().unwrap_or_default().to_owned();
        (seen["restarts"].as_u64() > Some(0) && reason.contains("time")).then_some(())
    });
}

#[test]
fn stop_is_told_only_when_nothing_is_left_and_start_begins_anew() {
    let device = device_with(&[("web", demo(&["child", "daemon"]))]);
    device.until_pid("web");
    until("the children run", || (device.processes("web").len() == 3).then_some(()));
    device.ctl_ok(&["service", "stop", "web"]);
    assert_eq!(device.processes("web"), []);
    assert_eq!(device.instance("web", "instance1")["state"], "stopped");
    device.ctl_ok(&["service", "start", "web"]);
    device.until_pid("web");
}

#[test]
fn a_stop_survives_the_death_of_the_supervisor_and_a_definition_by_message_too() {
    let device = device_with(&[("web", demo(&[]))]);
    device.until_pid("web");
    device.ctl_ok(&["service", "stop", "web"]);
    let message = device.folder().join("hello.json");
    let program = testkit::binary("vestal-demo");
    fs::write(
        &message,
        format!("{{\"name\":\"hello\",\"instances\":{{\"instance1\":{{\"command\":[{program:?}],\"respawn\":[]}}}}}}"),
    )
    .unwrap();
    device.ctl_ok(&["service", "set", message.to_str().unwrap()]);
    let hello = device.until_pid("hello");
    let supervisor = device.supervisor_pid();
    kill(supervisor, Signal::KILL);
    until("another supervisor", || (device.supervisor_pid() != supervisor).then_some(()));
    assert_eq!(device.until_pid("hello"), hello);
    assert_eq!(device.instance("web", "instance1")["state"], "stopped");
    assert_eq!(device.processes("web"), []);
}

#[test]
fn the_whole_device_stops_in_order_on_sigterm() {
    let order = |device: &Device| device.folder().join("stopped");
    let mut device = Device::new();
    let log = order(&device);
    let trap = |name: &str| {
        format!(
            "command = [\"sh\", \"-c\", \"trap 'echo {name} >> {}; exit 0' TERM; echo ready >&4; while :; do sleep 1 & wait; done\"]\n[readiness]\nfd = 4\n",
            log.display()
        )
    };
    device.define("base", &trap("base"));
    device.define("app", &format!("after = [\"base\"]\n{}", trap("app")));
    device.start();
    device.until_state("app", "ready");
    let status = device.stop();
    assert!(status.success(), "{status}");
    assert_eq!(lines(&log), ["app", "base"]);
    assert_eq!(testkit::processes_of(&device.run_dir()), []);
}

#[test]
fn reboot_without_being_pid_one_stops_everything_and_says_that_the_machine_is_left_alone() {
    let mut device = device_with(&[("web", demo(&[]))]);
    device.until_pid("web");
    let reply = device.ctl(&["--json", "system", "reboot"]);
    assert!(reply.status.success() && reply.stdout.contains("PID 1"), "{reply:?}");
    assert!(device.wait().success());
    assert_eq!(testkit::processes_of(&device.run_dir()), []);
}

#[test]
fn a_critical_service_that_crash_loops_ends_the_device_with_one() {
    let text =
        demo(&["exit=3"]) + "critical = { restarts = 2, window = \"1m\", action = \"reboot\" }\n";
    let mut device = Device::new();
    device.define("vital", &text);
    device.spawn();
    let status = device.wait();
    assert_eq!(status.code(), Some(1), "{}", device.console());
}

#[test]
fn what_a_service_prints_is_kept_and_a_last_line_without_an_end_too() {
    let device = device_with(&[(
        "talk",
        "command = [\"sh\", \"-c\", \"echo one; printf two >&2\"]\noneshot = true\n".to_owned(),
    )]);
    device.until_state("talk", "done");
    let log = device.run_dir().join("state/supervisor/log/talk.instance1.log");
    until("both lines are kept", || {
        let kept = lines(&log);
        let has = |text: &str| kept.iter().any(|line| line.ends_with(text));
        (has(" out one") && has(" err two")).then_some(())
    });
}

#[test]
fn listening_sockets_outlive_the_service_and_the_supervisor() {
    use std::{io::Read as _, os::unix::net::UnixStream};
    let mut device = Device::new();
    let socket = device.folder().join("hello.sock");
    device.define(
        "hello",
        &(demo(&["serve"])
            + &format!("[[sockets]]\nname = \"main\"\nlisten = \"unix:{}\"\n", socket.display())),
    );
    device.start();
    let ask = || {
        let mut answer = String::new();
        UnixStream::connect(&socket)
            .expect("nobody is refused")
            .read_to_string(&mut answer)
            .unwrap();
        answer
    };
    let first = device.until_pid("hello");
    assert_eq!(ask(), format!("hello from {first}\n"));
    kill(first, Signal::KILL);
    // Whoever connects meanwhile waits in the backlog.
    let answer = until("the next process answers", || Some(ask()).filter(|text| !text.is_empty()));
    assert!(answer != format!("hello from {first}\n"));
    let supervisor = device.supervisor_pid();
    kill(supervisor, Signal::KILL);
    assert_eq!(ask(), answer);
    until("another supervisor", || (device.supervisor_pid() != supervisor).then_some(()));
    device.ctl_ok(&["service", "stop", "hello"]);
    assert!(UnixStream::connect(&socket).is_err(), "a stopped service's socket is closed");
}

#[test]
fn user_limits_and_priority_are_applied_before_the_program_runs() {
    let mut text = "command = [\"sh\", \"-c\", \"id -u; ulimit -n; nice; grep NoNewPrivs /proc/self/status\"]\n\
                    oneshot = true\nnice = 7\nno-new-privileges = true\n"
        .to_owned();
    let root = rustix::process::geteuid().is_root();
    if root {
        text.push_str("user = \"nobody\"\n");
    }
    text.push_str("[limits]\nnofile = 123\n");
    let device = device_with(&[("id", text)]);
    device.until_state("id", "done");
    let log = device.run_dir().join("state/supervisor/log/id.instance1.log");
    until("it printed what it is", || {
        let kept = lines(&log);
        let has = |text: &str| kept.iter().any(|line| line.ends_with(text));
        (has(" out 123") && has(" out 7") && has("NoNewPrivs:\t1") && (!root || has(" out 65534")))
            .then_some(())
    });
}
