//! Publishing and subscribing.

use std::sync::Arc;

use protocol::registry::{DATA_MAX, Overflow, Subscribe, Unsubscribe};

use super::*;

fn publish(topic: &str, data: &Value, retain: bool) -> Request {
    let data = serde_json::to_vec(data).unwrap().into();
    Request::Publish(Publication { topic: topic.to_owned(), data, retain })
}

fn subscribe(patterns: &[&str]) -> Subscribe {
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    Subscribe { patterns, retained: true, ..Subscribe::default() }
}

#[test]
fn an_event_reaches_each_subscriber_once_and_the_publisher_hears_how_many() {
    let mut house = House::new();
    for connection in 1..=3 {
        house.connect(connection, 0);
    }
    house.ask(1, Request::Subscribe(subscribe(&["demo.*", "*.on", "demo.on"]))).unwrap();
    house.ask(2, Request::Subscribe(subscribe(&["demo.off"]))).unwrap();
    let sent = |house: &mut House, topic: &str, data: Value| {
        house.ask(3, publish(topic, &data, false)).unwrap()["subscribers"].clone()
    };
    assert_eq!(sent(&mut house, "demo.on", json!({"x": 1})), 1);
    assert_eq!(house.events, [(1, "demo.on".to_owned(), json!({"x": 1}))]);
    // Without data it is an event all the same.
    assert_eq!(sent(&mut house, "demo.off", Value::Null), 2);
    assert_eq!(sent(&mut house, "other", Value::Null), 0);
    house.ask(1, Request::Unsubscribe(Unsubscribe { patterns: vec!["demo.*".into()] })).unwrap();
    assert_eq!(sent(&mut house, "demo.off", Value::Null), 1);
    house.close(2);
    assert_eq!(sent(&mut house, "demo.off", Value::Null), 0);
}

#[test]
fn who_comes_later_gets_what_was_retained_until_its_publisher_ends() {
    let mut house = House::new();
    house.connect(1, 0);
    house.connect(2, 0);
    house.ask(1, publish("demo.level", &json!(5), true)).unwrap();
    house.ask(1, publish("demo.level", &json!(6), true)).unwrap();
    house.ask(2, publish("demo.once", &json!(1), false)).unwrap();
    house.connect(3, 0);
    house.ask(3, Request::Subscribe(subscribe(&["demo.*"]))).unwrap();
    assert_eq!(house.events, [(3, "demo.level".to_owned(), json!(6))]);
    let without = Subscribe { retained: false, ..subscribe(&["demo.*"]) };
    house.connect(4, 0);
    house.ask(4, Request::Subscribe(without)).unwrap();
    assert_eq!(house.heard(4), Vec::<String>::new());
    house.close(1);
    house.connect(5, 0);
    house.ask(5, Request::Subscribe(subscribe(&["demo.*"]))).unwrap();
    assert_eq!(house.heard(5), Vec::<String>::new());
    assert_eq!(house.machine.retained_bytes, 0);
}

#[test]
fn null_forgets_a_retained_value() {
    let mut house = House::new();
    house.connect(1, 0);
    house.ask(1, publish("demo.level", &json!(5), true)).unwrap();
    house.ask(1, publish("demo.level", &Value::Null, true)).unwrap();
    house.ask(1, Request::Subscribe(subscribe(&["*"]))).unwrap();
    assert_eq!(house.heard(1), Vec::<String>::new());
    assert_eq!(house.machine.retained_bytes, 0);
}

#[test]
fn a_sender_filter_lets_only_the_owners_events_through() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.connect(2, 0);
    house.connect(3, 0);
    let filtered = Subscribe { sender: Some("camera".into()), ..subscribe(&["*"]) };
    house.ask(3, Request::Subscribe(filtered)).unwrap();
    house.ask(1, publish("demo.x", &json!(1), false)).unwrap();
    house.ask(2, publish("demo.x", &json!(2), false)).unwrap();
    assert_eq!(house.events, [(3, "demo.x".to_owned(), json!(1))]);
}

#[test]
fn topics_under_an_object_are_for_its_owner_alone() {
    let mut house = House::with(vec![allow(Verb::Publish, "*", WEB)]);
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.serve(2, 0, "/run/supervisor.sock", &["service", "system"]);
    house.connect(3, 0);
    house.connect(4, WEB);
    house.connect(5, CAM);
    let mut may =
        |connection, topic| house.ask(connection, publish(topic, &json!(1), false)).is_ok();
    assert!(may(1, "camera.frame") && !may(3, "camera.frame") && !may(4, "camera.frame"));
    assert!(may(2, "service.exit") && may(2, "system.shutdown") && may(2, "instance.start"));
    assert!(!may(3, "service.exit") && !may(1, "instance.start"));
    assert!(may(2, "event.trigger") && !may(1, "event.trigger") && !may(3, "event.trigger"));
    assert!(may(2, "config.invalid") && !may(2, "config.change") && !may(1, "config.invalid"));
    // Nobody serves it at the moment: nobody speaks for it.
    assert!(!may(3, "config.change"));
    for connection in [1, 2, 3] {
        assert!(!may(connection, "object.add") && !may(connection, "registry.policy"));
        assert!(!may(connection, "policy.changed") && !may(connection, "endpoint.died"));
    }
    // All others are for root, and for whom a rule names.
    assert!(may(3, "demo.x") && may(4, "demo.x") && !may(5, "demo.x"));
}

#[test]
fn data_patterns_and_queues_beyond_their_limits_are_refused_by_name() {
    let mut house = House::new();
    house.connect(1, 0);
    let long = |length| {
        let data: Arc<[u8]> = vec![b'1'; length].into();
        Request::Publish(Publication { topic: "demo.x".into(), data, retain: false })
    };
    house.ask(1, long(DATA_MAX)).unwrap();
    let failure = house.ask(1, long(DATA_MAX + 1)).unwrap_err();
    assert_eq!(failure.code, Code::Limit);
    assert!(failure.text.contains("65536"), "{failure}");
    // Ten thousand subscriptions: 64 are taken, the others clearly refused.
    let refused = (0..10_000)
        .filter(|at| {
            let one = subscribe(&[&format!("demo.{at}")]);
            house.ask(1, Request::Subscribe(one)).is_err_and(|failure| failure.code == Code::Limit)
        })
        .count();
    assert_eq!(refused, 10_000 - 64);
    let (status, who) = house.machine.status();
    assert_eq!((status.subscribers[0].patterns.len(), who), (64, vec![1]));
    house.connect(2, 0);
    for queue in [0, 4097] {
        let one = Subscribe { queue: Some(queue), ..subscribe(&["*"]) };
        assert_eq!(code(house.ask(2, Request::Subscribe(one))), Code::InvalidArgument);
    }
    let one =
        Subscribe { queue: Some(4096), overflow: Some(Overflow::DropNew), ..subscribe(&["*"]) };
    house.ask(2, Request::Subscribe(one)).unwrap();
    assert_eq!(house.log, ["queue 2 4096 DropNew"]);
    assert_eq!(code(house.ask(2, Request::Subscribe(subscribe(&[])))), Code::InvalidArgument);
}

#[test]
fn a_user_cannot_subscribe_or_retain_without_end_over_many_connections() {
    let mut house = House::with(vec![allow(Verb::Publish, "*", CAM)]);
    let patterns: Vec<String> = (0..64).map(|at| format!("p{at}")).collect();
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    for connection in 1..=16 {
        house.connect(connection, CAM);
        house.ask(connection, Request::Subscribe(subscribe(&patterns))).unwrap();
    }
    house.connect(17, CAM);
    assert_eq!(code(house.ask(17, Request::Subscribe(subscribe(&["one-more"])))), Code::Limit);
    let data = json!("x".repeat(60_000));
    let kept = (0..100)
        .take_while(|at| house.ask(1, publish(&format!("demo.{at}"), &data, true)).is_ok())
        .count();
    assert_eq!(kept, 17, "a mebibyte");
    // The same topic again takes no more room.
    house.ask(1, publish("demo.3", &data, true)).unwrap();
    house.connect(18, 0);
    house.ask(18, publish("demo.root", &data, true)).unwrap();
}

#[test]
fn there_are_at_most_1024_retained_topics() {
    let mut house = House::new();
    house.connect(1, 0);
    for at in 0..1024 {
        house.ask(1, publish(&format!("demo.{at}"), &json!(1), true)).unwrap();
    }
    assert_eq!(code(house.ask(1, publish("demo.more", &json!(1), true))), Code::Limit);
    house.ask(1, publish("demo.7", &Value::Null, true)).unwrap();
    house.ask(1, publish("demo.more", &json!(1), true)).unwrap();
}
