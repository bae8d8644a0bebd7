//! What is said by somebody else, or again, or wrongly, moves nothing.

use proptest::prelude::*;
use protocol::heartbeat::{Body, Key, MESSAGE_LENGTH, Message, ResultCode, State};

use super::device::{Device, KEY, PERIOD, expected, local};

#[test]
fn a_register_is_refused_with_its_reason_and_the_connection_closed() {
    let mut device = Device::new();
    device.expect(expected(7, 5));
    for (who, key, code) in [
        ((8, 5), KEY, ResultCode::UnknownApplication),
        ((7, 4), KEY, ResultCode::WrongGeneration),
        ((7, 6), KEY, ResultCode::WrongGeneration),
        ((7, 5), Key([8; 16]), ResultCode::BadTag),
    ] {
        let (answer, talker) = device.try_register(local(1), who, Some(key));
        assert_eq!(answer, code, "{who:?}");
        assert_eq!(device.closed.last(), Some(&talker.session));
    }
    assert_eq!(device.try_register(local(1), (7, 5), None).0, ResultCode::BadTag);
    assert_eq!(device.state(7), State::Expected);
    let counters = device.broker.counters();
    assert_eq!(
        (counters.unknown_application, counters.wrong_generation, counters.bad_tag),
        (1, 2, 2)
    );
    assert_eq!(device.try_register(local(1), (7, 5), Some(KEY)).0, ResultCode::Ok);
}

#[test]
fn a_report_with_any_bit_turned_a_replay_or_another_id_gives_no_credit() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    device.advance(PERIOD);
    let old = talker.report();
    device.say(talker.session, &old);
    talker.counter += 1;
    let next = talker.report();
    for bit in 0..MESSAGE_LENGTH * 8 {
        let mut bad = next;
        bad[bit / 8] ^= 1 << (bit % 8);
        device.say(talker.session, &bad);
    }
    let other = super::device::Talker { app_id: 8, ..talker };
    device.say(talker.session, &other.report());
    let before = super::device::Talker { generation: 0, ..talker };
    device.say(talker.session, &before.report());
    let counters = device.broker.counters();
    assert_eq!(counters.replayed, 1);
    assert!(counters.bad_tag > 100 && counters.malformed > 0, "{counters:?}");
    assert!(counters.unknown_application > 0 && counters.wrong_generation > 0);
    assert_eq!(device.row(7).reports, 1);
    device.advance(PERIOD * 2);
    assert_eq!(device.told.len(), 1);
}

#[test]
fn what_was_said_on_an_earlier_connection_is_worth_nothing_on_a_later_one() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    talker.counter += 5;
    let recorded = talker.report();
    let replayer = device.register(7, 1);
    device.say(replayer.session, &recorded);
    assert_eq!((device.broker.counters().bad_tag, device.row(7).reports), (1, 1));
}

#[test]
fn a_recorded_register_can_not_be_used_again() {
    let mut device = Device::new();
    device.expect(expected(7, 1));
    let session = device.open(local(1));
    let nonce = device.hello(session, 7, 1);
    let body = Body::Register { pid: 1, period_ms: 0 };
    let register = Message { app_id: 7, generation: 1, body }.encode(Some((&KEY, &nonce)));
    device.say(session, &register);
    device.advance(PERIOD * 2);
    // On the same connection, on another one, and after another challenge.
    device.say(session, &register);
    device.hello(session, 7, 1);
    device.say(session, &register);
    let other = device.open(local(2));
    device.say(other, &register);
    device.hello(other, 7, 1);
    device.say(other, &register);
    assert_eq!(device.broker.counters().registered, 1);
    device.advance(PERIOD);
    assert_eq!(device.told.len(), 1);
}

#[test]
fn hello_and_a_wrong_register_on_a_living_connection_do_not_end_it() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    device.hello(talker.session, 7, 1);
    let body = Body::Register { pid: 1, period_ms: 0 };
    let forged = Message { app_id: 7, generation: 1, body }.encode(None);
    device.say(talker.session, &forged);
    assert_eq!(device.broker.counters().bad_tag, 1);
    device.report(&mut talker);
    assert_eq!((device.row(7).reports, device.closed.len()), (2, 0));
}

#[test]
fn after_its_goodbye_an_application_must_register_again() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    device.bye(&mut talker);
    device.report(&mut talker);
    assert_eq!((device.state(7), device.broker.counters().out_of_place), (State::Gone, 1));
    let counter = talker.counter;
    let mut talker = device.register(7, 1);
    talker.counter = counter;
    device.report(&mut talker);
    assert_eq!(device.state(7), State::Alive);
}

#[test]
fn somebody_without_a_key_can_not_take_the_place_of_another_one() {
    let mut rules = crate::settings::Rules::default();
    rules.apps.insert(5, crate::settings::App::default());
    let mut device = Device::with(rules);
    let first = device.try_register(local(1), (5, 0), None);
    assert_eq!(first.0, ResultCode::Ok);
    assert_eq!(device.try_register(local(2), (5, 0), None).0, ResultCode::Busy);
    // One that is late may have died without a word.
    device.advance(PERIOD + std::time::Duration::from_millis(1));
    let second = device.try_register(local(3), (5, 0), None);
    assert_eq!(second.0, ResultCode::Ok);
    assert_eq!(device.try_register(local(2), (5, 0), None).0, ResultCode::Busy);
    let first = second;
    device.event(crate::machine::Event::Ended { session: first.1.session, retransmitted: 0 });
    assert_eq!(device.try_register(local(2), (5, 0), None).0, ResultCode::Ok);
}

/// Something on a connection that isn't the application's own next report.
#[derive(Clone, Debug)]
enum Noise {
    Open,
    Octets(Vec<u8>),
    /// A message of this type with a tag by a wrong key, or none.
    Forged {
        kind: u8,
        counter: u64,
        key: Option<u8>,
    },
    /// What the application said before.
    Again(usize),
    OnItsConnection(Vec<u8>),
}

fn noise() -> impl Strategy<Value = Noise> {
    let kinds =
        prop_oneof![Just(0u8), Just(1), Just(2), Just(3), Just(0x80), Just(0x81), any::<u8>()];
    prop_oneof![
        Just(Noise::Open),
        proptest::collection::vec(any::<u8>(), 0..80).prop_map(Noise::Octets),
        proptest::collection::vec(any::<u8>(), 40).prop_map(Noise::OnItsConnection),
        (kinds, any::<u64>(), proptest::option::of(8u8..))
            .prop_map(|(kind, counter, key)| { Noise::Forged { kind, counter, key } }),
        any::<usize>().prop_map(Noise::Again),
    ]
}

proptest! {
    #[test]
    fn nothing_but_a_right_tag_moves_a_deadline(
        all in proptest::collection::vec((noise(), any::<bool>(), 0u64..200), 1..60),
    ) {
        let mut device = Device::new();
        let mut talker = device.running(7);
        let mut said = vec![talker.report()];
        device.live(&mut talker, 2);
        said.push(talker.report());
        let last = device.now;
        let mut session = device.open(local(9));
        for (noise, own, wait_ms) in all {
            let to = if own { talker.session } else { session };
            match noise {
                Noise::Open => session = device.open(local(9)),
                Noise::Octets(octets) => device.say(to, &octets),
                Noise::OnItsConnection(mut octets) => {
                    octets[0] = 1;
                    octets[1] &= 3;
                    octets[4..12].copy_from_slice(&said[0][4..12]);
                    device.say(talker.session, &octets);
                }
                Noise::Forged { kind, counter, key } => {
                    let mut octets = said[0];
                    octets[1] = kind;
                    octets[12..20].copy_from_slice(&counter.to_be_bytes());
                    if let (Some(key), Ok(message)) = (key, Message::decode(&octets)) {
                        octets = message.encode(Some((&Key([key; 16]), &talker.nonce)));
                    }
                    device.say(to, &octets);
                }
                Noise::Again(which) => device.say(to, &said[which % said.len()]),
            }
            let wait = std::time::Duration::from_millis(wait_ms);
            if device.now + wait < last + PERIOD * 3 {
                device.advance(wait);
            }
        }
        prop_assert!(device.told.is_empty());
        prop_assert_eq!(device.row(7).reports, 3);
        let left = (last + PERIOD * 3).since(device.now);
        device.advance(left);
        prop_assert_eq!(device.told.len(), 1);
    }
}
