//! The supervisor is killed with SIGKILL at random moments under fifty services, while a client starts, stops and defines.
//!
//! At most one live process an instance, none lost, none started twice, every call ends with a result or a clear error. The
//! number of kills is VESTAL_KILLS (1,000 by default), the seed is printed and can be given as VESTAL_SEED.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::process::Signal;
use testkit::{Device, processes_of, until};

use crate::support::{demo, kill};

const SERVICES: usize = 50;

/// A small generator of random numbers (xorshift64*), so that a seed repeats a run's choices.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn name(service: u64) -> String {
    format!("s{service:02}")
}

#[test]
fn a_supervisor_killed_at_a_thousand_random_moments_loses_and_doubles_nothing() {
    let seed = number("VESTAL_SEED", u64::from(std::process::id()) | 1);
    eprintln!("VESTAL_SEED={seed}");
    let mut device = Device::new();
    for service in 0..SERVICES as u64 {
        device.define(&name(service), &demo(&[]));
    }
    device.start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| ask_and_change(&device, seed, &over));
        kill_again_and_again(&device, Random(seed ^ 0x9E37_79B9), number("VESTAL_KILLS", 1000));
        over.store(true, Relaxed);
        let wanted = client.join().expect("every call ended with a result or a clear error");
        check(&device, &wanted);
    });
}

fn kill_again_and_again(device: &Device, mut random: Random, kills: u64) {
    for _ in 0..kills {
        let supervisor = device.supervisor_pid();
        // A moment between "not yet handed over" and "idle again", busy with calls all the while.
        let nanoseconds = i64::try_from(random.below(30_000_000)).expect("thirty milliseconds fit");
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let _ = rustix::event::poll(&mut [], Some(&pause));
        if testkit::alive(supervisor) {
            kill(supervisor, Signal::KILL);
        }
        at_most_one_a_service(device);
    }
}

/// No instance has two live main processes, not even for a moment.
fn at_most_one_a_service(device: &Device) {
    let mut seen: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for process in processes_of(&device.run_dir()) {
        if let (Some(service), true) =
            (process.service, process.state != 'Z' && testkit::alive(process.pid))
        {
            seen.entry(service).or_default().push(process.pid);
        }
    }
    for (service, mut pids) in seen {
        // Processes come and go while /proc is read: what is counted must still be there afterwards.
        pids.retain(|pid| testkit::alive(*pid));
        assert!(pids.len() <= 1, "{service} runs {} times: {pids:?}", pids.len());
    }
}

/// Starts, stops and sets services at random; returns what each was last asked to be, where that is certain.
fn ask_and_change(device: &Device, seed: u64, over: &AtomicBool) -> BTreeMap<String, Option<bool>> {
    let mut random = Random(seed);
    let mut wanted: BTreeMap<String, Option<bool>> =
        (0..SERVICES as u64).map(|service| (name(service), Some(true))).collect();
    while !over.load(Relaxed) {
        let service = name(random.below(SERVICES as u64));
        let (reply, up) = match random.below(4) {
            0 => (device.ctl(&["service", "stop", "--no-wait", &service]), false),
            1 => (device.ctl(&["service", "restart", "--no-wait", &service]), true),
            2 => {
                let program = testkit::binary("vestal-demo");
                let turn = random.below(1000);
                let message = format!(
                    "{{\"name\":\"{service}\",\"instances\":{{\"instance1\":{{\"command\":[{program:?},\"say={turn}\"],\"respawn\":[\"3600\",\"1\",\"0\"]}}}}}}"
                );
                (device.ctl(&["call", "service", "set", &message]), true)
            }
            _ => (device.ctl(&["service", "start", "--no-wait", &service]), true),
        };
        let code = reply.status.code().expect("vestalctl never ends by a signal");
        assert!(matches!(code, 0 | 1 | 4 | 5), "{service}: {reply:?}");
        assert!(code == 0 || !reply.stderr.trim().is_empty(), "an error is said: {reply:?}");
        // Without an acknowledgement nobody knows whether it was done.
        wanted.insert(service, (code == 0).then_some(up));
    }
    wanted
}

fn check(device: &Device, wanted: &BTreeMap<String, Option<bool>>) {
    until("the supervisor answers", || device.ctl(&["status"]).status.success().then_some(()));
    for (service, up) in wanted {
        match up {
            Some(true) => until(&format!("{service} runs, as was acknowledged"), || {
                (device.processes(service).len() == 1).then_some(())
            }),
            Some(false) => until(&format!("{service} is stopped, as was acknowledged"), || {
                device.processes(service).is_empty().then_some(())
            }),
            None => {}
        }
    }
    at_most_one_a_service(device);
}
