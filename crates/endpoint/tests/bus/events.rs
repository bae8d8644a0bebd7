//! Events and watches: late registries, restarts, slow readers.

use std::time::Duration;

use endpoint::{Change, Code, Event, Subscription};
use protocol::registry::{Overflow, Subscribe};

use crate::{Named, SOON, bus, provider, registered, registry::Device, until, until_registered};

fn patterns(patterns: &[&str]) -> Subscribe {
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    Subscribe { patterns, retained: true, ..Subscribe::default() }
}

async fn next(subscription: &mut Subscription) -> Event {
    tokio::time::timeout(SOON, subscription.next()).await.unwrap().unwrap()
}

fn topics(device: &Device) -> Vec<(String, serde_json::Value)> {
    let notes = device.notes();
    notes.published.iter().map(|publish| (publish.topic.clone(), publish.data.clone())).collect()
}

#[tokio::test]
async fn events_from_before_the_registry_come_in_their_order_when_it_is_there() {
    let device = Device::new();
    let publisher = bus(device.directory.path());
    for at in 0..100 {
        publisher.publish("tick", &at, false).unwrap();
    }
    assert!(!publisher.flush(Duration::from_millis(10)).await);
    let _registry = device.registry();
    assert!(publisher.flush(SOON).await);
    let expected: Vec<_> = (0..100).map(|at| ("tick".to_owned(), at.into())).collect();
    assert_eq!(topics(&device), expected);
}

#[tokio::test]
async fn the_buffer_drops_the_oldest_and_never_makes_the_publisher_wait() {
    let device = Device::new();
    let publisher = bus(device.directory.path());
    for at in 0..5000 {
        publisher.publish("tick", &at, false).unwrap();
    }
    let _registry = device.registry();
    assert!(publisher.flush(SOON).await);
    let published = topics(&device);
    assert_eq!(published.len(), 1024);
    assert_eq!(published.last().unwrap().1, 4999);
}

#[tokio::test]
async fn retained_values_are_published_again_to_a_new_registry_by_their_owner() {
    let device = Device::new();
    let registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let provider = bus(device.directory.path());
    let registration = registered(&provider, &server, &socket).await;
    provider.publish("camera.state", &"idle", true).unwrap();
    provider.publish("camera.picture", &1, false).unwrap();
    provider.publish("camera.state", &"busy", true).unwrap();
    assert!(provider.flush(SOON).await);
    assert_eq!(device.notes().owned, [true; 3]);
    registry.kill();
    {
        let mut notes = device.notes();
        notes.published.clear();
        notes.owned.clear();
    }
    let _registry = device.registry();
    until(|| !device.notes().published.is_empty()).await;
    until_registered(&registration).await;
    assert_eq!(topics(&device), [("camera.state".to_owned(), "busy".into())]);
    assert_eq!(device.notes().owned, [true]);
    let mut late = bus(device.directory.path()).subscribe(patterns(&["camera.*"]));
    assert_eq!(next(&mut late).await.parse::<String>().unwrap(), "busy");
}

#[tokio::test]
async fn what_the_registry_refuses_delays_nothing_behind_it() {
    let device = Device::new();
    let _registry = device.registry();
    let denied = endpoint::Failure::new(Code::Denied, "not yours");
    device.notes().refuse.insert("others.state".into(), denied);
    let publisher = bus(device.directory.path());
    publisher.publish("others.state", &1, true).unwrap();
    publisher.publish("mine", &2, false).unwrap();
    assert!(publisher.flush(SOON).await);
    assert_eq!(topics(&device), [("mine".to_owned(), 2.into())]);
}

#[tokio::test]
async fn a_subscription_outlives_the_registry_and_shows_the_gap() {
    let device = Device::new();
    let mut subscription = bus(device.directory.path()).subscribe(patterns(&["tick"]));
    let publisher = bus(device.directory.path());
    let registry = device.registry();
    subscription.active(SOON).await.unwrap();
    publisher.publish("tick", &1, false).unwrap();
    assert_eq!(next(&mut subscription).await.parse::<u32>().unwrap(), 1);
    assert!(publisher.flush(SOON).await);
    registry.kill();
    let _registry = device.registry();
    let gap = next(&mut subscription).await;
    assert!(gap.is_gap() && gap.lost > 0, "{gap:?}");
    publisher.publish("tick", &2, false).unwrap();
    assert_eq!(next(&mut subscription).await.parse::<u32>().unwrap(), 2);
}

#[tokio::test]
async fn a_slow_subscriber_loses_its_own_events_only_and_is_told_how_many() {
    let device = Device::new();
    let _registry = device.registry();
    let listener = bus(device.directory.path());
    let few = Subscribe { queue: Some(10), ..patterns(&["tick"]) };
    let mut slow = listener.subscribe(few.clone());
    let mut picky = listener.subscribe(Subscribe { overflow: Some(Overflow::Disconnect), ..few });
    let mut quick = listener.subscribe(patterns(&["tick"]));
    for subscription in [&mut slow, &mut picky, &mut quick] {
        subscription.active(SOON).await.unwrap();
    }
    let publisher = bus(device.directory.path());
    for at in 0..100 {
        publisher.publish("tick", &at, false).unwrap();
        assert_eq!(next(&mut quick).await.parse::<u32>().unwrap(), at);
    }
    let first = next(&mut slow).await;
    assert_eq!((first.parse::<u32>().unwrap(), first.lost), (90, 90));
    for at in 0..10 {
        assert_eq!(next(&mut picky).await.parse::<u32>().unwrap(), at);
    }
    assert_eq!(picky.next().await.unwrap_err().code, Code::Limit);
}

#[tokio::test]
async fn a_subscription_that_the_registry_refuses_says_why() {
    let device = Device::new();
    let _registry = device.registry();
    let mut subscription = bus(device.directory.path()).subscribe(patterns(&["x"; 65]));
    assert_eq!(subscription.active(SOON).await.unwrap_err().code, Code::Limit);
    assert_eq!(subscription.next().await.unwrap_err().code, Code::Limit);
}

#[tokio::test]
async fn a_watch_tells_what_is_there_what_comes_and_what_goes() {
    let device = Device::new();
    let _registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let registration = registered(&bus(device.directory.path()), &server, &socket).await;
    let mut watch = bus(device.directory.path()).watch("*");
    watch.active(SOON).await.unwrap();
    assert_eq!(watch.objects().len(), 1);
    let mut changes = Vec::new();
    server.add("lens", Named("lens")).unwrap();
    for _ in 0..2 {
        changes.push(tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap());
    }
    drop(registration);
    for _ in 0..2 {
        changes.push(tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap());
    }
    let told: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Added(found) => ('+', &*found.object.name),
            Change::Changed(found) => ('~', &*found.object.name),
            Change::Removed(found) => ('-', &*found.object.name),
        })
        .collect();
    assert_eq!(told, [('+', "camera"), ('+', "lens"), ('-', "camera"), ('-', "lens")]);
}

#[tokio::test]
async fn a_restart_of_the_registry_is_no_death_of_anybody() {
    let device = Device::new();
    let registry = device.registry();
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let registration = registered(&bus(device.directory.path()), &server, &socket).await;
    let mut watch = bus(device.directory.path()).watch("*");
    assert!(matches!(watch.next().await.unwrap(), Change::Added(_)));
    registry.kill();
    // The list after the restart lacks the object, as before its endpoint registered again.
    device.notes().hide.push("camera".into());
    let _registry = device.registry();
    until_registered(&registration).await;
    watch.active(SOON).await.unwrap();
    assert_eq!(watch.objects().len(), 1);
    server.add("lens", Named("lens")).unwrap();
    let next = tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap();
    assert!(matches!(&next, Change::Added(found) if found.object.name == "lens"), "{next:?}");
}

#[tokio::test]
async fn waiting_for_objects_goes_on_over_a_restart() {
    let device = Device::new();
    let registry = device.registry();
    let waiter = bus(device.directory.path());
    let waiting = tokio::spawn(async move { waiter.wait_for(&["camera", "lens"], SOON).await });
    let socket = device.path("camera.sock");
    let server = provider(&socket, "camera", "one");
    let registration = registered(&bus(device.directory.path()), &server, &socket).await;
    registry.kill();
    let _registry = device.registry();
    until_registered(&registration).await;
    assert!(!waiting.is_finished());
    server.add("lens", Named("lens")).unwrap();
    let found = waiting.await.unwrap().unwrap();
    assert_eq!(found.len(), 2);
    let never = bus(device.directory.path());
    let error = never.wait_for(&["nobody"], Duration::from_millis(20)).await.unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}
