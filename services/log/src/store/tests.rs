use std::{fs, sync::Arc};

use proptest::prelude::*;
use protocol::{
    log::{Record, Select, Source, TEXT_MAX},
    time::Moment,
};

use super::{
    Place, SEGMENTS, SIZE_MIN, Shared,
    reader::{Filter, Reader},
    record::{self, Entry, HEAD},
    segment, segment_path,
    writer::Writer,
};
use crate::machine::Now;

const BOOT: u32 = 0xb001;

/// A store in a folder of its own, on a clock of its own.
struct Bench {
    folder: tempfile::TempDir,
    place: Place,
    seconds: u64,
}

impl Bench {
    fn new(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder: folder.path().join("log"), size, on_disk: false };
        Self { folder, place, seconds: 100 }
    }

    fn now(&self) -> Now {
        let monotonic = Moment(self.seconds * 1_000_000_000);
        Now { monotonic, realtime_us: self.seconds * 1_000_000 }
    }

    fn open(&self) -> (Writer, Arc<Shared>) {
        self.open_after(BOOT)
    }

    fn open_after(&self, boot: u32) -> (Writer, Arc<Shared>) {
        let shared = Arc::new(Shared::default());
        (Writer::open(self.place.clone(), boot, Arc::clone(&shared), self.now()), shared)
    }

    fn entry(&self, text: &str) -> Entry {
        let blank = self.now().entry(Source::Stdout, 6);
        Entry { text: text.to_owned(), service: Some("web".into()), ..blank }
    }

    fn append(&self, writer: &mut Writer, texts: &[&str]) {
        let entries: Vec<Entry> = texts.iter().map(|text| self.entry(text)).collect();
        writer.append(&entries, None, self.now());
    }

    fn reader(&self, shared: &Arc<Shared>, select: Select) -> Reader {
        let filter = Filter::new(select).unwrap();
        Reader::new(Arc::clone(shared), self.place.folder.clone(), filter)
    }

    fn read(&self, shared: &Arc<Shared>, select: Select) -> Vec<Record> {
        rest(&mut self.reader(shared, select)).0
    }

    fn texts(&self, shared: &Arc<Shared>) -> Vec<String> {
        texts(&self.read(shared, Select::default()))
    }

    fn files(&self) -> Vec<u64> {
        let files = fs::read_dir(&self.place.folder).unwrap();
        let mut lengths: Vec<u64> =
            files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
        lengths.sort_unstable();
        lengths
    }
}

/// Everything up to the end, and how much was missed.
fn rest(reader: &mut Reader) -> (Vec<Record>, u64) {
    let (mut lines, mut missed) = (Vec::new(), 0);
    loop {
        let step = reader.step();
        missed += step.missed;
        let records = step.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.extend(records.map(|line| serde_json::from_slice::<Record>(line).unwrap()));
        if step.at_end {
            return (lines, missed);
        }
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.text.clone()).collect()
}

#[test]
fn what_was_stored_is_read_with_numbers_that_go_up_by_one() {
    let bench = Bench::new(SIZE_MIN);
    let (mut writer, shared) = bench.open();
    bench.append(&mut writer, &["one", "two"]);
    bench.append(&mut writer, &["three"]);
    let records = bench.read(&shared, Select::default());
    assert_eq!(texts(&records), ["one", "two", "three"]);
    assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((&*records[0].boot, records[0].service.as_deref()), ("0000b001", Some("web")));
}

#[test]
fn a_restart_goes_on_behind_the_last_number() {
    let bench = Bench::new(SIZE_MIN);
    bench.append(&mut bench.open().0, &["one"]);
    let (mut writer, shared) = bench.open();
    bench.append(&mut writer, &["two"]);
    let records = bench.read(&shared, Select::default());
    assert_eq!(
        records.iter().map(|it| (it.sequence, &*it.text)).collect::<Vec<_>>(),
        [(1, "one"), (2, "two")]
    );
    assert_eq!(bench.files().len(), 1);
}

#[test]
fn a_segment_torn_at_any_byte_keeps_everything_before() {
    let bench = Bench::new(SIZE_MIN);
    bench.append(&mut bench.open().0, &["one", "two", "three"]);
    let path = segment_path(&bench.place.folder, 1);
    let whole = fs::read(&path).unwrap();
    let ends: Vec<usize> = (0..3)
        .scan(HEAD, |at, _| {
            *at += record::decode(&whole[*at..]).unwrap().1;
            Some(*at)
        })
        .collect();
    assert_eq!(ends[2], whole.len());
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let (mut writer, shared) = bench.open();
        bench.append(&mut writer, &["new"]);
        let kept = ends.iter().filter(|end| **end <= length).count();
        let mut expected = ["one", "two", "three"][..kept].to_vec();
        expected.push("new");
        assert_eq!(bench.texts(&shared), expected, "cut at {length}");
        let records = bench.read(&shared, Select::default());
        assert!(records.is_sorted_by(|a, b| a.sequence + 1 == b.sequence), "cut at {length}");
        let torn = length >= HEAD && !ends.contains(&length) && length != HEAD;
        let is_told = shared.problems().iter().any(|problem| problem.contains("torn"));
        assert_eq!(is_told, torn, "cut at {length}: {:?}", shared.problems());
        fs::remove_dir_all(&bench.place.folder).unwrap();
        fs::create_dir(&bench.place.folder).unwrap();
    }
}

#[test]
fn a_full_store_gives_up_its_oldest_records_and_never_grows_beyond_its_size() {
    let bench = Bench::new(SIZE_MIN);
    let (mut writer, shared) = bench.open();
    let long = "x".repeat(TEXT_MAX);
    for turn in 0..200 {
        bench.append(&mut writer, &[&long, "short"]);
        let total: u64 = bench.files().iter().sum();
        assert!(total <= SIZE_MIN, "{total} bytes after {turn}");
        assert!(bench.files().iter().all(|length| *length <= SIZE_MIN / SEGMENTS));
        assert_eq!(shared.index().bytes(), total);
    }
    let records = bench.read(&shared, Select::default());
    assert_eq!(records.last().unwrap().sequence, 400);
    assert!(records.is_sorted_by(|a, b| a.sequence + 1 == b.sequence));
    let kept: usize = records.iter().map(|record| record.text.len()).sum();
    assert!(kept as u64 > SIZE_MIN / 2, "{kept} bytes of text");
}

#[test]
fn a_reader_that_is_too_slow_goes_on_at_the_oldest_and_knows_how_many_it_missed() {
    let bench = Bench::new(SIZE_MIN);
    let (mut writer, shared) = bench.open();
    let mut reader = bench.reader(&shared, Select::default());
    bench.append(&mut writer, &["first"]);
    let step = reader.step();
    assert!(String::from_utf8(step.lines).unwrap().contains("first"));
    let long = "x".repeat(TEXT_MAX);
    (0..100).for_each(|_| bench.append(&mut writer, &[&long]));
    let (records, missed) = rest(&mut reader);
    assert!(missed > 0);
    assert_eq!(1 + missed + records.len() as u64, 101);
    assert_eq!(records[0].sequence, shared.index().first_sequence());
}

#[test]
fn a_reader_takes_up_what_is_written_after_its_end() {
    let bench = Bench::new(SIZE_MIN);
    let (mut writer, shared) = bench.open();
    let mut reader = bench.reader(&shared, Select { lines: Some(0), ..Select::default() });
    assert_eq!(texts(&rest(&mut reader).0), [""; 0]);
    bench.append(&mut writer, &["a"]);
    assert_eq!(texts(&rest(&mut reader).0), ["a"]);
    (0..40).for_each(|_| bench.append(&mut writer, &[&"x".repeat(4000)]));
    assert_eq!(rest(&mut reader).0.len(), 40);
    assert!(reader.step().at_end);
}

#[test]
fn every_choice_of_a_select_is_obeyed() {
    let mut bench = Bench::new(SIZE_MIN);
    let (mut writer, shared) = bench.open();
    for text in ["zero", "one", "two", "three", "four"] {
        let mut entry = bench.entry(text);
        entry.priority = if text.contains('o') { 3 } else { 6 };
        entry.service = Some(if text.contains('f') { "cam" } else { "web" }.into());
        writer.append(&[entry], None, bench.now());
        bench.seconds += 1;
    }
    let read = |select| texts(&bench.read(&shared, select));
    let all = Select::default;
    assert_eq!(read(Select { lines: Some(2), ..all() }), ["three", "four"]);
    assert_eq!(read(Select { lines: Some(0), ..all() }), [""; 0]);
    assert_eq!(read(Select { lines: Some(9), ..all() }).len(), 5);
    assert_eq!(read(Select { since_us: Some(103_000_000), ..all() }), ["three", "four"]);
    assert_eq!(read(Select { until_us: Some(102_000_000), ..all() }), ["zero", "one"]);
    assert_eq!(read(Select { since_us: Some(999_000_000), ..all() }), [""; 0]);
    assert_eq!(read(Select { after: Some(3), ..all() }), ["three", "four"]);
    assert_eq!(read(Select { after: Some(u64::MAX), ..all() }), [""; 0]);
    assert_eq!(read(Select { priority: Some(3), ..all() }), ["zero", "one", "two", "four"]);
    assert_eq!(read(Select { grep: Some("^t.*e$".to_owned()), ..all() }), ["three"]);
    assert_eq!(read(Select { services: vec!["cam".to_owned()], ..all() }), ["four"]);
    assert_eq!(read(Select { instance: Some("x".to_owned()), ..all() }), [""; 0]);
    assert_eq!(read(Select { source: Some(Source::Stdout), ..all() }).len(), 5);
    let newest_of_web = Select { services: vec!["web".to_owned()], lines: Some(1), ..all() };
    assert_eq!(read(newest_of_web), ["three"]);
}

#[test]
fn a_select_that_makes_no_sense_is_refused_with_its_argument() {
    for (select, word) in [
        (Select { grep: Some("(".to_owned()), ..Select::default() }, "grep"),
        (Select { grep: Some("x".repeat(2000)), ..Select::default() }, "1024"),
        (Select { grep: Some("(a{500}){500}".to_owned()), ..Select::default() }, "size"),
        (Select { priority: Some(8), ..Select::default() }, "priority"),
        (Select { services: vec![String::new(); 300], ..Select::default() }, "256"),
    ] {
        let told = Filter::new(select).unwrap_err();
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn a_store_that_cannot_be_written_costs_records_and_says_how_many() {
    let mut bench = Bench::new(SIZE_MIN);
    fs::write(&bench.place.folder, "a file where the folder should be").unwrap();
    let (mut writer, shared) = bench.open();
    bench.append(&mut writer, &["lost", "lost"]);
    bench.seconds += 5;
    bench.append(&mut writer, &["lost"]);
    assert!(shared.problems()[0].contains("can't be written"), "{:?}", shared.problems());
    fs::remove_file(&bench.place.folder).unwrap();
    // Not at once: a broken disk is not asked a thousand times a second.
    bench.append(&mut writer, &["lost"]);
    assert!(bench.place.folder.metadata().is_err());
    bench.seconds += 5;
    bench.append(&mut writer, &["kept"]);
    let records = bench.read(&shared, Select::default());
    let [note, kept] = &records[..] else { panic!("{records:?}") };
    assert_eq!((note.dropped, note.service.as_deref(), note.source), (4, Some("web"), Source::Log));
    assert_eq!((&*kept.text, kept.sequence), ("kept", 2));
    assert_eq!(shared.problems(), ["4 records could not be stored since the start"]);
}

#[test]
fn a_store_that_can_be_read_only_later_does_not_begin_again_at_one() {
    let mut bench = Bench::new(SIZE_MIN);
    bench.append(&mut bench.open().0, &["old"]);
    let aside = bench.folder.path().join("aside");
    fs::rename(&bench.place.folder, &aside).unwrap();
    fs::write(&bench.place.folder, "").unwrap();
    let (mut writer, shared) = bench.open();
    fs::remove_file(&bench.place.folder).unwrap();
    fs::rename(&aside, &bench.place.folder).unwrap();
    bench.seconds += 5;
    bench.append(&mut writer, &["new"]);
    assert_eq!(bench.texts(&shared), ["old", "new"]);
}

#[test]
fn after_a_loss_of_power_no_number_is_given_twice_and_it_is_told() {
    let bench = Bench::new(SIZE_MIN);
    bench.append(&mut bench.open().0, &["one"]);
    let (_, shared) = bench.open_after(BOOT + 1);
    let records = bench.read(&shared, Select::default());
    assert_eq!(records[0].text, "one");
    assert!(records[1].text.contains("without warning"), "{}", records[1].text);
    assert_eq!(records[1].sequence, 2 + (1 << 16));
    assert_ne!(records[0].boot, records[1].boot);
}

#[test]
fn after_an_orderly_end_another_boot_goes_on_without_a_gap() {
    let bench = Bench::new(SIZE_MIN);
    let (mut writer, _) = bench.open();
    bench.append(&mut writer, &["one"]);
    writer.close(bench.now().monotonic);
    let (mut writer, shared) = bench.open_after(BOOT + 1);
    bench.append(&mut writer, &["two"]);
    let records = bench.read(&shared, Select::default());
    assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn the_kernels_position_survives_restarts_and_rotation_but_no_reboot() {
    let bench = Bench::new(SIZE_MIN);
    let (mut writer, _) = bench.open();
    assert_eq!(writer.position(), None);
    writer.append(&[bench.entry("a")], Some(77), bench.now());
    let (mut writer, _) = bench.open();
    assert_eq!(writer.position(), Some(77));
    (0..100).for_each(|_| bench.append(&mut writer, &[&"x".repeat(TEXT_MAX)]));
    assert_eq!(bench.open().0.position(), Some(77));
    assert_eq!(bench.open_after(BOOT + 1).0.position(), None);
}

#[test]
fn files_that_are_none_of_ours_are_left_alone() {
    let bench = Bench::new(SIZE_MIN);
    fs::create_dir(&bench.place.folder).unwrap();
    let strange =
        ["notes.txt", "000000000000000A.log", "0000000000000009.log", "+000000000000009.log"];
    strange.iter().for_each(|name| fs::write(bench.place.folder.join(name), "not ours").unwrap());
    let (mut writer, shared) = bench.open();
    bench.append(&mut writer, &["one"]);
    assert_eq!(bench.texts(&shared), ["one"]);
    assert!(shared.problems()[0].contains("0000000000000009.log is no segment"));
    assert!(strange.iter().all(|name| bench.place.folder.join(name).exists()));
}

#[test]
fn what_is_urgent_is_on_the_disk_at_once_and_the_rest_after_a_while() {
    let mut bench = Bench::new(SIZE_MIN);
    bench.place.on_disk = true;
    let (mut writer, _) = bench.open();
    bench.append(&mut writer, &["later"]);
    let due = bench.now().monotonic + super::writer::SYNC_EVERY;
    assert_eq!(writer.sync_due(), Some(due));
    writer.sync_or_tell(due);
    assert_eq!(writer.sync_due(), None);
    let urgent = Entry { priority: 3, ..bench.entry("now") };
    writer.append(&[urgent], None, bench.now());
    assert_eq!(writer.sync_due(), None);
}

proptest! {
    #[test]
    fn a_segment_with_any_damage_is_read_up_to_it(
        texts in prop::collection::vec("[a-z]{0,30}", 1..8),
        at: prop::sample::Index,
        bit in 0..8_u8,
    ) {
        let bench = Bench::new(SIZE_MIN);
        let mut bytes = record::encode_head(5, BOOT).to_vec();
        let mut ends = vec![HEAD];
        for (text, sequence) in texts.iter().zip(5..) {
            record::encode(&mut bytes, sequence, &bench.entry(text));
            ends.push(bytes.len());
        }
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        match segment::walk(&bytes, 5) {
            None => prop_assert!(at < HEAD),
            Some(found) => {
                let good = ends.iter().rposition(|end| *end <= at).unwrap();
                prop_assert_eq!(found.segment.next, 5 + good as u64);
                prop_assert_eq!(found.segment.end, ends[good] as u64);
            }
        }
    }
}
