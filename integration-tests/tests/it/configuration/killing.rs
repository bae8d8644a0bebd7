//! `kill -9` at any moment while files change: what a file says last is in force in the end, and a change whose answer was
//! lost with the watcher is not done twice. The seed is printed and can be given as VESTAL_SEED.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::process::{Pid, Signal, kill_process};
use testkit::{Process, processes_of, until};

use super::{Watched, uci_text};

const ROUNDS: u64 = 12;
/// From before the watcher looks to after the trigger's script has ended.
const MOMENTS_NS: u64 = 60_000_000;
/// As it is built in, but started again at once however often it dies, and soon if nobody heard that it is ready.
const WATCHER: &str = "command = [\"${VESTAL_BIN_DIR}/vestal-config\"]
respawn = { threshold = 0, timeout = 0, retry = 0 }
wants = [\"registry\"]
[readiness]
notify = true
timeout = \"5s\"
[[sockets]]
name = \"control\"
listen = \"run:config.sock\"
mode = \"0666\"
";

/// A small generator of random numbers (xorshift64*), so that a seed repeats a run's choices.
struct Random(u64);

impl Random {
    fn of_this_run() -> Self {
        let seed = std::env::var("VESTAL_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or(u64::from(std::process::id()) | 1);
        eprintln!("VESTAL_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }

    fn wait_a_moment(&mut self) {
        let tv_nsec = i64::try_from(self.below(MOMENTS_NS)).expect("60 milliseconds fit");
        let _ = rustix::event::poll(&mut [], Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec }));
    }
}

/// Changes the package again and again, and lets `strike` kill somebody at a random moment of what follows. Each change is
/// seen, at most so many times.
fn strike_again_and_again(most: usize, strike: impl Fn(&mut Watched)) {
    let mut random = Random::of_this_run();
    let mut watched = Watched::new();
    watched.device.define("config", WATCHER);
    watched.write("hello", &uci_text("start"));
    watched.counted("hello", &watched.uci("hello"));
    watched.start();
    for round in 0..ROUNDS {
        let value = uci_text(&format!("value-{round}."));
        watched.write_over("hello", &value);
        random.wait_a_moment();
        strike(&mut watched);
        watched.until_seen("hello", &format!("value-{round}."));
        // A comment changes nothing, whoever is new here. Renamed: who looks for the first time while a file is truncated and
        // written again sees an empty one.
        watched.write_over("hello", &format!("# later\n{value}"));
        watched.until_watched();
        watched.settle();
        // What is done again must not be taken for what the next change sets off.
        watched.until_idle("hello");
    }
    let seen = watched.seen("hello");
    for round in 0..ROUNDS {
        let value = format!("value-{round}.");
        let times = seen.iter().filter(|line| line.contains(&value)).count();
        assert!((1..=most).contains(&times), "round {round}: {seen:?}");
    }
}

/// By /proc: whoever could be asked may just have been killed.
fn kill_watcher(watched: &Watched) {
    watched.device.processes("config").iter().for_each(|process| strike(process.pid));
}

/// The keeper's own child: a script that is just being started has the same name for a moment.
fn kill_supervisor(watched: &Watched) {
    let keeper = watched.device.keeper_pid();
    let supervisor = until("the supervisor runs", || {
        let all = processes_of(&watched.device.run_dir());
        let named = |it: &Process| it.parent == keeper && it.command.contains("vestal-supervisor");
        all.into_iter().find(|it| named(it) && it.state != 'Z')
    });
    strike(supervisor.pid);
}

/// Somebody else may have been quicker.
fn strike(pid: i32) {
    let pid = Pid::from_raw(pid).expect("a pid is positive");
    let _ = kill_process(pid, Signal::KILL);
}

#[test]
fn a_watcher_that_is_killed_misses_no_change_and_doubles_none() {
    strike_again_and_again(1, |watched| kill_watcher(watched));
}

/// A script that ran when the supervisor died is run again: what it did is not known.
#[test]
fn a_supervisor_that_is_killed_forgets_no_change() {
    strike_again_and_again(2, |watched| kill_supervisor(watched));
}

#[test]
fn both_killed_at_once_forget_no_change() {
    strike_again_and_again(2, |watched| {
        kill_watcher(watched);
        kill_supervisor(watched);
    });
}

#[test]
fn a_keeper_that_is_killed_and_started_again_forgets_no_change() {
    strike_again_and_again(2, |watched| {
        watched.device.kill_keeper();
        watched.device.start();
    });
}

#[test]
fn whoever_is_killed_while_files_change_all_the_time_the_last_contents_are_in_force() {
    let names = ["one", "two", "three"];
    let mut random = Random::of_this_run();
    let mut watched = Watched::new();
    watched.device.define("config", WATCHER);
    for name in names {
        watched.write(name, &uci_text("start"));
        watched.counted(name, &watched.uci(name));
    }
    watched.start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut count = 0_u64;
            while !over.load(Relaxed) {
                count += 1;
                for name in names {
                    watched.write_over(name, &uci_text(&format!("value-{count}.")));
                }
                let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                let _ = rustix::event::poll(&mut [], Some(&pause));
            }
        });
        for _ in 0..ROUNDS * 2 {
            random.wait_a_moment();
            let who = random.below(3);
            if who != 0 {
                kill_watcher(&watched);
            }
            if who != 1 {
                kill_supervisor(&watched);
            }
        }
        over.store(true, Relaxed);
        writing.join().expect("the files are ours");
    });
    for name in names {
        watched.write(name, &uci_text(&format!("end-of-{name}.")));
    }
    for name in names {
        watched.until_seen(name, &format!("end-of-{name}."));
    }
    watched.settle();
    for name in names {
        watched.until_seen(name, &format!("end-of-{name}."));
        watched.until_package(name, "current");
    }
}

#[test]
fn files_that_change_while_nobody_watches_count_afterwards_and_only_then() {
    let mut watched = Watched::new();
    for name in ["hello", "other"] {
        watched.write(name, &uci_text("1"));
        watched.counted(name, &watched.uci(name));
    }
    watched.start();
    watched.device.ctl_ok(&["service", "stop", "config"]);
    watched.write("hello", &uci_text("2"));
    watched.write("other", &format!("{}# a comment\n", uci_text("1")));
    watched.device.ctl_ok(&["service", "start", "config"]);
    watched.until_seen("hello", "value '2'");
    // There and back again is no change.
    watched.device.ctl_ok(&["service", "stop", "config"]);
    watched.write("hello", &uci_text("3"));
    watched.write("hello", &uci_text("2"));
    watched.device.ctl_ok(&["service", "start", "config"]);
    watched.until_watched();
    watched.settle();
    assert_eq!((watched.seen("hello").len(), watched.seen("other").len()), (1, 0));
}
