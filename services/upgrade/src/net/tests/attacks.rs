//! Peers that mean no good, and what the others notice of them.

use std::time::Duration;

use endpoint::{CallError, CallOptions, Code};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::{ANNA, BOB, Device, EVE, FOREVER, LIMIT, bundle_of, code, until};
use crate::{channel, net::listener::Limits};

const SIZE: usize = 1 << 20;

async fn status(host: &super::Host) -> Result<endpoint::Received, CallError> {
    host.client.call("upgrade", "status", &(), CallOptions::default()).await
}

/// Everything until the other side ends, however it ends.
async fn drained(mut stream: TcpStream) -> usize {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    bytes.len()
}

#[tokio::test]
async fn a_key_that_is_no_operators_gets_in_nowhere_and_its_frames_are_not_read() {
    let device = Device::start(Limits::default()).await;
    let orders = device.memory.lock().who.len();
    let refused = status(&device.host(&EVE)).await.unwrap_err();
    assert!(matches!(refused, CallError::Unreachable { .. }), "{refused:?}");
    assert_eq!(device.memory.lock().who.len(), orders);
}

#[tokio::test]
async fn without_operators_nobody_comes_in_and_who_is_none_any_more_is_cut_off() {
    let device = Device::start(Limits::default()).await;
    let anna = device.host(&ANNA);
    status(&anna).await.unwrap();
    device.desk.know(channel::Device::default());
    // The connection ends; another one is not shaken hands with.
    let ending = async {
        while !matches!(status(&anna).await, Err(CallError::Unreachable { .. })) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, ending).await.expect("it is cut off");
    let stream = TcpStream::connect(device.address).await.unwrap();
    assert_eq!(drained(stream).await, 0);
}

#[tokio::test]
async fn garbage_is_turned_away_and_the_next_push_works() {
    let device = Device::start(Limits::default()).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], &[0x16, 3, 1, 0xff, 0xff]] {
        let mut stream = TcpStream::connect(device.address).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        drained(stream).await;
    }
    let (bundle, image) = bundle_of(SIZE);
    device.host(&ANNA).push(&bundle).await.unwrap();
    assert!(device.memory.image() == image);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_a_byte_a_minute_is_cut_off_after_ten_seconds() {
    let device = Device::start(Limits::default()).await;
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(device.address).await.unwrap();
    // A record header: the beginning of a handshake that never comes.
    stream.write_all(&[0x16]).await.unwrap();
    let slow = tokio::time::timeout(Duration::from_secs(60), drained(stream)).await;
    slow.expect("it was cut off before its second byte");
    assert!(begun.elapsed() >= Duration::from_secs(10));
}

#[tokio::test]
async fn a_thousand_peers_cost_a_few_places_and_the_next_push_works() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let limits = Limits { handshake: FOREVER, from_one: 8, ..Limits::default() };
    let device = Device::start(limits).await;
    let mut peers = Vec::new();
    for _ in 0..1000 {
        peers.push(TcpStream::connect(device.address).await.unwrap());
    }
    // All but those who may shake hands are gone at once.
    for peer in peers.drain(limits.handshakes..) {
        let ended = tokio::time::timeout(LIMIT, drained(peer)).await;
        assert_eq!(ended.expect("it was cut off"), 0);
    }
    let refused = status(&device.host(&ANNA)).await;
    assert!(matches!(refused, Err(CallError::Unreachable { .. })), "{refused:?}");
    peers.clear();
    let anna = device.host(&ANNA);
    // The device hears of their end a moment later.
    let coming = async {
        while status(&anna).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, coming).await.expect("places are given back");
    let (bundle, image) = bundle_of(SIZE);
    anna.push(&bundle).await.unwrap();
    assert!(device.memory.image() == image);
}

#[tokio::test]
async fn a_peer_that_falls_silent_keeps_nobody_out_who_comes_from_elsewhere() {
    let limits = Limits { handshake: FOREVER, ..Limits::default() };
    let device = Device::start(limits).await;
    let mut peers = Vec::new();
    for _ in 0..limits.handshakes {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        peers.push(socket.connect(device.address).await.unwrap());
    }
    status(&device.host(&ANNA)).await.unwrap();
    for peer in peers.drain(limits.from_one..) {
        let ended = tokio::time::timeout(LIMIT, drained(peer)).await;
        assert_eq!(ended.expect("it was cut off"), 0);
    }
}

#[tokio::test]
async fn a_host_too_many_is_told_so() {
    let device = Device::start(Limits { sessions: 1, ..Limits::default() }).await;
    let (anna, bob) = (device.host(&ANNA), device.host(&BOB));
    status(&anna).await.unwrap();
    assert_eq!(code(status(&bob).await), Code::Busy);
    anna.cut();
    bob.cut();
    // The device hears of the end of a connection a moment later.
    let coming = async {
        while status(&bob).await.is_err() {
            bob.cut();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, coming).await.expect("the place is given back");
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_said_ends() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let device = Device::start(limits).await;
    let host = device.host(&ANNA);
    status(&host).await.unwrap();
    let carried = host.connections.lock().unwrap()[0].clone();
    until(|| carried.is_finished()).await;
    status(&host).await.unwrap();
}
