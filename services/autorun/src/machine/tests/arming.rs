//! Before the image: every step that fails is taken back, in reverse, in less than a second.

use std::time::Duration;

use protocol::{
    autorun::{Sleep, State},
    failure::Code,
    name::Name,
};

use super::{
    super::*,
    television,
    world::{Log, World},
};
use crate::settings::BeforeImage;

fn service(name: &str, how: BeforeImage) -> Step {
    Step::Service { name: Name::new(name).unwrap(), how }
}

/// What arming does to the television, in its order.
fn steps() -> Vec<Step> {
    vec![
        service("recorder", BeforeImage::Stop),
        service("ui", BeforeImage::Freeze),
        Step::Unmount("/data".into()),
        Step::Freeze,
        Step::Superblocks,
        Step::Swapoff("/dev/sdb1".into()),
        Step::Identify,
        Step::Record,
        Step::Forget,
    ]
}

fn did(world: &World) -> Vec<Step> {
    world
        .log
        .iter()
        .filter_map(|(_, log)| if let Log::Did(step) = log { Some(step.clone()) } else { None })
        .collect()
}

fn undid(world: &World) -> Vec<Step> {
    world
        .log
        .iter()
        .filter_map(|(_, log)| if let Log::Undid(step) = log { Some(step.clone()) } else { None })
        .collect()
}

/// Those of which something is left, but for the journal, which the machine takes back itself.
fn reversed(steps: &[Step]) -> Vec<Step> {
    let plain = |step: &&Step| {
        !matches!(step, Step::Superblocks | Step::Identify | Step::Record | Step::Forget)
    };
    steps.iter().rev().filter(plain).cloned().collect()
}

#[test]
fn a_cold_engine_runs_nothing_and_never_wakes_up() {
    let mut world = World::new(television());
    world.settle();
    let engine = world.engine.as_ref().unwrap();
    assert_eq!((world.state(), engine.next_deadline()), (State::Cold, None));
    assert!(world.log.is_empty());
}

#[test]
fn arming_does_every_step_once_and_in_order_and_then_waits() {
    let mut world = World::new(television());
    let answer = world.ask(Request::Arm).unwrap().unwrap();
    assert!(matches!(answer, Answer::Status(status) if status.state == State::Armed));
    let expected: Vec<_> = steps().into_iter().filter(|step| *step != Step::Record).collect();
    assert_eq!(did(&world), expected);
    assert_eq!(world.log[0].1, Log::Prepare);
    let record = world.journal().unwrap().unwrap();
    assert_eq!((record.stage, record.ordinal), (crate::journal::Stage::Armed, 0));
    assert_ne!(record.image, [0; 32]);
    assert_eq!(world.engine.as_ref().unwrap().next_deadline(), None);
    assert_eq!(world.starts().len(), 0);
}

#[test]
fn disarming_takes_everything_back() {
    let mut world = World::new(television());
    world.ask(Request::Arm);
    let answer = world.ask(Request::Disarm).unwrap().unwrap();
    assert!(matches!(answer, Answer::Status(status) if status.state == State::Cold));
    assert_eq!(undid(&world), reversed(&steps()));
    assert_eq!(world.journal().unwrap().unwrap().image, [0; 32]);
    assert_eq!(world.plan, None);
}

/// B-T3: whichever step fails, or the image itself.
#[test]
fn whatever_fails_is_taken_back_in_reverse_within_a_second() {
    let all = steps();
    let failing = [Step::Check].into_iter().chain(all.clone()).map(Some).chain([None]);
    for fails in failing {
        let mut world = World::new(television());
        world.write_fails = fails.is_none();
        world.fails.clone_from(&fails);
        let call = world.call(Request::Sleep { kind: Sleep::Hibernate, back_end: None });
        let mut failed_at = None;
        for _ in 0..200 {
            if failed_at.is_none() && world.status().reason.is_some() {
                failed_at = Some(world.now);
            }
            if !world.step() {
                break;
            }
        }
        let place = all.iter().position(|step| Some(step) == fails.as_ref());
        let before = match &fails {
            Some(Step::Check) => &[][..],
            _ => &all[..place.unwrap_or(all.len())],
        };
        assert_eq!(undid(&world), reversed(before), "{fails:?}");
        assert_eq!(world.state(), State::Cold, "{fails:?}");
        let failure = world.answers[&call].clone().unwrap_err();
        assert_eq!(failure.code, Code::Failed);
        assert_eq!(world.status().reason.as_deref(), Some(failure.text.as_str()));
        assert!(world.now.since(failed_at.unwrap()) < Duration::from_secs(1), "{fails:?}");
        assert_eq!((world.starts().len(), &world.plan), (0, &None), "{fails:?}");
        // And it can be tried again.
        (world.fails, world.write_fails) = (None, false);
        world.sleep();
        assert!(world.has_image(), "{fails:?}");
    }
}

#[test]
fn a_step_that_never_comes_back_is_given_up_and_taken_back_itself() {
    for (at, hangs) in steps().iter().enumerate().filter(|(_, step)| **step != Step::Record) {
        let mut world = World::new(television());
        world.hangs = Some(hangs.clone());
        world.ask(Request::Arm).unwrap().unwrap_err();
        assert_eq!(undid(&world), reversed(&steps()[..=at]), "{hangs:?}");
        assert_eq!(world.state(), State::Cold);
        assert!(world.status().reason.unwrap().contains("longer than 10000 ms"));
    }
}

#[test]
fn who_is_waited_for_can_agree_refuse_or_be_silent() {
    let settings = Settings {
        wait_for: vec![Name::new("dvr").unwrap(), Name::new("net").unwrap()],
        ..television()
    };
    let say = |world: &mut World, name: &str, reason: Option<&str>| {
        let reason = reason.map(str::to_owned);
        world.call(Request::Prepared { name: Name::new(name).unwrap(), reason });
    };
    let begin = || {
        let mut world = World::new(settings.clone());
        let call = world.call(Request::Arm);
        world.step();
        (world, call)
    };
    let (mut world, _) = begin();
    say(&mut world, "dvr", None);
    say(&mut world, "dvr", None);
    assert!(did(&world).is_empty());
    say(&mut world, "net", None);
    world.settle();
    assert_eq!(world.state(), State::Armed);

    let (mut world, call) = begin();
    say(&mut world, "dvr", Some("it records until nine"));
    world.settle();
    let text = world.answers[&call].clone().unwrap_err().text;
    assert_eq!(text, "prepare: dvr: it records until nine");

    let (mut world, call) = begin();
    say(&mut world, "dvr", None);
    world.settle();
    let text = world.answers[&call].clone().unwrap_err().text;
    assert_eq!(text, "prepare: no answer within 5000 ms from net");
    assert_eq!(world.state(), State::Cold);
}

#[test]
fn disarming_while_arming_stops_it_and_answers_both() {
    let mut world = World::new(television());
    let arm = world.call(Request::Arm);
    for _ in 0..4 {
        world.step();
    }
    let done = did(&world);
    let disarm = world.call(Request::Disarm);
    world.settle();
    assert_eq!(world.answers[&arm].clone().unwrap_err().code, Code::Cancelled);
    assert!(world.answers[&disarm].is_ok());
    assert_eq!(undid(&world), reversed(&done));
    assert_eq!(world.state(), State::Cold);
}

#[test]
fn an_engine_that_is_killed_while_arming_leaves_a_plan_and_the_next_one_takes_it_back() {
    let mut at = 0;
    loop {
        at += 1;
        for after in [false, true] {
            let mut world = World::new(television());
            world.kill = Some((at, after));
            world.ask(Request::Arm);
            if world.deaths == 0 {
                assert!(at > 6, "{at} operations");
                return;
            }
            world.settle();
            assert_eq!((world.state(), &world.plan), (State::Cold, &None), "{at} {after}");
            let left: Vec<_> =
                did(&world).into_iter().filter(|step| !undid(&world).contains(step)).collect();
            assert!(reversed(&left).is_empty(), "{at} {after}: {left:?}");
            assert_eq!(world.starts().len(), 0);
        }
    }
}

#[test]
fn what_does_not_fit_where_the_engine_is_is_refused() {
    let mut world = World::new(television());
    world.call(Request::Arm);
    for request in [
        Request::Arm,
        Request::Sleep { kind: Sleep::Hibernate, back_end: None },
        Request::Run { targets: Vec::new() },
        Request::Invalidate { reason: None },
    ] {
        let call = world.call(request);
        let failure = world.answers[&call].clone().unwrap_err();
        assert_eq!(failure.code, Code::Busy);
        assert!(failure.text.contains("while arming"), "{failure}");
    }
    world.settle();
    // Armed by hand, then written by the engine.
    world.sleep();
    assert!(world.has_image());
}

#[test]
fn settings_are_read_again_only_while_nothing_depends_on_them() {
    let mut world = World::new(television());
    world.ask(Request::Arm);
    world.tell(Event::Settings(Box::default()));
    assert_eq!(world.status().targets.len(), 3);
    world.ask(Request::Disarm);
    world.tell(Event::Settings(Box::default()));
    assert!(world.status().targets.is_empty());
}
