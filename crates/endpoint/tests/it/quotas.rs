//! Who floods is throttled, told when to come again, and delays nobody else.

use std::time::Duration;

use endpoint::{CallOptions, Code, Rate, Settings};
use protocol::message::{Call, Message};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use crate::{
    Fixture, IMPATIENT, eventually,
    raw::{Raw, bytes_of},
    refused,
};

/// Own user and root have no bucket unless a test gives them one.
fn limited(per_second: u32, burst: u32) -> Settings {
    Settings { rate_trusted: Some(Rate { per_second, burst }), ..Settings::default() }
}

#[tokio::test]
async fn who_calls_too_fast_is_told_when_to_come_again() {
    let fixture = Fixture::with(limited(20, 5));
    let client = fixture.client();
    let call = || client.call("demo", "count", &(), IMPATIENT);
    for _ in 0..5 {
        call().await.unwrap();
    }
    let failure = refused(call().await.unwrap_err());
    assert_eq!(failure.code, Code::Busy);
    let details = failure.details.unwrap();
    assert_eq!(details["not_started"], json!(true));
    let wait = details["retry_after_ms"].as_u64().unwrap();
    assert!((1..=50).contains(&wait), "{details}");
    assert_eq!(fixture.server.counters().throttled, 1);
    // Who is patient comes again by itself.
    client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
    // Each connection has a bucket of its own.
    fixture.client().call("demo", "count", &(), CallOptions::default()).await.unwrap();
}

#[tokio::test]
async fn who_goes_on_flooding_is_not_read_for_a_while() {
    let fixture = Fixture::with(limited(1000, 10));
    let mut raw = Raw::greeted(&fixture).await;
    let calls: Vec<u8> = (1..=4000).flat_map(|id| bytes_of(id, &count())).collect();
    let started = Instant::now();
    raw.send(&calls).await;
    let mut answers = 0;
    while answers < 4000 {
        assert!(raw.next().await.starts_with(['R', '{']));
        answers += 1;
    }
    // Every one got its answer, at a pace that costs the server little.
    assert!(started.elapsed() > Duration::from_millis(500), "{:?}", started.elapsed());
    assert!(fixture.server.counters().throttled > 2000);
}

fn count() -> Message<'static> {
    Message::Call(Call { token: 0, generation: 1, method: "count", ..Call::default() })
}

/// The 99th percentile of calls made one after the other, none of which meets the limit of its connection.
async fn p99(fixture: &Fixture) -> Duration {
    let mut times = Vec::new();
    for _ in 0..3 {
        let client = fixture.client();
        for _ in 0..1000 {
            let before = Instant::now();
            client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
            times.push(before.elapsed());
        }
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// Writes calls as fast as the socket takes them, and throws the answers away; from a thread of its own.
fn flood(
    fixture: &Fixture,
    stop: tokio::sync::oneshot::Receiver<()>,
) -> std::thread::JoinHandle<()> {
    let path = fixture.path();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            let (mut read, mut write) = Raw::greet(stream).await.stream.into_split();
            let ids = (1_u32..).step_by(500);
            let writing = async {
                // Ids are not used again while their calls may be open.
                for first in ids {
                    let ids = first..first + 500;
                    let calls: Vec<u8> = ids.flat_map(|id| bytes_of(id, &count())).collect();
                    if write.write_all(&calls).await.is_err() {
                        return;
                    }
                }
            };
            let reading = async {
                let mut buffer = vec![0; 64 << 10];
                while read.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            };
            tokio::select! {
                () = writing => {}
                () = reading => {}
                _ = stop => {}
            }
        });
    })
}

#[tokio::test]
async fn one_flooding_client_does_not_double_the_p99_of_another() {
    let fixture = Fixture::with(limited(1000, 1500));
    let mut ratios = Vec::new();
    // The best of a few rounds: other work on this machine only ever makes it worse.
    for _ in 0..5 {
        let alone = p99(&fixture).await;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let before = fixture.server.counters().throttled;
        let flooding = flood(&fixture, stopped);
        let throttled = || fixture.server.counters().throttled - before;
        eventually(|| throttled() >= 100).await;
        let flooded = p99(&fixture).await;
        stop.send(()).unwrap();
        flooding.join().unwrap();
        ratios.push(flooded.as_secs_f64() / alone.as_secs_f64());
        if ratios.last().is_some_and(|ratio| *ratio <= 2.0) {
            return;
        }
    }
    panic!("{ratios:?}");
}
