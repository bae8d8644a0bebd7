//! What travels: after a cut, again, and with a small change, only what the device does not have.

use std::fs;

use super::{Bench, MIB, good};

/// What may be under way when the line is cut, and what surrounds the chunks.
const UNDER_WAY: u64 = MIB as u64;
const IMAGE: usize = 7 * MIB / 2;

fn bench() -> Bench {
    let bench = Bench::started();
    bench.bundle("app-2.vestal", "2", 2, &[("application", &good("two", IMAGE))]);
    bench
}

#[test]
fn a_push_whose_connection_is_cut_goes_on_by_itself_where_it_was() {
    let bench = bench();
    let before = bench.relay.sent();
    bench.relay.cut_after(2 * MIB as u64);
    bench.vestal_ok(&bench.push("app-2.vestal"));
    let sent = bench.relay.sent() - before;
    assert!(sent < IMAGE as u64 + UNDER_WAY, "{sent} bytes of {IMAGE}");
    assert!(sent > IMAGE as u64, "the image can't be compressed");
    assert_eq!(bench.runs(), ["one", "two"]);
}

#[test]
fn a_push_that_is_begun_again_sends_only_what_is_not_there_yet() {
    let bench = bench();
    let before = bench.relay.sent();
    let push = bench.begin(&bench.push("app-2.vestal"));
    bench.until_sent(before, 2 * MIB as u64);
    push.kill();
    bench.vestal_ok(&bench.push("app-2.vestal"));
    let sent = bench.relay.sent() - before;
    assert!(sent < IMAGE as u64 + UNDER_WAY, "{sent} bytes of {IMAGE}");
    assert_eq!(bench.runs(), ["one", "two"]);
}

#[test]
fn what_runs_already_is_not_sent_and_a_small_change_is_sent_alone() {
    let bench = bench();
    bench.vestal_ok(&bench.push("app-2.vestal"));
    let before = bench.relay.sent();
    let said = bench.vestal_ok(&bench.push("app-2.vestal"));
    assert!(said.contains("already"), "{said}");
    let sent = bench.relay.sent() - before;
    assert!(sent < 16 << 10, "{sent} bytes of nothing new");
    assert_eq!(bench.runs(), ["one", "two"]);

    let mut image = good("two", IMAGE);
    image.splice(IMAGE / 2..IMAGE / 2, *b"a few bytes more");
    bench.bundle("app-3.vestal", "3", 3, &[("application", &image)]);
    let length = fs::metadata(bench.file("app-3.vestal")).unwrap().len();
    let before = bench.relay.sent();
    bench.vestal_ok(&bench.push("app-3.vestal"));
    let sent = bench.relay.sent() - before;
    assert!(sent < length / 4, "{sent} bytes of {length}");
    assert!(super::holds(&bench.place("app-a"), &image));
    assert_eq!(bench.in_use(), bench.place("app-a"));
}
