//! Finding and waiting.

use super::*;

fn wait(names: &[&str]) -> Request {
    let objects = names.iter().map(|name| (*name).to_owned()).collect();
    Request::Wait(protocol::registry::Wait { objects })
}

#[test]
fn a_missing_feature_of_a_service_that_is_there_is_not_found() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    let failure = house.find(1, "camera/zoom").unwrap_err();
    assert_eq!(failure.code, Code::NotFound);
    let failure = house.find(1, "camrea").unwrap_err();
    assert!(failure.text.contains("did you mean \"camera\"?"), "{failure}");
}

#[test]
fn what_is_wanted_of_the_interface_is_checked() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    let mut find = |interface: &str, minor, hash| {
        let lookup = protocol::registry::Lookup {
            object: "camera".into(),
            interface: Some(interface.into()),
            version: Some(version(1, minor)),
            hash: Some(hash),
            activate: true,
        };
        house.ask(1, Request::Lookup(lookup)).map_err(|failure| failure.code)
    };
    assert!(find("demo.camera", 2, 7).is_ok());
    assert!(find("demo.camera", 1, 99).is_ok(), "an older client has another hash");
    assert_eq!(find("demo.camera", 3, 7), Err(Code::Unsupported));
    assert_eq!(find("demo.camera", 2, 8), Err(Code::Unsupported));
    assert_eq!(find("demo.radio", 2, 7), Err(Code::Unsupported));
}

#[test]
fn a_stranger_finds_only_what_some_rule_lets_him_call() {
    let mut rules = vec![allow(Verb::Call, "clock", WEB)];
    rules[0].methods = vec!["read".into()];
    let mut house = House::with(rules);
    house.serve(1, 0, "/tmp/a.sock", &["camera", "clock"]);
    house.connect(2, WEB);
    assert_eq!(code(house.find(2, "camera")), Code::Denied);
    assert!(house.find(2, "clock").is_ok());
    assert_eq!(house.audit.len(), 1);
    assert_eq!(house.audit[0].verb, "lookup");
    // The user that serves it needs no rule; the registry's own user does.
    house.services.insert(3, Ok("cam".into()));
    house.serve(3, CAM, "/tmp/c.sock", &["cam"]);
    house.connect(4, CAM);
    assert!(house.find(4, "cam").is_ok());
    house.connect(5, OWN);
    assert_eq!(code(house.find(5, "cam")), Code::Denied);
}

#[test]
fn a_wait_is_answered_when_all_are_there() {
    let mut house = House::new();
    house.connect(9, 0);
    let call = house.call(9, wait(&["camera", "clock"]));
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    assert!(!house.replies.contains_key(&call));
    house.serve(2, 0, "/tmp/b.sock", &["clock"]);
    let rows = house.replies.remove(&call).unwrap().unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(house.ask(9, wait(&["camera"])).unwrap()[0]["name"], "camera");
}

#[test]
fn a_wait_that_is_in_vain_ends_with_its_deadline_and_says_what_is_missing() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    let call = house.call(1, wait(&["camera", "clock"]));
    house.advance(31 * SECOND);
    let failure = house.replies.remove(&call).unwrap().unwrap_err();
    assert_eq!(failure.code, Code::Timeout);
    assert!(failure.text.contains("clock") && !failure.text.contains("camera"), "{failure}");
}

#[test]
fn who_disconnects_waits_no_longer_and_a_user_cannot_wait_without_end() {
    let mut house = House::new();
    house.connect(1, CAM);
    let first = house.call(1, wait(&["nothing"]));
    for _ in 1..256 {
        house.call(1, wait(&["nothing"]));
    }
    assert_eq!(code(house.ask(1, wait(&["nothing"]))), Code::Limit);
    house.connect(2, WEB);
    let other = house.call(2, wait(&["nothing"]));
    house.close(1);
    house.connect(3, CAM);
    let call = house.call(3, wait(&["nothing"]));
    assert!(!house.replies.contains_key(&call) && !house.replies.contains_key(&other));
    house.advance(31 * SECOND);
    assert!(house.replies.contains_key(&call), "its deadline holds");
    assert!(!house.replies.contains_key(&first), "nobody is there to be answered");
}

#[test]
fn a_watcher_hears_of_what_its_pattern_holds_and_of_nothing_else() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera/front"]);
    house.connect(9, 0);
    let pattern = Some("camera/*".to_owned());
    let rows = house.ask(9, Request::Watch(protocol::registry::Matching { pattern })).unwrap();
    assert_eq!(rows[0]["name"], "camera/front");
    house.serve(2, 0, "/tmp/b.sock", &["camera/back", "clock"]);
    house.close(1);
    assert_eq!(house.heard(9), ["object.add camera/back", "object.remove camera/front"]);
    house.ask(9, Request::Unsubscribe(Default::default())).unwrap();
    house.close(2);
    assert_eq!(house.heard(9), Vec::<String>::new());
}

#[test]
fn presence_ends_with_the_provider_and_a_suite_object_is_waited_for_longer() {
    let mut house = House::new();
    house.serve(1, 0, "/run/log.sock", &["log"]);
    house.serve(2, 0, "/tmp/a.sock", &["camera"]);
    house.close(1);
    house.close(2);
    house.connect(9, 0);
    assert_eq!(house.names(9), ["registry"]);
    // The log is started again at once, surely.
    let call = house.lookup(9, "log");
    assert!(!house.replies.contains_key(&call));
    house.serve(3, 0, "/run/log.sock", &["log"]);
    assert_eq!(house.replies.remove(&call).unwrap().unwrap()["pid"], 4003);
    house.close(3);
    let call = house.lookup(9, "log");
    house.advance(6 * SECOND);
    assert_eq!(code(house.replies.remove(&call).unwrap()), Code::NotFound);
}

#[test]
fn who_asks_between_an_old_process_and_the_one_that_replaces_it_waits_for_that_one() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.connect(9, 0);
    house.close(1);
    let call = house.lookup(9, "camera");
    assert!(!house.replies.contains_key(&call));
    house.serve(2, 0, "/tmp/a.sock", &["camera"]);
    assert_eq!(house.replies.remove(&call).unwrap().unwrap()["pid"], 4002);
    house.close(2);
    let call = house.lookup(9, "camera");
    house.advance(2 * SECOND);
    assert_eq!(code(house.replies.remove(&call).unwrap()), Code::NotFound);
    assert_eq!(code(house.find(9, "camera")), Code::NotFound);
}
