//! Power is lost at every operation of whole upgrades, with many subsets of what was not flushed, and once more while it
//! recovers. Whatever happens, the device boots and the upgrade can be pushed to its end.

use protocol::upgrade::State;

use super::{
    checker::{Run, Story, run},
    device::{IMAGES, LOADED, Parcel, factory, parcel},
    world::{Faults, World},
};

const GOOD: Story = Story { boots: true, healthy: true, again_at: None };
/// How many ways there are to lose what was not flushed.
const SUBSETS: u64 = 8;

/// Set and application; the set and what is copied; the application alone.
fn parcels() -> [Parcel; 3] {
    let [kernel, rootfs, application] = IMAGES;
    [parcel(&[kernel, rootfs, application], 2), parcel(&[rootfs], 2), parcel(&[application], 2)]
}

/// What is loaded into memory, with the application, and with a set.
fn loaded_parcels() -> [Parcel; 2] {
    let ([_, rootfs, application], [driver, patch]) = (IMAGES, LOADED);
    [parcel(&[application, driver, patch], 2), parcel(&[rootfs, driver, patch], 2)]
}

/// The agent was not told what the factory installed of it.
fn untold() -> World {
    let mut world = factory();
    world.untold = true;
    world
}

fn smooth(parcel: &Parcel, story: Story) -> Run {
    run(factory(), parcel, story).unwrap_or_else(|why| panic!("{why}"))
}

/// Operations of each boot of a run without faults.
fn operations(parcel: &Parcel, story: Story) -> u64 {
    smooth(parcel, story).world.faults.operations
}

#[test]
fn an_upgrade_without_faults_is_confirmed_and_sends_no_zeros() {
    for parcel in parcels() {
        let run = smooth(&parcel, GOOD);
        assert_eq!(run.state, State::Confirmed);
        let zeros = parcel.manifest.components.iter().any(|component| component.id == "rootfs");
        let total: u64 = parcel.manifest.components.iter().map(|component| component.size).sum();
        assert_eq!(run.received < total, zeros, "{} of {total}", run.received);
    }
}

/// Cuts at every operation of a story, in every way, until one is behind its end.
fn cut_everywhere(parcel: &Parcel, story: Story, end: State) -> u64 {
    cut_everywhere_from(factory, parcel, story, end, SUBSETS)
}

fn cut_everywhere_from(
    factory: fn() -> World,
    parcel: &Parcel,
    story: Story,
    end: State,
    subsets: u64,
) -> u64 {
    let mut runs = 0;
    for cut in 1.. {
        let mut over = true;
        for keep in 0..subsets {
            let mut world = factory();
            (world.faults.cut_at, world.keep) = (Some(cut), keep + subsets * cut);
            let run = run(world, parcel, story)
                .unwrap_or_else(|why| panic!("cut at {cut}, subset {keep}: {why}"));
            assert_eq!(run.state, end, "cut at {cut}, subset {keep}");
            runs += 1;
            over &= run.world.faults.cut_at.is_some();
        }
        if over {
            break;
        }
    }
    runs
}

#[test]
fn power_may_be_lost_at_every_operation_of_an_upgrade() {
    let runs: u64 =
        parcels().iter().map(|parcel| cut_everywhere(parcel, GOOD, State::Confirmed)).sum();
    assert!(runs > 1000, "{runs}");
}

#[test]
fn power_may_be_lost_at_every_operation_of_the_way_back() {
    let [all, rootfs, application] = parcels();
    let dead = Story { boots: false, ..GOOD };
    let sick = Story { healthy: false, ..GOOD };
    cut_everywhere(&all, dead, State::RolledBack);
    cut_everywhere(&rootfs, sick, State::RolledBack);
    cut_everywhere(&application, sick, State::RolledBack);
}

#[test]
fn a_driver_and_a_live_patch_end_as_their_slots_whenever_power_is_lost() {
    let sick = Story { healthy: false, ..GOOD };
    for parcel in loaded_parcels() {
        for factory in [factory as fn() -> World, untold] {
            cut_everywhere_from(factory, &parcel, GOOD, State::Confirmed, 2);
            cut_everywhere_from(factory, &parcel, sick, State::RolledBack, 2);
        }
        fail_everywhere(&parcel, |faults, at| faults.fail_at = Some(at));
    }
    let [_, with_set] = loaded_parcels();
    let dead = Story { boots: false, ..GOOD };
    cut_everywhere_from(untold, &with_set, dead, State::RolledBack, 1);
}

#[test]
fn power_may_be_lost_again_while_it_recovers() {
    // `scripts/test --full`: at every operation of the recovery, else at every fifth.
    let step = if std::env::var_os("VESTAL_FULL").is_some() { 1 } else { 5 };
    for parcel in parcels() {
        let operations = operations(&parcel, GOOD);
        for cut in 1..=operations {
            // Every second loss within a few runs of the first one, and every subset of both.
            for again in (1 + cut % 5 % step as u64..operations + 20).step_by(step) {
                let mut world = factory();
                (world.faults.cut_at, world.keep) = (Some(cut), cut + again);
                let story = Story { again_at: Some(again), ..GOOD };
                let run = run(world, &parcel, story)
                    .unwrap_or_else(|why| panic!("cut at {cut} and {again} later: {why}"));
                assert_eq!(run.state, State::Confirmed);
            }
        }
    }
}

#[test]
fn a_flush_that_does_nothing_is_found() {
    let [all, _, application] = parcels();
    let found = |parcel: &Parcel, disk: &str| {
        (1..=operations(parcel, GOOD)).any(|cut| {
            let mut world = factory();
            world.faults.lying = Some(world.find(disk));
            world.faults.cut_at = Some(cut);
            run(world, parcel, GOOD).is_err()
        })
    };
    for disk in ["kernel-B", "rootfs-B", "application-B", "boot-record", "active", "journal"] {
        assert!(found(&all, disk), "a missing flush of {disk} was not found");
    }
    assert!(found(&application, "application-B"));
}

/// One fault at every operation, or at every read.
fn fail_everywhere(parcel: &Parcel, arm: impl Fn(&mut Faults, u64)) {
    for at in 1.. {
        let mut world = factory();
        arm(&mut world.faults, at);
        let run = run(world, parcel, GOOD).unwrap_or_else(|why| panic!("fault at {at}: {why}"));
        assert_eq!(run.state, State::Confirmed, "fault at {at}");
        let faults = &run.world.faults;
        if faults.fail_at.is_some() || faults.fail_read_at.is_some() {
            break;
        }
    }
}

#[test]
fn every_write_flush_and_replacement_may_fail_once() {
    for parcel in parcels() {
        fail_everywhere(&parcel, |faults, at| faults.fail_at = Some(at));
    }
}

#[test]
fn every_read_may_fail_or_lie_once() {
    for parcel in parcels() {
        fail_everywhere(&parcel, |faults, at| faults.fail_read_at = Some(at));
        fail_everywhere(&parcel, |faults, at| {
            (faults.fail_read_at, faults.flip) = (Some(at), true);
        });
    }
}

#[test]
fn disks_that_take_little_at_once_hold_all_of_it() {
    for parcel in parcels() {
        let mut world = factory();
        world.faults.short = 1000;
        let run = run(world, &parcel, GOOD).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(run.state, State::Confirmed);
    }
}
