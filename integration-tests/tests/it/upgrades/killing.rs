//! SIGKILL for each process of the device while a bundle comes in: the running slot is untouched, and pushing again ends whole.

use std::fs;

use rustix::process::Signal;
use testkit::{Process, children_of, processes_of, until};

use super::{Bench, MIB, good, holds};
use crate::support::{kill, replace_supervisor};

const IMAGE: usize = 3 * MIB;

/// Kills something after each of these parts of an image, then pushes once more.
#[track_caller]
fn survives(kill: impl Fn(&mut Bench)) {
    let mut bench = Bench::started();
    for (round, part) in [1, 5, 7].into_iter().enumerate() {
        let name = format!("version{round}");
        let image = good(&name, IMAGE);
        bench.bundle(
            "next.vestal",
            &format!("{}", round + 2),
            round as u64 + 2,
            &[("application", &image)],
        );
        let (slot, before) = (bench.in_use(), bench.relay.sent());
        let running = fs::read(&slot).unwrap();
        let push = bench.begin(&bench.push("next.vestal"));
        bench.until_sent(before, (part * IMAGE / 8) as u64);
        kill(&mut bench);
        assert!(fs::read(&slot).unwrap() == running, "round {round}");
        bench.until_up();
        // It may have gone on by itself.
        let _ = push.wait();
        assert!(fs::read(&slot).unwrap() == running, "round {round}");
        bench.vestal_ok(&bench.push("next.vestal"));
        assert_ne!(bench.in_use(), slot);
        assert!(holds(&bench.in_use(), &image), "round {round}");
        assert!(fs::read(&slot).unwrap() == running, "round {round}");
        assert_eq!(bench.runs().last().unwrap(), &name);
        bench.until_up();
    }
}

fn agent(bench: &Bench) -> i32 {
    bench.device.until_pid("upgrade")
}

/// Waits until another agent than this one listens.
fn until_other_agent(bench: &Bench, old: i32) {
    until("another agent is ready", || {
        let seen = bench.device.instance("upgrade", "instance1");
        (seen["pid"] != old && seen["state"] == "ready").then_some(())
    });
}

#[test]
fn the_agent_may_be_killed_while_a_bundle_comes_in() {
    survives(|bench| {
        let pid = agent(bench);
        kill(pid, Signal::KILL);
        until_other_agent(bench, pid);
    });
}

#[test]
fn the_writer_may_be_killed_while_a_bundle_comes_in() {
    survives(|bench| {
        let pid = agent(bench);
        let writer = until("there is a writer", || children_of(pid).first().copied());
        kill(writer, Signal::KILL);
        if rustix::process::geteuid().is_root() {
            // Without rights it can't start another one.
            until_other_agent(bench, pid);
        }
    });
}

#[test]
fn the_supervisor_may_be_killed_while_a_bundle_comes_in() {
    survives(|bench| replace_supervisor(&bench.device));
}

#[test]
fn the_keeper_may_be_killed_while_a_bundle_comes_in() {
    survives(|bench| {
        bench.device.kill_keeper();
        until("its supervisor leaves", || {
            let left = processes_of(&bench.device.run_dir());
            let supervises = |process: &Process| process.command.contains("vestal-supervisor");
            (!left.iter().any(supervises)).then_some(())
        });
        // Where it was not PID 1, the agent lives on and is adopted.
        bench.device.start();
    });
}
