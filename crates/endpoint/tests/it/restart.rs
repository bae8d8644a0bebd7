//! Servers that go away, come back, and leave in order.

use std::{
    os::unix::net::UnixListener,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use endpoint::{CallError, CallOptions, Client, Options, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{Fixture, SOON, serve};

/// Answers the handshake, takes one call, and breaks off without an answer.
async fn greet_and_die(listener: &tokio::net::UnixListener) {
    use protocol::{
        frame,
        message::{Message, Object, Welcome},
    };

    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = vec![0; 4096];
    assert!(stream.read(&mut bytes).await.unwrap() > 0);
    let object =
        Object { name: "demo", token: 0, generation: 1, interface: "x", version: 1, hash: 0 };
    let welcome = Message::Welcome(Welcome {
        major: 1,
        minor: 0,
        features: 0,
        nonce: [0; 16],
        objects: vec![object],
    });
    let mut out = Vec::new();
    frame::encode(&mut out, 0, &welcome).unwrap();
    stream.write_all(&out).await.unwrap();
    assert!(stream.read(&mut bytes).await.unwrap() > 0);
}

#[tokio::test]
async fn a_call_cut_off_is_repeated_only_where_that_is_safe() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("demo.sock");
    let dying = tokio::net::UnixListener::bind(&path).unwrap();
    let client = Client::new(&path, Options { patience: SOON, ..Options::default() });

    let (outcome, ()) = tokio::join!(
        client.call("demo", "count", &(), CallOptions::default()),
        greet_and_die(&dying),
    );
    assert!(matches!(outcome, Err(CallError::Lost { .. })), "{outcome:?}");

    let counted = Arc::default();
    let (outcome, server) =
        tokio::join!(client.call("demo", "count", &(), CallOptions::safe()), async {
            greet_and_die(&dying).await;
            let listener = dying.into_std().unwrap();
            let (server, parked) = serve(Settings::default(), &counted);
            server.listen(listener).unwrap();
            (server, parked)
        },);
    assert_eq!(outcome.unwrap().parse::<u32>().unwrap(), 1);
    assert_eq!(counted.load(SeqCst), 1);
    drop(server);
}

#[tokio::test]
async fn callers_wait_in_the_backlog_while_the_server_is_replaced() {
    let fixture = Fixture::new();
    let client = fixture.client();
    let held = UnixListener::bind(fixture.directory.path().join("held.sock")).unwrap();
    let held_client = Client::new(fixture.directory.path().join("held.sock"), Options::default());
    fixture.server.listen(held.try_clone().unwrap()).unwrap();
    held_client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
    client.call("demo", "count", &(), CallOptions::default()).await.unwrap();

    fixture.server.drain(SOON).await;
    let (outcome, _server) =
        tokio::join!(held_client.call("demo", "count", &(), CallOptions::default()), async {
            tokio::task::yield_now().await;
            let next = serve(Settings::default(), &fixture.counted);
            next.0.listen(held).unwrap();
            next
        },);
    assert_eq!(outcome.unwrap().parse::<u32>().unwrap(), 3);
    assert_eq!(*held_client.connections().borrow(), 2);
}

#[tokio::test]
async fn draining_lets_open_calls_finish_and_takes_no_new_ones() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let open = {
        let client = client.clone();
        tokio::spawn(async move { client.call("demo", "park", &(), CallOptions::default()).await })
    };
    let responder = fixture.parked.recv().await.unwrap();
    let server = fixture.server.clone();
    let drained = tokio::spawn(async move { server.drain(SOON).await });
    let late = {
        let options =
            CallOptions { deadline: Duration::from_millis(100), ..CallOptions::default() };
        client.call("demo", "count", &(), options).await
    };
    assert!(
        matches!(late, Err(CallError::Timeout { .. } | CallError::Unreachable { .. })),
        "{late:?}"
    );
    assert_eq!(fixture.counted.load(SeqCst), 0);
    assert!(!drained.is_finished());
    responder.reply(&7);
    assert_eq!(open.await.unwrap().unwrap().parse::<u32>().unwrap(), 7);
    drained.await.unwrap();
}

#[tokio::test]
async fn a_call_that_outlives_the_drain_is_answered_before_the_goodbye() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let open =
        tokio::spawn(async move { client.call("demo", "park", &(), CallOptions::default()).await });
    let responder = fixture.parked.recv().await.unwrap();
    fixture.server.drain(Duration::from_millis(10)).await;
    let error = open.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("stopped"), "{error}");
    responder.cancelled().await;
}
