//! Gates: callers see a pause, what waits too long is told so, and a gate opens however its closer ends.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use endpoint::{CallError, CallOptions, Client, Code};
use protocol::objects::GATE;
use serde_json::json;
use tokio::time::Instant;

use crate::{Fixture, IMPATIENT, SOON, refused, until};

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(60);

fn count(client: &Client) -> tokio::task::JoinHandle<Result<u32, CallError>> {
    let client = client.clone();
    tokio::spawn(async move {
        let counted = client.call("demo", "count", &(), CallOptions::default()).await?;
        Ok(counted.parse().unwrap())
    })
}

#[tokio::test]
async fn calls_wait_at_a_closed_gate_and_go_on_in_their_order() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let gate = fixture.server.close_gate(Some("demo"), LONG).unwrap();
    gate.drained().await;
    let calls: Vec<_> = (0..5).map(|_| count(&client)).collect();
    until(|| fixture.server.counters().calls == 5).await;
    // Introspection is not the object's work.
    client.call("demo", "_describe", &(), CallOptions::default()).await.unwrap();
    assert_eq!(fixture.counted.load(SeqCst), 0);
    gate.open();
    for (at, call) in (1..).zip(calls) {
        assert_eq!(call.await.unwrap().unwrap(), at);
    }
}

#[tokio::test]
async fn drained_means_that_no_answer_is_still_to_come() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let call =
        tokio::spawn(async move { client.call("demo", "park", &(), CallOptions::default()).await });
    let responder = fixture.parked.recv().await.unwrap();
    let gate = fixture.server.close_gate(None, LONG).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(20), gate.drained()).await;
    assert!(early.is_err(), "a call runs");
    let (_, ()) = tokio::join!(call, async {
        responder.reply(&());
        tokio::time::timeout(SOON, gate.drained()).await.unwrap();
    });
}

#[tokio::test]
async fn who_waited_too_long_is_told_when_to_come_again() {
    let fixture = Fixture::new();
    let hold = Duration::from_millis(30);
    let gate = fixture.server.close_gate(Some("demo"), hold).unwrap();
    let started = Instant::now();
    let failure =
        refused(fixture.client().call("demo", "count", &(), IMPATIENT).await.unwrap_err());
    assert!(started.elapsed() >= hold);
    assert_eq!(failure.code, Code::Busy);
    assert_eq!(failure.details, Some(json!({ "retry_after_ms": 1000, "not_started": true })));
    assert_eq!(fixture.counted.load(SeqCst), 0);
    // A deadline counts at the gate too.
    let options = CallOptions { deadline: Duration::from_millis(10), ..CallOptions::default() };
    let late = fixture.client().call("demo", "count", &(), options).await;
    assert!(matches!(late, Err(CallError::Timeout { .. })), "{late:?}");
    drop(gate);
    assert_eq!(count(&fixture.client()).await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn calls_whose_callers_gave_up_take_no_room_at_the_gate() {
    let fixture = Fixture::with(endpoint::Settings { queue: 2, ..Default::default() });
    let client = fixture.client();
    let gate = fixture.server.close_gate(Some("demo"), LONG).unwrap();
    let given_up = [count(&client), count(&client)];
    until(|| fixture.server.counters().calls == 2).await;
    given_up.iter().for_each(tokio::task::JoinHandle::abort);
    until(|| fixture.server.counters().cancelled == 2).await;
    let waiting = count(&client);
    until(|| fixture.server.counters().calls == 3).await;
    gate.open();
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    assert_eq!(fixture.server.counters().busy, 0);
}

#[tokio::test]
async fn a_gate_that_two_closed_opens_with_the_second() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let one = fixture.server.close_gate(Some("demo"), LONG).unwrap();
    let two = fixture.server.close_gate(None, LONG).unwrap();
    let call = count(&client);
    until(|| fixture.server.counters().calls == 1).await;
    drop(one);
    client.call("demo", "_describe", &(), CallOptions::default()).await.unwrap();
    assert_eq!(fixture.counted.load(SeqCst), 0);
    drop(two);
    assert_eq!(call.await.unwrap().unwrap(), 1);
    let unknown = fixture.server.close_gate(Some("dmeo"), LONG).unwrap_err();
    assert!(unknown.code == Code::NotFound && unknown.text.contains("\"demo\""), "{unknown}");
}

#[tokio::test]
async fn a_gate_closed_over_the_wire_opens_by_word_or_with_the_connection() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let closer = fixture.client();
    let gate = |closed| json!({ "object": "demo", "closed": closed, "hold_ms": 60_000 });
    for by_word in [true, false] {
        closer.call("", GATE, &gate(true), CallOptions::default()).await.unwrap();
        let before = fixture.counted.load(SeqCst);
        let call = count(&client);
        let other = fixture.client();
        other.call("demo", "_describe", &(), CallOptions::default()).await.unwrap();
        assert_eq!(fixture.counted.load(SeqCst), before);
        if by_word {
            // Anybody who may close it may open it.
            other.call("", GATE, &gate(false), CallOptions::default()).await.unwrap();
            assert_eq!(call.await.unwrap().unwrap(), before + 1);
        } else {
            drop(closer);
            assert_eq!(call.await.unwrap().unwrap(), before + 1);
            break;
        }
    }
}

#[tokio::test]
async fn a_gate_whose_calls_do_not_end_opens_again() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let parked = {
        let client = client.clone();
        tokio::spawn(async move { client.call("demo", "park", &(), CallOptions::default()).await })
    };
    let responder = fixture.parked.recv().await.unwrap();
    let gate = json!({ "closed": true, "drain_ms": 20 });
    let outcome = client.call("", GATE, &gate, CallOptions::default()).await;
    assert!(matches!(outcome, Err(CallError::Timeout { .. })), "{outcome:?}");
    assert_eq!(count(&client).await.unwrap().unwrap(), 1);
    responder.reply(&());
    parked.await.unwrap().unwrap();
}

#[tokio::test]
async fn no_call_fails_and_none_runs_behind_a_gate_that_moves_under_load() {
    let fixture = Fixture::new();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let client = fixture.client();
            tokio::spawn(async move {
                for _ in 0..500 {
                    client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
                }
            })
        })
        .collect();
    while !callers.iter().all(tokio::task::JoinHandle::is_finished) {
        let gate = fixture.server.close_gate(None, LONG).unwrap();
        gate.drained().await;
        let before = fixture.counted.load(SeqCst);
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        assert_eq!(fixture.counted.load(SeqCst), before);
        gate.open();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(fixture.counted.load(SeqCst), 4000);
}
