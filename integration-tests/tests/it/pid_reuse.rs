//! Row 11: a number that belonged to a service belongs to a stranger now, and the next keeper leaves the stranger alone.

use std::{fs, process::Stdio};

use testkit::{Device, until};

use crate::support::{demo, is_root, lines};

/// PID 1 of a pid namespace of its own, where the next pid can be chosen and nobody else takes it. The keeper beside it is
/// killed, then its service; a stranger gets the service's number; then a keeper starts on what the records say.
/// Arguments: the keeper, the file in which each run of the service leaves its pid.
const SCRIPT: &str = r#"
keeper=$0 runs=$1
"$keeper" & first=$!
until [ -s "$runs" ]; do sleep 0.02; done
read -r pid < "$runs"
kill -9 $first "$pid"
while [ -e "/proc/$pid" ] || [ -e "/proc/$first" ]; do sleep 0.02; done
# Its supervisor ends by itself; no process may come between the number and the stranger.
until ! grep -qs vestal-supervis /proc/[0-9]*/comm; do sleep 0.02; done
tries=0
while :; do
    echo $((pid - 1)) > /proc/sys/kernel/ns_last_pid || exit 77
    setsid sleep 1000 & stranger=$!
    [ $stranger = "$pid" ] && break
    kill -9 $stranger
    tries=$((tries + 1)); [ $tries = 50 ] && exit 3
done
"$keeper" &
until [ "$(wc -l < "$runs")" -ge 2 ]; do sleep 0.02; done
read -r name < "/proc/$stranger/comm" || exit 4
[ "$name" = sleep ] || exit 5
exit 0
"#;

#[test]
fn row_11_a_stranger_with_a_dead_services_pid_is_not_touched_by_the_next_keeper() {
    if !is_root("row 11") {
        return;
    }
    let device = Device::new();
    let runs = device.folder().join("runs");
    device.define("web", &demo(&[&format!("append={}", runs.display())]));
    let keeper = device.command("vestal-keeper");
    let console = fs::File::create(device.folder().join("console")).unwrap();
    let mut command = std::process::Command::new("unshare");
    command.args([
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        SCRIPT,
    ]);
    command.arg(keeper.get_program()).arg(&runs).env_clear();
    for (name, value) in keeper.get_envs() {
        command.env(name, value.expect("nothing is taken out"));
    }
    command.stdin(Stdio::null());
    command.stdout(console.try_clone().unwrap()).stderr(console);
    let mut namespace = command.spawn().expect("util-linux is there");
    let status = until("the script ends", || namespace.try_wait().unwrap());
    match status.code() {
        Some(0) => {}
        Some(77) => return eprintln!("row 11: the next pid can't be chosen here"),
        _ => panic!("{status}: see the script"),
    }
    let pids = lines(&runs);
    assert_eq!(pids.len(), 2, "started once by each keeper");
    assert_ne!(pids[0], pids[1]);
}
