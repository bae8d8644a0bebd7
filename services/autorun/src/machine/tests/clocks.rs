//! Clocks that jump, stand still and go backward: none of that is a resume.

use std::time::Duration;

use protocol::autorun::{Sleep, State};

use super::{
    super::*,
    television,
    world::{Log, World},
};

const SECOND: Duration = Duration::from_secs(1);

/// Numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Whether the engine thinks that an image was resumed.
fn resumed(world: &World) -> bool {
    world.events().iter().any(|log| {
        matches!(log, Log::Counted(_)) || matches!(log, Log::Resumed(resumed) if !resumed.inferred)
    })
}

/// B-T9: the real-time clock is set, 1,000 times.
#[test]
fn a_thousand_jumps_of_the_clock_are_no_resume() {
    for armed in [false, true] {
        let mut world = World::new(television());
        if armed {
            world.ask(Request::Arm);
        }
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let begun = world.log.len();
        for _ in 0..1_000 {
            world.now += Duration::from_millis(numbers.next() % 5_000);
            world.rtc = Some(i64::try_from(numbers.next() >> 2).unwrap());
            // What the clocks differ by after a failed attempt to sleep, too.
            world.offset += Duration::from_millis(numbers.next() % 30);
            let clocks = world.clocks();
            world.tell(Event::Clocks(clocks));
            world.settle();
        }
        assert_eq!(world.log.len(), begun, "{armed}");
        assert_eq!(world.state(), if armed { State::Armed } else { State::Cold });
    }
}

#[test]
fn a_suspend_by_somebody_else_runs_only_what_every_wake_up_asks_for() {
    for armed in [false, true] {
        let mut world = World::new(television());
        if armed {
            world.ask(Request::Arm);
        }
        for count in 1..=5 {
            world.now += SECOND * 60;
            world.offset += SECOND * 1_000;
            let clocks = world.clocks();
            world.tell(Event::Clocks(clocks));
            world.settle();
            let starts = world.starts();
            assert_eq!((starts.len(), starts[&world.place("recorder")]), (1, count));
        }
        assert!(!resumed(&world));
        assert_eq!(world.state(), if armed { State::Armed } else { State::Cold });
        assert_eq!(world.status().ordinal, None);
    }
}

#[test]
fn a_suspend_by_the_engine_prepares_little_and_counts_nothing() {
    let mut world = World::new(television());
    let answer = world.ask(Request::Sleep { kind: Sleep::Suspend, back_end: None });
    assert!(matches!(answer, Some(Ok(Answer::Slept(slept))) if slept.run.is_empty()));
    assert_eq!(world.starts().keys().collect::<Vec<_>>(), [&world.place("recorder")]);
    assert_eq!((world.state(), world.journal()), (State::Cold, Ok(None)));
    // The clocks say the same once more; that is no news.
    let clocks = world.clocks();
    world.tell(Event::Clocks(clocks));
    world.ask(Request::NotifyPost { kind: Sleep::Suspend, clocks });
    assert_eq!(world.starts()[&world.place("recorder")], 1);
    // After a life, it is still done.
    world.sleep();
    world.resume(SECOND);
    world.ask(Request::Sleep { kind: Sleep::Suspend, back_end: None });
    assert_eq!((world.state(), world.status().ordinal), (State::Done, Some(1)));
}

/// B-T7: without a clock that goes on while the power is off, and with one that was set backward.
#[test]
fn a_resume_is_known_without_any_clock() {
    let mut world = World::new(television());
    world.rtc = None;
    world.sleep();
    world.resume(Duration::ZERO);
    assert_eq!((world.state(), world.status().ordinal), (State::Done, Some(1)));

    let mut world = World::new(television());
    world.offset = SECOND * 5_000;
    world.sleep();
    (world.rtc, world.offset) = (Some(-5), Duration::ZERO);
    world.resume(Duration::ZERO);
    assert_eq!((world.state(), world.status().ordinal), (State::Done, Some(1)));
    assert!(world.starts().values().all(|count| *count == 1));
    assert_eq!(world.journal().unwrap().unwrap().rtc, -5);
    assert!(world.events().iter().any(|log| matches!(log, Log::Resumed(it) if it.off_ms == 0)));
    // Nor does word of it from the clocks, or from a hook, run anything a second time.
    let clocks = world.clocks();
    world.tell(Event::Clocks(clocks));
    world.ask(Request::NotifyPost { kind: Sleep::Hibernate, clocks });
    assert!(world.starts().values().all(|count| *count == 1));
}

#[test]
fn who_writes_the_image_may_be_somebody_else_who_says_so() {
    let mut world = World::new(television());
    world.ask(Request::Arm);
    world.offset += SECOND * 100;
    // The clocks tell first, and prove nothing; the word comes while what they started still runs.
    let clocks = world.clocks();
    world.tell(Event::Clocks(clocks));
    assert_eq!(world.state(), State::Resumed);
    world.ask(Request::NotifyPost { kind: Sleep::Hibernate, clocks });
    assert_eq!((world.state(), world.status().ordinal), (State::Done, Some(1)));
    let starts = world.starts();
    assert_eq!((starts[&world.place("logo")], starts[&world.place("recorder")]), (1, 2));
    assert_eq!(world.plan, None);
}

#[test]
fn word_of_a_hibernation_for_which_nothing_was_armed_runs_only_what_every_wake_up_asks_for() {
    let mut world = World::new(television());
    let clocks = world.clocks();
    world.ask(Request::NotifyPost { kind: Sleep::Hibernate, clocks });
    assert_eq!(world.starts().keys().collect::<Vec<_>>(), [&world.place("recorder")]);
    assert_eq!(world.state(), State::Cold);
    assert!(world.events().contains(&&Log::Reseed));
}
