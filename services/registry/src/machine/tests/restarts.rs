//! The registry dies and comes back.

use super::{house::registering, *};

#[test]
fn who_comes_back_has_its_old_handle_and_nobody_was_missed() {
    let mut house = House::new();
    let handle = house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.restart();
    house.connect(9, 0);
    let rows = house.ask(9, Request::Watch(Default::default())).unwrap();
    assert_eq!(rows[0]["name"], "camera", "still there, as far as is known");
    // A lookup waits until it is sure.
    let call = house.lookup(9, "camera");
    assert!(!house.replies.contains_key(&call));
    house.connect(1, 0);
    let again = registering("/tmp/a.sock", &format!("{:032x}", 1), Some(&handle), &["camera"]);
    assert_eq!(house.ask(1, again).unwrap()["handle"], handle);
    assert_eq!(house.replies.remove(&call).unwrap().unwrap()["handle"], handle);
    house.advance(10 * SECOND);
    assert_eq!(house.heard(9), Vec::<String>::new());
}

#[test]
fn who_does_not_come_back_is_dead_after_five_seconds() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.serve(2, 0, "/run/log.sock", &["log"]);
    house.restart();
    house.connect(9, 0);
    house.ask(9, Request::Watch(Default::default())).unwrap();
    let calls = [house.lookup(9, "camera"), house.lookup(9, "log")];
    house.advance(4 * SECOND);
    assert_eq!(house.heard(9), Vec::<String>::new());
    house.advance(2 * SECOND);
    assert_eq!(house.heard(9), ["object.remove camera", "object.remove log"]);
    for call in calls {
        assert_eq!(code(house.replies.remove(&call).unwrap()), Code::NotFound);
    }
    assert_eq!(house.names(9), ["registry"]);
}

#[test]
fn meanwhile_its_name_is_kept_and_a_stranger_is_told_for_how_long() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.restart();
    house.advance(2 * SECOND);
    let answer = house.register(2, 0, "/tmp/b.sock", &["camera"]).unwrap();
    let refused = &answer["objects"][0]["failure"];
    assert_eq!(refused["code"], "busy");
    assert_eq!(refused["details"]["retry_after_ms"], 3001);
    assert!(refused["text"].as_str().unwrap().contains("pid 4001"), "{refused}");
    house.advance(3 * SECOND);
    let offer = Request::Offer(protocol::registry::Offer { objects: vec![served("camera", 0)] });
    assert!(house.ask(2, offer).unwrap()[0].get("failure").is_none());
}

#[test]
fn a_process_that_was_restarted_together_with_the_registry_gets_its_socket_s_names_at_once() {
    let mut house = House::new();
    let old = house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.restart();
    house.connect(9, 0);
    house.ask(9, Request::Watch(Default::default())).unwrap();
    let new = house.serve(2, 0, "/tmp/a.sock", &["camera"]);
    assert_ne!(new, old);
    assert_eq!(house.heard(9), ["object.add camera"]);
    house.advance(6 * SECOND);
    assert_eq!(house.heard(9), Vec::<String>::new());
    assert_eq!(house.find(9, "camera").unwrap()["pid"], 4002);
}

#[test]
fn handles_go_on_and_so_do_the_numbers_of_policies() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.rules(vec![allow(Verb::Call, "camera", CAM)]);
    house.restart();
    assert_eq!(house.serve(2, 0, "/tmp/b.sock", &["clock"]), "3.2");
    assert_eq!(house.machine.policy_state(None).policy.epoch, 3);
}

#[test]
fn without_the_file_an_old_handle_is_answered_with_a_new_one() {
    let mut house = House::new();
    house.connect(1, 0);
    let nonce = "1".repeat(32);
    house.sockets.insert("/tmp/a.sock".into(), nonce.clone());
    let known = registering("/tmp/a.sock", &nonce, Some("2.77"), &["camera"]);
    assert_eq!(house.ask(1, known).unwrap()["handle"], "3.1");
}

#[test]
fn an_object_that_is_not_offered_any_more_is_gone_with_the_registration() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera", "clock"]);
    house.restart();
    house.connect(9, 0);
    house.ask(9, Request::Watch(Default::default())).unwrap();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    assert_eq!(house.heard(9), ["object.remove clock"]);
}

#[test]
fn a_state_file_that_lies_harms_nobody() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    let mut file = serde_json::to_value(house.file.as_ref().unwrap()).unwrap();
    let mut lie = file["endpoints"][0].clone();
    lie["handle"] = "0.0".into();
    lie["objects"][0]["name"] = "registry".into();
    let twice = file["endpoints"][0].clone();
    let mut future = twice.clone();
    future["handle"] = "9.9".into();
    file["endpoints"].as_array_mut().unwrap().extend([lie, twice, future]);
    house.file = Some(serde_json::from_value(file).unwrap());
    house.restart();
    house.connect(9, 0);
    assert_eq!(house.names(9), ["camera", "registry"]);
    assert_eq!(house.find(9, "registry").unwrap()["pid"], 1);
}
