//! Registering, finding, dying, publishing, and the registry's own death.

use endpoint::{CallOptions, Change};
use protocol::registry::Subscribe;
use serde_json::json;

use super::fixture::{House, LIMIT};

async fn call(bus: &endpoint::Bus, object: &str) -> String {
    let args = json!({ "text": "hello" });
    let options = CallOptions { deadline: LIMIT, ..CallOptions::safe() };
    let answer = bus.call(object, "echo", &args, options).await.unwrap();
    answer.parse::<serde_json::Value>().unwrap()["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_object_is_registered_found_called_and_its_death_is_told() {
    let house = House::new();
    let mut watch = house.bus().watch("camera*");
    watch.active(LIMIT).await.unwrap();
    let provider = house.serve("a.sock", &["camera", "camera/zoom"]).await;
    let mut added = Vec::new();
    for _ in 0..2 {
        match tokio::time::timeout(LIMIT, watch.next()).await.unwrap().unwrap() {
            Change::Added(found) => added.push(found.object.name),
            other => panic!("{other:?}"),
        }
    }
    added.sort();
    assert_eq!(added, ["camera", "camera/zoom"]);
    assert_eq!(call(&house.bus(), "camera/zoom").await, "hello");
    let rows = house.ask("list", json!({})).await;
    let names: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["camera", "camera/zoom", "registry"]);
    assert_eq!(rows[2]["handle"], "0.0");
    assert_eq!(rows[2]["pid"], house.registry_pid());
    assert_eq!(rows[0]["pid"], std::process::id());
    drop(provider);
    for _ in 0..2 {
        let change = tokio::time::timeout(LIMIT, watch.next()).await.unwrap().unwrap();
        assert!(matches!(change, Change::Removed(_)), "{change:?}");
    }
}

#[tokio::test]
async fn events_reach_their_subscribers_and_retained_ones_those_who_come_later() {
    let house = House::new();
    let provider = house.serve("a.sock", &["camera"]).await;
    let subscribe = || Subscribe {
        patterns: vec!["camera.*".into()],
        sender: Some("camera".into()),
        retained: true,
        ..Subscribe::default()
    };
    let mut early = house.bus().subscribe(subscribe());
    early.active(LIMIT).await.unwrap();
    provider.bus.publish("camera.frame", &json!({ "n": 1 }), false).unwrap();
    provider.bus.publish("camera.level", &json!({ "n": 2 }), true).unwrap();
    for (topic, data) in [("camera.frame", r#"{"n":1}"#), ("camera.level", r#"{"n":2}"#)] {
        let event = tokio::time::timeout(LIMIT, early.next()).await.unwrap().unwrap();
        assert_eq!((event.topic.as_str(), &*event.data), (topic, data.as_bytes()));
    }
    let mut late = house.bus().subscribe(subscribe());
    let event = tokio::time::timeout(LIMIT, late.next()).await.unwrap().unwrap();
    assert_eq!(event.topic, "camera.level");
    let status = house.ask("status", json!({})).await;
    assert_eq!(status["retained"], 1);
    assert_eq!(status["subscribers"].as_array().unwrap().len(), 2);
    assert_eq!(status["subscribers"][0]["lost"], 0);
}

#[tokio::test]
async fn a_killed_registry_is_missed_by_nobody_and_all_handles_are_the_same_again() {
    let mut house = House::new();
    // The first handle of a registry that remembers nothing would be the clock's.
    let two = house.serve("b.sock", &["clock"]).await;
    let one = house.serve("a.sock", &["camera"]).await;
    let handles = [one.registered().await, two.registered().await];
    let mut watch = house.bus().watch("*");
    watch.active(LIMIT).await.unwrap();
    for _ in ["camera", "clock", "registry"] {
        assert!(matches!(watch.next().await.unwrap(), Change::Added(_)));
    }
    let caller = house.bus();
    assert_eq!(call(&caller, "camera").await, "hello");
    house.kill();
    // Known paths go on without it.
    assert_eq!(call(&caller, "camera").await, "hello");
    // One of them ends meanwhile.
    drop(two);
    house.start();
    let again = house.bus().wait_for(&["camera"], LIMIT).await.unwrap();
    assert_eq!(again[0].handle.to_string(), handles[0]);
    // The clock's death is told when its reservation is over; nothing else is.
    loop {
        match tokio::time::timeout(LIMIT, watch.next()).await.unwrap().unwrap() {
            Change::Removed(found) => {
                assert_eq!(found.object.name, "clock");
                break;
            }
            Change::Changed(found) => assert_eq!(found.object.name, "registry"),
            other => panic!("{other:?}"),
        }
    }
    assert_ne!(handles[0], handles[1]);
}

#[tokio::test]
async fn a_registry_that_replaces_another_waits_for_its_end_and_knows_what_it_knew() {
    let mut house = House::new();
    let _first = house.serve("b.sock", &["clock"]).await;
    let one = house.serve("a.sock", &["camera"]).await;
    let handle = one.registered().await;
    let old = house.registry_pid();
    let ended = house.replace();
    assert!(ended, "the old one ends well");
    let found = house.bus().wait_for(&["camera"], LIMIT).await.unwrap();
    assert_eq!(found[0].handle.to_string(), handle);
    assert_ne!(house.registry_pid(), old);
    assert_eq!(
        house.ask("lookup", json!({ "object": "registry" })).await["pid"],
        house.registry_pid()
    );
}

#[tokio::test]
async fn objects_come_and_go_while_an_endpoint_is_registered() {
    let house = House::new();
    let provider = house.serve("a.sock", &["camera"]).await;
    provider.server.add("radio", super::fixture::Echo).unwrap();
    house.bus().wait_for(&["radio"], LIMIT).await.unwrap();
    assert!(provider.server.remove("radio"));
    let mut watch = house.bus().watch("radio");
    watch.active(LIMIT).await.unwrap();
    while watch.objects().iter().any(|found| found.object.name == "radio") {
        let _ = tokio::time::timeout(LIMIT, watch.next()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn three_hundred_objects_fit_into_six_mebibytes() {
    let house = House::new();
    let mut providers = Vec::new();
    for endpoint in 0..60 {
        let names: Vec<String> = (0..5).map(|at| format!("object-{endpoint}/{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        providers.push(house.serve(&format!("{endpoint}.sock"), &names).await);
    }
    let status = house.ask("status", json!({})).await;
    assert_eq!(status["objects"], 301);
    let path = format!("/proc/{}/status", house.registry_pid());
    let text = std::fs::read_to_string(path).unwrap();
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    let kib = |key: &str| line(key).split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    // The figure is for release builds; this one's program is several times as long, and counted as a file.
    let own = kib("RssAnon");
    assert!(own < 6 << 10, "{own} KiB");
}
