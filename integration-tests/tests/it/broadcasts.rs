//! Events through the real registry: too large, too many subscriptions, and a subscriber that never reads.

use endpoint::{CallError, Code};
use serde_json::{Value, json};
use testkit::until;

use crate::{
    bus::{Listener, suite},
    parts::Part,
    peers::{Background, LONG, Raw, ask, within},
    support::is_root,
};

#[test]
fn an_event_of_a_mebibyte_is_refused_with_its_limit_and_others_pass() {
    let device = suite(&[]);
    let background = Background::start();
    let bus = background.bus(&device.run_dir());
    let mut heard = Listener::start(&device, &["big.*"]);
    for size in [1 << 20, 100_000] {
        let data = "x".repeat(size);
        let refused = background.run(async { bus.publish("big.local", &data, false) });
        assert_eq!(refused.unwrap_err().code, Code::Limit);
        // By hand, past the checks of the bus.
        let args = json!({ "topic": "big.sent", "data": data });
        let outcome = background.run(bus.call("registry", "publish", &args, within(LONG)));
        match outcome {
            Err(CallError::Refused(failure)) => {
                assert_eq!(failure.code, Code::Limit, "{failure}");
                assert!(failure.text.contains("65536"), "{failure}");
            }
            Err(CallError::Invalid { text, .. }) => assert!(size == 1 << 20, "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let data = "y".repeat(60_000);
    background.run(async {
        bus.publish("big.enough", &data, false).unwrap();
        assert!(bus.flush(LONG).await);
    });
    let line = heard.next();
    assert!(line.contains("big.enough") && line.contains(&data), "{line:.200}");
}

/// Who has subscribed to a topic that begins so; daemons of the suite have subscriptions of their own.
fn subscribers<'s>(status: &'s Value, topic: &str) -> Vec<&'s Value> {
    let begins = |pattern: &Value| pattern.as_str().is_some_and(|it| it.starts_with(topic));
    let wants = |one: &&Value| one["patterns"].as_array().unwrap().iter().any(begins);
    status["subscribers"].as_array().unwrap().iter().filter(wants).collect()
}

#[test]
fn ten_thousand_subscriptions_are_served_and_one_too_many_for_a_connection_is_refused() {
    let device = suite(&[]);
    let background = Background::start();
    let registry = device.run_dir().join("registry.sock");
    let mut connections: Vec<Raw> = (0..160).map(|_| Raw::connect(&registry)).collect();
    for (number, raw) in connections.iter_mut().enumerate() {
        for pattern in 0..63 {
            let args = json!({ "patterns": [format!("many.{number}.{pattern}")] });
            raw.call_named(1, "registry", "subscribe", &args);
            raw.reply().unwrap();
        }
        raw.call_named(1, "registry", "subscribe", &json!({ "patterns": ["many.all"] }));
        raw.reply().unwrap();
    }
    let one_more = json!({ "patterns": ["one.more"] });
    connections[0].call_named(1, "registry", "subscribe", &one_more);
    let refused = connections[0].reply().unwrap_err();
    assert_eq!(refused["code"], "limit", "{refused}");
    assert!(refused["text"].as_str().unwrap().contains("64"), "{refused}");
    let bus = background.bus(&device.run_dir());
    let told = background.run(ask(&bus, "registry", "publish", json!({ "topic": "many.all" })));
    assert_eq!(told["subscribers"], 160);
    let told = background.run(ask(&bus, "registry", "publish", json!({ "topic": "many.7.7" })));
    assert_eq!(told["subscribers"], 1);
    device.ctl_ok(&["list"]);
    drop(connections);
    until("they are forgotten", || {
        let status = device.json(&["registry", "status"]);
        subscribers(&status, "many").is_empty().then_some(())
    });
}

#[test]
fn a_user_without_rights_has_a_thousand_subscriptions_and_is_told_so() {
    if !is_root("the limit of another user") {
        return;
    }
    let device = suite(&[]);
    let mut greedy = Part::start("subscriptions", &device.run_dir(), "", Some(1000));
    let told = greedy.next();
    assert_eq!(told[0], 1024, "{told}");
    let text = told[1].as_str().unwrap();
    assert!(text.contains("1024") && text.contains("1000"), "{text}");
    // Others still can, while he holds them.
    let mut events = Listener::start(&device, &["calm"]);
    device.ctl_ok(&["publish", "calm", "1"]);
    assert!(events.next().contains("calm"));
}

#[test]
fn a_subscriber_that_never_reads_loses_its_own_events_visibly_and_nobody_elses() {
    const EVENTS: usize = 600;
    let device = suite(&[]);
    let background = Background::start();
    let bus = background.bus(&device.run_dir());
    let mut deaf = Raw::connect(&device.run_dir().join("registry.sock"));
    let wanted = json!({ "patterns": ["storm"], "queue": 16 });
    deaf.call_named(1, "registry", "subscribe", &wanted);
    deaf.reply().unwrap();
    let reader = background.client(&device.run_dir().join("registry.sock"));
    let mut events = reader.events();
    let wanted = json!({ "patterns": ["storm"], "queue": 4096 });
    background.run(reader.call("registry", "subscribe", &wanted, within(LONG))).unwrap();
    let heard = background.spawn(async move {
        let mut heard = Vec::new();
        while heard.len() < EVENTS {
            let event = events.recv().await.unwrap();
            assert_eq!(event.lost, 0);
            heard.push(event.parse::<Value>().unwrap()["n"].as_u64().unwrap());
        }
        heard
    });
    let data = "z".repeat(8_000);
    for number in 0..EVENTS {
        let args = json!({ "topic": "storm", "data": { "n": number, "data": data } });
        let told = background.run(ask(&bus, "registry", "publish", args));
        assert_eq!(told["subscribers"], 2);
    }
    let heard = background.run(heard).unwrap();
    assert!(heard.into_iter().eq(0..EVENTS as u64), "the other one has all, in their order");
    let status = device.json(&["registry", "status"]);
    let subscribers = subscribers(&status, "storm");
    let lost: Vec<u64> = subscribers.iter().map(|it| it["lost"].as_u64().unwrap()).collect();
    assert_eq!(subscribers.len(), 2, "{status}");
    assert!(lost.contains(&0) && lost.iter().any(|lost| *lost > 100), "{status}");
    let shown = device.ctl_ok(&["registry", "status"]);
    assert!(shown.contains(&lost.iter().max().unwrap().to_string()), "{shown}");
}
