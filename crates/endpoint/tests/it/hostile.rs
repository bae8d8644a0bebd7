//! Peers that break the protocol, flood, or don't read: each is told why and costs nobody else anything.

use std::{io::IoSlice, mem::MaybeUninit, os::fd::AsFd as _, time::Duration};

use endpoint::{CallError, CallOptions, Client, Options, Settings};
use protocol::{
    message::{Call, Hello, Message, Reply},
    objects::ENDPOINT,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::AsyncWriteExt as _;

use crate::{
    Fixture, SOON, pipe_with,
    raw::{Raw, bytes_of, echo},
    until,
};

async fn still_serves(fixture: &Fixture) {
    let reply = fixture.client().call_bytes("demo", "echo", b"ok", CallOptions::default()).await;
    assert_eq!(reply.unwrap().result, b"ok");
}

#[tokio::test]
async fn every_violation_gets_a_goodbye_that_says_why() {
    let fixture = Fixture::new();
    let oversized = [b'V', b'E', 1, 4, 1, 0, 0, 0, 0, 0, 0x20, 0];
    let mut left_over = bytes_of(3, &Message::Ping);
    left_over[8] = 1;
    left_over.push(0);
    let twice = [
        bytes_of(
            1,
            &Message::Call(Call { token: 0, generation: 1, method: "park", ..Call::default() }),
        ),
        bytes_of(1, &echo(b"")),
    ]
    .concat();
    let cases: [(&[u8], &str); 7] = [
        (b"GET / HTTP/1.1\r\n\r\n", "47 45"),
        (&oversized, "2097152"),
        (&left_over, "1 bytes are left over"),
        (&bytes_of(9, &Message::Reply(Reply::Joined { fds: 0 })), "nobody waits"),
        (&bytes_of(0, &Message::Hello(Hello::OURS)), "Hello"),
        (&twice, "in use"),
        (
            &bytes_of(7, &Message::Call(Call { fds: 2, method: "x", ..Call::default() })),
            "announces 2",
        ),
    ];
    for (at, (bytes, reason)) in cases.iter().enumerate() {
        let mut raw = Raw::greeted(&fixture).await;
        raw.send(bytes).await;
        let goodbye = raw.next().await;
        assert!(
            goodbye.starts_with("Goodbye protocol") && goodbye.contains(reason),
            "{at}: {goodbye}"
        );
        assert_eq!(raw.next().await, "end");
    }
    assert_eq!(fixture.server.counters().violations, 7);
    still_serves(&fixture).await;
}

#[tokio::test]
async fn a_call_before_hello_is_refused() {
    let fixture = Fixture::new();
    let mut raw = Raw::connect(&fixture).await;
    raw.send(&bytes_of(1, &echo(b""))).await;
    assert!(raw.next().await.contains("before Hello"));
}

#[tokio::test]
async fn a_peer_of_another_major_is_told_both_ranges() {
    let fixture = Fixture::new();
    let mut raw = Raw::connect(&fixture).await;
    let theirs = Hello { min_major: 7, max_major: 9, minor: 0, features: 1 };
    raw.send(&bytes_of(0, &Message::Hello(theirs))).await;
    let goodbye = raw.next().await;
    assert!(goodbye.starts_with("Goodbye unsupported"), "{goodbye}");
    assert!(goodbye.contains("1 to 1") && goodbye.contains("7 to 9"), "{goodbye}");
    assert_eq!(raw.next().await, "end");
}

#[tokio::test]
async fn unannounced_descriptors_are_closed_and_refused() {
    let fixture = Fixture::new();
    let mut raw = Raw::greeted(&fixture).await;
    let pipe = pipe_with(b"");
    let (read, write) = rustix::pipe::pipe().unwrap();
    let fds = [pipe.as_fd(), write.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = bytes_of(1, &echo(b""));
    let slices = [IoSlice::new(&bytes)];
    rustix::net::sendmsg(raw.stream.as_fd(), &slices, &mut control, SendFlags::empty()).unwrap();
    loop {
        let answer = raw.next().await;
        if answer.starts_with("Goodbye protocol") {
            assert!(answer.contains("descriptors"), "{answer}");
            break;
        }
        assert!(answer.starts_with("Reply"), "{answer}");
    }
    // The server's copy of the write end is closed: without ours the pipe is at its end.
    drop(write);
    assert_eq!(rustix::io::read(&read, &mut [0; 1]).unwrap(), 0);
}

#[tokio::test]
async fn silence_and_half_a_frame_end_after_their_time() {
    let fixture = Fixture::with(Settings {
        handshake: Duration::from_millis(20),
        frame_time: Duration::from_millis(20),
        ..Settings::default()
    });
    let mut silent = Raw::connect(&fixture).await;
    assert!(silent.next().await.contains("no Hello"));
    let mut half = Raw::greeted(&fixture).await;
    half.send(&bytes_of(1, &echo(b"abc"))[..14]).await;
    assert!(half.next().await.contains("took longer"));
    still_serves(&fixture).await;
}

#[tokio::test]
async fn a_peer_whose_writes_always_end_inside_a_frame_is_not_cut_off() {
    let frame_time = Duration::from_millis(250);
    let fixture = Fixture::with(Settings { frame_time, ..Settings::default() });
    let mut raw = Raw::greeted(&fixture).await;
    let started = tokio::time::Instant::now();
    raw.send(&bytes_of(1, &echo(b"abc"))[..14]).await;
    for id in 1.. {
        let rest = &bytes_of(id, &echo(b"abc"))[14..];
        let next = &bytes_of(id + 1, &echo(b"abc"))[..14];
        raw.send(&[rest, next].concat()).await;
        let answer = raw.next().await;
        assert!(answer.starts_with("Reply"), "{answer}");
        if started.elapsed() > frame_time * 2 {
            break;
        }
    }
}

#[tokio::test]
async fn a_flood_is_answered_busy_and_others_are_served() {
    let fixture = Fixture::with(Settings { calls_per_connection: 32, ..Settings::default() });
    let mut raw = Raw::greeted(&fixture).await;
    let park = |id| {
        let call = Call { token: 0, generation: 1, method: "park", ..Call::default() };
        bytes_of(id, &Message::Call(call))
    };
    let flood: Vec<u8> = (1..=2000).flat_map(park).collect();
    raw.send(&flood).await;
    until(|| fixture.server.counters().busy == 1968).await;
    still_serves(&fixture).await;
    assert!(raw.next().await.contains("\"busy\""));
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_disconnected_and_others_are_served() {
    let fixture =
        Fixture::with(Settings { stall: Duration::from_millis(50), ..Settings::default() });
    let mut raw = Raw::greeted(&fixture).await;
    let args = vec![b'x'; 100_000];
    let calls: Vec<u8> = (1..=40).flat_map(|id| bytes_of(id, &echo(&args))).collect();
    // The server stops reading, so that not even all of the calls fit.
    let _ = tokio::time::timeout(Duration::from_millis(200), raw.send(&calls)).await;
    tokio::time::timeout(SOON, async {
        while fixture.server.counters().slow_readers == 0 {
            still_serves(&fixture).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_token_out_of_range_and_a_stale_generation_get_an_answer_each() {
    let fixture = Fixture::new();
    let mut raw = Raw::greeted(&fixture).await;
    let cases: [(u32, u32, &str, &str); 6] = [
        (1, 1, "echo", "not-found"),
        // SAMGR answers a look-up of a missing feature with -1.
        (ENDPOINT, 0, "echo", "unknown-method"),
        (ENDPOINT - 1, u32::MAX, "echo", "not-found"),
        (0, 0, "echo", "\"gone\""),
        (0, 2, "echo", "\"gone\""),
        (0, 1, "ehco", "unknown-method"),
    ];
    for (id, (token, generation, method, code)) in (1..).zip(cases) {
        let call = Message::Call(Call { token, generation, method, ..Call::default() });
        raw.send(&bytes_of(id, &call)).await;
        let answer = raw.next().await;
        assert!(answer.contains(code), "{token} {generation} {method}: {answer}");
    }
    assert!(fixture.server.remove("demo"));
    raw.send(&bytes_of(9, &echo(b""))).await;
    assert!(raw.next().await.contains("\"gone\""));
}

#[tokio::test]
async fn a_user_gets_only_so_many_connections() {
    let fixture = Fixture::with(Settings { connections_per_user: 2, ..Settings::default() });
    let first = Raw::greeted(&fixture).await;
    let _second = Raw::greeted(&fixture).await;
    let mut third = Raw::connect(&fixture).await;
    assert!(third.next().await.starts_with("Goodbye limit"));
    drop(first);
    until(|| fixture.server.counters().connections_open == 1).await;
    Raw::greeted(&fixture).await;
}

#[tokio::test]
async fn a_server_that_speaks_garbage_is_a_violation_not_a_hang() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("garbage.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let client = Client::new(&path, Options::default());
    let (outcome, ()) =
        tokio::join!(client.call("demo", "count", &(), CallOptions::default()), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
        },);
    assert!(matches!(outcome, Err(CallError::Violation { .. })), "{outcome:?}");
}
