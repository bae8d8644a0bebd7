//! Thousands of random links. A seed that fails is printed; `RUDP_SEED=N` runs it alone, `RUDP_SEEDS=N` runs so many.

use std::env;

use super::network::{CLIENT, Link, Network, SERVER, Told, ms};
use crate::Config;

const SEEDS: u64 = 3_000;

#[test]
fn every_message_arrives_once_and_in_order_on_any_link() {
    if let Some(seed) = number("RUDP_SEED") {
        run(seed);
        return;
    }
    let seeds = number("RUDP_SEEDS").unwrap_or(SEEDS);
    let mut unopened = 0;
    for seed in 0..seeds {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(opened) => unopened += u64::from(!opened),
            Err(_) => panic!("seed {seed} failed: RUDP_SEED={seed} replays it"),
        }
    }
    assert!(unopened * 50 < seeds, "{unopened} of {seeds} links never opened");
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// False where the loss of the handshake's last step kept the server from opening.
fn run(seed: u64) -> bool {
    let mut network = Network::new(Config::draft(), seed);
    let (client, server) = (config(&mut network), config(&mut network));
    let mut network = Network::between(client, server, seed);
    network.link = link(&mut network);
    let handle = network.connect(CLIENT, SERVER);
    let mut expected = [Vec::new(), Vec::new()];
    let opened = network.now + ms(600_000);
    assert!(network.run_until(opened, |network| network.opened(CLIENT).is_some()), "no answer");
    // As heartbeat clients do; what is repeated opens the server too.
    network.send(CLIENT, handle, b"HELLO");
    expected[SERVER].push(b"HELLO".to_vec());
    let both_open =
        |network: &Network| network.opened(CLIENT).is_some() && network.opened(SERVER).is_some();
    let opening = network.now + ms(600_000);
    if !network.run_until(opening, both_open) {
        // The server's three answers, or all that came back, were lost, and it has forgotten the client.
        assert!(
            network.opened(CLIENT).is_some() && network.link.loss + network.link.corruption > 0,
            "not open"
        );
        assert!(network.peers[SERVER].endpoint.is_empty(), "a half-open connection was kept");
        return false;
    }
    let handles = [handle, network.opened(SERVER).expect("just checked")];
    let count = 1 + network.dice.below(120);
    for round in 0..count {
        let from = if network.dice.percent(70) { CLIENT } else { SERVER };
        let to = 1 - from;
        let limit = network.peers[from].endpoint.connection(handles[from]).expect("open");
        let longest = u64::try_from(limit.max_message().min(300)).expect("short");
        let length = 1 + usize::try_from(network.dice.below(longest)).expect("short");
        let octet = u8::try_from(round).expect("at most 120 rounds");
        let message = vec![octet; length];
        if network.peers[from].endpoint.send(handles[from], &message, network.now).is_ok() {
            expected[to].push(message);
        }
        if network.dice.percent(50) {
            let pause = network.dice.below(50);
            network.run_for(ms(pause));
        }
    }
    let end = network.now + ms(36_000_000);
    let acknowledged =
        |network: &Network| (0..2).all(|peer| network.unacknowledged(peer, handles[peer]) == 0);
    assert!(network.run_until(end, acknowledged), "not all acknowledged");
    for peer in [CLIENT, SERVER] {
        assert!(network.messages(peer) == expected[peer], "peer {peer}: not what was sent");
        assert!(
            network.told(peer).iter().all(|told| matches!(told, Told::Opened | Told::Data(_))),
            "peer {peer} was told {:?}",
            network.told(peer)
        );
    }
    true
}

fn config(network: &mut Network) -> Config {
    let dice = &mut network.dice;
    let mut small = |limit: u64| u8::try_from(dice.below(limit)).expect("below 256");
    let mut config = Config::draft();
    config.max_outstanding = 1 + small(127);
    config.terms.max_cumulative_ack = small(8);
    config.terms.max_out_of_sequence = small(8);
    config.acknowledge_at_once = small(2) == 0;
    config.terms.checksum_data = true;
    config.terms.max_retransmissions = 0;
    config.terms.retransmission_ms = 120 + u16::from(small(200)) * 4;
    config.terms.cumulative_ack_ms = 100 + u16::from(small(20));
    config.terms.null_ms = if small(2) == 0 { 0 } else { 30_000 };
    config.max_segment = 100 + u16::from(small(200)) * 6;
    config.send_queue = 128;
    config
}

fn link(network: &mut Network) -> Link {
    let dice = &mut network.dice;
    Link {
        loss: dice.below(31),
        duplication: dice.below(31),
        corruption: dice.below(16),
        delay: dice.below(100),
        jitter: dice.below(100),
    }
}
