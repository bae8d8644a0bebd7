//! Any bytes as messages of the keeper channel, as spawn plans and as a log ring: no panic, and what is accepted can be walked and written back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::keeper::{Report, Request, plan::PlanView, ring};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((sequence, request)) = Request::decode(bytes) {
        assert_eq!(Request::decode(&request.encode(sequence)).expect("ours"), (sequence, request));
    }
    if let Ok((sequence, report)) = Report::decode(bytes) {
        assert_eq!(Report::decode(&report.encode(sequence)).expect("ours"), (sequence, report));
    }
    if let Ok(records) = ring::records(bytes) {
        std::hint::black_box(records.map(|record| record.text.len()).sum::<usize>());
        let _ = std::hint::black_box((ring::dropped(bytes), ring::is_empty(bytes)));
    }
    if let Ok(plan) = PlanView::check(bytes) {
        let texts = plan.programs().chain(plan.argv()).chain(plan.env()).chain(plan.sockets());
        std::hint::black_box(texts.map(|text| text.to_bytes().len()).sum::<usize>());
        std::hint::black_box((plan.directory(), plan.stdin(), plan.stdout(), plan.stderr()));
        std::hint::black_box((plan.lock(), plan.ready(), plan.executor(), plan.listen_pid()));
        let _ = plan.settings();
    }
});
