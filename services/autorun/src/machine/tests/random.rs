//! The machine against whatever comes: calls in any order, answers that fail, never come or come twice, an engine that is
//! killed anywhere, power that goes.

use std::time::Duration;

use proptest::prelude::*;
use protocol::{
    autorun::{Sleep, State},
    name::Name,
};

use super::{
    super::*,
    device,
    world::{Does, Log, World},
};

#[derive(Clone, Debug)]
enum Input {
    Ask(u8),
    Steps(u8),
    Settle,
    /// The engine is killed so many operations from here.
    Kill(u8, bool),
    /// The clocks say something, after so many seconds of sleep.
    Clocks(u8),
    /// An answer to nothing, or to what is under way, before its time.
    Answer(u8, u8),
    Time(u16),
    Target(u8, u8),
    Fails(u8),
    Power(bool),
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        4 => (0..12_u8).prop_map(Input::Ask),
        4 => (1..20_u8).prop_map(Input::Steps),
        2 => Just(Input::Settle),
        2 => (0..30_u8, any::<bool>()).prop_map(|(at, after)| Input::Kill(at, after)),
        1 => (0..10_u8).prop_map(Input::Clocks),
        2 => (0..40_u8, 0..8_u8).prop_map(|(work, what)| Input::Answer(work, what)),
        1 => any::<u16>().prop_map(Input::Time),
        2 => (0..6_u8, 0..6_u8).prop_map(|(target, does)| Input::Target(target, does)),
        1 => (0..8_u8).prop_map(Input::Fails),
        4 => prop::bool::weighted(0.9).prop_map(Input::Power),
        3 => Just(Input::Ask(3)),
    ]
}

fn settings() -> Settings {
    let settings = device(&[
        ("autorun.d/a.toml", "phase = \"early\"\ncommand = [\"/a\"]\nlimit = \"1s\"\n"),
        (
            "autorun.d/b.toml",
            "command = [\"/b\"]\nidempotent = true\nretries = 2\non-any-wake = true\n",
        ),
        (
            "autorun.d/c.toml",
            "command = [\"/c\"]\nonce = \"image\"\nafter = [\"b\"]\non-fail = \"stop\"\n",
        ),
        ("autorun.d/d.toml", "service = \"d\"\nbefore-image = \"freeze\"\nafter = [\"c\"]\n"),
        (
            "autorun.d/e.toml",
            "service = \"e\"\nidempotent = true\nonce = \"always\"\non-resume = \"restart-if-broken\"\nprobe = { file = \"/x\" }\n",
        ),
        ("autorun.d/f.toml", "command = [\"/f\"]\non-fail = \"reboot-cold\"\n"),
    ]);
    Settings { parallel: 2, ..settings }
}

fn request(number: u8, clocks: Samples) -> Request {
    let name = Name::new("dvr").unwrap();
    match number {
        0 => Request::Check,
        1 => Request::Arm,
        2 => Request::Disarm,
        3 | 4 => Request::Sleep { kind: Sleep::Hibernate, back_end: None },
        5 => Request::Sleep { kind: Sleep::Suspend, back_end: None },
        6 => Request::NotifyPost { kind: Sleep::Hibernate, clocks },
        7 => Request::NotifyPost { kind: Sleep::Suspend, clocks },
        8 => Request::Invalidate { reason: None },
        9 => Request::Prepared { name, reason: Some("no".to_owned()) },
        10 => Request::Prepared { name, reason: None },
        _ => Request::Status,
    }
}

fn outcome(number: u8) -> Result<Outcome, String> {
    Ok(match number {
        0 => Outcome::Done,
        1 => Outcome::Already,
        2 => Outcome::Exited(3),
        3 => Outcome::Journal(None),
        4 => Outcome::Saved { journal: Ok(()), current: Err("no".to_owned()) },
        5 => Outcome::Fresh { run: [7; 16], seed: [7; 32] },
        6 => Outcome::Checked(protocol::autorun::Check::default()),
        _ => return Err("no".to_owned()),
    })
}

/// Carries one input out. An answer that the world would not give may make the machine believe anything but what it must not.
fn feed(world: &mut World, input: &Input, lies: bool) {
    match *input {
        Input::Ask(number) => {
            let clocks = world.clocks();
            world.call(request(number, clocks));
        }
        Input::Steps(count) => {
            let _ = (0..count).all(|_| world.step());
        }
        Input::Settle => world.settle(),
        Input::Kill(at, after) => world.kill = Some((world.operations + usize::from(at), after)),
        Input::Clocks(seconds) => {
            world.offset += Duration::from_secs(u64::from(seconds));
            let clocks = world.clocks();
            world.tell(Event::Clocks(clocks));
        }
        Input::Answer(work, what) if lies => {
            world.tell(Event::Did { work: u64::from(work), result: outcome(what) });
        }
        // Of works long gone.
        Input::Answer(work, what) => {
            world.tell(Event::Did { work: 1 << 40 | u64::from(work), result: outcome(what) });
        }
        Input::Time(ms) => {
            world.now += Duration::from_millis(u64::from(ms));
            let now = world.now;
            if let Some(engine) = &mut world.engine {
                engine.handle_timeout(now);
            }
            world.step();
        }
        Input::Target(target, does) => {
            let ms = Duration::from_millis(10);
            let does = match does {
                0 => Does::Hangs,
                1 => Does::IgnoresTerm,
                2 => Does::Sticks,
                3 => Does::Exits(1, ms),
                _ => Does::Exits(0, ms),
            };
            world.does.insert(usize::from(target), does);
            world.broken.insert(usize::from(target), 1);
        }
        Input::Fails(number) => {
            world.fails = [None, None, Some(Step::Record), Some(Step::Freeze)]
                .get(usize::from(number))
                .cloned()
                .flatten();
            world.write_fails = number == 4;
            world.guard_fails = number == 5;
            world.tmpfs_full = number == 6;
        }
        Input::Power(image) => {
            if image && world.has_image() {
                world.resume(Duration::from_secs(9));
            } else {
                world.boot_cold();
            }
        }
    }
}

/// What must never be, whatever came.
fn check(world: &World) -> Result<(), TestCaseError> {
    let mut counts = [0; 6];
    let (mut life, mut resumed) = (false, false);
    for (_, log) in &world.log {
        match log {
            Log::Guard => life = true,
            Log::Resumed(_) => resumed = true,
            Log::Start(target) => {
                counts[*target] += 1;
                let every_wake = world.settings.targets[*target].on_any_wake;
                prop_assert!(resumed && (life || every_wake), "{target} before a resume");
            }
            // Whoever resumes what is armed from here on begins another life.
            Log::Did(Step::Identify) => (counts, life) = ([0; 6], false),
            _ => {}
        }
        for (target, count) in counts.iter().enumerate() {
            let idempotent = world.settings.targets[target].idempotent;
            prop_assert!(
                idempotent || *count <= 1,
                "{target} began {count} times: {:?}",
                world.log
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_nothing_runs_twice_or_before_a_resume_and_it_ends(
        inputs in prop::collection::vec(any_input(), 1..60),
    ) {
        let mut world = World::new(settings());
        for input in &inputs {
            feed(&mut world, input, false);
            check(&world)?;
        }
        world.settle();
        check(&world)?;
        if !world.off {
            let state = world.state();
            prop_assert!(
                matches!(state, State::Cold | State::Armed | State::Done),
                "it rests while {:?}", state
            );
            prop_assert_eq!(world.engine.as_ref().and_then(Engine::next_deadline), None);
        }
    }

    #[test]
    fn a_shell_that_lies_makes_it_neither_panic_nor_spin(
        inputs in prop::collection::vec(any_input(), 1..60),
    ) {
        let mut world = World::new(settings());
        for input in &inputs {
            feed(&mut world, input, true);
        }
        world.settle();
    }
}
