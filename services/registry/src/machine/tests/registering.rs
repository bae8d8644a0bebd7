//! Endpoints come, offer, withdraw, and die.

use super::{house::registering, *};

#[test]
fn an_endpoint_registers_its_objects_and_is_found_with_its_token() {
    let mut house = House::new();
    let handle = house.serve(1, 0, "/tmp/cam.sock", &["clock", "camera"]);
    assert_eq!(handle, "3.1");
    house.connect(2, 0);
    let found = house.find(2, "camera").unwrap();
    assert_eq!(found["token"], 1);
    assert_eq!(found["handle"], "3.1");
    assert_eq!(found["socket"], "/tmp/cam.sock");
    assert_eq!((found["pid"].as_i64(), found["uid"].as_u64()), (Some(4001), Some(0)));
    assert_eq!(house.names(2), ["camera", "clock", "registry"]);
    assert_eq!(house.find(2, "registry").unwrap()["handle"], "0.0");
}

#[test]
fn a_socket_that_answers_with_another_nonce_is_refused() {
    let mut house = House::new();
    house.connect(1, 0);
    house.sockets.insert("/tmp/a.sock".into(), "f".repeat(32));
    let failure =
        house.ask(1, registering("/tmp/a.sock", &"0".repeat(32), None, &["camera"])).unwrap_err();
    assert_eq!(failure.code, Code::Denied);
    assert!(failure.text.contains("/tmp/a.sock is not the socket of this endpoint"), "{failure}");
    assert_eq!(house.names(1), ["registry"]);
    // Tried again with the right one, on the same connection.
    house.ask(1, registering("/tmp/a.sock", &"F".repeat(32), None, &["camera"])).unwrap();
}

#[test]
fn arguments_that_make_no_sense_are_refused_with_their_value() {
    let mut house = House::new();
    house.connect(1, 0);
    for (socket, nonce, part) in [
        ("tmp/a.sock", "0".repeat(32), "tmp/a.sock"),
        ("", "0".repeat(32), "absolute path"),
        (&format!("/{}", "x".repeat(107)), "0".repeat(32), "107"),
        ("/a", "0".repeat(31), "32 hexadecimal"),
        ("/a", "ü".repeat(16), "32 hexadecimal"),
    ] {
        let failure = house.ask(1, registering(socket, &nonce, None, &[])).unwrap_err();
        assert_eq!(failure.code, Code::InvalidArgument);
        assert!(failure.text.contains(part), "{failure}");
    }
    let offer = Request::Offer(protocol::registry::Offer { objects: vec![served("camera", 0)] });
    assert_eq!(code(house.ask(1, offer)), Code::InvalidArgument);
}

#[test]
fn of_two_processes_that_claim_one_name_the_second_is_told_whose_it_is() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    let answer = house.register(2, 0, "/tmp/b.sock", &["camera", "clock"]).unwrap();
    let refused = &answer["objects"][0]["failure"];
    assert_eq!(refused["code"], "busy");
    assert!(refused["text"].as_str().unwrap().contains("pid 4001"), "{refused}");
    assert_eq!(refused["details"]["handle"], "3.1");
    assert!(answer["objects"][1].get("failure").is_none());
    assert_eq!(house.find(2, "camera").unwrap()["pid"], 4001);
    // When the first one ends, the name is free.
    house.close(1);
    let offer = Request::Offer(protocol::registry::Offer { objects: vec![served("camera", 0)] });
    let answer = house.ask(2, offer).unwrap();
    assert!(answer[0].get("failure").is_none(), "{answer}");
}

#[test]
fn a_name_offered_again_with_another_token_has_the_new_token() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.connect(9, 0);
    house.ask(9, Request::Watch(Default::default())).unwrap();
    let offer = |token| {
        Request::Offer(protocol::registry::Offer { objects: vec![served("camera", token)] })
    };
    house.ask(1, offer(5)).unwrap();
    assert_eq!(house.find(9, "camera").unwrap()["token"], 5);
    assert_eq!(house.heard(9), ["object.add camera"]);
    house.ask(1, offer(5)).unwrap();
    assert_eq!(house.heard(9), Vec::<String>::new(), "nothing has changed");
}

#[test]
fn a_withdrawn_object_is_gone_and_so_is_all_when_its_endpoint_dies() {
    let mut house = House::new();
    house.connect(9, 0);
    house.ask(9, Request::Watch(Default::default())).unwrap();
    house.serve(1, 0, "/tmp/a.sock", &["camera", "clock"]);
    house.heard(9);
    let withdraw = Request::Withdraw(protocol::registry::Withdraw { names: vec!["camera".into()] });
    house.ask(1, withdraw).unwrap();
    assert_eq!(house.heard(9), ["object.remove camera"]);
    assert_eq!(code(house.find(9, "camera")), Code::NotFound);
    house.close(1);
    assert_eq!(house.heard(9), ["object.remove clock"]);
    assert_eq!(house.names(9), ["registry"]);
}

#[test]
fn names_of_the_suite_belong_to_the_socket_in_the_run_directory_and_to_its_service() {
    let mut house = House::new();
    // Another socket, even for root.
    let answer =
        house.register(1, 0, "/tmp/a.sock", &["service", "registry", "driver/can0"]).unwrap();
    for outcome in answer["objects"].as_array().unwrap() {
        assert_eq!(outcome["failure"]["code"], "denied", "{outcome}");
    }
    // The right socket, whose nonce anybody could read: a stranger is no heartbeat broker.
    let answer = house.register(2, CAM, "/run/heartbeat.sock", &["heartbeat"]).unwrap();
    assert_eq!(answer["objects"][0]["failure"]["code"], "denied");
    house.services.insert(3, Ok("heartbeat".into()));
    house.serve(3, 871, "/run/heartbeat.sock", &["heartbeat", "heartbeat/list"]);
    house.serve(4, 0, "/run/supervisor.sock", &["service", "system"]);
    house.services.insert(5, Ok("driver.can0".into()));
    house.serve(5, 875, "/run/driver.can0.sock", &["driver/can0"]);
    // Each host's name is its own: not another host's, and not the manager's.
    for (connection, service) in [(7, "driver"), (8, "driver.can1")] {
        house.services.insert(connection, Ok(service.into()));
        let answer =
            house.register(connection, 875, "/run/driver.can2.sock", &["driver/can2"]).unwrap();
        assert_eq!(answer["objects"][0]["failure"]["code"], "denied", "{service}");
    }
    let answer = house.register(6, OWN, "/run/log.sock", &["registry"]).unwrap();
    assert_eq!(answer["objects"][0]["failure"]["code"], "denied");
}

#[test]
fn no_rule_gives_a_name_of_the_suite_to_a_stranger_and_a_deny_takes_it_from_its_service() {
    let mut house = House::with(vec![allow(Verb::Own, "*", CAM), deny(Verb::Own, "log", 873)]);
    let answer = house.register(1, CAM, "/run/heartbeat.sock", &["heartbeat"]).unwrap();
    assert_eq!(answer["objects"][0]["failure"]["code"], "denied");
    house.services.insert(2, Ok("log".into()));
    let answer = house.register(2, 873, "/run/log.sock", &["log"]).unwrap();
    assert_eq!(answer["objects"][0]["failure"]["details"]["rule"], "deny own log");
}

#[test]
fn a_process_of_a_service_may_own_what_is_named_like_it_and_nothing_else() {
    let mut house = House::new();
    house.services.insert(1, Ok("web".into()));
    let answer =
        house.register(1, WEB, "/tmp/w.sock", &["web", "web/admin", "website", "camera"]).unwrap();
    let refused: Vec<bool> = answer["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|outcome| outcome.get("failure").is_some())
        .collect();
    assert_eq!(refused, [false, false, true, true]);
    assert_eq!(house.audit.len(), 2);
    assert_eq!((house.audit[0].verb, house.audit[0].uid), ("own", WEB));
}

#[test]
fn without_the_supervisors_word_a_stranger_owns_nothing_and_is_told_why() {
    let mut house = House::new();
    house.services.insert(1, Err("nobody listens on /run/supervisor.sock".into()));
    let answer = house.register(1, WEB, "/tmp/w.sock", &["web"]).unwrap();
    let text = answer["objects"][0]["failure"]["text"].as_str().unwrap();
    assert!(text.contains("nobody listens on /run/supervisor.sock"), "{text}");
    // The supervisor came back: the next attempt asks again.
    house.services.insert(1, Ok("web".into()));
    let offer = Request::Offer(protocol::registry::Offer { objects: vec![served("web", 0)] });
    assert!(house.ask(1, offer).unwrap()[0].get("failure").is_none());
}

#[test]
fn names_and_batches_at_their_limits_are_taken_and_beyond_them_refused() {
    let mut house = House::new();
    let (fits, long) = ("x".repeat(128), "x".repeat(129));
    let answer = house.register(1, 0, "/tmp/a.sock", &[&fits, &long, "", "a b"]).unwrap();
    let codes: Vec<&Value> =
        answer["objects"].as_array().unwrap().iter().map(|o| &o["failure"]["code"]).collect();
    assert_eq!(codes[0], &Value::Null);
    assert!(codes[1..].iter().all(|code| *code == "invalid-argument"), "{codes:?}");
    // Two names that differ only behind the fifteenth letter are two names.
    house.serve(2, 0, "/tmp/b.sock", &["fifteen-letters-a", "fifteen-letters-b"]);
    assert_eq!(house.find(2, "fifteen-letters-b").unwrap()["token"], 1);
    let names: Vec<String> = (0..1025).map(|at| format!("n{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    house.connect(3, 0);
    let nonce = "3".repeat(32);
    house.sockets.insert("/tmp/c.sock".into(), nonce.clone());
    let over = house.ask(3, registering("/tmp/c.sock", &nonce, None, &names));
    assert_eq!(code(over), Code::InvalidArgument);
    house.ask(3, registering("/tmp/c.sock", &nonce, None, &names[..1024])).unwrap();
    assert_eq!(house.find(3, "n1023").unwrap()["token"], 1023);
}

#[test]
fn a_user_has_so_many_endpoints_and_no_more_and_others_have_theirs() {
    let mut house = House::with(vec![allow(Verb::Own, "*", CAM)]);
    for connection in 1..=64 {
        house.serve(connection, CAM, &format!("/tmp/{connection}"), &[]);
    }
    let refused = house.register(65, CAM, "/tmp/65", &[]).unwrap_err();
    assert_eq!(refused.code, Code::Limit);
    assert!(refused.text.contains("of user 1001") && refused.text.contains("64"), "{refused}");
    house.serve(66, WEB, "/tmp/66", &[]);
    house.serve(67, 0, "/tmp/67", &[]);
    house.close(1);
    house.serve(68, CAM, "/tmp/68", &[]);
}

#[test]
fn the_same_process_on_a_new_connection_is_the_same_endpoint() {
    let mut house = House::new();
    house.connect(9, 0);
    house.ask(9, Request::Watch(Default::default())).unwrap();
    let handle = house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.heard(9);
    // The old connection's end was not seen yet.
    house.connect(2, 0);
    let again = registering("/tmp/a.sock", &format!("{:032x}", 1), Some(&handle), &["camera"]);
    assert_eq!(house.ask(2, again.clone()).unwrap()["handle"], handle);
    house.close(1);
    assert_eq!(house.heard(9), Vec::<String>::new(), "nobody died");
    // The connection ended without its process.
    house.close(2);
    assert_eq!(house.heard(9), ["object.remove camera"]);
    house.connect(3, 0);
    assert_eq!(house.ask(3, again).unwrap()["handle"], handle);
}

#[test]
fn a_handle_is_never_given_to_another_process() {
    let mut house = House::new();
    let handle = house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.close(1);
    house.connect(2, 0);
    let nonce = "2".repeat(32);
    house.sockets.insert("/tmp/a.sock".into(), nonce.clone());
    let other = house.ask(2, registering("/tmp/a.sock", &nonce, Some(&handle), &["camera"]));
    assert_ne!(other.unwrap()["handle"], handle.as_str());
    // Nor to another user with the same nonce.
    house.sockets.insert("/tmp/c.sock".into(), format!("{:032x}", 1));
    house.connect(3, CAM);
    let stolen = registering("/tmp/c.sock", &format!("{:032x}", 1), Some(&handle), &[]);
    assert_ne!(house.ask(3, stolen).unwrap()["handle"], handle.as_str());
}

#[test]
fn a_newer_process_on_the_same_socket_takes_the_names_and_nobody_is_missed() {
    let mut house = House::new();
    house.connect(9, 0);
    house.ask(9, Request::Watch(Default::default())).unwrap();
    house.serve(1, 0, "/run/log.sock", &["log"]);
    house.heard(9);
    // It was started beside the old one; the socket answers with its nonce now.
    house.serve(2, 0, "/run/log.sock", &["log"]);
    assert_eq!(house.heard(9), ["object.add log"]);
    house.close(1);
    assert_eq!(house.heard(9), Vec::<String>::new());
    assert_eq!(house.find(9, "log").unwrap()["pid"], 4002);
}

#[test]
fn while_sockets_are_tried_others_are_served_and_too_many_tries_are_refused() {
    let mut house = House::new();
    // The proofs of this user never come back.
    for connection in 1..=9 {
        house.connect(connection, CAM);
        let request = registering("/tmp/hangs", &"a".repeat(32), None, &[]);
        house.machine.handle_event(
            Event::Call { call: 1000 + connection, connection, deadline: None, request },
            house.now,
        );
    }
    let mut refused = Vec::new();
    while let Some(action) = house.machine.poll_action() {
        if let Action::Reply { call, result } = action {
            refused.push((call, code(result.map(|_| Value::Null))));
        }
    }
    assert_eq!(refused, [(1009, Code::Busy)]);
    house.serve(20, 0, "/tmp/a.sock", &["camera"]);
    assert_eq!(house.find(20, "camera").unwrap()["pid"], 4020);
}

#[test]
fn a_process_with_the_pid_of_an_endpoint_is_not_taken_for_it() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    // The same pid and user, another connection: what a reused pid looks like, dead or not.
    let caller = house.machine.caller(1);
    house.machine.connected(2, || caller.clone());
    house.machine.connected(3, || caller);
    let publication = || {
        let data = b"1".as_slice().into();
        Request::Publish(Publication { topic: "camera.x".into(), data, retain: false })
    };
    assert_eq!(code(house.ask(2, publication())), Code::Denied);
    let withdraw = Request::Withdraw(protocol::registry::Withdraw { names: vec!["camera".into()] });
    assert_eq!(code(house.ask(2, withdraw)), Code::InvalidArgument);
    house.close(1);
    house.advance(2 * SECOND);
    assert_eq!(code(house.find(3, "camera")), Code::NotFound);
}

#[test]
fn a_call_that_changes_nothing_writes_nothing() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.file = None;
    let offer = Request::Offer(protocol::registry::Offer { objects: vec![served("camera", 0)] });
    house.ask(1, offer).unwrap();
    let withdraw = Request::Withdraw(protocol::registry::Withdraw { names: vec!["clock".into()] });
    house.ask(1, withdraw).unwrap();
    house.find(1, "camera").unwrap();
    assert_eq!(house.file, None);
}
