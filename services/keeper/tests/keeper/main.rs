//! The real keeper in a folder of its own. The tests play the supervisor: the keeper starts a script that runs this test
//! program again, which passes its end of the channel to the test that waits for it (see [`device`]).

mod device;
mod executor;
mod extremes;
mod pid_one;

use std::{
    os::fd::AsFd as _,
    process::{Command, Stdio},
};

use protocol::keeper::{
    Disposition, Exit, MESSAGE_SIZE, Outcome, Phase, Report, Request, ShutdownKind, Stage, Watchdog,
};

use crate::device::{Device, lives};

/// What makes a plan impossible.
type Change = fn(&mut protocol::keeper::plan::Plan);

const ARMED: Disposition = Disposition {
    armed_after_ms: Some(0),
    alone_after_ms: None,
    on_success: false,
    main_only: false,
};
const ALONE: Disposition = Disposition {
    armed_after_ms: None,
    alone_after_ms: Some(1),
    on_success: false,
    main_only: false,
};
const PASSIVE: Disposition =
    Disposition { armed_after_ms: None, alone_after_ms: None, on_success: false, main_only: false };

#[test]
fn a_service_is_spawned_and_its_exit_is_reported() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    assert_eq!(supervisor.slots.len(), 0);
    supervisor.define(4, &device.plan(4, "exit 7"), PASSIVE);
    assert_eq!(supervisor.ask(&Request::Spawn { slot: 4, expected: 0 }), Outcome::Done);
    let state = supervisor.wait(4, |state| state.phase == Phase::Idle && state.generation == 1);
    assert_eq!((state.exit, state.exit_generation), (Exit::Code(7), 1));
    assert!(state.exited_at >= state.spawned_at && state.spawned_at.0 > 0);
}

#[test]
fn an_armed_slot_is_respawned_once_and_a_stale_generation_is_told() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let first = supervisor.run(0, &device.plan(0, "exec sleep 1000"), ARMED);
    let kill = |generation| Request::Signal { slot: 0, generation, signal: 9, tree: false };
    assert_eq!(supervisor.ask(&kill(1)), Outcome::Done);
    let second = supervisor.wait(0, |state| state.generation == 2 && state.pid != 0);
    assert!(second.answered_alone && second.pid != first.pid);
    assert_eq!(second.exit, Exit::Signal { signal: 9, core: false });
    assert_eq!(supervisor.ask(&kill(1)), Outcome::Stale);
    assert_eq!(supervisor.ask(&Request::Spawn { slot: 0, expected: 2 }), Outcome::Stale);
    assert_eq!(supervisor.ask(&Request::Spawn { slot: 9, expected: 0 }), Outcome::NoSuchSlot);
    assert_eq!(supervisor.ask(&kill(2)), Outcome::Done);
    supervisor.wait(0, |state| state.phase == Phase::Idle && state.exit_generation == 2);
    assert_eq!(supervisor.ask(&Request::Forget { slot: 0 }), Outcome::Done);
}

#[test]
fn a_killed_supervisor_gets_everything_handed_over_again_and_services_run_on() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let pid = supervisor.run(1, &device.plan(1, "exec sleep 1000"), ALONE).pid;
    let doomed = supervisor.run(2, &device.plan(2, "exec sleep 1000"), ALONE).pid;
    for n in 0..80 {
        supervisor.deposit(&format!("socket.{n}"));
    }
    // Both are dead before the keeper looks, and it looks at the older one first.
    device.stop_keeper();
    let gone = supervisor.kill();
    device.kill_hard(doomed);
    device.wait_corpses(&[gone, doomed]);
    device.go_on_keeper();
    let mut next = device.supervisor();
    assert_eq!(next.starts, 2);
    assert_eq!(next.deposits.len(), 80, "more than one batch");
    assert_eq!((next.slots[&1].pid, next.slots[&1].phase), (pid, Phase::Running));
    let state = next.wait(2, |state| state.generation == 2 && state.pid != 0);
    assert!(lives(pid) && lives(state.pid));
    let again = next.wait(2, |state| state.phase == Phase::Running);
    assert!(again.answered_alone, "nobody else was there to answer");
}

#[test]
fn a_killed_keepers_services_are_adopted_by_the_next_one_and_none_is_doubled() {
    let mut device = Device::start();
    let mut supervisor = device.supervisor();
    let plan = device.plan(3, "echo x >> starts; exec sleep 1000");
    let pid = supervisor.run(3, &plan, PASSIVE).pid;
    let lost = supervisor.run(5, &device.plan(5, "exec sleep 1000"), PASSIVE).pid;
    device.kill_keeper();
    device.kill_hard(lost);
    drop(supervisor);
    device.start_keeper();
    let mut next = device.supervisor();
    let state = next.slots[&3];
    assert_eq!((state.pid, state.generation, state.phase), (pid, 1, Phase::Running));
    let gone = next.wait(5, |state| state.phase == Phase::Idle && state.exit_generation == 1);
    let killed = Exit::Signal { signal: 9, core: false };
    assert!(
        gone.exit == Exit::Lost || gone.exit == killed,
        "it may be gone before it is looked for"
    );
    assert_eq!(next.ask(&Request::Spawn { slot: 5, expected: 1 }), Outcome::NoSuchSlot);

    next.define(3, &plan, PASSIVE);
    assert_eq!(next.ask(&Request::Spawn { slot: 3, expected: 1 }), Outcome::Stale);
    let term = Request::Signal { slot: 3, generation: 1, signal: 15, tree: false };
    assert_eq!(next.ask(&term), Outcome::Done);
    let ended = next.wait(3, |state| state.phase == Phase::Idle);
    let told = Exit::Signal { signal: 15, core: false };
    assert_eq!(ended.exit, told, "a corpse tells, and since 6.15 a pidfd does");
    assert_eq!(device.read("starts"), "x\n");
}

#[test]
fn twenty_re_executions_change_nothing_that_anyone_can_see() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let pid = supervisor.run(1, &device.plan(1, "exec sleep 1000"), ARMED).pid;
    supervisor.define(2, &device.plan(2, "true"), PASSIVE);
    supervisor.deposit("web.80");
    for round in 0..20 {
        assert_eq!(supervisor.ask(&Request::Starts), Outcome::Count(round + 1));
        assert_eq!(supervisor.ask(&Request::Reexec), Outcome::Done, "round {round}");
    }
    assert!(lives(pid));
    device.kill_hard(pid);
    let state = supervisor.wait(1, |state| state.generation == 2 && state.pid != 0);
    assert_eq!(state.exit, Exit::Signal { signal: 9, core: false });
    supervisor.kill();
    let next = device.supervisor();
    assert_eq!((next.slots.len(), next.deposits.len(), next.starts), (2, 1, 2));
    assert_eq!(next.deposits[0].0, "web.80");
}

#[test]
fn a_failing_spawn_says_at_which_stage_and_why() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let cases: [(Change, Stage, i32); 6] = [
        (|plan| plan.programs = vec!["/none/a".into(), "/none/b".into()], Stage::Exec, 2),
        (|plan| plan.programs = vec!["/etc/passwd".into()], Stage::Exec, 13),
        (|plan| plan.directory = "/none".into(), Stage::Directory, 2),
        (|plan| plan.stdout = "/none/out".into(), Stage::Stdio, 2),
        (|plan| plan.sockets = vec!["nobody".into()], Stage::Sockets, 2),
        (|plan| plan.lock = "/none/lock".into(), Stage::Lock, 2),
    ];
    for (expected, (change, stage, errno)) in (0..).zip(cases) {
        let mut plan = device.plan(0, "true");
        change(&mut plan);
        supervisor.define(0, &plan, ARMED);
        assert_eq!(supervisor.ask(&Request::Spawn { slot: 0, expected }), Outcome::Done);
        let state = supervisor.wait(0, |state| state.exit_generation == expected + 1);
        assert_eq!(state.exit, Exit::SpawnFailed { stage, errno });
        assert_eq!(state.phase, Phase::Idle, "it is not tried again");
    }
}

#[test]
fn sockets_and_the_readiness_pipe_have_their_numbers_and_nothing_else_leaks() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    supervisor.deposit("a");
    supervisor.deposit("b");
    let mut plan =
        device.plan(0, "echo $LISTEN_PID $$ > pids; ls /proc/self/fd | tr '\\n' ' ' > fds");
    plan.sockets = vec!["b".into(), "a".into()];
    plan.ready = Some(("/dev/null".into(), 9));
    supervisor.define(0, &plan, PASSIVE);
    assert_eq!(supervisor.ask(&Request::Spawn { slot: 0, expected: 0 }), Outcome::Done);
    supervisor.wait(0, |state| state.exit == Exit::Code(0));
    // 0 to 2, two sockets, the lock, the folder that ls reads, the readiness pipe.
    assert_eq!(device.read("fds"), "0 1 2 3 4 5 6 9 ");
    let pids = device.read("pids");
    let (told, own) = pids.trim().split_once(' ').expect("two pids");
    assert_eq!(told, own);
}

#[test]
fn what_a_main_process_leaves_behind_is_killed_before_the_next_generation() {
    leftovers_are_killed(&[]);
}

#[test]
fn an_old_kernel_without_clone3_and_cgroup_kill_does_the_same_more_slowly() {
    leftovers_are_killed(&[("VESTAL_KEEPER_OLD_KERNEL", "1")]);
}

fn leftovers_are_killed(variables: &[(&'static str, &'static str)]) {
    for cgroup in [false, true] {
        let device = Device::start_with(variables);
        let mut supervisor = device.supervisor();
        let Some(folder) = device.cgroup(cgroup) else { continue };
        let script = "sleep 1000 & echo $! >> leftovers; setsid sleep 1000 & echo $! >> leftovers; \
                      while :; do sleep 1000; done";
        supervisor.define_in(
            0,
            &device.plan(0, script),
            ARMED,
            folder.as_ref().map(|it| it.as_fd()),
        );
        assert_eq!(supervisor.ask(&Request::Spawn { slot: 0, expected: 0 }), Outcome::Done);
        let pid = supervisor.wait(0, |state| state.phase == Phase::Running).pid;
        let left = device.wait_lines("leftovers", 2);
        device.kill_hard(pid);
        supervisor.wait(0, |state| state.generation == 2 && state.phase == Phase::Running);
        for pid in &left[..2] {
            assert!(!lives(*pid), "cgroup {cgroup}: {pid} is left");
        }
        let generation = 2;
        let tree = Request::Signal { slot: 0, generation, signal: 9, tree: true };
        supervisor.ask(&tree);
        supervisor.wait(0, |state| state.phase == Phase::Idle);
    }
}

#[test]
fn with_main_only_what_is_left_runs_on_beside_the_next_generation() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let script = "sleep 1000 & echo $! >> leftovers; exec sleep 1000";
    let disposition = Disposition { main_only: true, ..ARMED };
    let pid = supervisor.run(0, &device.plan(0, script), disposition).pid;
    let left = device.wait_lines("leftovers", 1)[0];
    device.kill_hard(pid);
    supervisor.wait(0, |state| state.generation == 2 && state.phase == Phase::Running);
    assert!(lives(left));
    device.kill_hard(left);
    device.kill_hard(device.wait_lines("leftovers", 2)[1]);
}

#[test]
fn garbage_is_told_and_harms_nothing() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let pid = supervisor.run(0, &device.plan(0, "exec sleep 1000"), PASSIVE).pid;
    supervisor.send_raw(&[0xff; 10], &[]);
    assert_eq!(supervisor.answer_to(0), Outcome::Malformed);
    let mut unknown = [0; MESSAGE_SIZE];
    unknown[..5].copy_from_slice(&[7, 0, 1, 0, 99]);
    supervisor.send_raw(&unknown, &[]);
    assert_eq!(supervisor.answer_to(0x0001_0007), Outcome::Malformed);
    let null = std::fs::File::open("/dev/null").unwrap();
    let define = Request::Define { slot: 0, identity: 1, disposition: PASSIVE, cgroup: false };
    assert_eq!(supervisor.ask(&define), Outcome::Malformed, "no plan");
    assert_eq!(supervisor.ask_with(&define, &[null.as_fd()]), Outcome::Malformed, "no memfd");
    let fed = Watchdog { run: true, magic_close: true, timeout_s: 30, frequency_s: 5, lease_s: 60 };
    assert_eq!(supervisor.ask(&Request::Watchdog(fed)), Outcome::NotPidOne);
    let reboot = Request::Shutdown { kind: ShutdownKind::Reboot, exit_code: 0 };
    assert_eq!(supervisor.ask(&reboot), Outcome::NotPidOne);
    assert!(lives(pid));
}

#[test]
fn a_second_keeper_refuses_and_says_who_runs() {
    let device = Device::start();
    let _supervisor = device.supervisor();
    let second = device.keeper_command().stderr(Stdio::piped()).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(text.contains(&format!("(pid {})", device.keeper_pid())), "{text}");
}

#[test]
fn an_ordered_stop_goes_through_the_supervisor_and_ends_with_its_code() {
    let mut device = Device::start();
    let mut supervisor = device.supervisor();
    device.terminate();
    supervisor.wait_report(|report| {
        matches!(report, Report::ShutdownWanted { kind: ShutdownKind::Exit })
    });
    let leave = Request::Shutdown { kind: ShutdownKind::Exit, exit_code: 5 };
    assert_eq!(supervisor.ask(&leave), Outcome::Done);
    supervisor.exit(0);
    assert_eq!(device.wait_keeper(), Some(5));
}

#[test]
fn a_second_signal_kills_everything_at_once() {
    let mut device = Device::start();
    let mut supervisor = device.supervisor();
    let pid =
        supervisor.run(0, &device.plan(0, "trap '' TERM; while :; do sleep 1; done"), ARMED).pid;
    device.terminate();
    supervisor.wait_report(|report| matches!(report, Report::ShutdownWanted { .. }));
    device.terminate();
    assert_eq!(device.wait_keeper(), Some(0));
    assert!(!lives(pid));
}

#[test]
fn a_supervisor_that_refuses_its_configuration_ends_the_keeper_with_the_same_code() {
    let mut device = Device::start();
    device.supervisor_before_handover().exit(2);
    assert_eq!(device.wait_keeper(), Some(2));
}

#[test]
fn a_stopped_process_is_seen_and_its_going_on_too() {
    let device = Device::start();
    let mut supervisor = device.supervisor();
    supervisor.run(0, &device.plan(0, "exec sleep 1000"), PASSIVE);
    let signal = |signal| Request::Signal { slot: 0, generation: 1, signal, tree: false };
    supervisor.ask(&signal(19));
    supervisor.wait(0, |state| state.suspended);
    supervisor.ask(&signal(18));
    supervisor.wait(0, |state| !state.suspended);
}

#[test]
fn help_names_the_variable_for_another_supervisor() {
    let output = Command::new(env!("CARGO_BIN_EXE_vestal-keeper")).arg("--help").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("VESTAL_SUPERVISOR"));
}
