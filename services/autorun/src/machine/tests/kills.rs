//! B-T4 and B-T5: the engine is killed, and the power goes, at every operation there is.

use std::time::Duration;

use protocol::autorun::State;

use super::{super::*, device, world::World};
use crate::journal::{Mark, Stage as Noted};

const HOUR: Duration = Duration::from_secs(3_600);

/// In two levels: what may run twice, what may not, and what may only in one life of the image.
fn mixed() -> Settings {
    device(&[
        ("autorun.d/a.toml", "phase = \"early\"\ncommand = [\"/a\"]\n"),
        ("autorun.d/b.toml", "phase = \"early\"\ncommand = [\"/b\"]\nidempotent = true\n"),
        ("autorun.d/c.toml", "command = [\"/c\"]\nonce = \"image\"\n"),
        ("autorun.d/d.toml", "command = [\"/d\"]\n"),
    ])
}

/// Nothing that may run only once ran twice, and what did not run is told.
fn check(world: &World, what: &str) {
    let starts = world.starts();
    let rows = world.status().targets;
    let doubtful = world.reported_doubtful();
    for (at, target) in world.settings.targets.iter().enumerate() {
        let count = starts.get(&at).copied().unwrap_or(0);
        if target.idempotent {
            assert!((1..=2).contains(&count), "{what}: {} began {count} times", target.name);
            continue;
        }
        assert!(count <= 1, "{what}: {} began {count} times", target.name);
        let told = doubtful.contains(&at);
        assert!(count == 1 || told, "{what}: {} is lost: {:?}", target.name, rows[at]);
    }
}

#[test]
fn an_engine_that_is_killed_anywhere_runs_nothing_twice_and_loses_nothing() {
    let mut world = World::new(mixed());
    world.sleep();
    let first = world.operations;
    world.resume(HOUR);
    let last = world.operations;
    assert!(last - first > 15, "{first} to {last}");
    for at in first + 1..=last {
        for after in [false, true] {
            let what = format!("operation {at}, {after}");
            let mut world = World::new(mixed());
            world.sleep();
            world.kill = Some((at, after));
            world.resume(HOUR);
            if world.deaths == 0 {
                // Reading has no effect after which to be killed.
                assert!(after, "{what}");
                continue;
            }
            if at == first + 1 && !after {
                // Before anything can be known: nothing runs, and it is said.
                assert_eq!((world.state(), world.starts().len()), (State::Cold, 0));
                assert!(world.status().reason.unwrap().contains("was killed while it was armed"));
                continue;
            }
            assert_eq!(world.state(), State::Done, "{what}");
            check(&world, &what);
            let record = world.journal().unwrap().unwrap();
            assert_eq!((record.stage, record.ordinal), (Noted::Done, 1), "{what}");
            // And the life after it is whole.
            world.resume(HOUR);
            assert_eq!((world.state(), world.status().ordinal), (State::Done, Some(2)), "{what}");
            let starts = world.starts();
            let each = ["a", "b", "d"].map(|name| starts[&world.place(name)]);
            assert_eq!(each, [1, 1, 1], "{what}");
        }
    }
}

/// What only the journal knows doesn't help an engine that finds nothing of this life on tmpfs.
#[test]
fn a_tmpfs_that_fills_up_makes_nothing_run_twice_either() {
    let mut world = World::new(mixed());
    world.sleep();
    let first = world.operations;
    world.resume(HOUR);
    let last = world.operations;
    for fills in first + 1..=last {
        for kill in fills..=last {
            let mut world = World::new(mixed());
            world.sleep();
            (world.fills, world.kill) = (Some(fills), Some((kill, false)));
            world.resume(HOUR);
            assert!(matches!(world.state(), State::Cold | State::Done));
            for (at, target) in world.settings.targets.iter().enumerate() {
                let count = world.starts().get(&at).copied().unwrap_or(0);
                let what = format!("full at {fills}, killed at {kill}");
                assert!(target.idempotent || count <= 1, "{what}: {} {count}", target.name);
            }
        }
    }
}

/// Killed again and again, in one life.
#[test]
fn an_engine_that_is_killed_over_and_over_still_ends() {
    for every in 3..12 {
        let mut world = World::new(mixed());
        world.sleep();
        let mut kills = (1..=10).map(|count| world.operations + 2 + count * every);
        let kills: Vec<usize> = kills.by_ref().collect();
        world.resume_killed(HOUR, &kills);
        assert_eq!(world.state(), State::Done, "{every}");
        for (at, target) in world.settings.targets.iter().enumerate() {
            let count = world.starts().get(&at).copied().unwrap_or(0);
            assert!(target.idempotent || count <= 1, "{every}: {} {count}", target.name);
        }
    }
}

/// The power goes during each write of the journal, with each half of the record on the medium.
#[test]
fn a_power_cut_at_any_write_leaves_a_readable_journal_and_a_cold_boot_or_a_whole_life() {
    let mut world = World::new(mixed());
    world.sleep();
    let armed = world.disk.medium().writes;
    world.resume(HOUR);
    let writes = world.disk.medium().writes;
    assert!(armed == 1 && writes >= 4, "{armed} {writes}");
    for write in 0..writes {
        for sectors in [0, 1, 0x0f, 0x7f, 0x80, 0xfe, 0xff] {
            let what = format!("write {write}, sectors {sectors:02x}");
            let mut world = World::new(mixed());
            if write < armed {
                world.disk.medium().cut = Some((write, sectors));
            }
            world.sleep();
            if world.has_image() {
                world.cut_next(write - armed, sectors);
                world.resume(HOUR);
                assert!(world.disk.medium().dead, "{what}");
            }
            // A cold boot runs nothing and reads the journal.
            world.boot_cold();
            assert_eq!((world.state(), world.starts().len()), (State::Cold, 0), "{what}");
            if !world.has_image() {
                continue;
            }
            let before = world.journal().unwrap().unwrap();
            // And another life of the image is whole, and counted after the one that was cut off.
            world.resume(HOUR);
            assert_eq!(world.state(), State::Done, "{what}");
            let record = world.journal().unwrap().unwrap();
            assert_eq!(record.ordinal, before.ordinal + 1, "{what}");
            assert_ne!(record.run, before.run, "{what}");
            for name in ["a", "b", "d"] {
                assert_eq!(world.starts()[&world.place(name)], 1, "{what}: {name}");
            }
            // Once for the image: where its START is known, not again.
            let c = world.place("c");
            let hash = world.settings.targets[c].hash;
            let began = before.entry(hash).is_some_and(|entry| entry.mark != Mark::Waiting);
            assert_eq!(world.starts().contains_key(&c), !began, "{what}");
        }
    }
}

/// A torn record is not what a life goes on with.
#[test]
fn an_engine_never_begins_a_life_because_of_the_journal_alone() {
    let mut world = World::new(mixed());
    world.sleep();
    let running = Record { stage: Noted::Running, run: [1; 16], ..Record::default() };
    crate::journal::Journal::new(world.disk.clone()).write(&running).unwrap();
    world.boot_cold();
    assert_eq!((world.state(), world.starts().len()), (State::Cold, 0));
}
