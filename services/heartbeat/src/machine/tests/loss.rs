//! The broker behind its transport, and an application without a thread of its own, over a link that loses every fifth datagram.

use core::net::SocketAddr;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use daemon::clock;
use protocol::{
    heartbeat::{Body, Message, Nonce, ResultCode, State},
    time::Moment,
};
use rudp::{Config, Connection, Endpoint, Limits};

use super::device::{KEY, PERIOD, expected, local};
use crate::{
    machine::{Action, Broker, Event},
    settings::Rules,
};

const LATENCY: Duration = Duration::from_millis(5);
/// Of 256.
const LOSS: u64 = 51;
/// Of each of the links.
const REPORTS: u32 = 12_500;

/// When it arrives, in which order it was sent, whether it is for the broker.
type InFlight = (Moment, u64, bool, Vec<u8>);

struct World {
    base: Instant,
    now: Moment,
    random: u64,
    /// Of 256.
    loss: u64,
    wire: BinaryHeap<Reverse<InFlight>>,
    sent: u64,
    endpoint: Endpoint,
    broker: Broker,
    missed: u32,
    client: Connection,
    /// What waits in the application's socket.
    buffered: VecDeque<Vec<u8>>,
    heard: VecDeque<Message>,
}

impl World {
    fn new(seed: u64, loss: u64) -> Self {
        let now = Moment(1_000_000_000);
        let base = clock::instant(clock::now());
        let config = Config::heartbeat(3_000);
        let mut broker = Broker::new(Rules::default(), [5; 16], now);
        broker.handle_event(Event::Expect { call: 1, expect: expected(7, 1) }, now);
        Self {
            base,
            now,
            random: seed,
            loss,
            wire: BinaryHeap::new(),
            sent: 0,
            endpoint: Endpoint::new(config, Limits::default(), [seed, 2]).unwrap(),
            broker,
            missed: 0,
            client: Connection::connect(config, 1, [seed, 3], base + now.since(Moment(0))),
            buffered: VecDeque::new(),
            heard: VecDeque::new(),
        }
    }

    fn instant(&self) -> Instant {
        self.base + self.now.since(Moment(0))
    }

    fn draw(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 32
    }

    fn post(&mut self, to_broker: bool, datagram: Vec<u8>) {
        self.sent += 1;
        if self.draw() % 256 >= self.loss {
            self.wire.push(Reverse((self.now + LATENCY, self.sent, to_broker, datagram)));
        }
    }

    /// Everything that happens at this moment; the application takes part only while it is inside a call of its library.
    fn settle(&mut self, servicing: bool) {
        let from: SocketAddr = local(5_000);
        self.broker.wake(self.now);
        while let Some(Reverse((when, ..))) = self.wire.peek() {
            if *when > self.now {
                break;
            }
            let Some(Reverse((_, _, to_broker, datagram))) = self.wire.pop() else { break };
            match to_broker {
                true => self.endpoint.handle_datagram(from, &datagram, self.instant()),
                false => self.buffered.push_back(datagram),
            }
        }
        let instant = self.instant();
        self.endpoint.handle_timeout(instant);
        let mut handle = None;
        while let Some((of, event)) = self.endpoint.poll_event() {
            let event = match event {
                rudp::Event::Opened => Event::Opened { session: 1, from },
                rudp::Event::Data(octets) => Event::Message { session: 1, octets },
                rudp::Event::Closed | rudp::Event::Refused(_) => {
                    Event::Ended { session: 1, retransmitted: 0 }
                }
                _ => continue,
            };
            handle = Some(of);
            self.broker.handle_event(event, self.now);
        }
        self.broker.handle_timeout(self.now);
        while let Some(action) = self.broker.poll_action() {
            match (action, handle) {
                (Action::Send { octets, .. }, Some(handle)) => {
                    let _ = self.endpoint.send(handle, &octets, instant);
                }
                (Action::Verify { .. }, Some(handle)) => self.endpoint.verify(handle),
                (Action::Tell { .. }, _) => self.missed += 1,
                _ => {}
            }
        }
        let mut out = Vec::new();
        while self.endpoint.poll_transmit(&mut out).is_some() {
            self.post(false, std::mem::take(&mut out));
        }
        if servicing {
            self.service();
        }
    }

    fn service(&mut self) {
        let instant = self.instant();
        while let Some(datagram) = self.buffered.pop_front() {
            self.client.handle_datagram(&datagram, instant);
        }
        if self.client.next_deadline().is_some_and(|deadline| deadline <= instant) {
            self.client.handle_timeout(instant);
        }
        while let Some(event) = self.client.poll_event() {
            if let rudp::Event::Data(octets) = event {
                self.heard.push_back(Message::decode(octets).unwrap());
            }
        }
        let mut out = Vec::new();
        while self.client.poll_transmit(&mut out).is_some() {
            self.post(true, std::mem::take(&mut out));
        }
    }

    /// Lives until then, or until something holds while the application is inside its library.
    fn until(&mut self, end: Moment, servicing: bool, holds: impl Fn(&Self) -> bool) -> bool {
        loop {
            self.settle(servicing);
            if servicing && holds(self) {
                return true;
            }
            if self.now >= end {
                return false;
            }
            let base = self.base;
            let moment = |at: Instant| Moment(0) + at.saturating_duration_since(base);
            let next = [
                Some(end),
                self.wire.peek().map(|Reverse((when, ..))| *when),
                self.broker.next_deadline(),
                self.endpoint.next_deadline().map(moment),
                self.client.next_deadline().filter(|_| servicing).map(moment),
            ];
            let next = next.into_iter().flatten().min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(100)).min(end.max(self.now));
        }
    }

    fn say(&mut self, body: Body, nonce: &Nonce) {
        let octets = Message { app_id: 7, generation: 1, body }.encode(Some((&KEY, nonce)));
        let _ = self.client.send(&octets, self.instant());
    }

    /// Opens, and registers; again where that fails.
    fn register(&mut self) -> Nonce {
        loop {
            let end = self.now + PERIOD * 3;
            self.heard.clear();
            let open = |world: &Self| world.client.state() == rudp::State::Open;
            if self.until(end, true, open) {
                self.say(Body::Hello, &[0; 16]);
                self.until(end, true, |world| !world.heard.is_empty());
                if let Some(Body::Challenge { nonce }) = self.heard.pop_front().map(|m| m.body) {
                    self.say(Body::Register { pid: 1, period_ms: 0 }, &nonce);
                    self.until(end, true, |world| !world.heard.is_empty());
                    let code = self.heard.pop_front().map(|message| message.body);
                    if matches!(code, Some(Body::Result { code: ResultCode::Ok, .. })) {
                        return nonce;
                    }
                }
            }
            let seed = [self.draw(), self.draw()];
            let id = u32::try_from(self.draw() % 1_000_000).unwrap() + 1;
            self.client = Connection::connect(Config::heartbeat(3_000), id, seed, self.instant());
        }
    }
}

/// Reports that were acknowledged within half a period, and misses.
fn live(seed: u64, loss: u64, reports: u32) -> (u32, World) {
    let mut world = World::new(seed, loss);
    let nonce = world.register();
    let mut acknowledged = 0;
    for progress in 1..=reports {
        let counter = u64::from(progress);
        let next = world.now + PERIOD;
        world.say(Body::Report { status: 0, counter, progress }, &nonce);
        let end = world.now + PERIOD / 2;
        let done = world.until(end, true, |world| world.client.unacknowledged() == 0);
        acknowledged += u32::from(done);
        world.until(next, false, |_| false);
    }
    (acknowledged, world)
}

#[test]
fn every_fifth_datagram_may_be_lost_without_one_false_alarm() {
    for seed in 1..=8 {
        let (acknowledged, world) =
            live(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed), LOSS, REPORTS);
        let row = world.broker.rows(world.now).remove(0).0;
        assert_eq!(world.missed, 0, "seed {seed}");
        assert_eq!(row.reports, u64::from(REPORTS), "seed {seed}");
        // The link does lose: some reports are only heard when the application comes back to its library.
        assert!(
            (REPORTS * 95 / 100..REPORTS).contains(&acknowledged),
            "seed {seed}: {acknowledged}"
        );
    }
}

#[test]
fn an_application_that_hangs_behind_such_a_link_is_missed_in_time() {
    let (_, mut world) = live(77, LOSS, 20);
    let start = world.now;
    let last = world.broker.rows(world.now).remove(0).0.age_ms.unwrap();
    while world.missed == 0 {
        let next = world.broker.next_deadline().unwrap();
        world.until(next, false, |_| false);
    }
    let silence = world.now.since(start) + Duration::from_millis(last);
    assert!(
        silence >= PERIOD * 3 && silence < PERIOD * 3 + Duration::from_millis(5),
        "{silence:?}"
    );
    assert_eq!(world.broker.rows(world.now).remove(0).0.state, State::Missed);
}
