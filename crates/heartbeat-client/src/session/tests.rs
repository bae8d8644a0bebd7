//! A session against a model of the broker, over a link that loses what the test wants, on a clock the test owns.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rudp::{Endpoint, Handle, Limits};

use super::*;

const KEY: Key = Key([5; 16]);
const NONCE: Nonce = [6; 16];
const LATENCY: Duration = Duration::from_millis(2);

/// The model: grants what is asked for, checks tags and counters, and remembers the reports.
struct Broker {
    endpoint: Endpoint,
    key: Option<Key>,
    answer: ResultCode,
    counter: u64,
    reports: Vec<(Instant, u64, u32)>,
    said_bye: bool,
    session: Option<Handle>,
}

struct World {
    now: Instant,
    session: Session,
    broker: Option<Broker>,
    /// When it arrives, whether at the broker, and what.
    flying: VecDeque<(Instant, bool, Vec<u8>)>,
    loss_percent: u64,
    random: u64,
}

fn draw() -> [u64; 2] {
    [0x1234_5678_9abc_def0, 42]
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 5000).into()
}

impl Broker {
    fn new(seed: u64) -> Self {
        let endpoint =
            Endpoint::new(Config::heartbeat(3_000), Limits::default(), [seed, 7]).unwrap();
        Self {
            endpoint,
            key: Some(KEY),
            answer: ResultCode::Ok,
            counter: 0,
            reports: Vec::new(),
            said_bye: false,
            session: None,
        }
    }

    fn act(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        loop {
            let Some((handle, event)) = self.endpoint.poll_event() else { return };
            let Event::Data(octets) = event else { continue };
            let octets: [u8; 40] = octets.try_into().unwrap();
            let message = Message::decode(&octets).unwrap();
            let authentic =
                self.key.is_none_or(|key| is_authentic(&octets, &key, &NONCE, Direction::ToBroker));
            let body = match message.body {
                Body::Hello => Body::Challenge { nonce: NONCE },
                Body::Register { period_ms, .. } if authentic => {
                    self.endpoint.verify(handle);
                    self.session = Some(handle);
                    Body::Result { code: self.answer, misses: 3, period_ms }
                }
                Body::Register { period_ms, .. } => {
                    Body::Result { code: ResultCode::BadTag, misses: 0, period_ms }
                }
                Body::Report { counter, progress, .. } => {
                    assert!(authentic && counter > self.counter, "a report that is none");
                    self.counter = counter;
                    self.reports.push((now, counter, progress));
                    continue;
                }
                Body::Bye { counter, .. } => {
                    assert!(authentic && counter > self.counter);
                    self.said_bye = true;
                    continue;
                }
                other => panic!("a broker gets no {other:?}"),
            };
            let answer = Message { body, ..message };
            let secret = self.key.as_ref().map(|key| (key, &NONCE));
            self.endpoint.send(handle, &answer.encode(secret), now).unwrap();
        }
    }
}

impl World {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "a starting point; the test moves it itself")]
        let now = Instant::now();
        let application = Application {
            app_id: 7,
            generation: 3,
            key: Some(KEY),
            pid: 99,
            period_ms: 1_000,
            misses: 3,
        };
        Self {
            now,
            session: Session::new(application, 1_000, draw, now),
            broker: Some(Broker::new(1)),
            flying: VecDeque::new(),
            loss_percent: 0,
            random: 1,
        }
    }

    fn lost(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % 100 < self.loss_percent
    }

    /// Everything that is to be sent at this moment.
    fn exchange(&mut self) {
        loop {
            let mut sent = Vec::new();
            while let Some(length) = self.session.poll_transmit(&mut sent) {
                let datagram = sent.split_off(sent.len() - length);
                if !self.lost() {
                    self.flying.push_back((self.now + LATENCY, true, datagram));
                }
            }
            if let Some(mut broker) = self.broker.take() {
                broker.act(self.now);
                let mut out = Vec::new();
                while let Some((_, length)) = broker.endpoint.poll_transmit(&mut out) {
                    let datagram = out.split_off(out.len() - length);
                    if !self.lost() {
                        self.flying.push_back((self.now + LATENCY, false, datagram));
                    }
                }
                self.broker = Some(broker);
            }
            let Some((at, to_broker, datagram)) = self.flying.pop_front() else { return };
            if at > self.now {
                self.flying.push_front((at, to_broker, datagram));
                return;
            }
            match (to_broker, &mut self.broker) {
                (true, Some(broker)) => {
                    broker.endpoint.handle_datagram(address(), &datagram, self.now);
                }
                (true, None) => {}
                (false, _) => self.session.handle_datagram(&datagram, self.now),
            }
        }
    }

    /// Lets time pass in the steps in which something happens.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.exchange();
            let broker = self.broker.as_ref().and_then(|broker| broker.endpoint.next_deadline());
            let next = [
                self.flying.front().map(|(at, ..)| *at),
                self.session.next_deadline(),
                broker,
                Some(end),
            ];
            self.now = next.into_iter().flatten().min().unwrap().max(self.now).min(end);
            self.session.handle_timeout(self.now);
            if self.now == end {
                return self.exchange();
            }
        }
    }

    fn broker(&mut self) -> &mut Broker {
        self.broker.as_mut().unwrap()
    }
}

#[test]
fn an_application_registers_and_its_reports_arrive_in_order() {
    let mut world = World::new();
    world.advance(Duration::from_millis(50));
    assert!(world.session.is_registered());
    let granted = Granted { period: Duration::from_secs(1), misses: 3 };
    assert_eq!(world.session.granted(), Some(granted));
    for progress in 0..10 {
        world.session.report(0, progress, world.now);
        world.advance(Duration::from_secs(1));
        assert!(world.session.is_acknowledged());
    }
    let seen: Vec<u32> = world.broker().reports.iter().map(|(_, _, progress)| *progress).collect();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    assert!(world.session.bye(world.now));
    world.advance(Duration::from_secs(1));
    assert!(world.broker().said_bye);
}

#[test]
fn at_twenty_percent_loss_no_report_is_later_than_the_deadline() {
    let mut world = World::new();
    world.loss_percent = 20;
    world.advance(Duration::from_secs(5));
    for _ in 0..5_000 {
        world.session.report(0, 0, world.now);
        world.advance(Duration::from_secs(1));
    }
    let times: Vec<Instant> = world.broker().reports.iter().map(|(at, ..)| *at).collect();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < Duration::from_secs(3), "{longest:?} without a report");
    assert!(times.len() >= 4_990, "{} of 5000 reports", times.len());
}

#[test]
fn a_broker_that_was_restarted_has_a_session_again_within_a_period() {
    let mut world = World::new();
    world.advance(Duration::from_millis(50));
    world.session.report(0, 1, world.now);
    world.advance(Duration::from_secs(1));
    let last = world.broker().counter;
    world.broker = Some(Broker::new(2));
    world.session.report(0, 2, world.now);
    world.advance(Duration::from_secs(1));
    assert!(world.session.is_acknowledged());
    let broker = world.broker();
    assert!(!broker.reports.is_empty() && broker.reports[0].1 > last);
}

#[test]
fn while_no_broker_is_there_only_the_newest_report_is_owed() {
    let mut world = World::new();
    world.broker = None;
    for progress in 0..50 {
        world.session.report(0, progress, world.now);
        world.advance(Duration::from_secs(1));
        assert!(!world.session.is_acknowledged());
    }
    world.broker = Some(Broker::new(3));
    world.advance(Duration::from_secs(3));
    assert!(world.session.is_acknowledged());
    let seen: Vec<u32> = world.broker().reports.iter().map(|(_, _, progress)| *progress).collect();
    assert_eq!(seen, [49]);
}

#[test]
fn a_refusal_is_kept_and_asked_about_again_later() {
    let mut world = World::new();
    world.broker().answer = ResultCode::UnknownApplication;
    world.advance(Duration::from_millis(50));
    assert_eq!(world.session.refused(), Some(ResultCode::UnknownApplication));
    world.broker().answer = ResultCode::Ok;
    world.advance(Duration::from_secs(3));
    assert!(world.session.is_registered());
    assert_eq!(world.session.refused(), None);
}

#[test]
fn a_broker_that_has_not_heard_of_this_start_yet_is_asked_until_it_has() {
    for answer in [ResultCode::UnknownApplication, ResultCode::WrongGeneration, ResultCode::Busy] {
        let mut world = World::new();
        world.broker().answer = answer;
        world.advance(Duration::from_millis(100));
        assert_eq!((world.session.is_settled(), world.session.refused()), (false, Some(answer)));
        world.broker().answer = ResultCode::Ok;
        // The pauses have not grown long by then.
        world.advance(Duration::from_millis(200));
        assert!(world.session.is_settled() && world.session.is_registered(), "{answer:?}");
    }
    for answer in [ResultCode::BadTag, ResultCode::Limit] {
        let mut world = World::new();
        world.broker().answer = answer;
        world.advance(Duration::from_millis(50));
        assert!(world.session.is_settled() && !world.session.is_registered(), "{answer:?}");
    }
}

#[test]
fn a_yes_that_is_not_from_the_keys_holder_is_none() {
    let mut world = World::new();
    world.broker().key = None;
    world.advance(Duration::from_millis(50));
    assert!(!world.session.is_registered());
    assert_eq!(world.session.refused(), Some(ResultCode::BadTag));
}

#[test]
fn an_octet_of_noise_never_moves_the_session() {
    let mut world = World::new();
    world.advance(Duration::from_millis(50));
    for length in 0..200_u8 {
        let noise: Vec<u8> = (0..length).map(|at| at.wrapping_mul(31) ^ length).collect();
        world.session.handle_datagram(&noise, world.now);
    }
    assert!(world.session.is_registered());
}
