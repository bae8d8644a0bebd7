//! What anybody who reaches the broker can send, while a healthy application reports: counted, bounded, answered with little,
//! and never an alarm.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use heartbeat_client::{Client, Error, Settings};
use protocol::heartbeat::{Key, ResultCode, State};
use rudp::{
    Config, Connection, Dialect, State as Ended,
    packet::{Body, Packet, Syn, encode},
};
use rustix::process::Signal;
use testkit::{Device, until};
use tokio::time::Instant;

use crate::{
    applications::{
        KEY, Reporter, add, broker, count, device, example, expect, reports, row, rows, settings,
        until_reports,
    },
    relay::{Relay, Sent},
    support::{kill, until_other_pid},
};

/// Descriptors are shared by all tests of this process.
const STRANGERS: usize = 200;

fn octets(number: u8, acknowledged: Option<u8>, body: Body<'_>) -> Vec<u8> {
    let mut octets = Vec::new();
    encode(&Packet { number, acknowledged, body }, Dialect::Draft, &mut octets);
    octets
}

fn syn(number: u8) -> Vec<u8> {
    let Config { max_outstanding, max_segment, terms, .. } = Config::heartbeat(2_000);
    let dialect = Dialect::Draft;
    let connection_id = u32::from(number);
    let body = Syn { dialect, max_outstanding, max_segment, reuse: false, terms, connection_id };
    octets(number, None, Body::Syn(body))
}

fn stranger(broker: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(broker).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Octets that came back so far.
fn answered(socket: &UdpSocket) -> usize {
    let mut octets = [0; 2_000];
    std::iter::from_fn(|| socket.recv(&mut octets).ok()).sum()
}

/// Resident memory of the broker in KiB.
fn resident(device: &Device) -> u64 {
    let pid = device.until_pid("heartbeat");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The application never stood still for the broker, and no alarm was raised.
#[track_caller]
fn assert_unharmed(device: &Device, app_id: i32) {
    let row = row(device, app_id).unwrap();
    assert_eq!(row.state, State::Alive, "{row:?}");
    assert_eq!((count(device, "machine/missed"), count(device, "machine/told")), (0, 0));
}

/// A device with a healthy application 7 behind a relay.
fn healthy() -> (Device, Relay, Reporter) {
    let device = device();
    let relay = Relay::start(broker(&device));
    expect(&device, 7, 1, 1_000);
    let reporter = Reporter::start(settings(relay.address(), 7, 1));
    (device, relay, reporter)
}

#[test]
fn garbage_is_counted_and_never_answered_and_a_healthy_application_is_alive() {
    let (device, relay, reporter) = healthy();
    let before = resident(&device);
    let attacker = stranger(broker(&device));
    let mut noise = 1_u8;
    let lengths = (0..200).chain([1_399, 1_400, 1_401, 1_536, 2_000, 9_000, 60_000]);
    let mut sent = 0;
    for length in lengths.clone().chain(lengths) {
        let octets: Vec<u8> = (0..length)
            .map(|_| {
                noise = noise.wrapping_mul(37).wrapping_add(11);
                noise
            })
            .collect();
        attacker.send(&octets).unwrap();
        // Every beginning of a segment, too.
        attacker.send(&syn(1)[..length.min(27)]).unwrap();
        sent += 2;
        if sent % 64 == 0 {
            reporter.until_more(1);
        }
        // The same from the application's own address, and to it from the broker's.
        if length < 60 {
            relay.forge(true, [octets.clone()]);
            relay.forge(false, [octets]);
        }
    }
    reporter.until_more(5);
    assert_eq!(answered(&attacker), 0);
    assert_eq!(count(&device, "transport/oversized"), 6);
    let corrupt = count(&device, "transport/corrupt");
    assert!(corrupt >= 800, "{corrupt}");
    let grown = resident(&device).saturating_sub(before);
    assert!(grown < 4_096, "{grown} KiB more");
    assert_unharmed(&device, 7);
}

#[test]
fn segments_forged_in_the_name_of_either_side_raise_no_alarm() {
    let (device, relay, reporter) = healthy();
    reporter.until_more(3);
    let ends = |number: u8| {
        vec![
            octets(number, None, Body::Reset),
            octets(number, Some(number), Body::Reset),
            octets(number, Some(number), Body::Acknowledgement),
            octets(number, Some(number), Body::Extended(&[number.wrapping_add(2)])),
        ]
    };
    let begins = |number: u8| vec![syn(number)];
    let says = |number: u8| {
        let data = Body::Data { payload: &[1; 40], covered: false };
        vec![octets(number, Some(number), data)]
    };
    // All 256 numbers: one of them is what a blind attacker has to guess. A session may end, and begins anew.
    let numbers: Vec<u8> = (0..=255).collect();
    let sweep = |to_broker: bool, made: &dyn Fn(u8) -> Vec<Vec<u8>>| {
        for some in numbers.chunks(8) {
            relay.forge(to_broker, some.iter().flat_map(|number| made(*number)));
        }
        reporter.until_more(3);
    };
    for to_broker in [true, false] {
        sweep(to_broker, &ends);
        sweep(to_broker, &begins);
    }
    sweep(true, &says);
    reporter.until_more(5);
    assert_unharmed(&device, 7);
}

#[test]
fn a_message_that_was_slipped_in_between_costs_a_session_and_raises_no_alarm() {
    let (device, relay, reporter) = healthy();
    reporter.until_more(3);
    assert_eq!(count(&device, "machine/registered"), 1);
    let said = relay.record();
    let last = said.iter().rev().find(|one| !one.to_broker && one.octets.len() > 28).unwrap();
    // The client acknowledges it, and the broker, which has never sent it, no longer believes what the client says.
    let data = Body::Data { payload: &[1; 40], covered: false };
    relay.forge(false, [octets(last.octets[2].wrapping_add(1), Some(last.octets[3]), data)]);
    until("another session", || (count(&device, "machine/registered") == 2).then_some(()));
    reporter.until_more(5);
    assert_unharmed(&device, 7);
}

#[test]
fn a_flood_of_syns_from_many_ports_is_bounded_and_answered_with_little() {
    let (device, _relay, reporter) = healthy();
    let before = resident(&device);
    let attackers: Vec<_> = (0..STRANGERS).map(|_| stranger(broker(&device))).collect();
    let rounds = 20;
    for round in 0..rounds {
        for (at, attacker) in attackers.iter().enumerate() {
            let number = u8::try_from((at + round * 7) % 256).unwrap();
            let _ = attacker.send(&syn(number));
            // And from a port that is gone when the answer comes.
            let _ = stranger(broker(&device)).send(&syn(number));
        }
        let half_open = count(&device, "transport/half_open");
        assert!(half_open <= 1_024, "{half_open}");
        reporter.until_more(1);
    }
    assert!(count(&device, "transport/evicted") + count(&device, "transport/refused") > 0);
    // An answer is sent again until it is given up; then none is half open.
    until("all are given up", || (count(&device, "transport/half_open") == 0).then_some(()));
    let sent = rounds * 28;
    for attacker in &attackers {
        let answered = answered(attacker);
        assert!(answered <= 3 * sent, "{answered} octets for {sent}");
    }
    let grown = resident(&device).saturating_sub(before);
    assert!(grown < 4_096, "{grown} KiB more");
    assert_unharmed(&device, 7);
}

#[test]
fn who_does_not_register_is_sent_three_times_its_own_octets_at_most() {
    let (device, _relay, reporter) = healthy();
    let attacker = stranger(broker(&device));
    attacker.send(&syn(1)).unwrap();
    reporter.until_more(1);
    until("it is given up", || (count(&device, "transport/half_open") == 0).then_some(()));
    let answered = answered(&attacker);
    assert!((28..=84).contains(&answered), "{answered} octets for 28");
    // Another one opens a connection, is asked who it is, and says no more.
    let relay = Relay::start(broker(&device));
    let now = Settings { timeout: Duration::ZERO, ..settings(relay.address(), 99, 1) };
    let mut client = Client::open(now).unwrap();
    assert!(client.register().is_err());
    let challenged = |one: &Sent| !one.to_broker && one.octets.len() > 28;
    until("it is challenged", || {
        let done = relay.record().iter().any(challenged);
        done.then_some(()).or_else(|| {
            client.service().unwrap();
            None
        })
    });
    drop(client);
    until("it is forgotten", || (count(&device, "transport/connections") == 1).then_some(()));
    let octets = |to_broker| -> usize {
        relay
            .record()
            .iter()
            .filter(|one| one.to_broker == to_broker)
            .map(|one| one.octets.len())
            .sum()
    };
    let (sent, answered) = (octets(true), octets(false));
    assert!(answered <= 3 * sent, "{answered} octets for {sent}");
    assert_unharmed(&device, 7);
}

#[test]
fn a_thousand_application_ids_that_nobody_expects_are_refused_and_leave_nothing_behind() {
    let (device, _relay, reporter) = healthy();
    let before = resident(&device);
    let mut next = 1_000;
    for wave in 1..=5 {
        let mut clients: Vec<Client> = (0..STRANGERS)
            .map(|_| {
                next += 1;
                let now =
                    Settings { timeout: Duration::ZERO, ..settings(broker(&device), next, 1) };
                let mut client = Client::open(now).unwrap();
                let outcome = client.register();
                assert!(outcome.is_err(), "{outcome:?}");
                client
            })
            .collect();
        until("all are refused", || {
            for client in &mut clients {
                client.service().unwrap();
            }
            let refused = count(&device, "machine/unknown_application");
            (refused >= u64::try_from(wave * STRANGERS).unwrap()).then_some(())
        });
        reporter.until_more(1);
    }
    assert_eq!(rows(&device).len(), 1);
    let grown = resident(&device).saturating_sub(before);
    assert!(grown < 8_192, "{grown} KiB more");
    assert_unharmed(&device, 7);
}

#[test]
fn where_anybody_may_register_only_so_many_are_listed() {
    let mut device = Device::with_core();
    let settings_file = device.folder().join("etc/heartbeat.toml");
    fs::write(settings_file, "listen = \"127.0.0.1:0\"\nallow-unexpected = true\n").unwrap();
    device.start();
    device.ctl_ok(&["wait-for", "service", "heartbeat"]);
    expect(&device, 7, 1, 1_000);
    let reporter = Reporter::start(settings(broker(&device), 7, 1));
    let mut clients: Vec<Client> = (1_000..1_100)
        .map(|app_id| {
            let server = broker(&device);
            let keyless = Settings { server, timeout: Duration::ZERO, ..Settings::new(app_id) };
            let mut client = Client::open(keyless).unwrap();
            let _ = client.register();
            client
        })
        .collect();
    until("all have asked", || {
        for client in &mut clients {
            client.service().unwrap();
        }
        (count(&device, "machine/limit") >= 36).then_some(())
    });
    reporter.until_more(3);
    let all = rows(&device);
    assert_eq!(all.len(), 1 + 64);
    assert_eq!(all.iter().filter(|row| row.authenticated).count(), 1);
    assert_eq!(row(&device, 7).unwrap().state, State::Alive);
    assert_eq!(count(&device, "machine/told"), 0);
}

#[test]
fn who_has_another_key_or_an_old_generation_is_refused_and_gets_no_credit() {
    let device = device();
    expect(&device, 7, 2, 60_000);
    let timeout = Duration::from_millis(500);
    let right = Settings { timeout, ..settings(broker(&device), 7, 2) };
    let refused = |settings: Settings| match Client::open(settings).unwrap().register() {
        Err(Error::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    let mut wrong = KEY;
    wrong.0[15] ^= 1;
    assert_eq!(refused(Settings { key: Some(wrong), ..right.clone() }), ResultCode::BadTag);
    assert_eq!(refused(Settings { key: None, ..right.clone() }), ResultCode::BadTag);
    assert_eq!(refused(Settings { key: Some(Key([0; 16])), ..right.clone() }), ResultCode::BadTag);
    assert_eq!(refused(Settings { generation: 1, ..right.clone() }), ResultCode::WrongGeneration);
    let still = row(&device, 7).unwrap();
    assert_eq!((still.state, still.reports), (State::Expected, 0));
    assert!(count(&device, "machine/bad_tag") >= 3);
    assert!(count(&device, "machine/wrong_generation") >= 1);
    // The right one is not harmed by their attempts.
    let mut client = Client::open(right).unwrap();
    client.register().unwrap();
    client.report().unwrap();
    assert_eq!(row(&device, 7).unwrap().state, State::Alive);
}

/// Says messages over a connection of its own, until the broker has taken or refused them.
fn say(broker: SocketAddr, messages: &[Vec<u8>]) {
    let socket = stranger(broker);
    let now = || Instant::now().into_std();
    let port = u64::from(socket.local_addr().unwrap().port());
    let mut connection = Connection::connect(Config::heartbeat(2_000), 7, [port, 8], now());
    let mut left = messages.iter().peekable();
    let mut octets = vec![0; 2_000];
    until("the messages are said", || {
        while let Ok(length) = socket.recv(&mut octets) {
            connection.handle_datagram(&octets[..length], now());
        }
        if connection.next_deadline().is_some_and(|deadline| deadline <= now()) {
            connection.handle_timeout(now());
        }
        while connection.poll_event().is_some() {}
        while left.next_if(|message| connection.send(message, now()).is_ok()).is_some() {}
        let mut out = Vec::new();
        while connection.poll_transmit(&mut out).is_some() {
            let _ = socket.send(&std::mem::take(&mut out));
        }
        let said = left.peek().is_none() && connection.unacknowledged() == 0;
        (said || matches!(connection.state(), Ended::Closed | Ended::CloseWait)).then_some(())
    });
}

#[test]
fn what_was_recorded_gives_no_credit_to_a_program_that_hangs_nor_to_its_next_start() {
    let device = device();
    let relay = Relay::start(broker(&device));
    let terms = "period = \"300ms\"\nmisses = 3\non-miss = \"event\"\n";
    add(&device, "camera", &reports(&example(&device), 7, Some(relay.port), terms));
    until_reports(&device, 7, 5);
    let first = device.until_pid("camera");
    kill(first, Signal::STOP);
    let record = relay.record().into_iter().filter(|one| one.to_broker);
    let recorded: Vec<Vec<u8>> = record.map(|one| one.octets).collect();
    let messages: Vec<Vec<u8>> =
        recorded.iter().filter(|one| one.len() == 46).map(|one| one[6..].to_vec()).collect();
    assert!(messages.len() >= 7, "a Hello, a Register, and the reports");
    // Octet by octet from its own address and from another one, and in a session that an attacker opens itself.
    let other = stranger(broker(&device));
    let replay = || {
        relay.forge(true, recorded.clone());
        for octets in &recorded {
            let _ = other.send(octets);
        }
        say(broker(&device), &messages);
    };
    let missed = |pid: i32| {
        row(&device, 7)
            .filter(|row| row.state == State::Missed && row.pid == u32::try_from(pid).ok())
    };
    let before = until("it is missed all the same", || {
        replay();
        missed(first)
    });
    replay();
    let after = row(&device, 7).unwrap();
    assert_eq!((after.reports, after.state), (before.reports, State::Missed));
    assert!(count(&device, "machine/bad_tag") > 0);
    // Nor for its next start, which has another key.
    kill(first, Signal::KILL);
    let second = until_other_pid(&device, "camera", first);
    until("it reports again", || {
        row(&device, 7).filter(|row| row.pid == u32::try_from(second).ok() && row.reports > 3)
    });
    kill(second, Signal::STOP);
    until("it is missed too", || {
        say(broker(&device), &messages);
        missed(second)
    });
}
