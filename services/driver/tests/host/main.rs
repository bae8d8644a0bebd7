//! The host and the canary as processes: what ends them, and what the next one finds.

mod bench;
mod canary;
mod waiting;

use std::os::unix::process::ExitStatusExt as _;

use endpoint::CallOptions;
use protocol::driver::{Head, Hit, Outcome, Standing};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bench::Bench;

#[tokio::test]
async fn new_code_that_crashes_costs_the_one_call_inside_and_the_old_code_serves_on() {
    let mut bench = Bench::new("counter", "checkpoint = \"10ms\"");
    let handle = bench.open().await;
    for sequence in 1..=3 {
        assert_eq!(bench.write(handle, sequence, b"x").await, 1);
    }
    let object = bench.object("2", &["-DCRASH_ON=\"boom\"", "-DLAYOUT=2"]);
    bench.record_probation(&object);
    let report = bench.replace(&object).await.unwrap();
    assert_eq!((report.from.version.as_str(), report.to.version.as_str()), ("1", "2"));
    assert_eq!(bench.status().await.standing, Standing::Probation);
    bench.begin_write(handle, 4, b"boom");
    assert_eq!(bench.ended().await.signal(), Some(Signal::SEGV.as_raw()));
    bench.start();
    assert_eq!(bench.write(handle, 4, b"boom").await, -5, "the one call that was inside");
    assert_eq!(bench.write(handle, 3, b"x").await, -5, "only the last answer is kept");
    assert_eq!(bench.write(handle, 5, b"x").await, 1);
    let settled = bench.settled().await;
    assert_eq!(
        (settled.outcome, settled.tried.version.as_str(), settled.serves.version.as_str()),
        (Outcome::RolledBack, "2", "1")
    );
    let reason = settled.reason.unwrap();
    assert!(reason.contains("signal 11") && reason.contains("in write of handle"), "{reason}");
    let line = bench.line(handle).await;
    assert!(line.contains("version 1 calls 4 bytes 4") && line.contains("own 4"), "{line}");
}

#[tokio::test]
async fn new_code_that_never_comes_back_ends_the_process_with_a_reason() {
    let mut bench = Bench::new("counter", "hang = \"200ms\"");
    let handle = bench.open().await;
    assert_eq!(bench.write(handle, 1, b"x").await, 1);
    let object = bench.object("2", &["-DLOOP_ON=\"loop\""]);
    bench.record_probation(&object);
    bench.replace(&object).await.unwrap();
    bench.begin_write(handle, 2, b"loop");
    assert_eq!(bench.ended().await.signal(), Some(Signal::KILL.as_raw()));
    bench.start();
    let settled = bench.settled().await;
    let reason = settled.reason.unwrap();
    assert_eq!(settled.serves.version, "1");
    assert!(reason.contains("is in write of handle") && reason.contains("version 2"), "{reason}");
    assert_eq!(bench.write(handle, 2, b"loop").await, -5);
    assert_eq!(bench.write(handle, 3, b"x").await, 1);
}

#[tokio::test]
async fn a_host_that_is_told_to_stop_leaves_everything_to_the_next() {
    let mut bench = Bench::new("counter", "checkpoint = \"1h\"");
    let handle = bench.open().await;
    for sequence in 1..=5 {
        assert_eq!(bench.write(handle, sequence, b"four").await, 4);
    }
    bench.signal(Signal::TERM);
    assert!(bench.ended().await.success());
    bench.start();
    assert_eq!(bench.write(handle, 5, b"four").await, 4, "answered, not made again");
    let line = bench.line(handle).await;
    assert!(line.contains("calls 5 bytes 20") && line.contains("own 5"), "{line}");
    assert_eq!(bench.status().await.handles, 1);
}

#[tokio::test]
async fn readers_that_wait_keep_nobody_from_writing_and_move_on_to_the_new_code() {
    let bench = Bench::new("pipe", "threads = 1\nhang = \"100ms\"");
    let mut readers = Vec::new();
    for _ in 0..4 {
        let handle = bench.open().await;
        readers.push(bench.begin("read", Head { handle, sequence: 1, word: 0, length: 1 }, &[]));
    }
    let writer = bench.open().await;
    let object = bench.object("2", &[]);
    bench.record_probation(&object);
    bench.replace(&object).await.unwrap();
    assert_eq!(bench.write(writer, 1, b"abcd").await, 4);
    let mut read = Vec::new();
    for reader in readers {
        let (result, data) = reader.await.unwrap();
        assert_eq!(result, 1);
        read.extend(data);
    }
    read.sort_unstable();
    assert_eq!(read, b"abcd");
    assert_eq!(bench.status().await.errors, 0);
}

#[tokio::test]
async fn a_poll_waits_without_a_thread_and_hears_of_what_comes() {
    let bench = Bench::new("pipe", "threads = 1");
    let (reader, writer) = (bench.open().await, bench.open().await);
    let head = Head { handle: reader, sequence: 0, word: driver_abi::events::IN, length: 20 };
    assert_eq!(bench.data("poll", head, &[]).await.0, 0, "nothing came in time");
    let polled = bench.begin("poll", Head { length: 60_000, ..head }, &[]);
    assert_eq!(bench.write(writer, 1, b"x").await, 1);
    assert_eq!(polled.await.unwrap().0, i64::from(driver_abi::events::IN));
}

#[tokio::test]
async fn a_probe_shows_calls_while_they_are_made_and_leaves_the_code_as_it_was() {
    let bench = Bench::new("counter", "");
    let handle = bench.open().await;
    let before: Value = bench.ask("map", json!({})).await;
    let args = json!({ "functions": ["write"] }).to_string();
    let options = CallOptions::default();
    let mut hits =
        bench.client().call_stream(&bench.at(), "probe", args.as_bytes(), options).await.unwrap();
    let mut sequence = 0;
    let hit = loop {
        sequence += 1;
        assert_eq!(bench.write(handle, sequence, b"four").await, 4);
        // The probe may not be there yet.
        let chunk = tokio::time::timeout(std::time::Duration::from_millis(20), hits.next()).await;
        if let Ok(chunk) = chunk {
            let text = String::from_utf8(chunk.unwrap().unwrap()).unwrap();
            break serde_json::from_str::<Hit>(text.lines().next().unwrap()).unwrap();
        }
    };
    assert_eq!((hit.function.as_str(), hit.arguments[0], hit.arguments[2]), ("write", handle, 4));
    assert_eq!(hit.result, Some(4));
    drop(hits);
    let mut after: Value = bench.ask("map", json!({})).await;
    while after != before {
        after = bench.ask("map", json!({})).await;
    }
    assert_eq!(bench.write(handle, sequence + 1, b"four").await, 4);
}

#[tokio::test]
async fn the_state_is_shown_by_the_names_of_its_fields() {
    let bench = Bench::new("counter", "");
    let handle = bench.open().await;
    bench.write(handle, 1, b"four").await;
    let state: Value = bench.ask("state", json!({})).await;
    assert_eq!(state[1], json!({ "id": 2, "name": "bytes", "value": 4 }));
}

#[tokio::test]
async fn a_reader_that_waits_when_the_host_is_told_to_stop_reads_on_at_the_next() {
    let mut bench = Bench::new("pipe", "");
    let (reader, writer) = (bench.open().await, bench.open().await);
    let head = Head { handle: reader, sequence: 1, word: 0, length: 8 };
    let read = tokio::spawn(bench.repeating("read", head));
    // Answered after the reader's call was taken up: they come on one connection.
    bench.status().await;
    bench.signal(Signal::TERM);
    assert!(bench.ended().await.success());
    bench.start();
    assert_eq!(bench.write(writer, 1, b"x").await, 1);
    assert_eq!(read.await.unwrap(), (1, b"x".to_vec()));
}
