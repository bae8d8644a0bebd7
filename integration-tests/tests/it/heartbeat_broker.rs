//! Whoever watches may die or hang itself: nobody is blamed for it, and everybody is watched again.

use std::time::Duration;

use protocol::heartbeat::State;
use rustix::process::Signal;
use testkit::{Device, until};
use tokio::time::Instant;

use crate::{
    applications::{
        Events, MARKER, Reporter, add, broker, count, device, example, expect, reports, row, rows,
        settings, until_reports,
    },
    relay::{Faults, Relay},
    support::{kill, replace_supervisor, until_other_pid},
};

const APPLICATIONS: i32 = 20;
/// Three periods of theirs.
const DEADLINE: Duration = Duration::from_secs(3);

/// Twenty instances of a service, each with a number and all of them reporting.
fn twenty() -> Device {
    let device = device();
    let program = example(&device);
    let mut text = "[heartbeat]\nperiod = \"1s\"\nmisses = 3\n".to_owned();
    for app_id in 1..=APPLICATIONS {
        text += &format!(
            "[instances.i{app_id}]\ncommand = [{program:?}, \"{app_id}\"]\nheartbeat = {{ app-id = {app_id} }}\n"
        );
    }
    add(&device, "cameras", &text);
    until_all_report(&device);
    device
}

/// Waits until the broker that runs now has heard all of them.
#[track_caller]
fn until_all_report(device: &Device) {
    until("all applications report", || {
        let alive = rows(device).iter().filter(|row| row.reports > 0).count();
        (i32::try_from(alive).unwrap() == APPLICATIONS).then_some(())
    });
}

/// Process and generation of every instance; none was missed.
#[track_caller]
fn unharmed(device: &Device) -> Vec<(i64, i64)> {
    let listed = device.json(&["service", "list", "cameras"]);
    let of = |app_id: i32| {
        let seen = &listed["cameras"]["instances"][format!("i{app_id}")];
        assert_eq!(seen["restarts"], 0, "{seen}");
        assert_eq!(seen["missed"].as_u64().unwrap_or(0), 0, "{seen}");
        (seen["pid"].as_i64().unwrap(), seen["generation"].as_i64().unwrap())
    };
    (1..=APPLICATIONS).map(of).collect()
}

#[test]
fn a_broker_that_is_killed_has_everybody_registered_again_within_a_period_and_raises_no_alarm() {
    let device = twenty();
    let before = unharmed(&device);
    let mut events = Events::start(&device, &["heartbeat.missed", MARKER]);
    for _ in 0..3 {
        let pid = device.until_pid("heartbeat");
        let killed = Instant::now();
        kill(pid, Signal::KILL);
        until_other_pid(&device, "heartbeat", pid);
        device.ctl_ok(&["wait-for", "heartbeat"]);
        let back = killed.elapsed();
        until_all_report(&device);
        let all = killed.elapsed();
        eprintln!("the broker was back after {back:?}, all {APPLICATIONS} reported after {all:?}");
        // A period is enough for them; the machine may be busy.
        assert!(all - back < DEADLINE, "{all:?}");
        assert_eq!(count(&device, "machine/missed"), 0);
    }
    assert_eq!(unharmed(&device), before);
    events.assert_none(&device);
}

#[test]
fn a_supervisor_that_is_killed_restarts_nobody_and_the_next_one_knows_whom_to_expect() {
    let device = twenty();
    let before = unharmed(&device);
    replace_supervisor(&device);
    // Only the next supervisor can say whom a broker without memory has to expect, and with which key.
    let pid = device.until_pid("heartbeat");
    kill(pid, Signal::KILL);
    until_other_pid(&device, "heartbeat", pid);
    device.ctl_ok(&["wait-for", "heartbeat"]);
    until_all_report(&device);
    assert_eq!(unharmed(&device), before);
    // And it still does something about it.
    let (first, generation) = before[0];
    kill(i32::try_from(first).unwrap(), Signal::STOP);
    let again = until("it is started and registered again", || {
        row(&device, 1).filter(|row| i64::from(row.generation) > generation && row.reports > 0)
    });
    assert_ne!(again.pid.map(i64::from), Some(first));
    assert_eq!(count(&device, "machine/missed"), 1);
}

#[test]
fn broker_and_supervisor_killed_together_restart_nobody() {
    let device = twenty();
    let before = unharmed(&device);
    let pid = device.until_pid("heartbeat");
    kill(device.supervisor_pid(), Signal::KILL);
    kill(pid, Signal::KILL);
    until("another supervisor answers", || device.ctl(&["status"]).status.success().then_some(()));
    until_other_pid(&device, "heartbeat", pid);
    device.ctl_ok(&["wait-for", "heartbeat"]);
    until_all_report(&device);
    assert_eq!(unharmed(&device), before);
}

#[test]
fn a_broker_that_was_frozen_for_longer_than_the_deadline_suspects_itself() {
    let device = device();
    let relay = Relay::start(broker(&device));
    let terms = "period = \"300ms\"\nmisses = 3\n";
    add(&device, "camera", &reports(&example(&device), 7, Some(relay.port), terms));
    until_reports(&device, 7, 3);
    expect(&device, 8, 1, 300);
    let reporter = Reporter::start(settings(relay.address(), 8, 1));
    let (camera, pid) = (device.until_pid("camera"), device.until_pid("heartbeat"));
    for _ in 0..2 {
        let stalls = count(&device, "machine/stalls");
        kill(pid, Signal::STOP);
        // So that nothing lies in its socket when it wakes up.
        relay.set(Faults::CUT);
        // Each of its reports waits in vain for half a period: three deadlines pass.
        reporter.until_more(16);
        kill(pid, Signal::CONT);
        until("it knows", || (count(&device, "machine/stalls") > stalls).then_some(()));
        relay.set(Faults::default());
        reporter.until_more(10);
        until_reports(&device, 7, 3);
    }
    assert_eq!(row(&device, 8).unwrap().state, State::Alive);
    assert_eq!(count(&device, "machine/missed"), 0);
    assert_eq!((device.until_pid("camera"), device.until_pid("heartbeat")), (camera, pid));
}
