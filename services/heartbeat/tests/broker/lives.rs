//! Lives and deaths, of applications and of the broker itself.

use protocol::heartbeat::{Reason, ResultCode, State};
use serde_json::json;

use crate::{
    device::{Device, KEY},
    peer::Peer,
};

#[test]
fn an_application_reports_falls_silent_and_the_supervisor_is_told() {
    let device = Device::new("");
    let supervisor = device.supervisor();
    let mut peer = device.application(7, 200);
    assert_eq!(device.row(7).state, State::Registered);
    assert!(peer.report() && peer.report());
    let row = device.row(7);
    assert_eq!((row.reports, row.authenticated, row.period_ms), (2, true, 200));
    assert_eq!(row.pid, Some(std::process::id()));
    assert_eq!(row.address, Some(peer.socket.local_addr().unwrap().to_string()));
    let missed = supervisor.next();
    assert_eq!((missed.app_id, missed.generation), (7, 1));
    assert_eq!(missed.reason, Reason::Silent);
    assert!(missed.age_ms >= 600, "{missed:?}");
    assert_eq!(device.row(7).state, State::Missed);
    assert!(peer.report());
    assert_eq!(device.row(7).state, State::Recovered);
    peer.bye();
    assert_eq!(device.row(7).state, State::Gone);
}

#[test]
fn a_miss_waits_for_a_supervisor_that_is_away() {
    let device = Device::new("");
    let mut peer = device.application(7, 50);
    assert!(peer.report());
    peer.until(|_| device.row(7).state == State::Missed);
    let supervisor = device.supervisor();
    assert_eq!(supervisor.next().app_id, 7);
}

#[test]
fn a_broker_that_is_killed_comes_back_at_its_address_and_takes_the_sessions_up_again() {
    let mut device = Device::new("");
    let supervisor = device.supervisor();
    let mut peer = device.application(7, 500);
    assert!(peer.report());
    let address = device.broker;
    for _ in 0..3 {
        device.kill();
        device.start();
        assert_eq!(device.broker, address);
        // The supervisor says again whom it expects; the peer is told that its connection is no more.
        device.expect(7, 1, 500);
        assert!(!peer.report());
        assert_eq!(peer.reopen(), ResultCode::Ok);
        assert!(peer.report());
        assert_eq!(device.row(7).state, State::Alive);
    }
    assert!(supervisor.missed.try_recv().is_err());
}

#[test]
fn a_broker_is_replaced_by_the_next_one_beside_it() {
    let mut device = Device::new("");
    let mut peer = device.application(7, 500);
    let address = device.broker;
    device.replace();
    assert_eq!(device.broker, address);
    device.expect(7, 1, 500);
    assert!(!peer.report());
    assert_eq!(peer.reopen(), ResultCode::Ok);
    assert!(peer.report());
}

#[test]
fn an_application_of_the_configuration_needs_nobody_and_sighup_reads_it() {
    let device = Device::new("");
    let mut peer = Peer::open(device.broker, (5, 0), None);
    assert_eq!(peer.register(0), ResultCode::UnknownApplication);
    std::fs::write(device.folder.path().join("heartbeat.toml"), "[apps.5]\nperiod = \"5s\"\n")
        .unwrap();
    rustix::process::kill_process(device.pid(), rustix::process::Signal::HUP).unwrap();
    peer.until(|_| !device.rows().is_empty());
    assert_eq!(device.row(5).state, State::Expected);
    let mut peer = Peer::open(device.broker, (5, 0), None);
    assert_eq!(peer.register(100), ResultCode::Ok);
    assert!(peer.report());
    let row = device.row(5);
    assert_eq!((row.period_ms, row.authenticated, row.state), (5_000, false, State::Alive));
}

#[test]
fn who_is_forgotten_is_not_missed_and_wrong_orders_say_what_is_wrong() {
    let device = Device::new("");
    let _peer = device.application(7, 50);
    device.call("forget", &json!({ "app_id": 7, "generation": 1 })).unwrap();
    assert!(device.rows().is_empty());
    let failure = device.call("expect", &json!({ "app_id": 7 })).unwrap_err();
    assert!(failure.contains("service"), "{failure}");
    assert_eq!(device.count("machine/missed"), 0);
}

#[test]
fn a_second_broker_and_wrong_settings_are_refused_with_exit_code_2() {
    let mut device = Device::new("");
    let output = device.command().output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("another vestal-heartbeat"), "{text}");
    std::fs::write(device.folder.path().join("heartbeat.toml"), "perid = 1\n").unwrap();
    let output = device.command().output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("heartbeat.toml:1: unknown key \"perid\""), "{text}");
    assert_eq!(device.terminate().code(), Some(0));
}

#[test]
fn the_key_is_never_logged() {
    let device = Device::new("");
    let mut peer = device.application(7, 1_000);
    assert!(peer.report());
    let mut wrong = Peer::open(device.broker, (7, 1), Some(protocol::heartbeat::Key([8; 16])));
    assert_eq!(wrong.register(0), ResultCode::BadTag);
    let log = device.log();
    assert!(!log.contains("070707") && !log.contains("7, 7, 7"), "{log}");
    assert_ne!(KEY.0, [0; 16]);
}
