//! The client against a host that dies, crashes and refuses at every place of a call: what was asked for is done once.

use std::{sync::Arc, thread, time::Duration};

use crate::fake::{Fault, Host};
use driver_client::{Driver, Error, Handle, Settings, WRITE_MAX, events};
use proptest::prelude::*;

fn settings(host: &Host) -> Settings {
    Settings {
        run_dir: host.run_dir().into(),
        timeout: Some(Duration::from_secs(20)),
        patience: Duration::from_secs(5),
    }
}

fn open(host: &Host) -> Handle {
    Driver::open("can0", 0, settings(host)).unwrap()
}

#[test]
fn what_is_written_arrives_and_what_is_there_is_read() {
    let host = Host::start(&[]);
    let driver = open(&host);
    assert_eq!(driver.number(), 7);
    assert_eq!(driver.write(b"hello").unwrap(), 5);
    let mut buffer = [0; 16];
    assert_eq!(driver.read(&mut buffer).unwrap(), 4);
    assert_eq!(&buffer[..4], b"data");
    assert_eq!(driver.ioctl(9, b"x", &mut buffer[..2]).unwrap(), 2);
    assert_eq!(driver.poll(events::IN, Some(Duration::ZERO)).unwrap(), events::IN);
    driver.close().unwrap();
    host.with(|inner| {
        assert_eq!(inner.written, [b"hello"]);
        assert_eq!(inner.closed, [7]);
    });
}

#[test]
fn the_drivers_own_errors_are_errnos() {
    let host = Host::start(&[]);
    let error = open(&host).write(b"no").unwrap_err();
    assert!(matches!(error, Error::Driver(28)), "{error:?}");
    assert_eq!(error.errno(), 28);
}

#[test]
fn own_operations_are_found_by_their_names() {
    let host = Host::start(&[]);
    let driver = open(&host);
    assert_eq!(driver.operation("peek").unwrap(), 2);
    let error = driver.operation("pek").unwrap_err();
    assert!(error.to_string().contains("reset, , peek"), "{error}");
    assert!(driver.operation("").is_err());
}

#[test]
fn every_fault_but_a_crash_is_invisible() {
    use Fault::*;
    for fault in [Unread, Unanswered, Torn, Busy, Gone, Goodbye, Ping] {
        let host = Host::start(&[]);
        let driver = open(&host);
        host.with(|inner| inner.faults.push_back(fault));
        assert_eq!(driver.write(b"once").unwrap(), 4, "{fault:?}");
        host.with(|inner| assert_eq!(inner.written, [b"once"], "{fault:?}"));
    }
}

#[test]
fn the_call_that_the_driver_crashed_in_is_eio_and_the_next_one_is_well() {
    let host = Host::start(&[]);
    let driver = open(&host);
    host.with(|inner| inner.faults.push_back(Fault::Crash));
    assert_eq!(driver.write(b"bad").unwrap_err().errno(), 5);
    assert_eq!(driver.write(b"good").unwrap(), 4);
    host.with(|inner| assert_eq!(inner.written, [b"good"]));
}

#[test]
fn a_host_that_starts_is_waited_for() {
    let host = Host::start(&[Fault::Starting, Fault::Starting]);
    assert_eq!(open(&host).write(b"x").unwrap(), 1);
}

#[test]
fn the_manager_is_asked_only_where_no_socket_has_the_drivers_name() {
    let host = Host::start(&[]);
    std::fs::remove_file(host.run_dir().join("driver.can0.sock")).unwrap();
    let short = Settings { patience: Duration::ZERO, ..settings(&host) };
    let error = Driver::open("can0", 0, short.clone()).unwrap_err();
    assert!(error.to_string().contains("vestalctl driver list"), "{error}");
    assert_eq!(error.errno(), 19);
    host.serve("driver.sock", "driver");
    host.serve("elsewhere.sock", "driver/can0");
    assert_eq!(Driver::open("can0", 0, short).unwrap().write(b"x").unwrap(), 1);
}

#[test]
fn a_call_that_takes_too_long_ends_in_time() {
    let host = Host::start(&[]);
    host.with(|inner| inner.holds = true);
    let short = Settings { timeout: Some(Duration::from_millis(100)), ..settings(&host) };
    let driver = Driver::open("can0", 0, short).unwrap();
    let error = driver.write(b"x").unwrap_err();
    assert!(matches!(error, Error::Timeout { method: "write", .. }), "{error:?}");
    host.release();
    assert_eq!(driver.write(b"y").unwrap(), 1);
}

#[test]
fn a_poll_does_not_wait_for_a_call_and_close_ends_it() {
    let host = Host::start(&[]);
    host.with(|inner| inner.holds = true);
    let driver = Arc::new(open(&host));
    let reads = Arc::clone(&driver);
    let reader = thread::spawn(move || reads.read(&mut [0; 4]));
    host.wait_held(1);
    assert_eq!(driver.poll(events::IN, None).unwrap(), events::IN);
    driver.close().unwrap();
    assert!(matches!(reader.join().unwrap(), Err(Error::Closed)));
    assert!(matches!(driver.write(b"x"), Err(Error::Closed)));
    assert!(matches!(driver.close(), Err(Error::Closed)));
}

#[test]
fn a_poll_whose_time_is_over_answers_no_events() {
    let host = Host::start(&[]);
    let driver = open(&host);
    assert_eq!(driver.poll(events::OUT, Some(Duration::from_millis(1))).unwrap(), 0);
}

#[test]
fn a_handle_that_is_dropped_is_closed() {
    let host = Host::start(&[]);
    drop(open(&host));
    host.with(|inner| assert_eq!(inner.closed, [7]));
}

#[test]
fn long_data_is_written_in_part_and_a_long_argument_is_refused() {
    let host = Host::start(&[]);
    let driver = open(&host);
    let long = vec![1; WRITE_MAX + 1];
    assert_eq!(driver.write(&long).unwrap(), WRITE_MAX);
    assert_eq!(driver.ioctl(1, &long, &mut []).unwrap_err().errno(), 90);
}

#[test]
fn no_name_leads_out_of_the_run_directory() {
    for name in ["", ".", "../x", "a/b", "a\0b", &"x".repeat(65)] {
        let error = Driver::open(name, 0, Settings::default()).unwrap_err();
        assert_eq!(error.errno(), 22, "{name:?}");
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    use Fault::*;
    prop::sample::select(vec![Unread, Unanswered, Torn, Crash, Busy, Gone, Goodbye, Starting, Ping])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_fails_each_write_is_done_once_in_its_order_or_is_eio(
        faults in prop::collection::vec(fault(), 0..12),
        calls in 1_usize..8,
    ) {
        let host = Host::start(&[]);
        let driver = open(&host);
        host.with(|inner| inner.faults.extend(faults.iter().copied()));
        let mut acknowledged = Vec::new();
        let mut failed = 0;
        for number in 0..calls {
            let data = format!("{number}").into_bytes();
            match driver.write(&data) {
                Ok(length) => {
                    prop_assert_eq!(length, data.len());
                    acknowledged.push(data);
                }
                Err(error) => {
                    prop_assert_eq!(error.errno(), 5);
                    failed += 1;
                }
            }
        }
        let written = host.with(|inner| inner.written.clone());
        prop_assert_eq!(written, acknowledged);
        prop_assert!(failed <= faults.iter().filter(|fault| **fault == Fault::Crash).count());
    }
}
