//! The failure table of the design, row by row: what must happen when a service, or the machine below it, misbehaves.
//!
//! Rows 10, 14 and 17 (clock jumps, stale events, out of memory) are tests of the machine and of the keeper, beside their
//! code; row 11 (reused pids) is in `pid_reuse` and beside the keeper's records, row 15 in `definitions`, 16 in `callers`,
//! 19 in `adoption`. Row 20 (a reboot that hangs) needs a virtual machine.

use std::{fs, path::Path};

use rustix::process::Signal;
use testkit::{Device, alive, until};

use crate::support::{demo, device_with, is_root, kill, lines, ordinary_device_with};

#[test]
fn row_01_a_service_that_forks_without_end_is_emptied_to_its_last_process() {
    // Thirty forks at a time, not a real bomb: what counts is that stop wins against a tree that grows while it is killed.
    let script = "command = [\"sh\", \"-c\", \"trap '' TERM; grow() { while :; do sleep 0.05 & sh -c 'sleep 100 & sleep 100' & sleep 0.1; done; }; grow & grow & grow & wait\"]\nstop-timeout = \"100ms\"\n";
    for device in [
        device_with(&[("bomb", script.to_owned()), ("good", demo(&[]))]),
        ordinary_device_with(&[("bomb", script.to_owned()), ("good", demo(&[]))]),
    ] {
        let good = device.until_pid("good");
        until("it has grown", || (device.processes("bomb").len() > 20).then_some(()));
        device.ctl_ok(&["service", "stop", "bomb"]);
        assert_eq!(device.processes("bomb"), []);
        assert_eq!(device.until_pid("good"), good);
    }
}

#[test]
fn row_02_a_full_process_table_is_waited_out_and_is_no_crash() {
    if !is_root("row 2") {
        return;
    }
    // A user of its own, so that the limit counts nobody else's processes.
    const USER: u32 = 64_321;
    let mut device = Device::of_user(USER);
    device.limit_processes(12);
    for number in 0..20 {
        device.define(&format!("s{number:02}"), &demo(&[]));
    }
    device.start();
    let running = || {
        let all = device.json(&["service", "list"]);
        let of = |list: &serde_json::Value| list["instances"]["instance1"]["running"] == true;
        all.as_object()
            .unwrap()
            .iter()
            .filter(|(_, list)| of(list))
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    let first = until("some run, not all", || Some(running()).filter(|names| names.len() >= 5));
    assert!(first.len() < 20);
    let waiting =
        (0..20).map(|number| format!("s{number:02}")).find(|name| !first.contains(name)).unwrap();
    let seen = device.instance(&waiting, "instance1");
    assert_eq!(seen["restarts"], 0, "not a crash: {seen}");
    assert_ne!(seen["state"], "failed", "{seen}");
    // Room again: those that waited start by themselves.
    for name in first.iter().take(4) {
        device.ctl_ok(&["service", "stop", name]);
    }
    until("one that waited runs", || {
        running().iter().any(|name| !first.contains(name)).then_some(())
    });
}

#[test]
fn row_03_without_descriptors_for_new_callers_services_are_still_healed() {
    use std::os::unix::net::UnixStream;
    let device = device_with(&[("web", demo(&[]))]);
    let first = device.until_pid("web");
    let socket = device.run_dir().join("supervisor.sock");
    // As many callers as a user may have, and then more, all of them silent.
    let callers: Vec<_> = (0..400).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    assert!(callers.len() > 200);
    kill(first, Signal::KILL);
    until("it is healed", || {
        let now = device.processes("web");
        (now.len() == 1 && now[0].pid != first).then_some(())
    });
    drop(callers);
    until("callers are served again", || device.ctl(&["status"]).status.success().then_some(()));
}

#[test]
fn row_04_logs_and_state_that_cannot_be_written_stop_nothing() {
    let mut device = Device::new();
    let state = device.folder().join("not-a-folder");
    fs::write(&state, "").unwrap();
    device.define("talk", &demo(&["lines=1000"]));
    device.keeper_args(&["--state-dir", state.to_str().unwrap()]);
    device.start();
    let pid = device.until_pid("talk");
    kill(pid, Signal::KILL);
    until("it is healed", || Some(device.until_pid("talk")).filter(|now| *now != pid));
    assert!(device.console().contains("log file"), "it is said: {}", device.console());
    // Room again: the next lines are kept.
    fs::remove_file(&state).unwrap();
    device.ctl_ok(&["service", "restart", "talk"]);
    until("output is kept again", || {
        let kept = lines(&state.join("supervisor/log/talk.instance1.log"));
        kept.iter().any(|line| line.ends_with("line 999")).then_some(())
    });
}

#[test]
fn row_05_a_service_that_ignores_sigterm_is_killed_after_its_grace_period() {
    let device = device_with(&[("deaf", demo(&["deaf"]) + "stop-timeout = \"200ms\"\n")]);
    let pid = device.until_pid("deaf");
    until("it is deaf", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t"))?;
        (u64::from_str_radix(ignored, 16).ok()? & (1 << 14) != 0).then_some(())
    });
    device.ctl_ok(&["service", "stop", "deaf"]);
    assert!(!alive(pid));
    let seen = device.instance("deaf", "instance1");
    assert_eq!(seen["exit_code"], 137, "{seen}");
}

/// A process that no signal reaches, until this is dropped (cgroup v1 freezer: a killed task stays in state D).
struct Frozen(std::path::PathBuf);

impl Frozen {
    fn new(freezer: &Path, pid: i32) -> Self {
        let group = freezer.join(format!("vestal-test-{pid}"));
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
        fs::write(group.join("freezer.state"), "FROZEN").unwrap();
        Self(group)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        // The killed process has to leave it first.
        testkit::within(std::time::Duration::from_secs(5), || fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn row_06_a_process_that_cannot_be_killed_is_said_and_not_started_twice() {
    let freezer = Path::new("/sys/fs/cgroup/freezer");
    if !is_root("row 6") || !freezer.join("cgroup.procs").exists() {
        eprintln!("row 6 needs the freezer of cgroup v1, which is not here");
        return;
    }
    let device = device_with(&[("stuck", demo(&[]) + "stop-timeout = \"100ms\"\n")]);
    let pid = device.until_pid("stuck");
    let frozen = Frozen::new(freezer, pid);
    let reply = device.ctl(&["service", "restart", "--no-wait", "stuck"]);
    assert!(reply.status.success(), "{reply:?}");
    until("it is called unkillable", || {
        (device.instance("stuck", "instance1")["state"] == "unkillable").then_some(())
    });
    assert_eq!(device.processes("stuck").len(), 1, "no second copy");
    drop(frozen);
    let next = until("it starts once the old one is gone", || {
        Some(device.until_pid("stuck")).filter(|now| *now != pid)
    });
    assert!(alive(next) && !alive(pid));
}

#[test]
fn row_07_what_a_daemon_left_behind_is_killed_before_it_starts_again() {
    for device in [
        device_with(&[("forks", demo(&["child", "daemon"]))]),
        ordinary_device_with(&[("forks", demo(&["child", "daemon"]))]),
    ] {
        let main = device.until_pid("forks");
        let before =
            until("all three run", || Some(device.processes("forks")).filter(|all| all.len() == 3));
        kill(main, Signal::KILL);
        until("three new ones run", || {
            let now = device.processes("forks");
            let old = now.iter().any(|process| before.iter().any(|old| old.pid == process.pid));
            (now.len() == 3 && !old).then_some(())
        });
    }
}

#[test]
fn row_08_a_program_that_cannot_be_executed_is_told_with_its_reason_and_is_no_crash_loop() {
    let mut device = Device::new();
    let text = device.folder().join("text");
    fs::write(&text, "no program\n").unwrap();
    device.define("missing", "command = [\"/no/such/program\"]\n");
    device.define("text", &format!("command = [{text:?}]\n"));
    device.define("folder", "command = [\"/tmp\"]\nnice = 1\n");
    device.define("good", &demo(&[]));
    device.start();
    device.until_pid("good");
    for (name, reason) in
        [("missing", "No such file"), ("text", "ermission"), ("folder", "ermission")]
    {
        let seen = until("it failed to execute", || {
            let seen = device.instance(name, "instance1");
            let told = seen["last_exit"].as_str().unwrap_or_default().contains(reason);
            told.then_some(seen)
        });
        assert!(seen["generation"].as_u64() <= Some(2), "{seen}");
    }
}

#[test]
fn row_09_a_hung_service_is_noticed_aborted_and_restarted() {
    let text =
        demo(&["pet=100", "notify=READY=1"]) + "watchdog = \"500ms\"\n[readiness]\nnotify = true\n";
    let device = device_with(&[("pets", text)]);
    device.until_state("pets", "ready");
    let hung = device.until_pid("pets");
    kill(hung, Signal::STOP);
    until("it is restarted", || Some(device.until_pid("pets")).filter(|pid| *pid != hung));
    assert!(!alive(hung));
    let seen = device.until_state("pets", "ready");
    assert!(seen["last_exit"].as_str().unwrap().contains("watchdog"), "{seen}");
    assert_eq!(seen["restarts"], 1);
}

#[test]
fn row_12_ten_thousand_orphans_are_reaped_while_callers_are_served() {
    // Each turn leaves an orphan: the subshell ends before its child.
    let storm = "command = [\"sh\", \"-c\", \"i=0; while [ $i -lt 10000 ]; do ( : & ); i=$((i+1)); done; echo done\"]\noneshot = true\n";
    let device = device_with(&[("storm", storm.to_owned()), ("web", demo(&[]))]);
    let web = device.until_pid("web");
    let mut asked = 0;
    until("the storm is over", || {
        asked += 1;
        (device.instance("storm", "instance1")["state"] == "done").then_some(())
    });
    assert!(asked > 1);
    assert_eq!(device.until_pid("web"), web);
    let keeper = device.keeper_pid();
    until("no zombie is left", || {
        let zombies = testkit::children_of(keeper).into_iter().filter(|pid| !alive(*pid));
        (zombies.count() == 0).then_some(())
    });
}

#[test]
fn row_13_services_that_die_at_once_are_slowed_down_and_disturb_nobody() {
    let mut device = Device::new();
    for number in 0..30 {
        device.define(&format!("bad{number:02}"), &(demo(&["exit=1"]) + "respawn = \"always\"\n"));
    }
    device.define("good", &demo(&[]));
    device.start();
    let good = device.until_pid("good");
    // The fourth restart comes 100 + 200 + 400 ms after the first: back-off is at work.
    until("each was restarted several times", || {
        let all = device.json(&["service", "list"]);
        let restarts = |number: usize| {
            all[format!("bad{number:02}")]["instances"]["instance1"]["restarts"].as_u64()
        };
        (0..30).all(|number| restarts(number) >= Some(4)).then_some(())
    });
    let generation = device.instance("bad07", "instance1")["generation"].as_u64().unwrap();
    assert!(generation < 20, "{generation} starts are no back-off");
    assert_eq!(device.until_pid("good"), good);
}

#[test]
fn row_18_what_requires_a_stopped_service_stops_and_starts_with_it() {
    let device = device_with(&[
        ("base", demo(&["notify=READY=1"]) + "[readiness]\nnotify = true\n"),
        ("app", demo(&[]) + "requires = [\"base\"]\n"),
        ("loose", demo(&[]) + "after = [\"base\"]\n"),
    ]);
    let loose = device.until_pid("loose");
    device.until_pid("app");
    device.ctl_ok(&["service", "stop", "base"]);
    until("app is stopped with it", || device.processes("app").is_empty().then_some(()));
    assert_eq!(device.until_pid("loose"), loose);
    device.ctl_ok(&["service", "start", "base"]);
    let app = device.until_pid("app");
    // A crash that is healed leaves dependents alone.
    kill(device.until_pid("base"), Signal::KILL);
    device.until_state("base", "ready");
    assert_eq!((device.until_pid("app"), device.until_pid("loose")), (app, loose));
}

#[test]
fn a_conflict_and_a_start_in_the_middle_of_a_stop_end_in_what_was_asked_last() {
    let device = device_with(&[
        ("one", demo(&["deaf"]) + "stop-timeout = \"300ms\"\n"),
        ("two", demo(&[]) + "conflicts = [\"one\"]\nautostart = false\n"),
    ]);
    device.until_pid("one");
    let reply = device.ctl(&["service", "stop", "--no-wait", "one"]);
    assert!(reply.status.success());
    device.ctl_ok(&["service", "start", "one"]);
    device.until_pid("one");
    device.ctl_ok(&["service", "start", "two"]);
    device.until_pid("two");
    assert!(device.processes("one").is_empty(), "the two exclude each other");
}
