use super::*;

const OWNER: Owner = Owner::Process { pid: 7, start: 1 };
const OTHER: Owner = Owner::Process { pid: 8, start: 1 };
const NOW: Moment = Moment(0);

type Table = Handles<&'static str>;

/// A table with one handle that the driver has opened.
fn opened() -> (Table, u64) {
    let mut table = Handles::new(1);
    let handle = open(&mut table, OWNER);
    (table, handle)
}

fn open(table: &mut Table, owner: Owner) -> u64 {
    let (line, _) = table.open(owner, 0, "open").unwrap();
    finish(table, 0);
    line.handle
}

fn write(byte: u8) -> Request {
    Request::Write { data: vec![byte] }
}

fn poll(wait: Duration) -> Request {
    Request::Poll { events: 1, wait }
}

fn submit(
    table: &mut Table,
    handle: u64,
    sequence: u64,
    done: &'static str,
) -> Queued<&'static str> {
    table.submit(OWNER, handle, sequence, write(1), done, NOW)
}

/// Takes the next call and ends it; who gets the answer.
fn finish(table: &mut Table, result: i64) -> Option<&'static str> {
    let (job, ..) = table.take().unwrap();
    match table.end(job, result, false, NOW).0 {
        Ended::Answer(done) => done,
        other => panic!("{other:?}"),
    }
}

fn answered(queued: Queued<&'static str>) -> i64 {
    match queued {
        Queued::Answered(answer) => answer.result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_of_one_handle_come_one_after_the_other_and_those_of_two_side_by_side() {
    let (mut table, one) = opened();
    let two = open(&mut table, OWNER);
    submit(&mut table, one, 1, "first");
    submit(&mut table, one, 2, "second");
    submit(&mut table, two, 1, "beside");
    let (first, ..) = table.take().unwrap();
    let (beside, ..) = table.take().unwrap();
    assert_eq!((first.handle, first.sequence), (one, 1));
    assert_eq!(beside.handle, two);
    assert!(table.take().is_none(), "the second waits for the first");
    table.end(first, 1, false, NOW);
    assert_eq!(table.take().unwrap().0.sequence, 2);
}

#[test]
fn a_handle_is_its_owners_alone() {
    let (mut table, handle) = opened();
    let foreign = table.submit(OTHER, handle, 1, write(1), "x", NOW);
    assert_eq!(answered(foreign), EBADF);
    assert!(table.close(OTHER, handle, Some("x")).is_err());
    assert_eq!(answered(table.submit(Owner::Kernel, handle, 1, write(1), "x", NOW)), EBADF);
}

#[test]
fn the_same_call_made_again_while_it_waits_or_runs_is_made_once() {
    let (mut table, handle) = opened();
    submit(&mut table, handle, 1, "before");
    let joined = submit(&mut table, handle, 1, "after");
    assert!(matches!(joined, Queued::Joined(_, "before")), "{joined:?}");
    let (job, ..) = table.take().unwrap();
    assert!(matches!(submit(&mut table, handle, 1, "last"), Queued::Joined(_, "after")));
    assert!(matches!(table.end(job, 5, false, NOW).0, Ended::Answer(Some("last"))));
    assert!(table.take().is_none());
    assert_eq!(answered(submit(&mut table, handle, 1, "again")), 5);
}

#[test]
fn after_a_crash_the_call_inside_is_an_error_and_the_next_is_carried_out() {
    let (mut table, handle) = opened();
    submit(&mut table, handle, 1, "lost");
    let (_job, line, slot) = table.take().unwrap();
    let mut anew: Table = Handles::new(1);
    anew.adopt(line, slot);
    assert_eq!(answered(submit(&mut anew, handle, 1, "again")), -5);
    assert!(matches!(submit(&mut anew, handle, 2, "next"), Queued::Waits(_)));
    let (line, _) = anew.open(OTHER, 0, "open").unwrap();
    assert!(line.handle > handle, "a number is never used twice");
}

#[test]
fn a_close_comes_last_and_nothing_after_it() {
    let (mut table, handle) = opened();
    submit(&mut table, handle, 1, "write");
    table.close(OWNER, handle, Some("close")).unwrap();
    assert_eq!(answered(submit(&mut table, handle, 2, "late")), EBADF);
    assert_eq!(finish(&mut table, 1), Some("write"));
    assert_eq!(finish(&mut table, 0), Some("close"));
    assert_eq!(table.count(), 0);
}

#[test]
fn a_call_whose_handle_is_being_closed_is_carried_out_in_a_hurry_and_the_close_is_not() {
    let (mut table, handle) = opened();
    submit(&mut table, handle, 1, "runs");
    submit(&mut table, handle, 2, "waits");
    let (runs, ..) = table.take().unwrap();
    assert!(!runs.hurries);
    table.close(OWNER, handle, Some("close")).unwrap();
    table.end(runs, 1, false, NOW);
    let (waits, ..) = table.take().unwrap();
    assert!(waits.hurries && waits.sequence == 2);
    table.end(waits, EINTR, false, NOW);
    let (close, ..) = table.take().unwrap();
    assert!(close.work == Work::Close && !close.hurries);
}

#[test]
fn a_failed_open_leaves_no_handle() {
    let mut table: Table = Handles::new(1);
    let (line, slot) = table.open(OWNER, 0, "open").unwrap();
    assert_eq!(finish(&mut table, -16), Some("open"));
    assert_eq!(table.count(), 0);
    let (next, again) = table.open(OWNER, 0, "open").unwrap();
    assert_eq!((slot, line.handle + 1), (again, next.handle));
}

#[test]
fn an_owner_that_ends_takes_its_calls_with_it_and_its_handles_are_closed() {
    let (mut table, handle) = opened();
    let kept = open(&mut table, OTHER);
    submit(&mut table, handle, 1, "runs");
    submit(&mut table, handle, 2, "waits");
    let (job, ..) = table.take().unwrap();
    assert_eq!(table.owner_ended(OWNER), [handle]);
    table.end(job, 1, false, NOW);
    let (job, ..) = table.take().unwrap();
    assert_eq!(job.work, Work::Close);
    table.end(job, 0, false, NOW);
    assert_eq!(table.count(), 1);
    assert!(matches!(table.submit(OTHER, kept, 1, write(1), "x", NOW), Queued::Waits(_)));
}

#[test]
fn an_owner_that_ends_before_its_open_was_answered_leaves_nothing_either() {
    let mut table: Table = Handles::new(1);
    table.open(OWNER, 0, "open").unwrap();
    assert!(table.owner_ended(OWNER).is_empty());
    finish(&mut table, 0);
    assert_eq!(table.take().unwrap().0.work, Work::Close);
}

#[test]
fn a_poll_that_finds_nothing_waits_until_somebody_tells() {
    let (mut table, handle) = opened();
    let second = Duration::from_secs(1);
    table.submit(OWNER, handle, 0, poll(second), "poll", NOW);
    let (job, ..) = table.take().unwrap();
    let (ended, ..) = table.end(job, 0, false, NOW);
    assert!(matches!(ended, Ended::Aside(_, until) if until == NOW + second), "{ended:?}");
    assert!(table.take().is_none());
    table.notify(handle);
    assert_eq!(finish(&mut table, 1), Some("poll"));
}

#[test]
fn what_was_told_while_a_poll_asked_is_not_lost() {
    let (mut table, handle) = opened();
    table.submit(OWNER, handle, 0, poll(Duration::from_secs(1)), "poll", NOW);
    let (job, ..) = table.take().unwrap();
    table.notify(0);
    assert!(matches!(table.end(job, 0, false, NOW).0, Ended::Again));
    assert_eq!(finish(&mut table, 4), Some("poll"));
}

#[test]
fn the_time_of_a_poll_ends_and_one_without_time_is_answered_at_once() {
    let (mut table, handle) = opened();
    table.submit(OWNER, handle, 0, poll(Duration::ZERO), "now", NOW);
    assert_eq!(finish(&mut table, 0), Some("now"));
    table.submit(OWNER, handle, 0, poll(Duration::from_secs(1)), "later", NOW);
    let (job, ..) = table.take().unwrap();
    let Ended::Aside(ticket, _) = table.end(job, 0, false, NOW).0 else { panic!("not aside") };
    let answer = table.expire(handle, ticket).unwrap();
    assert_eq!((answer.done, answer.result), ("later", 0));
    assert!(table.expire(handle, ticket).is_none());
}

#[test]
fn who_is_interrupted_gets_his_answer_at_once_or_the_driver_is_told() {
    let (mut table, handle) = opened();
    let Queued::Waits(first) = submit(&mut table, handle, 1, "first") else { panic!() };
    let Queued::Waits(second) = submit(&mut table, handle, 2, "second") else { panic!() };
    let (_job, ..) = table.take().unwrap();
    assert!(matches!(table.interrupt(first), Interrupted::Runs { handle: of } if of == handle));
    let Interrupted::Answered(answer) = table.interrupt(second) else { panic!() };
    assert_eq!((answer.done, answer.result), ("second", EINTR));
    assert!(matches!(table.interrupt(second), Interrupted::Nothing));
}

#[test]
fn queues_handles_and_bytes_are_bounded() {
    let (mut table, handle) = opened();
    for sequence in 1..=QUEUE_MAX as u64 {
        submit(&mut table, handle, sequence, "waits");
    }
    assert_eq!(answered(submit(&mut table, handle, 1000, "x")), EAGAIN);
    for _ in 1..HANDLES_MAX {
        table.open(OTHER, 0, "open").unwrap();
    }
    assert_eq!(table.open(OTHER, 0, "open").unwrap_err().result, EMFILE);

    let mut table: Table = Handles::new(1);
    let handles: Vec<_> = (0..2).map(|_| open(&mut table, OWNER)).collect();
    let huge = || Request::Read { length: BYTES_MAX / 2 };
    table.submit(OWNER, handles[0], 1, huge(), "one", NOW);
    table.submit(OWNER, handles[1], 1, huge(), "two", NOW);
    assert_eq!(answered(submit(&mut table, handles[1], 2, "x")), ENOBUFS);
    finish(&mut table, 0);
    assert!(matches!(submit(&mut table, handles[1], 2, "y"), Queued::Waits(_)));
}
