//! The nine steps of the experiment, as far as they are decisions: one image, many lives.

use std::{collections::BTreeSet, time::Duration};

use protocol::autorun::{Sleep, State, Target};

use super::{
    super::*,
    device, television,
    world::{Log, World},
};
use crate::settings::{Linger, OnMismatch};

const HOUR: Duration = Duration::from_secs(3_600);

fn position(world: &World, wanted: impl Fn(&Log) -> bool) -> usize {
    let place = world.events().into_iter().position(wanted);
    place.unwrap_or_else(|| panic!("not found in {:?}", world.events()))
}

#[test]
fn a_resume_goes_its_order_and_then_each_target_runs_once() {
    let mut world = World::new(television());
    world.broken.insert(world.place("ui"), 1);
    assert_eq!(world.sleep(), None, "the answer comes in the next life");
    world.resume(HOUR);
    let order = [
        position(&world, |log| *log == Log::Reseed),
        position(&world, |log| *log == Log::Guard),
        position(&world, |log| *log == Log::Counted(1)),
        position(&world, |log| *log == Log::Clock),
        position(&world, |log| *log == Log::Undid(Step::Freeze)),
        position(&world, |log| *log == Log::Mount),
        position(&world, |log| *log == Log::Network),
        position(&world, |log| matches!(log, Log::Resumed(_))),
        position(&world, |log| matches!(log, Log::Undid(Step::Service { .. }))),
        position(&world, |log| *log == Log::Start(world.place("logo"))),
        position(&world, |log| *log == Log::Start(world.place("ui"))),
        position(&world, |log| *log == Log::Start(world.place("recorder"))),
    ];
    assert!(order.is_sorted(), "{order:?}");
    assert!(world.starts().values().all(|count| *count == 1) && world.starts().len() == 3);
    assert_eq!(world.state(), State::Done);
    let resumed = world.events().into_iter().find_map(|log| match log {
        Log::Resumed(resumed) => Some(resumed.clone()),
        _ => None,
    });
    let resumed = resumed.unwrap();
    assert_eq!((resumed.kind, resumed.ordinal, resumed.inferred), (Sleep::Hibernate, 1, false));
    assert_eq!(resumed.off_ms, 3_600_000);
    let slept = world.answers.values().next().unwrap().clone();
    let Ok(Answer::Slept(slept)) = slept else { panic!("{slept:?}") };
    assert_eq!((slept.ordinal, slept.run), (1, resumed.run));
    // What was stopped for the image is not started by the engine itself.
    assert!(!world.events().iter().any(|log| matches!(log, Log::Undid(Step::Unmount(_)))));
    let record = world.journal().unwrap().unwrap();
    assert_eq!(record.stage, crate::journal::Stage::Done);
    assert_eq!((&world.plan, world.current.unwrap().run), (&None, record.run));
}

#[test]
fn what_still_works_is_left_alone_and_what_does_not_work_afterwards_has_failed() {
    let mut world = World::new(television());
    world.sleep();
    world.resume(HOUR);
    let ui = world.place("ui");
    assert_eq!(world.status().targets[ui].state, Target::Skipped);
    world.broken.insert(ui, 2);
    world.resume(HOUR);
    let row = &world.status().targets[ui];
    assert_eq!(row.state, Target::Failed);
    assert_eq!(row.text.as_deref(), Some("it ran, but does not work: no frames"));
    assert_eq!(world.starts()[&ui], 1, "it may run only once");
}

/// B-T2: ordinals, run ids and seeds differ in every life, on a board without any clock too.
#[test]
fn twenty_lives_of_one_image_have_nothing_in_common() {
    for clock in [true, false] {
        let mut world = World::new(television());
        if !clock {
            world.rtc = None;
        }
        world.sleep();
        let (mut runs, mut seeds, mut generations) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for life in 1..=20 {
            world.resume(if clock { HOUR } else { Duration::ZERO });
            let record = world.journal().unwrap().unwrap();
            assert_eq!((record.ordinal, world.state()), (life, State::Done));
            assert_eq!(world.status().ordinal, Some(life));
            assert!(runs.insert(record.run) && seeds.insert(record.seed));
            generations.extend(world.events().into_iter().filter_map(|log| match log {
                Log::Resumed(resumed) => Some(resumed.generation),
                _ => None,
            }));
            assert!(world.starts().values().all(|count| *count == 1));
            assert!(world.starts().contains_key(&world.place("logo")));
        }
        assert_eq!(generations.len(), 20);
        assert!(generations.is_sorted_by(|one, next| one < next), "{generations:?}");
    }
}

#[test]
fn the_engine_ends_when_it_is_done_and_is_there_again_in_the_next_life() {
    let mut world = World::new(Settings { linger: Linger::Exit, ..television() });
    world.sleep();
    for _ in 0..3 {
        world.resume(HOUR);
        assert_eq!(world.events().last(), Some(&&Log::Exit));
        assert_eq!(world.journal().unwrap().unwrap().stage, crate::journal::Stage::Done);
    }
}

#[test]
fn a_cold_boot_runs_nothing_whatever_the_journal_says() {
    let mut world = World::new(television());
    world.sleep();
    world.boot_cold();
    assert_eq!((world.state(), world.starts().len()), (State::Cold, 0));
    world.resume(HOUR);
    world.boot_cold();
    assert_eq!((world.state(), world.starts().len()), (State::Cold, 0));
}

/// B-T8, as far as it is a decision.
#[test]
fn a_changed_file_system_ends_the_life_before_anything_is_written() {
    let mut world = World::new(television());
    world.sleep();
    world.guard_fails = true;
    world.resume(HOUR);
    assert!(matches!(world.events().last(), Some(Log::Reboot(_))));
    for never in [Log::Clock, Log::Mount, Log::Undid(Step::Freeze)] {
        assert!(!world.events().contains(&&never), "{never:?}");
    }
    assert_eq!(world.starts().len(), 0);
    assert_eq!(world.journal().unwrap().unwrap().image, [0; 32]);
    // And it stays so.
    world.guard_fails = false;
    world.resume(HOUR);
    assert!(
        matches!(world.events().last(), Some(Log::Reboot(why)) if why.contains("not to be resumed"))
    );

    let mut world = World::new(Settings { on_mismatch: OnMismatch::Continue, ..television() });
    world.sleep();
    world.guard_fails = true;
    world.resume(HOUR);
    assert_eq!(world.state(), State::Done);
}

#[test]
fn an_invalidated_image_is_not_run_in_any_later_life() {
    let invalidate = || Request::Invalidate { reason: Some("an upgrade".to_owned()) };
    let mut world = World::new(television());
    world.sleep();
    world.resume(HOUR);
    assert_eq!(world.ask(invalidate()), Some(Ok(Answer::Nothing)));
    world.resume(HOUR);
    assert!(matches!(world.events().last(), Some(Log::Reboot(_))));
    assert_eq!(world.starts().len(), 0);
    // From a cold boot, too.
    let mut world = World::new(television());
    world.sleep();
    world.boot_cold();
    assert_eq!(world.ask(invalidate()), Some(Ok(Answer::Nothing)));
    world.resume(HOUR);
    assert!(matches!(world.events().last(), Some(Log::Reboot(_))));
    // While armed, it is taken back.
    let mut world = World::new(television());
    world.ask(Request::Arm);
    assert_eq!(world.ask(invalidate()), Some(Ok(Answer::Nothing)));
    assert_eq!(world.state(), State::Cold);
    assert_eq!(world.journal().unwrap().unwrap().image, [0; 32]);
    // Without a journal nobody would know.
    let mut world = World::new(Settings { journal: None, ..television() });
    assert!(world.ask(invalidate()).unwrap().is_err());
}

#[test]
fn an_older_image_is_not_run_once_a_newer_one_was_armed() {
    let mut world = World::new(television());
    world.sleep();
    let old = world.journal().unwrap().unwrap();
    world.resume(HOUR);
    // Another image is armed in this life, and the power goes; the old image is what the boot loader finds, at every boot.
    let disk = world.disk.clone();
    let mut other = World::new(television());
    other.disk = disk;
    other.sleep();
    other.sleep();
    let mut record = other.journal().unwrap().unwrap();
    record.image = [9; 32];
    crate::journal::Journal::new(world.disk.clone()).write(&record).unwrap();
    world.resume(HOUR);
    assert_ne!(old.image, record.image);
    assert!(
        matches!(world.events().last(), Some(Log::Reboot(why)) if why.contains("another image"))
    );
    assert_eq!(world.journal().unwrap().unwrap().image, [0; 32], "it would be resumed for ever");
}

#[test]
fn once_for_each_image_means_in_one_life_of_it() {
    let settings = device(&[
        ("autorun.d/first.toml", "command = [\"/bin/first\"]\nonce = \"image\"\n"),
        ("autorun.d/each.toml", "command = [\"/bin/each\"]\n"),
    ]);
    let mut world = World::new(settings);
    world.sleep();
    let (first, each) = (world.place("first"), world.place("each"));
    for life in 0..3 {
        world.resume(HOUR);
        let starts = world.starts();
        assert_eq!((starts.contains_key(&first), starts[&each]), (life == 0, 1), "{life}");
    }
    // A new image, a new first life.
    world.sleep();
    world.resume(HOUR);
    assert_eq!(world.starts()[&first], 1);
}

#[test]
fn without_a_journal_it_runs_all_the_same_and_counts_nothing() {
    let mut world = World::new(Settings { journal: None, ..television() });
    world.sleep();
    for _ in 0..2 {
        world.resume(HOUR);
        assert_eq!((world.state(), world.status().ordinal), (State::Done, None));
        assert!(world.starts().contains_key(&world.place("logo")));
        assert!(world.events().iter().any(
            |log| matches!(log, Log::Resumed(resumed) if resumed.generation == 0 && resumed.ordinal == 0)
        ));
    }
    assert_eq!(world.journal(), Ok(None));
}

#[test]
fn a_journal_that_is_gone_is_told_and_costs_nothing_but_the_count() {
    let mut world = World::new(television());
    world.sleep();
    world.fails = Some(Step::Record);
    world.resume(HOUR);
    assert_eq!((world.state(), world.status().ordinal), (State::Done, None));
    assert!(world.status().notes.iter().any(|note| note.contains("the device is gone")));
    assert_eq!(world.starts()[&world.place("logo")], 1, "tmpfs knows that it began");
    // With tmpfs gone too, what may run only once does not run at all.
    world.tmpfs_full = true;
    world.resume(HOUR);
    assert_eq!(world.state(), State::Done);
    let logo = &world.status().targets[world.place("logo")];
    assert_eq!(logo.state, Target::Failed);
    assert!(logo.text.as_ref().unwrap().contains("could not be recorded"));
    assert_eq!(world.starts().get(&world.place("recorder")), Some(&1));
}

#[test]
fn a_trial_runs_what_is_asked_for_and_counts_nothing() {
    let mut world = World::new(television());
    let logo = world.place("logo");
    world.ask(Request::Run { targets: vec!["logo".to_owned()] });
    assert_eq!((world.starts().len(), world.starts()[&logo]), (1, 1));
    assert_eq!((world.state(), world.operations, world.journal()), (State::Cold, 1, Ok(None)));
    let failure = world.ask(Request::Run { targets: vec!["lgo".to_owned()] }).unwrap().unwrap_err();
    assert!(failure.text.contains("\"lgo\""), "{failure}");
}
