//! Transfers as they should go, and as they go when something ends meanwhile.

use std::sync::Arc;

use bundle::push::Outcome;
use endpoint::{CallOptions, Code};
use protocol::upgrade::{ALLOW_UNSIGNED, BEGIN_MAGIC, Identity, head};
use tokio::sync::Semaphore;

use super::{ANNA, BOB, DEVICE, Device, LIMIT, bundle_of, code, fingerprint, push, refused, until};
use crate::net::listener::Limits;

const SIZE: usize = 4 << 20;

#[tokio::test]
async fn a_bundle_pushed_by_an_operator_arrives_whole_under_the_operators_name() {
    let device = Device::start(Limits::default()).await;
    let (bundle, image) = bundle_of(SIZE);
    let outcome = device.host(&ANNA).push(&bundle).await.unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));
    assert!(device.memory.image() == image);
    assert_eq!(device.memory.lock().who.last(), Some(&fingerprint(&ANNA)));
}

#[tokio::test]
async fn root_installs_over_the_unix_socket() {
    let device = Device::start(Limits::default()).await;
    let (bundle, image) = bundle_of(SIZE);
    push(&device.local(), &bundle, |_| {}).await.unwrap();
    assert!(device.memory.image() == image);
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(device.memory.lock().who.last(), Some(&format!("uid {uid}")));
}

#[tokio::test]
async fn after_a_cut_only_what_is_missing_travels_again() {
    let device = Device::start(Limits::default()).await;
    let (bundle, image) = bundle_of(SIZE);
    let host = device.host(&ANNA);
    let cut = push(&host.client, &bundle, |chunks| {
        if chunks == 20 {
            host.cut();
        }
    });
    cut.await.unwrap_err();
    let before = device.memory.lock().received;
    assert!((8..=20).contains(&before), "{before}");
    host.push(&bundle).await.unwrap();
    assert!(device.memory.image() == image);
    // Whatever the device had taken by then was not asked for again.
    let kept = device.memory.lock();
    assert_eq!(kept.received, u64::try_from(kept.chunks.len()).unwrap());
}

#[tokio::test]
async fn a_lost_connection_makes_the_writer_leave_and_keeps_others_waiting() {
    let device = Device::start(Limits::default()).await;
    let (bundle, _) = bundle_of(SIZE);
    let anna = device.host(&ANNA);
    let cut = push(&anna.client, &bundle, |chunks| {
        if chunks == 10 {
            anna.cut()
        }
    });
    cut.await.unwrap_err();
    until(|| !device.memory.lock().left.is_empty()).await;
    assert_eq!(device.memory.lock().left, [1]);
    let busy = refused(device.host(&BOB).push(&bundle).await);
    assert_eq!(busy.code, Code::Busy);
    assert!(busy.text.contains(&fingerprint(&ANNA)), "{}", busy.text);
    anna.push(&bundle).await.unwrap();
    device.host(&BOB).push(&bundle).await.unwrap();
}

#[tokio::test]
async fn a_second_operator_is_told_who_installs_and_may_not_abort_but_root_may() {
    let device = Device::start(Limits::default()).await;
    let (bundle, _) = bundle_of(SIZE);
    let gate = Arc::new(Semaphore::new(4));
    device.memory.lock().gate = Some(Arc::clone(&gate));
    let anna = device.host(&ANNA);
    let client = anna.client.clone();
    let sent = bundle.clone();
    let pushing = tokio::spawn(async move { push(&client, &sent, |_| {}).await.map(drop) });
    until(|| device.memory.lock().who.len() >= 4).await;
    let bob = device.host(&BOB);
    let busy = refused(bob.push(&bundle).await);
    let details = busy.details.unwrap();
    assert_eq!(details["who"], fingerprint(&ANNA));
    assert!(details["since"].as_u64().unwrap() > 1_700_000_000);
    let abort = bob.client.call("upgrade", "abort", &(), CallOptions::default()).await;
    assert_eq!(code(abort), Code::Denied);
    // However long the writer takes: who it is, is told.
    let identity = bob.client.call("upgrade", "identity", &(), CallOptions::default()).await;
    let identity: Identity = identity.unwrap().parse().unwrap();
    assert_eq!(identity.fingerprint, fingerprint(&DEVICE));
    device.memory.lock().gate = None;
    gate.add_permits(1000);
    let abort = device.local().call("upgrade", "abort", &(), CallOptions::default()).await;
    abort.unwrap();
    let ended = pushing.await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn a_writer_that_dies_ends_the_transfer_and_the_next_one_takes_it_up() {
    let mut device = Device::start(Limits::default()).await;
    let (bundle, image) = bundle_of(SIZE);
    let gate = Arc::new(Semaphore::new(16));
    device.memory.lock().gate = Some(Arc::clone(&gate));
    let anna = device.host(&ANNA);
    let (client, sent) = (anna.client.clone(), bundle.clone());
    let pushing = tokio::spawn(async move { push(&client, &sent, |_| {}).await });
    until(|| device.memory.lock().who.len() >= 16).await;
    device.memory.lock().gate = None;
    device.kill_writer().await;
    assert_eq!(code(pushing.await.unwrap()), Code::Gone);
    let before = device.memory.lock().received;
    assert!(before > 0);
    anna.push(&bundle).await.unwrap();
    assert!(device.memory.image() == image);
}

#[tokio::test]
async fn a_host_sees_one_object_and_can_allow_nothing_unsigned() {
    let device = Device::start(Limits::default()).await;
    let client = device.host(&ANNA).client;
    let objects = client.objects().await.unwrap();
    assert_eq!(objects.iter().map(|object| &*object.name).collect::<Vec<_>>(), ["upgrade"]);
    let gate = client.call("", "_gate", &serde_json::json!({}), CallOptions::default()).await;
    assert_eq!(code(gate), Code::Denied);
    let args = [&BEGIN_MAGIC[..], &ALLOW_UNSIGNED.to_le_bytes(), &[0; 64]].concat();
    let begin = client.call_bytes("upgrade", "begin", &args, CallOptions::default()).await;
    let denied = refused(begin);
    assert!(denied.text.contains("only root on the device"), "{denied}");
}

#[tokio::test]
async fn chunks_of_no_session_of_no_page_and_beyond_the_window_are_refused() {
    let device = Device::start(Limits::default()).await;
    let (bundle, _) = bundle_of(SIZE);
    let host = device.host(&ANNA);
    let chunk = |session, number| {
        let (client, args) = (host.client.clone(), [&head(session, 0, number)[..], b"x"].concat());
        async move { client.call_bytes("upgrade", "chunk", &args, CallOptions::default()).await }
    };
    assert_eq!(code(chunk(1, 0).await), Code::Gone);
    let mut codes = Vec::new();
    let stopped = tokio::time::timeout(LIMIT, async {
        let mut sender = bundle::push::Sender::new(
            super::Reader::open(std::io::Cursor::new(&bundle)).unwrap(),
            0,
            None,
        );
        // Begin, table, page.
        for _ in 0..3 {
            let super::Step::Call(call) = sender.next_step().unwrap() else { panic!("a call") };
            let options = CallOptions::default();
            let answer = host.client.call_bytes("upgrade", call.method, &call.args, options).await;
            sender.answered(call.id, &answer.unwrap().result).unwrap();
        }
        assert_eq!(code(chunk(1, 5000).await), Code::InvalidArgument);
        // Not what the page says: refused where it is unpacked.
        let bad = refused(chunk(1, 0).await);
        assert_eq!(bad.details.unwrap()["reason"], "bad-chunk");
        // The device is slow, and somebody sends on and on.
        let gate = Arc::new(Semaphore::new(0));
        device.memory.lock().gate = Some(Arc::clone(&gate));
        let mut calls = Vec::new();
        while let super::Step::Call(call) = sender.next_step().unwrap() {
            calls.push(call);
        }
        assert_eq!(calls.len(), 8);
        let mut sent = tokio::task::JoinSet::new();
        let send = |call: &bundle::push::Call| {
            let (client, args) = (host.client.clone(), call.args.clone());
            async move { client.call_bytes("upgrade", "chunk", &args, CallOptions::default()).await }
        };
        for call in &calls {
            sent.spawn(send(call));
        }
        // They are unpacked and wait for the writer: now only their number keeps more from coming.
        until(|| sent.len() == 8 && device.desk.is_full()).await;
        for call in &calls[..2] {
            codes.push(code(send(call).await));
        }
        gate.add_permits(100);
        while let Some(answer) = sent.join_next().await {
            codes.extend(answer.unwrap().err().map(|error| code(Err::<(), _>(error))));
        }
    });
    stopped.await.unwrap();
    assert_eq!(codes, [Code::Busy, Code::Busy]);
}
