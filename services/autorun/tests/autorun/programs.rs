//! Programs of targets: their limits, what they leave behind, their probes; and what an idle engine costs.

use std::{fs, time::Duration};

use protocol::autorun::{State, Status, Target};
use serde_json::json;
use testkit::{until, within};

use crate::device::Device;

fn tries(device: &mut Device) -> Status {
    device.start();
    let _: Status = device.call("run", json!({})).unwrap();
    until("all have ended", || {
        let status = device.status();
        let open = |state| matches!(state, Target::Waiting | Target::Running);
        let over = status.state == State::Cold && !status.targets.iter().any(|row| open(row.state));
        over.then_some(status)
    })
}

#[test]
fn a_target_that_hangs_is_stopped_with_all_that_it_began_and_the_next_one_runs() {
    for cgroups in [false, true] {
        let mut device = Device::new("");
        if cgroups {
            device.with_cgroups();
        }
        let hangs =
            "trap '' TERM; sleep 1000 & (setsid sleep 1000 &) ; while :; do sleep 1000; done";
        device.script("hangs", hangs, "phase = \"early\"\nlimit = { hard = \"200ms\" }\n");
        device.script("leaves", "(setsid sleep 1000 &) ; sleep 1000 & exit 0", "phase = \"ui\"\n");
        device.script("next", "true", "");
        let status = tries(&mut device);
        let states: Vec<_> = status.targets.iter().map(|row| row.state).collect();
        assert_eq!(states, [Target::TimedOut, Target::Done, Target::Done]);
        until("nothing is left of them", || {
            let left = testkit::processes_of(&device.at("run"));
            left.iter().all(|process| !process.command.contains("sleep")).then_some(())
        });
        let groups = testkit::own_group().into_iter().flat_map(fs::read_dir).flatten().flatten();
        let mut names = groups.map(|group| group.file_name().to_string_lossy().into_owned());
        assert!(names.all(|name| !name.starts_with(&device.group())), "{}", device.group());
    }
}

#[test]
fn a_target_that_ends_at_its_limit_when_asked_to_is_not_killed() {
    let mut device = Device::new("");
    let script = format!(
        "trap 'echo asked >> {}; exit 0' TERM; while :; do sleep 0.05; done",
        device.at("ran").display()
    );
    device.script("polite", &script, "limit = { hard = \"200ms\" }\n");
    let status = tries(&mut device);
    assert_eq!(status.targets[0].state, Target::TimedOut);
    assert_eq!(device.ran(), ["polite", "asked"]);
}

#[test]
fn a_program_gets_its_environment_and_none_of_the_engines_own() {
    for cgroups in [false, true] {
        let mut device = Device::new("");
        if cgroups {
            device.with_cgroups();
        }
        let check = "[ \"$DISPLAY\" = :0 ] && [ \"$VESTAL_AUTORUN_TARGET\" = shows ] && [ -z \"$NOTIFY_SOCKET\" ] && [ \"$PWD\" = / ] && ! read x";
        device.script("shows", check, "environment = { DISPLAY = \":0\" }\n");
        device.target("missing", "command = [\"/no/such/program\"]\non-fail = \"stop\"\n");
        let status = tries(&mut device);
        assert_eq!(status.targets[0].state, Target::Failed);
        assert!(status.targets[0].text.as_ref().unwrap().contains("No such file"));
        assert_eq!(status.targets[1].state, Target::Done);
    }
}

#[test]
fn a_target_is_in_a_group_of_its_own_from_its_first_moment() {
    let mut device = Device::new("");
    device.with_cgroups();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let made = testkit::own_group()
        .is_some_and(|own| rustix::fs::access(&own, rustix::fs::Access::WRITE_OK).is_ok());
    if !made || !groups.contains("0::") {
        return;
    }
    let shows = format!("cat /proc/self/cgroup > {}", device.at("group").display());
    device.script("shows", &shows, "");
    assert_eq!(tries(&mut device).targets[0].state, Target::Done);
    let group = fs::read_to_string(device.at("group")).unwrap();
    assert!(group.contains(&format!("/{}-shows", device.group())), "{group} {}", device.group());
}

#[test]
fn root_runs_a_program_as_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut device = Device::new("");
    let check = "[ \"$(id -u):$(id -g):$(id -G)\" = 65534:65533:65533 ]";
    device.target(
        "other",
        &format!(
            "command = [\"/bin/sh\", \"-c\", {check:?}]\nuser = \"65534\"\ngroup = \"65533\"\n"
        ),
    );
    let status = tries(&mut device);
    assert_eq!(status.targets[0].state, Target::Done, "{:?}", status.targets[0]);
}

#[test]
fn a_program_whose_number_stands_still_is_broken_and_one_whose_number_rises_is_not() {
    let mut device = Device::new("");
    let frames = device.at("frames");
    fs::write(&frames, "5\n").unwrap();
    let probe = |within: &str| {
        format!(
            "on-resume = \"restart-if-broken\"\nprobe = {{ file = {frames:?}, within = {within:?} }}\n"
        )
    };
    let counts = format!(
        "(i=5; while :; do i=$((i+1)); echo $i > {0}.new; mv {0}.new {0}; sleep 0.02; done) & wait",
        frames.display()
    );
    device.script("player", "exit 0", &probe("2s"));
    let status = tries(&mut device);
    assert_eq!(status.targets[0].state, Target::Failed);
    assert!(status.targets[0].text.as_ref().unwrap().contains("does not rise"));
    assert_eq!(device.ran(), ["player"]);
    let mut counter = std::process::Command::new("/bin/sh")
        .args(["-c", &counts])
        .env("VESTAL_RUN_DIR", device.at("run"))
        .spawn()
        .unwrap();
    let _: Status = device.call("run", json!({})).unwrap();
    let skipped = until("it is seen to work", || {
        let row = device.status().targets.remove(0);
        (row.state == Target::Skipped).then_some(row)
    });
    assert_eq!(skipped.text.as_deref(), Some("it still works"));
    assert_eq!(device.ran(), ["player"]);
    counter.kill().unwrap();
    counter.wait().unwrap();
}

#[test]
fn an_idle_engine_sleeps() {
    let mut device = Device::new("");
    device.script("logo", "true", "");
    device.start();
    let sleeps = || {
        let status = fs::read_to_string(format!("/proc/{}/status", device.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:"));
        line.unwrap().rsplit('\t').next().unwrap().parse::<u64>().unwrap()
    };
    let span = Duration::from_secs(2);
    // Nobody is there to register with: it tries every five seconds at last, and nothing else wakes it.
    let quiet = within(Duration::from_secs(60), || {
        let before = sleeps();
        within(span, || None::<()>);
        (sleeps() <= before + 1).then_some(())
    });
    assert!(quiet.is_some());
    let threads = fs::read_dir(format!("/proc/{}/task", device.pid())).unwrap().count();
    assert_eq!(threads, 1);
}

#[test]
fn an_engine_that_is_told_to_stop_leaves_no_process() {
    let mut device = Device::new("");
    device.script("hangs", "sleep 1000 & (setsid sleep 1000 &) ; sleep 1000", "");
    device.start();
    let _: Status = device.call("run", json!({})).unwrap();
    until("it runs", || (device.ran() == ["hangs"]).then_some(()));
    let pid = rustix::process::Pid::from_raw(device.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(device.ended().code(), Some(0));
    until("nothing is left", || device.is_quiet().then_some(()));
}
