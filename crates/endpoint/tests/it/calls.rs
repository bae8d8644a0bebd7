//! What a well-behaved caller gets.

use std::{os::fd::AsFd as _, sync::Arc, time::Duration};

use endpoint::{CallError, CallOptions, Client, Code, Description, Options, Settings};
use serde_json::json;

use crate::{Fixture, IMPATIENT, SOON, pipe_with, refused};

#[tokio::test]
async fn many_calls_at_once_get_their_own_answers() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let calls: Vec<_> = (0..60_u8)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                client.call_bytes("demo", "echo", &[n; 64], CallOptions::default()).await.unwrap()
            })
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().result, [u8::try_from(n).unwrap(); 64]);
    }
    assert_eq!(fixture.server.counters().connections, 1);
}

#[tokio::test]
async fn answers_come_in_the_order_in_which_they_are_given() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let park = |client: Client| async move {
        client
            .call("demo", "park", &(), CallOptions::default())
            .await
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let first = tokio::spawn(park(client.clone()));
    let one = fixture.parked.recv().await.unwrap();
    let second = tokio::spawn(park(client.clone()));
    let two = fixture.parked.recv().await.unwrap();
    two.reply(&2);
    assert_eq!(second.await.unwrap(), 2);
    assert!(!first.is_finished());
    one.reply(&1);
    assert_eq!(first.await.unwrap(), 1);
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_its_handler_hears_of_it() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.call("demo", "park", &(), CallOptions::default()).await })
    };
    let responder = fixture.parked.recv().await.unwrap();
    call.abort();
    tokio::time::timeout(SOON, responder.cancelled()).await.unwrap();
    responder.reply(&"too late");
    // The id is free again, and the late answer went nowhere.
    client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
    assert_eq!(fixture.server.counters().cancelled, 1);
}

#[tokio::test]
async fn the_server_answers_timeout_when_the_deadline_passed() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let options = CallOptions { deadline: Duration::from_millis(30), ..CallOptions::default() };
    let error = client.call("demo", "park", &(), options).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    let responder = fixture.parked.recv().await.unwrap();
    tokio::time::timeout(SOON, responder.cancelled()).await.unwrap();
}

#[tokio::test]
async fn descriptors_travel_both_ways() {
    let fixture = Fixture::new();
    let client = fixture.client();
    for _ in 0..3 {
        let (one, two) = (pipe_with(b"one"), pipe_with(b"two"));
        let fds = [one.as_fd(), two.as_fd()];
        let options = CallOptions { fds: &fds, ..CallOptions::default() };
        let (reply, echo) = tokio::join!(
            client.call("demo", "descriptors", &(), options),
            client.call_bytes("demo", "echo", b"between", CallOptions::default()),
        );
        let reply = reply.unwrap();
        assert_eq!(echo.unwrap().result, b"between");
        assert_eq!(reply.parse::<u32>().unwrap(), 2);
        let mut text = [0; 8];
        assert_eq!(rustix::io::read(&reply.fds[1], &mut text).unwrap(), 3);
        assert_eq!(&text[..3], b"two");
    }
}

#[tokio::test]
async fn unknown_names_get_the_nearest_known_one() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let call = |object, method| client.call(object, method, &(), CallOptions::default());
    let method = refused(call("demo", "ecoh").await.unwrap_err());
    assert_eq!(method.code, Code::UnknownMethod);
    assert!(method.text.contains("\"echo\""), "{method}");
    let object = refused(call("dmeo", "echo").await.unwrap_err());
    assert_eq!(object.code, Code::NotFound);
    assert!(object.text.contains("\"demo\""), "{object}");
}

#[tokio::test]
async fn wrong_arguments_are_named() {
    let fixture = Fixture::new();
    let call = fixture.client();
    let error = call.call("demo", "text", &json!({"bytes": "many"}), CallOptions::default()).await;
    let failure = refused(error.unwrap_err());
    assert_eq!(failure.code, Code::InvalidArgument);
    assert!(failure.text.contains("`bytes`") && failure.text.contains("many"), "{failure}");
}

#[tokio::test]
async fn a_call_without_an_answer_fails_instead_of_hanging() {
    let fixture = Fixture::new();
    let error = fixture.client().call("demo", "forget", &(), CallOptions::default()).await;
    assert_eq!(refused(error.unwrap_err()).code, Code::Failed);
}

#[tokio::test]
async fn everything_can_be_described_without_code() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let described = client.call("demo", "_describe", &(), CallOptions::default()).await.unwrap();
    let described: Description = described.parse().unwrap();
    assert!(described.has("echo"));
    let all = client.call("", "_describe", &(), CallOptions::default()).await.unwrap();
    let all: serde_json::Value = all.parse().unwrap();
    assert_eq!(all["demo"]["interface"], "test.demo");
    let served = client.objects().await.unwrap();
    assert_eq!(served[0].hash, described.hash());
}

#[tokio::test]
async fn an_object_added_later_is_found_and_a_withdrawn_one_is_not() {
    let fixture = Fixture::new();
    let client = fixture.client();
    client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
    let (parked, _keep) = tokio::sync::mpsc::unbounded_channel();
    let late = crate::Demo { counted: Arc::clone(&fixture.counted), parked };
    fixture.server.add("late", late).unwrap();
    client.call("late", "count", &(), CallOptions::default()).await.unwrap();
    assert!(fixture.server.remove("late"));
    let error = client.call("late", "count", &(), CallOptions::default()).await.unwrap_err();
    assert_eq!(refused(error).code, Code::NotFound);
}

#[tokio::test]
async fn without_a_server_the_error_names_the_path_and_the_cure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nobody.sock");
    let options = Options { patience: Duration::ZERO, ..Options::default() };
    let client = Client::new(&path, options);
    let error = client.call("demo", "count", &(), CallOptions::default()).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("nobody.sock") && text.contains("running"), "{text}");
}

#[tokio::test]
async fn calls_beyond_the_queue_wait_for_their_turn_and_none_fails() {
    let fixture =
        Fixture::with(Settings { queue: 4, calls_per_connection: 6, ..Settings::default() });
    let client = fixture.client();
    let calls: Vec<_> = (0..1_000)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                client.call("demo", "count", &(), CallOptions::default()).await.map(drop)
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(fixture.counted.load(std::sync::atomic::Ordering::SeqCst), 1_000);
    assert!(fixture.server.counters().busy > 0, "they met a full queue");
}

#[tokio::test]
async fn a_full_queue_answers_busy_with_the_time_to_wait() {
    let mut fixture =
        Fixture::with(Settings { queue: 4, calls_per_connection: 6, ..Settings::default() });
    let client = fixture.client();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call("demo", "park", &(), IMPATIENT).await })
        })
        .collect();
    let mut busy = 0;
    let mut done = 0;
    for call in calls {
        while let Ok(responder) = fixture.parked.try_recv() {
            responder.reply(&());
        }
        let answered = async {
            let mut call = call;
            loop {
                tokio::select! {
                    outcome = &mut call => return outcome.unwrap(),
                    Some(responder) = fixture.parked.recv() => responder.reply(&()),
                }
            }
        };
        match answered.await {
            Ok(_) => done += 1,
            Err(error) => {
                let failure = refused(error);
                assert_eq!(failure.code, Code::Busy);
                assert_eq!(failure.details.unwrap()["retry_after_ms"], 50);
                busy += 1;
            }
        }
    }
    assert!(busy >= 4 && done >= 1, "{busy} busy, {done} done");
}
