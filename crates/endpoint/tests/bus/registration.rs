//! Being found: registries that come late, restart, change the rules and refuse.

use std::{collections::BTreeSet, os::unix::net::UnixListener, time::Duration};

use endpoint::{CallOptions, Client, Code, Failure, Options, RetryPolicy, Server, Settings, State};
use protocol::registry::{Handle, Subscribe};
use tokio::time::Instant;

use crate::{
    Named, SOON, bus, provider, registered,
    registry::{Device, push_policy},
    until, until_registered,
};

#[tokio::test]
async fn all_who_started_before_the_registry_are_there_as_soon_as_it_is() {
    let device = Device::new();
    let run_dir = device.directory.path();
    // With these policies the next try would be five seconds away.
    let providers: Vec<_> = (0..20)
        .map(|at| {
            let socket = device.path(&format!("p{at}.sock"));
            let server = provider(&socket, &format!("object/{at}"), "one");
            (bus(run_dir).register(&server, &socket, RetryPolicy::SEED), server)
        })
        .collect();
    let clients: Vec<_> = (0..50)
        .map(|at| {
            let bus = bus(run_dir);
            let object = format!("object/{}", at % 20);
            tokio::spawn(async move { bus.wait_for(&[&object], SOON).await })
        })
        .collect();
    for (registration, _) in &providers {
        assert_eq!(*registration.state().borrow(), State::Trying);
    }
    // Long enough for every first try to have failed.
    let nobody = bus(run_dir).wait_for(&["object/0"], Duration::from_millis(300)).await;
    assert!(nobody.is_err());
    let began = Instant::now();
    let _registry = device.registry();
    for (registration, _) in &providers {
        until_registered(registration).await;
    }
    for client in clients {
        client.await.unwrap().unwrap();
    }
    println!("20 providers and 50 clients after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn objects_that_come_and_go_later_are_offered_and_withdrawn() {
    let device = Device::new();
    let _registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let bus = bus(device.directory.path());
    let _registration = registered(&bus, &server, &socket).await;
    server.add("lens", Named("lens")).unwrap();
    bus.wait_for(&["lens"], SOON).await.unwrap();
    let mut watch = bus.watch("*");
    watch.active(SOON).await.unwrap();
    assert!(server.remove("camera"));
    let is = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|n| (*n).into()).collect() };
    let there = || watch.objects().into_iter().map(|found| found.object.name).collect();
    until(|| is(&["lens"]) == there()).await;
    // The same name again is another object: its token's generation has changed.
    server.add("camera", Named("two")).unwrap();
    until(|| is(&["camera", "lens"]) == there()).await;
}

#[tokio::test]
async fn rules_are_applied_and_said_to_be_whenever_they_are_pushed() {
    let device = Device::new();
    push_policy(&device.notes, 4);
    let _registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let _registration = registered(&bus(device.directory.path()), &server, &socket).await;
    assert_eq!(server.epoch(), 4);
    push_policy(&device.notes, 5);
    until(|| device.notes().applied.last() == Some(&5)).await;
    assert_eq!(server.epoch(), 5);
}

#[tokio::test]
async fn how_busy_the_endpoint_is_is_told_when_it_begins_and_ends() {
    let device = Device::new();
    let _registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let _registration = registered(&bus(device.directory.path()), &server, &socket).await;
    until(|| device.notes().usage.last() == Some(&0)).await;
    let client = Client::new(&socket, Options::default());
    client.call("camera", "name", &(), CallOptions::default()).await.unwrap();
    until(|| device.notes().usage.last().is_some_and(|connections| *connections > 0)).await;
    drop(client);
    until(|| device.notes().usage.last() == Some(&0)).await;
}

#[tokio::test]
async fn a_name_that_is_refused_is_asked_for_again_when_the_rules_change() {
    let device = Device::new();
    let _registry = device.registry();
    let denied = Failure::new(Code::Denied, "user 1000 may not own camera");
    device.notes().refuse.insert("camera".into(), denied.clone());
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    server.add("lens", Named("lens")).unwrap();
    let bus = bus(device.directory.path());
    let registration = registered(&bus, &server, &socket).await;
    bus.wait_for(&["lens"], SOON).await.unwrap();
    assert_eq!(registration.refused().get("camera"), Some(&denied));
    device.notes().refuse.clear();
    push_policy(&device.notes, 2);
    bus.wait_for(&["camera"], SOON).await.unwrap();
    until(|| registration.refused().is_empty()).await;
}

#[tokio::test]
async fn a_name_that_another_process_has_is_asked_for_again() {
    let device = Device::new();
    let _registry = device.registry();
    let taken = Failure::new(Code::Busy, "camera is process 7's");
    device.notes().refuse.insert("camera".into(), taken);
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let bus = bus(device.directory.path());
    let registration = registered(&bus, &server, &socket).await;
    assert_eq!(registration.refused().len(), 1);
    device.notes().refuse.clear();
    bus.wait_for(&["camera"], SOON).await.unwrap();
}

#[tokio::test]
async fn after_a_restart_the_old_handle_is_presented_and_another_one_is_lived_with() {
    let device = Device::new();
    let registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let bus = bus(device.directory.path());
    let registration = registered(&bus, &server, &socket).await;
    let first = Handle { epoch: 1, number: 1 };
    assert_eq!(*registration.state().borrow(), State::Registered { handle: first });

    registry.kill();
    device.notes().epoch = 2;
    let registry = device.registry();
    until(|| device.notes().registered.len() == 2).await;
    until_registered(&registration).await;
    assert_eq!(device.notes().registered, [None, Some(first)]);
    assert_eq!(*registration.state().borrow(), State::Registered { handle: first });

    registry.kill();
    device.notes().forgetful = true;
    let _registry = device.registry();
    until(|| device.notes().registered.len() == 3).await;
    let second = State::Registered { handle: Handle { epoch: 2, number: 1 } };
    until(|| *registration.state().borrow() == second).await;
    bus.wait_for(&["camera"], SOON).await.unwrap();
}

#[tokio::test]
async fn a_registry_whose_socket_outlives_it_is_waited_for_in_the_backlog() {
    let device = Device::new();
    let held = UnixListener::bind(device.path("registry.sock")).unwrap();
    let registry = crate::registry::Registry::listening(held.try_clone().unwrap(), &device.notes);
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let bus = bus(device.directory.path());
    let registration = registered(&bus, &server, &socket).await;
    registry.kill();
    until(|| *registration.state().borrow() == State::Trying).await;
    let began = Instant::now();
    let _registry = crate::registry::Registry::listening(held, &device.notes);
    until_registered(&registration).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn when_the_policy_is_exhausted_that_is_said_and_a_late_registry_is_still_welcome() {
    let device = Device::new();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let short = Duration::from_millis(5);
    let policy = RetryPolicy::doubling(short, short, 10 * short);
    let registration = bus(device.directory.path()).register(&server, &socket, policy);
    until(|| *registration.state().borrow() == State::Exhausted).await;
    let client = Client::new(&socket, Options::default());
    client.call("camera", "name", &(), CallOptions::default()).await.unwrap();
    let _registry = device.registry();
    until_registered(&registration).await;
}

#[tokio::test]
async fn a_socket_that_nobody_could_connect_to_is_refused() {
    let device = Device::new();
    let server = Server::new(Settings::default()).unwrap();
    let registration =
        bus(device.directory.path()).register(&server, "relative.sock", RetryPolicy::DEFAULT);
    until(|| matches!(*registration.state().borrow(), State::Refused(_))).await;
}

fn everything() -> Subscribe {
    Subscribe { patterns: vec!["*".into()], ..Subscribe::default() }
}

#[tokio::test]
async fn nothing_is_left_of_a_bus_that_was_dropped() {
    let device = Device::new();
    let registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let full = bus(device.directory.path());
    let registration = registered(&full, &server, &socket).await;
    let subscription = full.subscribe(everything());
    let mut watch = full.watch("*");
    watch.active(SOON).await.unwrap();
    full.publish("tick", &1, true).unwrap();
    assert!(full.flush(SOON).await);
    full.call("camera", "name", &(), CallOptions::default()).await.unwrap();
    assert!(tasks() > before);
    drop((full, registration, subscription, watch));
    // What remains for a moment are the ends of the connections.
    until(|| tasks() <= before).await;

    registry.kill();
    let lonely = bus(device.directory.path());
    let registration = lonely.register(&server, &socket, RetryPolicy::DEFAULT);
    let subscription = lonely.subscribe(everything());
    let watch = lonely.watch("*");
    lonely.publish("tick", &1, true).unwrap();
    assert!(!lonely.flush(Duration::from_millis(20)).await);
    drop((lonely, registration, subscription, watch));
    until(|| tasks() <= before).await;
}
