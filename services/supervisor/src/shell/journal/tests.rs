//! What is remembered over restarts, cuts, full disks and compactions.

use super::*;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("vestal-journal-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    folder
}

fn message(text: &str) -> (Name, Message) {
    let message = Message::Toml { file: "a.toml".to_owned(), text: text.to_owned() };
    (Name::new("a").unwrap(), message)
}

#[test]
fn the_last_entry_of_a_key_counts_after_a_restart() {
    let folder = folder("last");
    let mut journal = Journal::open(&folder).unwrap();
    for text in ["old", "new"] {
        let (name, message) = message(text);
        journal.message(name, message).unwrap();
    }
    drop(journal);
    Journal::check(&folder).unwrap();
    let journal = Journal::open(&folder).unwrap();
    assert_eq!(journal.memory().messages.values().next(), Some(&message("new").1));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_key_is_remembered_over_restarts_and_compactions_until_its_slot_is_free() {
    let folder = folder("keys");
    let mut journal = Journal::open(&folder).unwrap();
    let handed = |generation| Handed { generation, app_id: -7, key: Key([0xa5; 16]) };
    journal.key(3, handed(1)).unwrap();
    journal.key(3, handed(2)).unwrap();
    journal.compact().unwrap();
    let mut journal = Journal::open(&folder).unwrap();
    assert_eq!(journal.memory().keys, [(3, handed(2))].into());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(folder.join("journal")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    journal.record(Record::Forgotten { slot: 3 }).unwrap();
    assert!(Journal::open(&folder).unwrap().memory().keys.is_empty());
    assert_eq!(journal.weights.sum, 0);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_triggers_still_have_to_do_is_remembered_until_nothing_is_left() {
    let folder = folder("queues");
    let mut journal = Journal::open(&folder).unwrap();
    let text = r#"{"Queue":{"service":"a","jobs":[{"work":{"run":["/x","y"]},"event":"e","due":5,"packages":["p"]},{"work":"reload","event":"e","due":6},{"work":{"signal":10},"event":"e","due":7}]}}"#;
    let record: Record = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&record).unwrap(), text);
    journal.record(record.clone()).unwrap();
    journal.compact().unwrap();
    let mut journal = Journal::open(&folder).unwrap();
    assert_eq!(journal.memory().queues.values().collect::<Vec<_>>(), [&record]);
    let done = serde_json::from_str(r#"{"Queue":{"service":"a"}}"#).unwrap();
    journal.record(done).unwrap();
    assert!(Journal::open(&folder).unwrap().memory().queues.is_empty());
    assert_eq!(journal.weights.sum, 0);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_change_and_what_it_sets_off_are_remembered_together_or_not_at_all() {
    let folder = folder("together");
    let mut journal = Journal::open(&folder).unwrap();
    let text = r#"{"Together":[{"Queue":{"service":"a","jobs":[{"work":"reload","event":"e","due":6}],"process":{"pid":7,"started":8}}},{"Taken":{"package":"p","digest":"","number":1}}]}"#;
    let record: Record = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&record).unwrap(), text);
    journal.record(record.clone()).unwrap();
    let whole = fs::read(folder.join("journal")).unwrap();
    for cut in 0..=whole.len() {
        fs::write(folder.join("journal"), &whole[..cut]).unwrap();
        let journal = Journal::open(&folder).unwrap();
        let memory = journal.memory();
        let there = usize::from(cut == whole.len());
        assert_eq!((memory.queues.len(), memory.taken.len()), (there, there), "cut at {cut}");
    }
    journal.compact().unwrap();
    let mut journal = Journal::open(&folder).unwrap();
    let memory = journal.memory();
    let records = memory.queues.values().chain(memory.taken.values()).cloned().collect();
    assert_eq!(Record::Together(records), record);
    let done = r#"{"Together":[{"Queue":{"service":"a"}},{"Taken":{"package":"p"}}]}"#;
    journal.record(serde_json::from_str(done).unwrap()).unwrap();
    assert!(Journal::open(&folder).unwrap().memory().taken.is_empty());
    assert_eq!(journal.weights.sum, 0);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_too_much_for_one_entry_is_remembered_part_by_part() {
    let folder = folder("parts");
    let mut journal = Journal::open(&folder).unwrap();
    let queue = |service: &str| {
        let work = serde_json::json!({ "run": ["x".repeat(ENTRY_MAX / 2)] });
        let jobs = serde_json::json!([{ "work": work, "event": "e", "due": 6 }]);
        let queue = serde_json::json!({ "service": service, "jobs": jobs });
        serde_json::from_value(serde_json::json!({ "Queue": queue })).unwrap()
    };
    journal.record(Record::Together(vec![queue("a"), queue("b")])).unwrap();
    assert_eq!(Journal::open(&folder).unwrap().memory().queues.len(), 2);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_journal_cut_at_any_byte_opens_and_takes_new_entries() {
    let folder = folder("cut");
    let mut journal = Journal::open(&folder).unwrap();
    for text in ["one", "two"] {
        let (name, message) = message(text);
        journal.message(name, message).unwrap();
    }
    drop(journal);
    let whole = fs::read(folder.join("journal")).unwrap();
    for cut in 0..whole.len() {
        fs::write(folder.join("journal"), &whole[..cut]).unwrap();
        let mut journal = Journal::open(&folder).unwrap();
        let (name, after) = message("after");
        journal.message(name, after.clone()).unwrap();
        drop(journal);
        let journal = Journal::open(&folder).unwrap();
        assert_eq!(journal.memory().messages.values().next(), Some(&after), "cut at {cut}");
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_entry_that_could_not_be_read_again_is_refused_and_costs_nothing_else() {
    let folder = folder("long");
    let mut journal = Journal::open(&folder).unwrap();
    let (name, kept) = message("kept");
    journal.message(name.clone(), kept.clone()).unwrap();
    let (_, long) = message(&"x".repeat(ENTRY_MAX));
    assert!(journal.message(name.clone(), long).unwrap_err().to_string().contains("too long"));
    let later = Name::new("later").unwrap();
    journal.message(later.clone(), kept.clone()).unwrap();
    let reopened = Journal::open(&folder).unwrap();
    for memory in [journal.memory(), reopened.memory()] {
        assert_eq!(memory.messages.get(&name), Some(&kept));
        assert_eq!(memory.messages.get(&later), Some(&kept));
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_could_not_be_written_is_not_remembered_by_a_later_file() {
    let folder = folder("full");
    let mut journal = Journal::open(&folder).unwrap();
    let (name, kept) = message("kept");
    journal.message(name.clone(), kept.clone()).unwrap();
    // Every write fails, as on a full disk.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let file = std::mem::replace(&mut journal.file, full);
    journal.message(name.clone(), message("refused").1).unwrap_err();
    journal.file = file;
    journal.message(Name::new("later").unwrap(), kept.clone()).unwrap();
    let reopened = Journal::open(&folder).unwrap();
    assert_eq!(reopened.memory().messages.get(&name), Some(&kept));
    assert_eq!(reopened.memory().messages.len(), 2);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_message_that_was_refused_later_gives_way_to_the_one_before_it() {
    let folder = folder("back");
    let mut journal = Journal::open(&folder).unwrap();
    let (name, old) = message("old");
    let refused = message("refused").1;
    journal.message(name.clone(), refused.clone()).unwrap();
    journal.take_back(name.clone(), &refused, Some(old.clone())).unwrap();
    assert_eq!(journal.memory().messages.get(&name), Some(&old));
    journal.take_back(name.clone(), &refused, None).unwrap();
    assert_eq!(journal.memory().messages.get(&name), Some(&old));
    journal.take_back(name.clone(), &old, None).unwrap();
    assert!(Journal::open(&folder).unwrap().memory().messages.is_empty());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_journal_stays_small_however_often_one_thing_changes() {
    let folder = folder("compact");
    let mut journal = Journal::open(&folder).unwrap();
    let long = "x".repeat(1000);
    for _ in 0..2000 {
        let (name, message) = message(&long);
        journal.message(name, message).unwrap();
    }
    assert!(fs::metadata(folder.join("journal")).unwrap().len() < 2 * COMPACT_ABOVE);
    let reopened = Journal::open(&folder).unwrap();
    assert_eq!(reopened.memory().messages.len(), 1);
    fs::remove_dir_all(folder).unwrap();
}
