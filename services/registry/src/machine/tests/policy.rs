//! Rules that change.

use super::*;

#[test]
fn a_change_is_pushed_with_its_epoch_and_who_does_not_apply_it_is_shown_and_reminded() {
    let mut house = House::new();
    let handle = house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.ask(1, Request::Applied(protocol::registry::Applied { epoch: 1 })).unwrap();
    let behind = |house: &House| house.machine.policy_state(None).behind.len();
    assert_eq!(behind(&house), 0);
    house.rules(vec![allow(Verb::Call, "camera", CAM)]);
    assert_eq!(house.log, ["enforce 2"]);
    assert_eq!(house.heard(1), ["registry.policy"]);
    assert_eq!(house.machine.policy_state(None).behind[0].to_string(), handle);
    house.advance(60 * SECOND);
    assert_eq!(house.heard(1).len(), 3, "three reminders, then it is only shown");
    assert_eq!(behind(&house), 1);
    house.ask(1, Request::Applied(protocol::registry::Applied { epoch: 2 })).unwrap();
    assert_eq!(behind(&house), 0);
    // The same rules again are no change.
    house.rules(vec![allow(Verb::Call, "camera", CAM)]);
    assert_eq!(house.log, ["enforce 2"]);
}

#[test]
fn an_endpoint_that_applied_the_rules_is_not_reminded() {
    let mut house = House::new();
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.rules(vec![allow(Verb::Call, "camera", CAM)]);
    house.ask(1, Request::Applied(protocol::registry::Applied { epoch: 2 })).unwrap();
    house.heard(1);
    house.advance(60 * SECOND);
    assert_eq!(house.heard(1), Vec::<String>::new());
}

#[test]
fn a_change_revokes_lookups_also_those_that_wait() {
    let mut house = House::with(vec![allow(Verb::Call, "*", CAM)]);
    house.on_demand.insert("radio".into(), ("radio".into(), None));
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.connect(2, CAM);
    assert!(house.find(2, "camera").is_ok());
    let waiting = house.lookup(2, "radio");
    house.rules(Vec::new());
    assert_eq!(code(house.find(2, "camera")), Code::Denied);
    assert_eq!(code(house.replies.remove(&waiting).unwrap()), Code::Denied);
}

#[test]
fn deny_wins_and_names_its_rule() {
    let mut house = House::with(vec![allow(Verb::Call, "*", CAM), deny(Verb::Call, "cam*", CAM)]);
    house.serve(1, 0, "/tmp/a.sock", &["camera", "clock"]);
    house.connect(2, CAM);
    let failure = house.find(2, "camera").unwrap_err();
    assert_eq!(failure.details.unwrap()["rule"], "deny call cam*");
    assert!(house.find(2, "clock").is_ok());
    assert_eq!(house.audit[0].rule.as_deref(), Some("deny call cam*"));
}

#[test]
fn who_may_not_own_a_name_any_more_loses_it() {
    let mut house = House::with(vec![allow(Verb::Own, "cam*", CAM)]);
    house.serve(1, CAM, "/tmp/a.sock", &["camera"]);
    house.connect(9, 0);
    house.ask(9, Request::Watch(Default::default())).unwrap();
    house.rules(vec![allow(Verb::Own, "clock", CAM)]);
    assert_eq!(house.heard(9), ["object.remove camera"]);
    assert_eq!(house.audit.last().unwrap().verb, "own");
}

#[test]
fn a_rule_on_services_waits_for_the_supervisors_word_and_keeps_the_order() {
    let who = Who { services: vec!["web".into()], ..Who::default() };
    let mut house = House::with(vec![rule(Verdict::Allow, Verb::Call, "camera", who)]);
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.slow = true;
    for (connection, service) in [(2, "web"), (3, "ftp")] {
        house.connect(connection, WEB);
        house.services.insert(connection, Ok(service.into()));
        let calls = [house.lookup(connection, "camera"), house.lookup(connection, "camera")];
        assert_eq!(house.asked.len(), 1, "it is asked once a connection");
        house.answer();
        for call in calls {
            let found = house.replies.remove(&call).unwrap();
            assert_eq!(found.is_ok(), service == "web", "{service}");
        }
        let _ = house.find(connection, "camera");
        assert!(house.asked.is_empty(), "and not again");
    }
}

#[test]
fn an_undecided_deny_lets_nothing_through_where_the_supervisor_cannot_be_asked() {
    let who = Who { services: vec!["web".into()], ..Who::default() };
    let mut house = House::with(vec![
        rule(Verdict::Deny, Verb::Publish, "demo.*", who),
        allow(Verb::Publish, "demo.*", WEB),
    ]);
    house.connect(1, WEB);
    house.services.insert(1, Err("no supervisor".into()));
    let publication = || {
        let data = b"1".as_slice().into();
        Request::Publish(Publication { topic: "demo.x".into(), data, retain: false })
    };
    let failure = house.ask(1, publication()).unwrap_err();
    assert_eq!(failure.code, Code::Busy);
    assert!(failure.text.contains("no supervisor"), "{failure}");
    house.services.insert(1, Ok("other".into()));
    assert!(house.ask(1, publication()).is_ok());
}

#[test]
fn an_undecided_deny_holds_for_the_owner_of_a_topic_too() {
    let who = Who { services: vec!["cam".into()], ..Who::default() };
    let mut house = House::with(vec![rule(Verdict::Deny, Verb::Publish, "camera.*", who)]);
    house.serve(1, 0, "/tmp/a.sock", &["camera"]);
    house.services.insert(1, Err("no supervisor".into()));
    let publication = || {
        let data = b"1".as_slice().into();
        Request::Publish(Publication { topic: "camera.x".into(), data, retain: false })
    };
    assert_eq!(code(house.ask(1, publication())), Code::Busy);
    house.services.insert(1, Ok("other".into()));
    assert!(house.ask(1, publication()).is_ok());
}

#[test]
fn the_flood_of_one_caller_waits_within_a_limit() {
    let mut house = House::new();
    house.slow = true;
    house.connect(1, WEB);
    let who = Who { services: vec!["web".into()], ..Who::default() };
    house.rules(vec![rule(Verdict::Allow, Verb::Call, "camera", who)]);
    let calls: Vec<CallId> = (0..100).map(|_| house.lookup(1, "camera")).collect();
    let refused = calls.iter().filter(|call| house.replies.contains_key(call)).count();
    assert_eq!(refused, 100 - 64);
}

#[test]
fn problems_are_shown_and_told() {
    let mut house = House::new();
    house.connect(1, 0);
    let patterns = vec!["policy.*".to_owned()];
    let subscribe = protocol::registry::Subscribe { patterns, ..Default::default() };
    house.ask(1, Request::Subscribe(subscribe)).unwrap();
    let rules = protocol::policy::built_in();
    let problems = vec!["a.toml:3: unknown key".to_owned()];
    house.event(Event::Policy { rules, problems: problems.clone() });
    assert_eq!(house.machine.policy_state(None).problems, problems);
    assert_eq!(house.heard(1), ["policy.changed"]);
}
