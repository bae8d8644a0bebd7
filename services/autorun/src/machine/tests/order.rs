//! Levels, limits, retries and what follows from a failure.

use std::{collections::BTreeMap, time::Duration};

use protocol::autorun::{State, Target};

use super::{
    super::*,
    device,
    world::{Does, Log, World},
};

const MS: Duration = Duration::from_millis(1);

fn resumed(files: &[(&str, &str)], does: &[(&str, Does)]) -> World {
    let mut world = World::new(device(files));
    for (name, does) in does {
        world.does.insert(world.place(name), *does);
    }
    world.sleep();
    world.resume(Duration::ZERO);
    world
}

fn row(world: &World, name: &str) -> protocol::autorun::TargetRow {
    world.status().targets[world.place(name)].clone()
}

/// B-T6: 30 targets in levels, of which three hang in their ways and two fail.
#[test]
fn levels_limits_and_dependants_of_thirty_targets() {
    let names: Vec<String> = (0..30).map(|at| format!("t{at:02}")).collect();
    let files: Vec<(String, String)> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let phase = ["early", "ui", "late"][at / 10];
            let after = match at % 10 {
                0..4 => String::new(),
                own => format!("after = [\"t{:02}\"]\n", at / 10 * 10 + own - 4),
            };
            let on_fail = if at == 12 { "stop" } else { "continue" };
            let text = format!(
                "phase = \"{phase}\"\ncommand = [\"/bin/{name}\"]\nlimit = \"1s\"\non-fail = \"{on_fail}\"\n{after}"
            );
            (format!("autorun.d/{name}.toml"), text)
        })
        .collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let world = resumed(
        &files,
        &[
            ("t03", Does::Hangs),
            ("t14", Does::IgnoresTerm),
            ("t20", Does::Sticks),
            ("t12", Does::Exits(1, MS * 30)),
            ("t25", Does::Exits(-11, MS)),
        ],
    );
    assert_eq!(world.state(), State::Done);
    let when = |wanted: Log| {
        let found = world.log.iter().find(|(_, log)| *log == wanted);
        found.map(|(when, _)| *when)
    };
    let mut ends: BTreeMap<usize, Moment> = BTreeMap::new();
    for (at, target) in world.settings.targets.iter().enumerate() {
        let row = &world.status().targets[at];
        let expected = match target.name.as_str() {
            "t03" | "t14" | "t20" => Target::TimedOut,
            "t12" | "t25" => Target::Failed,
            // After t12, which stops those after it, and after those.
            "t16" => Target::Skipped,
            _ => Target::Done,
        };
        assert_eq!(row.state, expected, "{}", target.name);
        let Some(began) = when(Log::Start(at)) else { continue };
        let end = when(Log::Exited(at)).unwrap_or(began + Duration::from_secs(5));
        let level = ends.entry(target.level).or_default();
        *level = (*level).max(end);
        let ran = end.since(began);
        match target.name.as_str() {
            "t03" => assert!((1_000..1_100).contains(&ran.as_millis()), "{ran:?}"),
            "t14" => assert!((3_000..3_100).contains(&ran.as_millis()), "{ran:?}"),
            _ => {}
        }
    }
    for (at, target) in world.settings.targets.iter().enumerate() {
        let Some(began) = when(Log::Start(at)) else { continue };
        for (_, end) in ends.range(..target.level) {
            assert!(began >= *end, "{} began before a lower level ended", target.name);
        }
    }
    assert_eq!(row(&world, "t16").text.as_deref(), Some("because t12 did not work"));
    assert_eq!(row(&world, "t25").text.as_deref(), Some("ended by signal 11"));
    assert!(row(&world, "t20").text.unwrap().contains("can't be killed"));
}

#[test]
fn not_more_run_at_once_than_may() {
    let files: Vec<String> = (0..7).map(|at| format!("autorun.d/t{at}.toml")).collect();
    let files: Vec<_> = files.iter().map(|name| (name.as_str(), "command = [\"/x\"]\n")).collect();
    let mut world = World::new(Settings { parallel: 3, ..device(&files) });
    world.sleep();
    world.resume(Duration::ZERO);
    let (mut now, mut most) = (0_usize, 0);
    for log in world.events() {
        match log {
            Log::Start(_) => now += 1,
            Log::Exited(_) => now -= 1,
            _ => {}
        }
        most = most.max(now);
    }
    assert_eq!((most, world.starts().len()), (3, 7));
}

#[test]
fn what_harms_nobody_is_tried_again_with_growing_waits() {
    let world = resumed(
        &[(
            "autorun.d/a.toml",
            "command = [\"/a\"]\nidempotent = true\nretries = 3\nbackoff = \"100ms\"\n",
        )],
        &[("a", Does::Exits(7, MS * 10))],
    );
    let starts: Vec<Moment> = world
        .log
        .iter()
        .filter_map(|(when, log)| matches!(log, Log::Start(_)).then_some(*when))
        .collect();
    let waits: Vec<u128> = starts.windows(2).map(|two| two[1].since(two[0]).as_millis()).collect();
    assert_eq!(waits, [110, 210, 410]);
    let row = row(&world, "a");
    assert_eq!((row.state, row.text.as_deref()), (Target::Failed, Some("exit status 7")));
}

#[test]
fn a_soft_limit_is_only_a_note() {
    let world = resumed(
        &[("autorun.d/a.toml", "command = [\"/a\"]\nlimit = { soft = \"50ms\", hard = \"1s\" }\n")],
        &[("a", Does::Exits(0, MS * 80))],
    );
    assert_eq!(row(&world, "a").state, Target::Done);
    assert_eq!(world.status().notes, ["a: still runs after 50 ms"]);
}

#[test]
fn a_target_without_which_the_device_is_of_no_use_reboots_it_cold_when_that_is_recorded() {
    let files = [("autorun.d/a.toml", "command = [\"/a\"]\non-fail = \"reboot-cold\"\n")];
    let world = resumed(&files, &[("a", Does::Exits(1, MS))]);
    assert_eq!(world.events().last(), Some(&&Log::Reboot("target a: exit status 1".to_owned())));
    let record = world.journal().unwrap().unwrap();
    assert_eq!(record.entries[0].mark, crate::journal::Mark::Failed);
    assert_eq!(record.image, [0; 32], "the next boot would be another life");
    // In a trial it is only said.
    let mut world = World::new(device(&files));
    world.does.insert(0, Does::Exits(1, MS));
    world.ask(Request::Run { targets: Vec::new() });
    assert_eq!(world.state(), State::Cold);
    assert!(world.status().notes[0].contains("would now reboot cold"));
}

#[test]
fn a_target_that_is_only_prepared_for_the_image_has_nothing_to_do_after_it() {
    let world = resumed(&[("autorun.d/a.toml", "service = \"a\"\non-resume = \"none\"\n")], &[]);
    assert_eq!(row(&world, "a").state, Target::Skipped);
    assert!(world.starts().is_empty());
}

#[test]
fn the_journal_is_not_worn_by_what_may_run_twice() {
    let files: Vec<String> = (0..30).map(|at| format!("autorun.d/t{at}.toml")).collect();
    let writes = |text: &str| {
        let files: Vec<_> = files.iter().map(|name| (name.as_str(), text)).collect();
        let world = resumed(&files, &[]);
        assert_eq!(world.starts().len(), 30);
        world.disk.medium().writes
    };
    // Armed, counted, done.
    assert_eq!(writes("command = [\"/x\"]\nidempotent = true\n"), 3);
    // And the STARTs of those that begin together.
    assert_eq!(writes("command = [\"/x\"]\n"), 4);
}
