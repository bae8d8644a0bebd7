//! Three services and everything that may happen to them, in any order: nothing is ever doubled, every request is
//! answered once, and when it is quiet what is wanted runs and the rest does not.

use proptest::{collection::vec, prelude::*};
use protocol::keeper::{Exit, Phase};

use super::*;

const SERVICES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Copy, Debug)]
enum Step {
    Start(usize),
    Stop(usize),
    Restart(usize),
    Reload(usize),
    Replace(usize),
    Freeze(usize),
    Thaw(usize),
    /// From now on freezing works, or leads to nothing.
    Freezer(bool),
    /// What is to take its place crashes, or is ready.
    CrashNew(usize),
    ReadyNew(usize),
    /// Time for one of the keeper's reports about it.
    DeliverNew(usize),
    Set(usize, bool),
    Crash(usize),
    End(usize),
    Ready(usize),
    /// From now on its end takes time.
    Messy(usize),
    /// One report of the keeper, or one step of it where there is none.
    Deliver(usize),
    Pass(u64),
    Files(bool),
    KillSupervisor,
}

fn files(loud: bool) -> Vec<Arc<Service>> {
    vec![
        notifying("a", |service| main(service).process.stdout = loud),
        with("b", |service| service.requires = vec![name("a")]),
        with("c", |service| {
            service.after = vec![name("b")];
            service.wants = vec![name("a")];
        }),
    ]
}

fn apply(device: &mut Device, step: Step) {
    let request = |n: usize, wait: bool, kind: u8| {
        let (name, instance) = (name(SERVICES[n]), None);
        match kind {
            0 => Request::Start { name, instance, wait },
            1 => Request::Stop { name, instance, wait },
            2 => Request::Restart { name, instance, wait },
            3 => Request::Replace { name, instance, wait },
            _ => Request::Reload { name, instance, wait },
        }
    };
    match step {
        Step::Start(n) => drop(device.request(request(n, true, 0))),
        Step::Stop(n) => drop(device.request(request(n, true, 1))),
        Step::Restart(n) => drop(device.request(request(n, true, 2))),
        Step::Reload(n) => drop(device.request(request(n, true, 4))),
        Step::Replace(n) => drop(device.request(request(n, true, 3))),
        Step::Freeze(n) => {
            let (name, instance, limit) = (name(SERVICES[n]), None, None);
            device.request(Request::Freeze { name, instance, limit });
        }
        Step::Thaw(n) => {
            device.request(Request::Thaw { name: name(SERVICES[n]), instance: None });
        }
        Step::Freezer(works) => device.freezer = works.then_some(Ok(Means::Group)),
        Step::CrashNew(n) | Step::ReadyNew(n) | Step::DeliverNew(n) => {
            let Some(slot) = other_slot(device, n) else { return };
            let generation = device.keeper.slots[&slot].state.generation;
            match step {
                Step::CrashNew(_) => device.keeper.end(slot, Exit::Code(1), device.now),
                Step::ReadyNew(_) => {
                    device.event(Event::Notify { slot, generation, notice: Notice::Ready });
                }
                _ if device.keeper.changed.contains(&slot) => device.deliver_one(slot),
                _ => drop(device.keeper.step(slot, device.now)),
            }
        }
        Step::Set(n, loud) => {
            let mut service = (*files(loud)[n]).clone();
            service.source = Source::Message;
            device.request(Request::Set { service: Arc::new(service) });
        }
        Step::Crash(n) | Step::End(n) => {
            let slot = device.slot(SERVICES[n]);
            let exit = if matches!(step, Step::End(_)) { Exit::Code(0) } else { Exit::Code(1) };
            if device.keeper.slots.contains_key(&slot) {
                device.keeper.end(slot, exit, device.now);
            }
        }
        Step::Ready(n) => {
            let slot = device.slot(SERVICES[n]);
            if let Some(there) = device.keeper.slots.get(&slot) {
                let generation = there.state.generation;
                device.event(Event::Notify { slot, generation, notice: Notice::Ready });
            }
        }
        Step::Deliver(n) => {
            let slot = device.slot(SERVICES[n]);
            if device.keeper.changed.contains(&slot) {
                device.deliver_one(slot);
            } else {
                device.keeper.step(slot, device.now);
            }
        }
        Step::Messy(n) => {
            let slot = device.slot(SERVICES[n]);
            if let Some(there) = device.keeper.slots.get_mut(&slot) {
                there.messy = true;
            }
        }
        Step::Pass(ms) => {
            device.now += Duration::from_millis(ms);
            device.machine.handle_timeout(device.now);
            device.perform();
        }
        Step::Files(loud) => {
            device.files = files(loud);
            device.event(Event::Definitions { services: device.files.clone() });
        }
        Step::KillSupervisor => device.take_over(),
    }
}

/// The slot beside the one that is the instance.
fn other_slot(device: &Device, n: usize) -> Option<u32> {
    let identity = identity(&name(SERVICES[n]), &name("instance1"));
    let own = device.slot(SERVICES[n]);
    let slots = device.keeper.slots.values().map(|slot| slot.state);
    slots.filter(|state| state.identity == identity).map(|s| s.slot).find(|slot| *slot != own)
}

/// Lets everything come to its end, with `a` saying that it is ready whenever it is asked.
fn come_to_rest(device: &mut Device) {
    for _ in 0..40 {
        device.calm();
        if device.runs("a") {
            device.ready("a");
        }
        device.advance(20 * SECOND);
    }
    device.calm();
}

fn check(device: &Device) {
    for id in &device.asked {
        assert!(
            device.replies.contains_key(id),
            "request {id} was never answered: {:?}",
            device.log
        );
    }
    let running = |view: &InstanceView| {
        device
            .keeper
            .slots
            .get(&view.slot.slot)
            .is_some_and(|slot| slot.state.phase == Phase::Running)
    };
    let views = device.machine.view(None);
    assert_eq!(views.len(), 3);
    for (n, service) in SERVICES.iter().enumerate() {
        assert_eq!(other_slot(device, n), None, "a second process of {service}");
    }
    for view in views {
        let slot = device.keeper.slots.get(&view.slot.slot);
        let kept = slot.is_some_and(|slot| slot.kept);
        assert_eq!(kept, view.state == "frozen", "{view:?}");
        match view.state {
            "frozen" => assert!(view.wanted && running(&view), "{view:?}"),
            "ready" => assert!(view.wanted && running(&view), "{view:?}"),
            "done" | "held" | "failed" => assert!(!running(&view), "{view:?}"),
            "stopped" => assert!(!view.wanted && !running(&view), "{view:?}"),
            "waiting" => {
                let base = device.state("a");
                assert!(
                    view.service.name.as_str() == "b" && base != "ready",
                    "{view:?} beside a {base}"
                );
            }
            other => panic!("at rest nothing is {other}: {view:?}"),
        }
    }
}

fn run(steps: &[Step]) {
    let mut device = Device::with(files(false));
    for step in steps {
        apply(&mut device, *step);
    }
    come_to_rest(&mut device);
    check(&device);
}

fn any_step() -> impl Strategy<Value = Step> {
    let n = 0..SERVICES.len();
    prop_oneof![
        2 => n.clone().prop_map(Step::Start),
        2 => n.clone().prop_map(Step::Stop),
        2 => n.clone().prop_map(Step::Restart),
        1 => n.clone().prop_map(Step::Reload),
        2 => n.clone().prop_map(Step::Replace),
        2 => n.clone().prop_map(Step::Freeze),
        1 => n.clone().prop_map(Step::Thaw),
        1 => any::<bool>().prop_map(Step::Freezer),
        1 => n.clone().prop_map(Step::CrashNew),
        2 => n.clone().prop_map(Step::ReadyNew),
        2 => n.clone().prop_map(Step::DeliverNew),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, loud)| Step::Set(n, loud)),
        2 => n.clone().prop_map(Step::Crash),
        1 => n.clone().prop_map(Step::End),
        1 => n.clone().prop_map(Step::Messy),
        2 => n.clone().prop_map(Step::Ready),
        6 => n.prop_map(Step::Deliver),
        2 => prop_oneof![Just(0), Just(150), Just(6_000), Just(70_000)].prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Files),
        1 => Just(Step::KillSupervisor),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_ends_well(steps in vec(any_step(), 0..60)) {
        run(&steps);
    }
}

/// Failure row 18, in full: every order of these steps, with the keeper's reports late or at once.
#[test]
fn every_order_of_a_dying_dependency_and_a_restart_ends_well() {
    let steps = [
        Step::Messy(0),
        Step::Crash(0),
        Step::Stop(0),
        Step::Restart(1),
        Step::Start(2),
        Step::Ready(0),
        Step::Deliver(0),
    ];
    let mut order: Vec<usize> = (0..steps.len()).collect();
    permute(&mut order, 0, &mut |order| {
        let steps: Vec<Step> = order.iter().map(|n| steps[*n]).collect();
        run(&steps);
    });
}

/// The same for a replacement: both processes, a stop and the supervisor's death.
#[test]
fn every_order_of_a_replacement_and_what_may_come_between_ends_well() {
    let steps = [
        Step::Ready(0),
        Step::Replace(0),
        Step::ReadyNew(0),
        Step::Crash(0),
        Step::CrashNew(0),
        Step::KillSupervisor,
        Step::Restart(0),
    ];
    let mut order: Vec<usize> = (0..steps.len()).collect();
    permute(&mut order, 0, &mut |order| {
        let steps = order.iter().flat_map(|n| [steps[*n], Step::DeliverNew(0), Step::Deliver(0)]);
        run(&steps.collect::<Vec<_>>());
    });
}

/// Found by [`any_order_of_events_ends_well`]: a third process of one instance, which the next supervisor took for it.
#[test]
fn what_is_to_stop_or_has_a_candidate_that_still_ends_is_not_replaced() {
    let begin = [Step::Start(0), Step::Messy(0), Step::Ready(0), Step::Start(0)];
    let (replace, stop, start) = (Step::Replace(0), Step::Stop(0), Step::Start(0));
    for middle in [
        &[stop, replace, replace, Step::Restart(0)][..],
        &[replace, stop, replace, start],
        &[replace, stop, start, replace],
    ] {
        run(&[&begin, middle, &[Step::KillSupervisor]].concat());
    }
}

fn permute(order: &mut Vec<usize>, from: usize, visit: &mut impl FnMut(&[usize])) {
    if from == order.len() {
        visit(order);
        return;
    }
    for other in from..order.len() {
        order.swap(from, other);
        permute(order, from + 1, visit);
        order.swap(from, other);
    }
}
