//! Started by a lookup, stopped when idle.

use super::*;

fn usage(connections: u64) -> Request {
    Request::Usage(protocol::registry::Usage { connections })
}

fn house() -> House {
    let mut house = House::new();
    house.on_demand.insert("camera".into(), ("cam".into(), Some(30_000)));
    house.connect(9, 0);
    house
}

#[test]
fn a_lookup_starts_the_service_once_and_all_who_look_get_the_object() {
    let mut house = house();
    let calls = [house.lookup(9, "camera"), house.lookup(9, "camera")];
    assert_eq!(house.log, ["activate camera"]);
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    for call in calls {
        assert_eq!(house.replies.remove(&call).unwrap().unwrap()["pid"], 4001);
    }
}

#[test]
fn what_nobody_serves_on_demand_is_not_found() {
    let mut house = house();
    house.slow = true;
    let call = house.lookup(9, "radio");
    assert!(!house.replies.contains_key(&call));
    house.answer();
    assert_eq!(code(house.replies.remove(&call).unwrap()), Code::NotFound);
    let lookup = protocol::registry::Lookup {
        object: "camera".into(),
        activate: false,
        ..Default::default()
    };
    assert_eq!(code(house.ask(9, Request::Lookup(lookup))), Code::NotFound);
    assert_eq!(house.log, ["activate radio"]);
}

#[test]
fn a_service_that_nobody_uses_is_released_and_a_used_one_is_not() {
    let mut house = house();
    house.lookup(9, "camera");
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.ask(1, usage(1)).unwrap();
    house.advance(100 * SECOND);
    assert_eq!(house.log, ["activate camera"]);
    house.ask(1, usage(0)).unwrap();
    house.advance(20 * SECOND);
    // Somebody is about to connect.
    house.find(9, "camera").unwrap();
    house.advance(20 * SECOND);
    assert_eq!(house.log, ["activate camera"]);
    house.advance(11 * SECOND);
    assert_eq!(house.log, ["activate camera", "release cam"]);
    house.close(1);
    house.advance(100 * SECOND);
    assert_eq!(house.log.len(), 2);
    house.lookup(9, "camera");
    assert_eq!(house.log.len(), 3, "it can be started again");
}

#[test]
fn an_object_that_is_faster_than_the_supervisors_answer_is_still_released() {
    let mut house = house();
    house.slow = true;
    let call = house.lookup(9, "camera");
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    assert!(house.replies.contains_key(&call));
    house.answer();
    house.advance(31 * SECOND);
    assert_eq!(house.log, ["activate camera", "release cam"]);
}

#[test]
fn a_service_that_never_registers_is_given_up_and_named() {
    let mut house = house();
    let lookup = protocol::registry::Lookup {
        object: "camera".into(),
        activate: true,
        ..Default::default()
    };
    let (call, request) = (77, Request::Lookup(lookup));
    house.event(Event::Call { call, connection: 9, deadline: None, request });
    house.advance(61 * SECOND);
    let failure = house.replies.remove(&call).unwrap().unwrap_err();
    assert!(failure.text.contains("service cam was started for camera"), "{failure}");
}

#[test]
fn only_a_few_are_started_at_the_same_time_and_the_others_in_turn() {
    let mut house = house();
    house.slow = true;
    let calls: Vec<CallId> = (0..20).map(|at| house.lookup(9, &format!("o{at:02}"))).collect();
    assert_eq!(house.log.len(), 8);
    for _ in 0..3 {
        house.answer();
    }
    assert_eq!(house.log.len(), 20);
    assert!(calls.iter().all(|call| house.replies.contains_key(call)));
}

#[test]
fn what_was_started_on_demand_is_released_after_a_restart_of_the_registry_too() {
    let mut house = house();
    house.lookup(9, "camera");
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.restart();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.advance(31 * SECOND);
    assert_eq!(house.log, ["activate camera", "release cam"]);
}

#[test]
fn a_service_of_two_processes_is_released_when_both_are_idle() {
    let mut house = house();
    house.on_demand.insert("zoom".into(), ("cam".into(), Some(30_000)));
    for (connection, object) in [(1, "camera"), (2, "zoom")] {
        house.lookup(9, object);
        house.serve(connection, 0, &format!("/tmp/{object}"), &[object]);
    }
    house.ask(2, usage(1)).unwrap();
    house.advance(100 * SECOND);
    assert!(!house.log.contains(&"release cam".to_owned()), "{:?}", house.log);
    house.ask(2, usage(0)).unwrap();
    house.advance(31 * SECOND);
    assert!(house.log.contains(&"release cam".to_owned()));
}
