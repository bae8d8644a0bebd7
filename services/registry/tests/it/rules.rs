//! Policy files while the registry runs, and names that two want.

use serde_json::json;

use super::fixture::{House, LIMIT};

/// Waits until the registry says this of its rules.
async fn until_policy(house: &House, holds: impl Fn(&serde_json::Value) -> bool) {
    let mut changed = house.bus().subscribe(protocol::registry::Subscribe {
        patterns: vec!["policy.changed".into()],
        ..Default::default()
    });
    changed.active(LIMIT).await.unwrap();
    while !holds(&house.ask("policy", json!({})).await) {
        let _ = tokio::time::timeout(LIMIT, changed.next()).await.expect("in time").unwrap();
    }
}

fn sources(state: &serde_json::Value) -> Vec<String> {
    let rules = state["rules"].as_array().unwrap().iter();
    let sources = rules.map(|rule| rule["source"].as_str().unwrap().to_owned());
    sources.filter(|source| source != "built in").collect()
}

#[tokio::test]
async fn a_changed_file_is_read_without_a_restart_and_pushed_and_an_error_in_it_is_shown() {
    let house = House::new();
    let provider = house.serve("a.sock", &["camera"]).await;
    let before = provider.server.epoch();
    house.policy("a.toml", "[[allow]]\nobject = \"camera\"\nuser = 7\n");
    until_policy(&house, |state| sources(state) == ["a.toml:1"]).await;
    until_policy(&house, |state| state["behind"] == json!([])).await;
    assert_eq!(provider.server.epoch(), before + 1);
    house.policy("a.toml", "[[allow]]\nobject = \"camera\"\nuser = 7\nfoo = 1\n");
    until_policy(&house, |state| {
        state["problems"][0].as_str().is_some_and(|text| text.starts_with("a.toml:4: unknown key"))
    })
    .await;
    assert_eq!(sources(&house.ask("policy", json!({})).await), ["a.toml:1"], "the old rule stays");
    assert_eq!(provider.server.epoch(), before + 1);
}

#[tokio::test]
async fn of_two_processes_with_one_name_the_second_gets_it_when_the_first_has_ended() {
    let house = House::new();
    let first = house.serve("a.sock", &["camera"]).await;
    let second = house.serve("b.sock", &["camera", "clock"]).await;
    let refused = second.registration.refused();
    let failure = &refused["camera"];
    assert!(failure.text.contains(&format!("pid {}", std::process::id())), "{failure}");
    drop(first);
    let mut watch = house.bus().watch("camera");
    let handle = second.registered().await;
    loop {
        if watch.objects().iter().any(|found| found.handle.to_string() == handle) {
            break;
        }
        let _ = tokio::time::timeout(LIMIT, watch.next()).await.expect("in time").unwrap();
    }
}
