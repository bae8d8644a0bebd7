//! Long answers and events.

use std::time::Duration;

use endpoint::CallOptions;
use serde_json::json;

use crate::{Fixture, SOON};

#[tokio::test]
async fn an_answer_longer_than_a_frame_arrives_whole() {
    let fixture = Fixture::new();
    let client = fixture.client();
    for bytes in [1_000_000, 1_050_000, 5_000_000] {
        let args = json!({ "bytes": bytes });
        let reply = client.call("demo", "text", &args, CallOptions::default()).await.unwrap();
        assert_eq!(reply.parse::<String>().unwrap().len(), bytes);
    }
}

#[tokio::test]
async fn a_stream_stops_at_its_credit_until_the_reader_takes_more() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let total = 4 << 20;
    let args = json!({ "bytes": total }).to_string();
    let options = CallOptions::default();
    let mut stream = client.call_stream("demo", "stream", args.as_bytes(), options).await.unwrap();
    let mut got = Vec::new();
    while let Some(bytes) = stream.next().await.unwrap() {
        // No more than one window ever waits for the reader.
        assert!(bytes.len() <= 1 << 20, "{}", bytes.len());
        got.extend(bytes);
        // Other calls are not held up.
        client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
    }
    assert_eq!(got.len(), total);
    assert!(got.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
    assert_eq!(stream.answer().unwrap().parse::<String>().unwrap(), "end");
}

#[tokio::test]
async fn a_dropped_stream_frees_the_sender() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let args = json!({ "bytes": 64 << 20 }).to_string();
    let options = CallOptions { deadline: Duration::MAX, ..CallOptions::default() };
    let mut stream = client.call_stream("demo", "stream", args.as_bytes(), options).await.unwrap();
    stream.next().await.unwrap();
    drop(stream);
    client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
    assert_eq!(fixture.server.counters().cancelled, 1);
}

#[tokio::test]
async fn events_arrive_in_order_and_the_oldest_are_lost_first() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let mut events = client.events();
    client.call("demo", "events", &json!({ "bytes": 300 }), CallOptions::default()).await.unwrap();
    let first = tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap();
    assert_eq!(first.topic, "tick");
    // 256 fit into the queue of one connection.
    assert_eq!((first.lost, first.data.as_slice()), (44, b"44".as_slice()));
    for expected in 45..300_u32 {
        let event = tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap();
        assert_eq!((event.lost, event.data), (0, expected.to_string().into_bytes()));
    }
}
