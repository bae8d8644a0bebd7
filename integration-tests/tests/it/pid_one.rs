//! The keeper as PID 1, in namespaces that the test makes itself (root only): orphans, signals, and that only PID 1 may reboot.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use testkit::{Device, binary, children_of, until};

use crate::support::{demo, is_root, kill};

/// `unshare` with the keeper as PID 1 of its own pid and mount namespaces, in a cgroup of its own: PID 1 calls its groups
/// `services`, whoever else does.
pub(crate) fn start_as_pid_one(device: &Device) -> std::process::Child {
    const SCRIPT: &str = "group=$(sed -n 's/^[0-9]* [0-9]* [0-9:]* [^ ]* \\([^ ]*\\) .* - cgroup2 .*/\\1/p' /proc/self/mountinfo | head -n 1)
        if [ -n \"$group\" ] && mkdir \"$group/vt-$$\"; then echo $$ > \"$group/vt-$$/cgroup.procs\"; fi
        exec unshare --mount --pid --fork --kill-child --mount-proc \"$0\"";
    let console =
        fs::File::create(device.folder().join("console")).expect("the scratch folder is ours");
    let keeper = device.command("vestal-keeper");
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).arg(keeper.get_program());
    command.env_clear();
    for (name, value) in keeper.get_envs() {
        command.env(name, value.expect("nothing is taken out"));
    }
    command.stdin(Stdio::null());
    command.stdout(console.try_clone().expect("descriptors are left")).stderr(console);
    let child = command.spawn().expect("util-linux is there");
    until("the supervisor answers", || device.ctl(&["status"]).status.success().then_some(()));
    child
}

/// Waits for the end of a namespace that [`start_as_pid_one`] made, and removes what is left of its cgroup.
pub(crate) fn until_end(namespace: &mut std::process::Child) {
    until("the namespace ends", || namespace.try_wait().unwrap());
    if let Some(own) = testkit::own_group() {
        testkit::remove_groups(&own.join(format!("vt-{}", namespace.id())));
    }
}

#[test]
fn as_pid_one_it_supervises_reaps_orphans_and_powers_off_when_asked() {
    if !is_root("a keeper as PID 1") {
        return;
    }
    let device = Device::new();
    device.define("web", &demo(&["daemon"]));
    device.define("once", "command = [\"sh\", \"-c\", \"( : & ); ( : & )\"]\noneshot = true\n");
    let mut namespace = start_as_pid_one(&device);
    device.until_state("once", "done");
    let report = device.json(&["call", "service", "report"]);
    assert_eq!(
        (report["keeper"]["pid"].as_i64(), report["keeper"]["pid_one"].as_bool()),
        (Some(1), Some(true))
    );
    let unshare = i32::try_from(namespace.id()).unwrap();
    let keeper = until("the keeper runs", || children_of(unshare).first().copied());
    until("no zombie is left", || {
        let zombies = children_of(keeper).into_iter().filter(|pid| !testkit::alive(*pid));
        (zombies.count() == 0).then_some(())
    });
    device.ctl_ok(&["system", "poweroff"]);
    // reboot(2) in a pid namespace ends it; unshare then ends by the signal that the kernel chose (pid_namespaces(7)).
    until_end(&mut namespace);
    assert!(
        fs::read_to_string(device.folder().join("console"))
            .unwrap()
            .contains("everything is stopped: Poweroff")
    );
}

#[test]
fn pid_one_powers_off_on_the_signals_that_procd_uses() {
    if !is_root("a keeper as PID 1") {
        return;
    }
    for signal in [Signal::USR2, Signal::TERM] {
        let device = Device::new();
        device.define("web", &demo(&[]));
        let mut namespace = start_as_pid_one(&device);
        let unshare = i32::try_from(namespace.id()).unwrap();
        let keeper = until("the keeper runs", || children_of(unshare).first().copied());
        kill(keeper, signal);
        until_end(&mut namespace);
    }
}

#[test]
fn a_supervisor_killed_under_pid_one_is_replaced() {
    if !is_root("a keeper as PID 1") {
        return;
    }
    let device = Device::new();
    device.define("web", &demo(&[]));
    let mut namespace = start_as_pid_one(&device);
    let web = device.until_pid("web");
    let supervisor = device.supervisor_pid();
    kill(supervisor, Signal::KILL);
    until("another supervisor", || (device.supervisor_pid() != supervisor).then_some(()));
    assert_eq!(device.until_pid("web"), web);
    device.ctl_ok(&["system", "halt"]);
    until_end(&mut namespace);
}

#[test]
fn a_supervisor_that_refuses_its_configuration_under_pid_one_is_started_to_rescue_what_it_can() {
    if !is_root("a keeper as PID 1") {
        return;
    }
    let mut device = Device::new();
    device.define("web", &demo(&[]));
    let (script, starts) = (device.folder().join("supervisor"), device.folder().join("starts"));
    // The rescue shell is not for the console of the machine that the tests run on.
    let text = format!(
        "#!/bin/sh\necho \"$*\" >> '{}'\ncase \" $* \" in *' --rescue '*) ;; *) exit 2 ;; esac\n\
         if [ -e /dev/console ]; then mount --bind /dev/null /dev/console || exit 1; fi\n\
         exec '{}' \"$@\"\n",
        starts.display(),
        binary("vestal-supervisor").display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    device.set_env("VESTAL_SUPERVISOR", script.to_str().unwrap());
    let mut namespace = start_as_pid_one(&device);
    let report = device.json(&["call", "service", "report"]);
    assert!(report["rescue"].as_str().unwrap().contains("failed again and again"), "{report}");
    let starts = fs::read_to_string(starts).unwrap();
    let to_rescue: Vec<_> = starts.lines().map(|line| line.contains("--rescue")).collect();
    assert_eq!(to_rescue, [&[false; 10][..], &[true]].concat(), "{starts}");
    device.ctl_ok(&["system", "poweroff"]);
    until_end(&mut namespace);
}

#[test]
fn a_caller_whose_session_began_outside_of_the_namespace_is_judged_like_any_other() {
    if !is_root("a keeper as PID 1") {
        return;
    }
    let device = Device::new();
    device.define("web", &demo(&[]));
    let mut namespace = start_as_pid_one(&device);
    let web = device.until_pid("web");
    let supervisor = device.supervisor_pid();
    let unshare = i32::try_from(namespace.id()).unwrap();
    let keeper = until("the keeper runs", || children_of(unshare).first().copied());
    let mut call = Command::new("nsenter");
    call.arg(format!("--target={keeper}"));
    call.args(["--pid", "--mount", "--setuid=64999", "--"]).arg(binary("vestalctl"));
    let refused = call
        .arg("--run-dir")
        .arg(device.run_dir())
        .args(["service", "stop", "web"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("64999"), "{text}");
    assert_eq!((device.until_pid("web"), device.supervisor_pid()), (web, supervisor));
    device.ctl_ok(&["system", "halt"]);
    until_end(&mut namespace);
}

#[test]
fn a_keeper_that_is_not_pid_one_never_calls_reboot_or_kill_everybody() {
    let strace = ["/usr/bin/strace", "/bin/strace"]
        .into_iter()
        .find(|path| fs::exists(path).unwrap_or(false));
    let Some(strace) = strace else {
        panic!("strace is not installed; scripts/test installs it");
    };
    let device = Device::new();
    device.define("web", &demo(&[]));
    let trace = device.folder().join("trace");
    let keeper = device.command("vestal-keeper");
    let mut command = Command::new(strace);
    command
        .args(["-f", "-e", "trace=reboot,kill,mount,openat", "-o"])
        .arg(&trace)
        .arg(binary("vestal-keeper"));
    command.env_clear();
    for (name, value) in keeper.get_envs() {
        command.env(name, value.expect("nothing is taken out"));
    }
    let mut traced =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the supervisor answers", || device.ctl(&["status"]).status.success().then_some(()));
    device.until_pid("web");
    device.ctl_ok(&["system", "reboot"]);
    until("it ends", || traced.try_wait().unwrap());
    let calls = fs::read_to_string(&trace).unwrap();
    for forbidden in ["reboot(", "kill(-1,", "/dev/watchdog", "mount("] {
        let found = calls.lines().find(|line| line.contains(forbidden));
        assert_eq!(found, None, "only PID 1 may do this");
    }
    assert!(calls.contains("openat("), "the trace is not empty");
}
