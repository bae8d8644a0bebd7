//! Events to a reader that is too slow: what is kept, what is told, and who waits (nobody).

use endpoint::{CallError, CallOptions, Peer};
use protocol::registry::Overflow;

use crate::{Fixture, SOON, until};

/// A client's connection as the server sees it, with an open call.
async fn peer(fixture: &mut Fixture, client: &endpoint::Client) -> (Peer, endpoint::Responder) {
    let client = client.clone();
    tokio::spawn(async move { client.call("demo", "park", &(), CallOptions::default()).await });
    let responder = fixture.parked.recv().await.unwrap();
    (responder.peer(), responder)
}

#[tokio::test]
async fn new_events_are_lost_where_the_reader_wants_the_old_ones() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let mut events = client.events();
    let (peer, _responder) = peer(&mut fixture, &client).await;
    peer.set_events(3, Overflow::DropNew);
    let shared: (std::sync::Arc<str>, std::sync::Arc<[u8]>) = ("tick".into(), b"x"[..].into());
    for _ in 0..10 {
        assert!(peer.event_shared(&shared.0, &shared.1));
    }
    assert_eq!(peer.events_state(), (3, 7));
    until(|| peer.events_state().0 == 0).await;
    assert!(peer.event("last", b"y".to_vec()));
    let mut lost = 0;
    loop {
        let event = tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap();
        lost += event.lost;
        if event.topic == "last" {
            break;
        }
    }
    assert_eq!((lost, peer.events_state()), (7, (0, 7)));
}

#[tokio::test]
async fn a_reader_that_wants_all_or_nothing_is_disconnected_and_told_why() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.call("demo", "park", &(), CallOptions::default()).await })
    };
    let responder = fixture.parked.recv().await.unwrap();
    let peer = responder.peer();
    peer.set_events(2, Overflow::Disconnect);
    let kept = (0..4).filter(|_| peer.event("tick", Vec::new())).count();
    assert_eq!(kept, 2);
    tokio::time::timeout(SOON, peer.closed()).await.unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
    assert!(error.to_string().contains("limit"), "{error}");
    assert!(!peer.event("tick", Vec::new()) && peer.pidfd().is_none());
}

#[tokio::test]
async fn a_peer_is_known_by_its_process_and_groups() {
    let mut fixture = Fixture::new();
    let client = fixture.client();
    let (peer, _responder) = peer(&mut fixture, &client).await;
    assert!(peer.is_trusted() && peer.pidfd().is_some());
    let groups = peer.groups().unwrap();
    let ours = rustix::process::getgroups().unwrap();
    assert_eq!(groups.len(), ours.len());
    // Nobody was named who could say more.
    assert!(peer.identify().await.is_err());
}
