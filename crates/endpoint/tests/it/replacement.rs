//! A server is replaced by another one on the same listening socket while callers go on.

use std::{
    os::unix::net::UnixListener,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use endpoint::{CallOptions, Client, Options, Settings};

use crate::{Fixture, SOON, eventually, serve, until};

#[tokio::test]
async fn no_call_fails_while_servers_follow_each_other_on_one_socket() {
    const CALLERS: u32 = 8;
    const CALLS: u32 = 2500;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("demo.sock");
    let held = UnixListener::bind(&path).unwrap();
    let counted = Arc::default();
    let start = || {
        let started = serve(Settings::default(), &counted);
        started.0.listen(held.try_clone().unwrap()).unwrap();
        started
    };
    let mut current = start();
    // From threads of their own, so that a call may be anywhere on its way when a server leaves.
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let client = Client::new(&path, Options { patience: SOON, ..Options::default() });
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async move {
                    for _ in 0..CALLS {
                        // Not safe to repeat: each must be begun exactly once.
                        client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
                    }
                });
            })
        })
        .collect();
    let mut replaced = 0;
    let finished = || callers.iter().all(std::thread::JoinHandle::is_finished);
    while !finished() {
        let next = start();
        current.0.drain(SOON).await;
        assert_eq!(current.0.counters().connections_open, 0);
        current = next;
        replaced += 1;
        let before = counted.load(SeqCst);
        let goal = (before + 1500).min(CALLERS * CALLS);
        eventually(|| counted.load(SeqCst) >= goal || finished()).await;
    }
    for caller in callers {
        caller.join().unwrap();
    }
    assert_eq!(counted.load(SeqCst), CALLERS * CALLS);
    assert!(replaced >= 5, "{replaced}");
}

#[tokio::test]
async fn what_has_not_begun_is_handed_back_at_once_and_what_runs_ends() {
    let mut fixture = Fixture::new();
    let running = fixture.client();
    let running = tokio::spawn(async move {
        running.call("demo", "park", &(), CallOptions::default()).await.unwrap()
    });
    let responder = fixture.parked.recv().await.unwrap();
    let gate = fixture.server.close_gate(None, Duration::from_secs(60)).unwrap();
    let mut raw = crate::raw::Raw::greeted(&fixture).await;
    let asked = tokio::spawn(async move { (raw.ask(7, "count").await, raw.next().await) });
    until(|| fixture.server.counters().calls == 2).await;
    let server = fixture.server.clone();
    let drained = tokio::spawn(async move { server.drain(SOON).await });
    // Neither the gate nor the call that runs holds it up.
    let (answer, goodbye) = asked.await.unwrap();
    assert!(answer.contains("\"gone\"") && answer.contains("\"not_started\":true"), "{answer}");
    assert!(goodbye.starts_with("Goodbye gone"), "{goodbye}");
    assert!(!drained.is_finished());
    responder.reply(&());
    running.await.unwrap();
    drained.await.unwrap();
    drop(gate);
}

#[tokio::test]
async fn usage_follows_the_connections() {
    let fixture = Fixture::new();
    let mut usage = fixture.server.usage();
    let client = fixture.client();
    client.call("demo", "count", &(), CallOptions::default()).await.unwrap();
    assert_eq!(*usage.borrow_and_update(), 1);
    drop(client);
    tokio::time::timeout(SOON, usage.changed()).await.unwrap().unwrap();
    assert_eq!(*usage.borrow(), 0);
}
