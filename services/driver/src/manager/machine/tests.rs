//! Every row of the table in the header, and every way to cut an upgrade into pieces, on a device of four variables.

use super::*;

const KNOWN: [&str; 3] = ["a", "b", "c"];

fn hash(letter: &str) -> String {
    letter.repeat(64)
}

fn version(letter: &str, index: u64) -> Version {
    Version { version: letter.to_owned(), hash: hash(letter), rollback_index: index }
}

fn upgrade(letter: &str, index: u64) -> Upgrade {
    Upgrade {
        name: "can0".to_owned(),
        hash: hash(letter),
        version: letter.to_owned(),
        rollback_index: index,
        mode: None,
        dev: false,
        permitted: false,
    }
}

fn record(current: &str, previous: Option<&str>, probation: bool) -> Record {
    Record {
        current: version(current, 3),
        previous: previous.map(|letter| version(letter, 2)),
        probation,
        lowers: false,
        floor: 2,
        factory: hash("a"),
        last: None,
    }
}

fn told(tried: &str, outcome: Outcome, reason: &str) -> Settled {
    Settled {
        name: "can0".to_owned(),
        outcome,
        tried: version(tried, 3),
        serves: version("a", 2),
        reason: Some(reason.to_owned()),
    }
}

fn reason_of(failure: &Failure) -> &str {
    failure.details.as_ref().and_then(|details| details["reason"].as_str()).unwrap_or("")
}

fn look(record: &Record, serves: &str, on_probation: bool, last: Option<&Settled>) -> Next {
    let serves = version(serves, 0);
    let known = |hash: &str| KNOWN.iter().any(|letter| hash.starts_with(letter));
    compare(record, Seen { serves: &serves, on_probation, last }, known)
}

#[test]
fn a_version_is_tried_with_the_one_that_serves_as_the_way_back() {
    let record = record("a", None, false);
    let Ok(Offer::Try(next)) = offer(&record, &upgrade("b", 4), false) else { panic!("refused") };
    assert_eq!((next.current, next.previous), (version("b", 4), Some(version("a", 3))));
    assert!(next.probation && next.floor == 2);
}

#[test]
fn what_serves_already_or_is_on_probation_already_need_not_be_done_again() {
    assert_eq!(offer(&record("a", None, false), &upgrade("a", 0), false), Ok(Offer::Runs));
    assert_eq!(offer(&record("b", Some("a"), true), &upgrade("b", 9), false), Ok(Offer::Runs));
}

#[test]
fn what_may_not_be_tried_is_refused_with_a_reason_for_programs() {
    let on_probation = record("b", Some("a"), true);
    let refused = offer(&on_probation, &upgrade("c", 9), false).unwrap_err();
    assert_eq!((refused.code, reason_of(&refused)), (Code::Busy, "probation"));
    let refused = offer(&record("a", None, false), &upgrade("b", 1), false).unwrap_err();
    assert_eq!((refused.code, reason_of(&refused)), (Code::Denied, "rollback-index"));
    assert!(refused.text.contains("index 1") && refused.text.contains("with 2"), "{refused}");
    let raw = Upgrade { dev: true, ..upgrade("b", 0) };
    let refused = offer(&record("a", None, false), &raw, false).unwrap_err();
    assert_eq!((refused.code, reason_of(&refused)), (Code::Denied, "dev"));
    assert!(matches!(offer(&record("a", None, false), &raw, true), Ok(Offer::Try(_))));
    for wrong in ["", "abc", &"A".repeat(64), &"../".repeat(30)] {
        let wrong = Upgrade { hash: wrong.to_owned(), ..upgrade("b", 9) };
        assert_eq!(
            offer(&record("a", None, false), &wrong, false).unwrap_err().code,
            Code::InvalidArgument
        );
    }
    let wrong = Upgrade { version: "two\n".to_owned(), ..upgrade("b", 9) };
    assert_eq!(
        offer(&record("a", None, false), &wrong, false).unwrap_err().code,
        Code::InvalidArgument
    );
}

#[test]
fn a_permission_takes_one_version_below_the_floor_and_lowers_it_when_that_is_confirmed() {
    let high = Record { floor: 7, ..record("a", None, false) };
    let permitted = Upgrade { permitted: true, ..upgrade("b", 4) };
    assert!(offer(&high, &upgrade("b", 4), false).is_err());
    let Ok(Offer::Try(next)) = offer(&high, &permitted, false) else { panic!("refused") };
    assert_eq!((next.floor, next.lowers), (7, true), "it has to prove itself first");
    let Next::Settle(confirmed) = look(&next, "b", false, None) else { panic!() };
    assert_eq!((confirmed.floor, confirmed.lowers), (4, false));
    assert!(offer(&confirmed, &upgrade("c", 3), false).is_err(), "it was for that version only");
    let failed = told("b", Outcome::RolledBack, "it failed");
    let Next::Settle(back) = look(&next, "a", false, Some(&failed)) else { panic!() };
    assert_eq!((back.floor, back.lowers), (7, false));
    assert!(offer(&back, &upgrade("c", 4), false).is_err());
}

#[test]
fn the_floor_rises_with_what_is_confirmed_and_leaves_the_way_back_open() {
    let Next::Settle(confirmed) = look(&record("b", Some("a"), true), "b", false, None) else {
        panic!()
    };
    assert_eq!((confirmed.floor, confirmed.probation), (3, false));
    assert_eq!(confirmed.last.as_ref().map(|last| last.outcome), Some(Outcome::Confirmed));
    assert!(offer(&confirmed, &upgrade("c", 2), false).is_err());
    assert!(matches!(offer(&confirmed, &upgrade("a", 2), false), Ok(Offer::Try(_))));
}

#[test]
fn a_record_that_agrees_with_its_host_stays() {
    assert_eq!(look(&record("a", None, false), "a", false, None), Next::Agreed);
    assert_eq!(look(&record("b", Some("a"), true), "b", true, None), Next::Wait);
}

#[test]
fn an_upgrade_that_never_reached_the_host_is_taken_back() {
    let Next::Settle(back) = look(&record("b", Some("a"), true), "a", false, None) else {
        panic!()
    };
    assert_eq!((&back.current, &back.previous, back.probation), (&version("a", 2), &None, false));
    assert!(back.last.unwrap().reason.unwrap().contains("before its host had taken"));
}

#[test]
fn a_version_that_failed_is_taken_back_with_what_the_host_says_of_it() {
    let why = told("b", Outcome::RolledBack, "SIGSEGV in write");
    let Next::Settle(back) = look(&record("b", Some("a"), true), "a", false, Some(&why)) else {
        panic!()
    };
    let last = back.last.unwrap();
    assert_eq!(
        (last.outcome, last.reason.as_deref()),
        (Outcome::RolledBack, Some("SIGSEGV in write"))
    );
    assert_eq!((last.tried.hash, last.serves.hash), (hash("b"), hash("a")));
    // What it says of another version is no reason for this one.
    let other = told("c", Outcome::RolledBack, "SIGSEGV in read");
    let Next::Settle(back) = look(&record("b", Some("a"), true), "a", false, Some(&other)) else {
        panic!()
    };
    assert!(!back.last.unwrap().reason.unwrap().contains("SIGSEGV"));
}

#[test]
fn a_refused_version_leaves_no_trace_whatever_was_rolled_back_before_and_one_that_was_tried_does() {
    let next = record("c", Some("a"), true);
    let never = |serves: &str, on_probation: bool, last: Option<&Settled>| {
        never_taken(&next, Seen { serves: &version(serves, 0), on_probation, last })
    };
    let earlier = told("b", Outcome::RolledBack, "errors");
    assert!(never("a", false, None) && never("a", false, Some(&earlier)));
    let itself = told("c", Outcome::RolledBack, "SIGSEGV in write");
    assert!(!never("a", false, Some(&itself)));
    assert!(!never("c", true, None) && !never("c", false, None) && !never("a", true, None));
}

#[test]
fn a_rollback_by_hand_that_was_not_written_down_is_seen_at_the_host() {
    let Next::Adopt(record, note) = look(&record("b", Some("a"), false), "a", false, None) else {
        panic!()
    };
    assert_eq!((record.current, record.previous), (version("a", 2), None));
    assert!(note.contains("serves a"), "{note}");
}

#[test]
fn a_host_on_probation_keeps_its_way_back_where_the_record_was_lost() {
    let Next::Adopt(record, _) = look(&record("a", None, false), "b", true, None) else { panic!() };
    assert!(record.probation && record.current.hash == hash("b"));
    assert_eq!(record.previous.map(|version| version.hash), Some(hash("a")));
}

#[test]
fn what_nobody_knows_is_told_and_changes_nothing() {
    let Next::Foreign(note) = look(&record("a", None, false), "d", false, None) else { panic!() };
    assert!(note.contains("next start loads a"), "{note}");
}

#[test]
fn another_factory_object_serves_whatever_the_floor_is_and_the_floor_stays() {
    let found = record("b", Some("a"), false);
    let Ok(Begin::Renew(next, _)) = begin(Ok(Some(found)), Ok(&hash("c")), |_| true) else {
        panic!()
    };
    assert_eq!((next.current.hash, next.factory), (hash("c"), hash("c")));
    assert_eq!((next.previous.map(|version| version.hash), next.floor), (Some(hash("b")), 2));
    // What had not proved itself is no way back.
    let found = record("b", Some("a"), true);
    let Ok(Begin::Renew(next, _)) = begin(Ok(Some(found)), Ok(&hash("c")), |_| true) else {
        panic!()
    };
    assert_eq!(next.previous.as_ref().map(|version| &version.hash), Some(&hash("a")));
    assert_eq!(
        next.last.map(|last| (last.outcome, last.tried.hash)),
        Some((Outcome::RolledBack, hash("b")))
    );
    // Nor is what came with the old root file system, and is gone with it.
    let found = record("b", None, false);
    let Ok(Begin::Renew(next, _)) = begin(Ok(Some(found)), Ok(&hash("c")), |_| false) else {
        panic!()
    };
    assert_eq!(next.previous, None);
}

#[test]
fn without_a_record_that_can_be_used_the_factory_version_is_the_first_one() {
    let factory = hash("a");
    let none = |_: &str| false;
    assert_eq!(
        begin(Ok(None), Ok(&factory), none),
        Ok(Begin::Fresh(Record::of_factory(&factory), None))
    );
    let Ok(Begin::Fresh(_, Some(note))) =
        begin(Err("record.json: torn".into()), Ok(&factory), none)
    else {
        panic!()
    };
    assert!(note.starts_with("record.json: torn; the factory version serves"), "{note}");
    assert_eq!(begin(Ok(None), Err("gone".into()), none), Err("gone".to_owned()));
    let found = record("b", Some("a"), false);
    assert_eq!(
        begin(Ok(Some(found.clone())), Err("gone".into()), none),
        Ok(Begin::Keep(found.clone()))
    );
    assert_eq!(begin(Ok(Some(found.clone())), Ok(&factory), none), Ok(Begin::Keep(found)));
}

/// A device: what is written down, and what its host does.
#[derive(Clone, Debug)]
struct World {
    record: Record,
    serves: Version,
    on_probation: bool,
    last: Option<Settled>,
}

/// What the new version turns out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum New {
    Refused,
    Good,
    Bad,
}

impl World {
    fn new() -> Self {
        let record = record("a", None, false);
        Self { serves: record.current.clone(), record, on_probation: false, last: None }
    }

    /// A host that starts reads the record as `record::start` does.
    fn host_dies(&mut self) {
        self.on_probation = false;
        self.last = None;
        self.serves = match &self.record.previous {
            Some(previous) if self.record.probation => {
                self.last =
                    Some(told(&self.record.current.version, Outcome::RolledBack, "it crashed"));
                previous.clone()
            }
            _ => self.record.current.clone(),
        };
    }

    fn host_takes(&mut self, new: New) -> bool {
        if new != New::Refused {
            (self.serves, self.on_probation) = (version("b", 4), true);
        }
        new != New::Refused
    }

    fn host_settles(&mut self, new: New) {
        if !self.on_probation {
            return;
        }
        self.on_probation = false;
        let good = new == New::Good;
        let outcome = if good { Outcome::Confirmed } else { Outcome::RolledBack };
        self.last = Some(told("b", outcome, "errors"));
        if !good {
            self.serves = version("a", 3);
        }
    }

    /// What every manager does when it looks. Whether all is said and done.
    fn look(&mut self) -> bool {
        let seen = Seen {
            serves: &self.serves,
            on_probation: self.on_probation,
            last: self.last.as_ref(),
        };
        match compare(&self.record, seen, |_| true) {
            Next::Agreed => true,
            Next::Wait => false,
            Next::Settle(record) | Next::Adopt(record, _) => {
                self.record = record;
                true
            }
            Next::Foreign(note) => panic!("{note}: {self:?}"),
        }
    }
}

/// The manager's steps of one upgrade, in their order; after `cut` of them it is dead.
fn upgrade_until(world: &mut World, new: New, cut: usize, host_dies_at: usize) {
    let before = world.record.clone();
    let Ok(Offer::Try(next)) = offer(&world.record, &upgrade("b", 4), false) else { panic!() };
    for step in 0..cut {
        match step {
            0 => world.record = (*next).clone(),
            1 if world.record.probation && !world.host_takes(new) && cut > 2 => {
                world.record = before.clone()
            }
            3 => world.host_settles(new),
            4 => drop(world.look()),
            _ => {}
        }
        if step == host_dies_at {
            world.host_dies();
        }
    }
}

#[test]
fn wherever_an_upgrade_is_cut_off_record_and_host_come_together_and_no_version_is_trusted_untried()
{
    for new in [New::Refused, New::Good, New::Bad] {
        for cut in 0..=5 {
            // 9: it lives.
            for host_dies_at in [0, 1, 2, 3, 4, 9] {
                let mut world = World::new();
                upgrade_until(&mut world, new, cut, host_dies_at);
                // The next manager.
                if !world.look() {
                    world.host_settles(new);
                    assert!(world.look(), "{world:?}");
                }
                let place = format!(
                    "{new:?}, cut off after {cut} steps, host dies at {host_dies_at}: {world:?}"
                );
                assert_eq!(world.record.current.hash, world.serves.hash, "{place}");
                assert!(!world.record.probation && !world.on_probation, "{place}");
                if new != New::Good {
                    assert_eq!(world.serves.hash, hash("a"), "{place}");
                    assert_eq!(world.record.floor, 2, "{place}");
                }
                // Once more it is the same, and so it is after the next start of the host.
                let settled = world.clone();
                world.host_dies();
                assert!(world.look() && world.record == settled.record, "{place}");
                assert_eq!(world.serves, settled.serves, "{place}");
            }
        }
    }
}

#[test]
fn without_a_cut_a_good_version_stays_and_a_bad_one_goes_with_its_reason() {
    for (new, serves, reason) in [(New::Good, "b", None), (New::Bad, "a", Some("errors"))] {
        let mut world = World::new();
        upgrade_until(&mut world, new, 5, 9);
        let last = world.record.last.clone().unwrap();
        assert_eq!((world.serves.hash, last.reason.as_deref()), (hash(serves), reason));
    }
}
