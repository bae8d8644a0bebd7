//! The endpoint's own methods: the tap and the log's level.

use std::{sync::Arc, time::Duration};

use endpoint::{CallOptions, Client, Code, Settings};
use protocol::objects::{LOG_LEVEL, MONITOR, Tapped};
use serde_json::{Value, json};

use crate::{Fixture, refused};

/// The next calls that end, as the tap tells them.
async fn tapped(stream: &mut endpoint::Stream, count: usize) -> Vec<Tapped> {
    let mut lines = Vec::new();
    while lines.iter().filter(|byte| **byte == b'\n').count() < count {
        lines.extend(stream.next().await.unwrap().expect("the tap goes on"));
    }
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

async fn tap(client: &Client) -> endpoint::Stream {
    let options = CallOptions { deadline: Duration::MAX, ..CallOptions::default() };
    let stream = client.call_stream("", MONITOR, b"", options).await.unwrap();
    // Another call's answer says that the tap's was read.
    client.call("demo", "_describe", &(), CallOptions::default()).await.unwrap();
    stream
}

#[tokio::test]
async fn the_tap_tells_each_call_as_it_ends_and_none_of_its_arguments() {
    let fixture = Fixture::new();
    let (watcher, client) = (fixture.client(), fixture.client());
    let mut stream = tap(&watcher).await;
    client.call_bytes("demo", "echo", b"secret", CallOptions::default()).await.unwrap();
    client.call("demo", "forget", &(), CallOptions::default()).await.unwrap_err();
    client.call("demo", "nothing", &(), CallOptions::default()).await.unwrap_err();
    let calls = tapped(&mut stream, 3).await;
    let seen: Vec<_> = calls
        .iter()
        .map(|call| (&*call.object, &*call.method, &*call.outcome, call.args_bytes))
        .collect();
    assert_eq!(
        seen,
        [
            ("demo", "echo", "done", 6),
            ("demo", "forget", "failed", 4),
            ("demo", "nothing", "unknown-method", 4),
        ]
    );
    assert!(calls.iter().all(|call| call.pid > 0 && call.lost == 0));
}

#[tokio::test]
async fn only_a_few_tap_at_the_same_time_and_a_place_is_free_when_one_leaves() {
    let fixture = Fixture::new();
    let watcher = fixture.client();
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(tap(&watcher).await);
    }
    let mut ninth = tap(&watcher).await;
    assert_eq!(refused(ninth.next().await.unwrap_err()).code, Code::Limit);
    drop(streams.pop());
    let mut tenth = tap(&watcher).await;
    fixture.client().call("demo", "count", &(), CallOptions::default()).await.unwrap();
    assert_eq!(tapped(&mut tenth, 1).await[0].method, "count");
}

#[tokio::test]
async fn the_log_level_is_read_and_set_where_the_process_lets_it() {
    let level = std::sync::Mutex::new("info".to_owned());
    let set = move |wanted: Option<&str>| {
        let mut level = level.lock().unwrap();
        match wanted {
            Some("loud") => return Err("no level \"loud\"".to_owned()),
            Some(wanted) => wanted.clone_into(&mut level),
            None => {}
        }
        Ok(level.clone())
    };
    let fixture = Fixture::with(Settings { log_level: Some(Arc::new(set)), ..Settings::default() });
    let client = fixture.client();
    let call = async |args: Value| client.call("", LOG_LEVEL, &args, CallOptions::default()).await;
    let level = async |args| call(args).await.unwrap().parse::<Value>().unwrap();
    assert_eq!(level(json!({})).await, json!({ "level": "info" }));
    assert_eq!(level(json!({ "level": "debug" })).await, json!({ "level": "debug" }));
    assert_eq!(level(json!({})).await, json!({ "level": "debug" }));
    let failure = refused(call(json!({ "level": "loud" })).await.unwrap_err());
    assert_eq!(failure.code, Code::InvalidArgument);
    let without = Fixture::new();
    let error = without.client().call("", LOG_LEVEL, &(), CallOptions::default()).await;
    assert_eq!(refused(error.unwrap_err()).code, Code::Unsupported);
}
