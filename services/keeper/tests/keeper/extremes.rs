//! What seldom happens: no supervisor comes back, one hangs, a keeper dies in the middle of a spawn, a program is busy.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    process::Command,
};

use protocol::keeper::{
    DepositName, Exit, Outcome, Phase, Request, Stage,
    ring::{self, RING_NAME, RING_SIZE},
};

use crate::{
    ALONE, PASSIVE,
    device::{Device, Supervisor, lives},
};

/// What the ring that was handed over holds of a slot.
fn ring_text(supervisor: &mut Supervisor, slot: u32) -> Option<String> {
    let (_, memfd) = supervisor.deposits.iter().find(|(name, _)| name == RING_NAME)?;
    let mut memory = vec![0; RING_SIZE];
    fs::File::from(memfd.try_clone().unwrap()).read_exact_at(&mut memory, 0).unwrap();
    assert_eq!(ring::dropped(&memory), Ok(0));
    let mut text = Vec::new();
    for record in ring::records(&memory).unwrap().filter(|record| record.slot == slot) {
        text.extend_from_slice(record.text);
    }
    Some(String::from_utf8(text).unwrap())
}

/// Slot 2 prints more than a pipe holds, says so in a file, and lives on.
fn run_talker(device: &Device, supervisor: &mut Supervisor) -> i32 {
    assert!(Command::new("mkfifo").arg(device.path("out")).status().unwrap().success());
    let script = "i=0; while [ $i -lt 4000 ]; do echo \"line $i, one of quite a few\"; i=$((i+1)); \
                  done; echo > printed; exec sleep 1000";
    let mut plan = device.plan(2, script);
    plan.stdout = device.path("out").to_str().unwrap().to_owned();
    supervisor.run(2, &plan, ALONE).pid
}

#[test]
fn while_a_supervisor_lives_but_does_not_answer_services_print_on_too() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    run_talker(&device, &mut supervisor);
    supervisor.kill();
    let silent = device.supervisor_before_handover();
    device.wait_file("printed");
    assert!(lives(silent.pid()), "it has not been given up yet");
}

#[test]
fn while_no_supervisor_comes_back_services_print_on_and_the_ring_keeps_it_for_the_next_one() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let pid = run_talker(&device, &mut supervisor);
    assert!(!device.path("printed").exists(), "the pipe is full, and nobody drains it");
    device.supervisors_are_down(true);
    supervisor.kill();
    device.wait_file("printed");
    // After ten failures, the first one's death included, they are started to rescue what can be.
    device.wait_starts(|all| all.len() >= 11);
    device.wait_starts(|all| all.iter().position(|args| args.contains("--rescue")) == Some(10));
    device.supervisors_are_down(false);

    let mut next = device.supervisor();
    assert_eq!(next.ask(&Request::Reexec), Outcome::Done);
    let text = ring_text(&mut next, 2).expect("the ring was handed over");
    assert!(text.starts_with("line 0, ") && text.ends_with("line 3999, one of quite a few\n"));
    assert_eq!(text.lines().count(), 4000);
    next.kill();
    let mut again = device.supervisor();
    assert_eq!(ring_text(&mut again, 2).as_ref(), Some(&text), "it was not withdrawn yet");
    let name = DepositName::new(RING_NAME).unwrap();
    assert_eq!(again.ask(&Request::Withdraw { name }), Outcome::Done);
    again.kill();
    let mut last = device.supervisor();
    assert_eq!(ring_text(&mut last, 2), None);
    assert_eq!(last.slots[&2].pid, pid);
}

#[test]
fn a_supervisor_that_hangs_is_aborted_then_killed_and_replaced() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let pid = supervisor.run(0, &device.plan(0, "exec sleep 1000"), PASSIVE).pid;
    // Stopped, it does not even die of SIGABRT.
    let stop = rustix::process::Pid::from_raw(supervisor.pid()).unwrap();
    rustix::process::kill_process(stop, rustix::process::Signal::STOP).unwrap();
    device.kill_hard(pid);
    let next = device.supervisor();
    assert_eq!(next.starts, 2);
    assert!(!lives(supervisor.pid()));
    assert_eq!(next.slots[&0].exit, Exit::Signal { signal: 9, core: false });
}

#[test]
fn without_a_supervisor_the_keeper_itself_terminates_everything() {
    let mut device = Device::start();
    let mut supervisor = device.supervisor();
    let script = "trap 'echo > asked; exit 0' TERM; echo > ready; while :; do sleep 0.05; done";
    let pid = supervisor.run(0, &device.plan(0, script), ALONE).pid;
    device.wait_file("ready");
    device.supervisors_are_down(true);
    supervisor.kill();
    device.wait_starts(|all| all.len() >= 5);
    device.terminate();
    assert_eq!(device.wait_keeper(), Some(0));
    assert!(device.path("asked").exists() && !lives(pid));
}

#[test]
fn a_supervisor_that_survives_its_keeper_is_killed_by_the_next_one() {
    let mut device = Device::start();
    let supervisor = device.supervisor();
    device.kill_keeper();
    assert!(lives(supervisor.pid()));
    device.start_keeper();
    let next = device.supervisor();
    assert!(!lives(supervisor.pid()) && lives(next.pid()));
    drop(supervisor);
}

#[test]
fn a_keeper_that_died_in_the_middle_of_a_spawn_leaves_a_process_that_is_adopted() {
    let mut device = Device::start();
    let mut supervisor = device.supervisor();
    let pid = supervisor.run(1, &device.plan(1, "exec sleep 1000"), PASSIVE).pid;
    let other = supervisor.run(2, &device.plan(2, "exec sleep 1000"), PASSIVE).pid;
    device.kill_keeper();
    drop(supervisor);
    // As clone3 leaves a record: starting, the pid, and the time before it. The other one's pid went to a later process.
    let records =
        fs::File::options().read(true).write(true).open(device.path("run/keeper/records"));
    let records = records.unwrap();
    let mut stat = String::new();
    fs::File::open(format!("/proc/{pid}/stat")).unwrap().read_to_string(&mut stat).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let started: u64 = fields.split(' ').nth(19).unwrap().parse().unwrap();
    for (slot, time) in [(1, started), (2, started - 100_000.min(started))] {
        let at = 64 + 64 * slot;
        records.write_all_at(&2_u32.to_ne_bytes(), at).unwrap();
        records.write_all_at(&[0; 12], at + 20).unwrap();
        records.write_all_at(&time.to_ne_bytes(), at + 32).unwrap();
    }
    device.start_keeper();
    let next = device.supervisor();
    assert_eq!((next.slots[&1].phase, next.slots[&1].pid), (Phase::Running, pid));
    assert_eq!(next.slots[&2].exit, Exit::Lost);
    device.kill_hard(other);
    device.kill_hard(pid);
}

#[test]
fn a_program_that_is_being_written_is_waited_for_and_in_the_end_told() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let program = device.path("program");
    fs::copy("/bin/sleep", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let writer = fs::File::options().write(true).open(&program).unwrap();
    let mut plan = device.plan(0, "");
    plan.programs = vec![program.to_str().unwrap().to_owned()];
    plan.argv = vec!["sleep".into(), "1000".into()];
    supervisor.define(0, &plan, PASSIVE);
    assert_eq!(supervisor.ask(&Request::Spawn { slot: 0, expected: 0 }), Outcome::Done);
    let state = supervisor.wait(0, |state| state.exit_generation == 1);
    assert_eq!(state.exit, Exit::SpawnFailed { stage: Stage::Exec, errno: 26 });
    assert!(state.exited_at.since(state.spawned_at).as_millis() >= 2000);

    assert_eq!(supervisor.ask(&Request::Spawn { slot: 0, expected: 1 }), Outcome::Done);
    assert_eq!(supervisor.slots[&0].phase, Phase::Executing);
    drop(writer);
    let state = supervisor.wait(0, |state| state.phase == Phase::Running);
    assert_eq!((state.generation, state.exit_generation), (2, 1));
}
