//! Nanoseconds a segment in the core: `cargo run --profile bench-run -p rudp --example bench_segment`.
//!
//! 10,000 connections send a heartbeat of 40 octets each, in turn; the broker takes it, tells it, and acknowledges it.
//! Only the broker is measured: per heartbeat it handles one segment and makes one.

use std::{
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rudp::{Config, Connection, Endpoint, Limits};

const CONNECTIONS: usize = 10_000;
const ROUNDS: usize = 21;

fn main() {
    let start = now();
    let config = Config::heartbeat(60_000);
    let mut broker = Endpoint::new(config, Limits::default(), [1, 2]).expect("valid");
    let mut out = Vec::with_capacity(2_048);
    let mut clients: Vec<(SocketAddr, Connection)> = (0..CONNECTIONS)
        .map(|index| {
            let port = u16::try_from(index + 1).expect("few enough for ports");
            let id = u32::from(port);
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let client = Connection::connect(config, id, [u64::from(id), 3], start);
            (address, client)
        })
        .collect();
    for (address, client) in &mut clients {
        for _ in 0..2 {
            client.poll_transmit(&mut out);
            broker.handle_datagram(*address, &out, start);
            out.clear();
            while broker.poll_transmit(&mut out).is_some() {
                client.handle_datagram(&out, start);
                out.clear();
            }
        }
        while client.poll_event().is_some() {}
    }
    while let Some(handle) = broker.poll_event().map(|(handle, _)| handle) {
        broker.verify(handle);
    }
    assert_eq!((broker.len(), broker.half_open()), (CONNECTIONS, 0));

    let mut figures: Vec<f64> =
        (0..ROUNDS).map(|round| measure(&mut broker, &mut clients, round, start)).collect();
    figures.sort_by(f64::total_cmp);
    println!(
        "{:.0} ns a segment (median of {ROUNDS} rounds of {} segments; best {:.0})",
        figures[ROUNDS / 2],
        2 * CONNECTIONS,
        figures[0]
    );
}

/// One heartbeat of every client; nanoseconds a segment.
fn measure(
    broker: &mut Endpoint,
    clients: &mut [(SocketAddr, Connection)],
    round: usize,
    start: Instant,
) -> f64 {
    let time = start + Duration::from_millis(1_000) * u32::try_from(round + 1).expect("few");
    let datagrams: Vec<Vec<u8>> = clients
        .iter_mut()
        .map(|(_, client)| {
            let mut out = Vec::new();
            client.send(&[7; 40], time).expect("open");
            client.poll_transmit(&mut out);
            out
        })
        .collect();
    let mut answers = Vec::with_capacity(8 * CONNECTIONS);
    let began = now();
    // As a shell does: a batch of datagrams, their events, the batch of answers.
    for (batch, peers) in datagrams.chunks(64).zip(clients.chunks(64)) {
        for (datagram, (address, _)) in batch.iter().zip(peers) {
            broker.handle_datagram(*address, datagram, time);
        }
        while let Some(event) = broker.poll_event() {
            black_box(event);
        }
        while broker.poll_transmit(&mut answers).is_some() {}
        if broker.next_deadline().is_some_and(|deadline| deadline <= time) {
            broker.handle_timeout(time);
        }
    }
    let spent = now() - began;
    assert_eq!(answers.len(), 6 * clients.len());
    for (answer, (_, client)) in answers.chunks(6).zip(clients) {
        client.handle_datagram(answer, time);
        assert_eq!(client.unacknowledged(), 0);
    }
    spent.as_secs_f64() * 1e9 / (2.0 * CONNECTIONS as f64)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}
