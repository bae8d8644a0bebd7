//! Scenarios on a clock, with files and a supervisor that the test owns. The watcher can be killed before any of its
//! actions is carried out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use protocol::{
    config::{Change, Mode, Reloaded, State, Status, Unreadable},
    failure::{Code, Failure},
    time::Moment,
};
use uci::canonical::Format;

use super::*;
use crate::settings::{Settings, Source};

/// What a file says, and how it is written; `None`: it can't be read.
type Text = Option<(u8, u8)>;

const HELLO: &str = "/c/hello";
const WORLD: &str = "/c/world";

struct Bench {
    now: Moment,
    settings: Arc<Settings>,
    watcher: Watcher,
    files: BTreeMap<FilePath, Text>,
    /// The folder is there.
    folder: bool,
    record: Option<Record>,
    /// Contents that were ever kept, by their digest.
    contents: BTreeMap<Digest, (u8, u8)>,
    supervisor: Supervisor,
    published: Vec<Change>,
    errors: Vec<Unreadable>,
    answers: VecDeque<(u64, Answer)>,
    ready: bool,
}

/// Takes changes as the real one does: one it has taken already sets off nothing.
#[derive(Default)]
struct Supervisor {
    away: bool,
    /// It takes changes, and nobody hears of it.
    mute: bool,
    last: BTreeMap<String, String>,
    taken: Vec<(String, String)>,
}

impl Supervisor {
    fn take(&mut self, change: &Change) -> Result<(), NotTaken> {
        assert!(!change.more, "names were left out of what is announced: {change:?}");
        if self.away {
            return Err(NotTaken { why: "cannot reach it".to_owned(), perhaps: false });
        }
        let before = self.last.insert(change.package.clone(), change.digest.clone());
        if before.as_ref() != Some(&change.digest) {
            self.taken.push((change.package.clone(), change.digest.clone()));
        }
        if self.mute {
            return Err(NotTaken { why: "it did not answer".to_owned(), perhaps: true });
        }
        Ok(())
    }
}

fn digest_of(says: u8) -> Digest {
    [says; 32]
}

fn announced(text: (u8, u8)) -> Announced {
    let mut content = [text.0; 32];
    content[0] = text.1;
    Announced { digest: digest_of(text.0), content: Some(content), md5: None }
}

impl Bench {
    /// A watcher that has compared everything once.
    fn new(mode: Mode, files: &[(&str, u8)]) -> Self {
        let source = Source { path: FilePath::from("/c"), format: Format::Uci };
        let settings = Settings { mode, sources: vec![source], ..Settings::default() };
        let settings = Arc::new(settings);
        let now = Moment(1_000_000_000_000);
        let files = files.iter().map(|(path, says)| (FilePath::from(*path), Some((*says, 0))));
        let mut bench = Self {
            now,
            watcher: Watcher::new(Arc::clone(&settings), None, now),
            settings,
            files: files.collect(),
            folder: true,
            record: None,
            contents: BTreeMap::new(),
            supervisor: Supervisor::default(),
            published: Vec::new(),
            errors: Vec::new(),
            answers: VecDeque::new(),
            ready: false,
        };
        bench.run();
        bench
    }

    /// Carries out everything that is to be done now.
    fn run(&mut self) {
        while self.step() {}
    }

    /// Carries out one action.
    fn step(&mut self) -> bool {
        let Some(action) = self.watcher.poll_action() else { return false };
        let event = match action {
            Action::Look(look, _) => Some(Event::Looked(self.look(look))),
            Action::Save(record) => {
                self.record = Some(record);
                Some(Event::Saved(Ok(())))
            }
            Action::Announce(changes) => {
                let take = |(path, change): (FilePath, Change)| {
                    let outcome = self.supervisor.take(&change);
                    (path, outcome)
                };
                Some(Event::Taken(changes.into_iter().map(take).collect()))
            }
            Action::Restore(contents) => {
                let restored = contents.into_iter().map(|(path, content)| {
                    match content.map(|content| self.contents.get(&content).copied()) {
                        None => drop(self.files.remove(&path)),
                        Some(Some(text)) => drop(self.files.insert(path.clone(), Some(text))),
                        Some(None) => return (path, Err("is not kept".to_owned())),
                    }
                    (path, Ok(()))
                });
                Some(Event::Restored(restored.collect()))
            }
            Action::Publish(change) => {
                self.published.push(change);
                None
            }
            Action::PublishError(error) => {
                self.errors.push(error);
                None
            }
            Action::Answer(id, answer) => {
                self.answers.push_back((id, answer));
                None
            }
            Action::Ready => {
                self.ready = true;
                None
            }
        };
        if let Some(event) = event {
            self.watcher.handle_event(event, self.now);
        }
        true
    }

    fn look(&mut self, look: Look) -> Looked {
        let mut known: BTreeMap<FilePath, Known> =
            look.files.into_iter().map(|known| (known.path.clone(), known)).collect();
        let mut looked = Looked { everything: look.everything, ..Looked::default() };
        if !self.folder {
            looked.away = vec![0];
            looked.problems = vec!["/c is not there".to_owned()];
            return looked;
        }
        if look.everything {
            for path in self.files.keys() {
                let path = path.clone();
                known.entry(path.clone()).or_insert(Known { path, source: 0, announced: None });
            }
        }
        for Known { path, source, announced } in known.into_values() {
            let first = announced.is_none();
            let mut found = self.find(&path, announced);
            if let Found::Other(_, change) = &mut found {
                change.more = first && look.silent.contains(&source);
            }
            looked.readings.push(Reading { path, source, found });
        }
        looked
    }

    fn find(&mut self, path: &FilePath, known: Option<Announced>) -> Found {
        let name = package(path).to_owned();
        let change = |digest| Change { package: name.clone(), digest, ..Change::default() };
        match self.files.get(path) {
            None if known.is_some() => Found::Other(None, change(String::new())),
            None => Found::Nothing,
            Some(None) => Found::Failed(Unreadable {
                package: name,
                file: path.to_string(),
                line: Some(3),
                text: "it makes no sense".to_owned(),
            }),
            Some(Some(text)) => {
                let now = announced(*text);
                self.contents.extend(now.content.map(|content| (content, *text)));
                match known {
                    Some(known) if known.digest == now.digest => Found::Same(now),
                    _ => {
                        let change = change(digits(&now.digest));
                        Found::Other(Some(now), change)
                    }
                }
            }
        }
    }

    fn write(&mut self, path: &str, says: u8) {
        self.put(path, Some((says, 0)));
    }

    fn put(&mut self, path: &str, text: Text) {
        self.files.insert(FilePath::from(path), text);
        self.touch(path);
    }

    fn remove(&mut self, path: &str) {
        self.files.remove(path);
        self.touch(path);
    }

    fn touch(&mut self, path: &str) {
        self.watcher.handle_event(Event::Touched(FilePath::from(path)), self.now);
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        self.run();
        while let Some(deadline) = self.watcher.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(deadline);
            self.watcher.handle_timeout(self.now);
            self.run();
        }
        self.now = until;
    }

    fn settle(&mut self) {
        self.advance(Duration::from_millis(500));
    }

    fn ask(&mut self, ask: Ask) -> Answer {
        self.watcher.handle_event(Event::Asked(1, ask), self.now);
        self.run();
        self.answers.pop_front().expect("an answer").1
    }

    fn reload(&mut self) -> Reloaded {
        match self.ask(Ask::Reload(None)) {
            Answer::Reloaded(reloaded) => reloaded,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, ask: Ask) -> Failure {
        match self.ask(ask) {
            Answer::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    fn status(&mut self) -> Status {
        match self.ask(Ask::Status) {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self, path: &str) -> State {
        self.status().packages.iter().find(|it| it.file == path).expect("it is watched").state
    }

    /// kill -9, and the next one.
    fn kill(&mut self) {
        let settings = Arc::clone(&self.settings);
        self.watcher = Watcher::new(settings, self.record.clone(), self.now);
    }

    fn taken(&self) -> Vec<(&str, u8)> {
        let says = |digest: &str| u8::from_str_radix(digest.get(..2).unwrap_or("00"), 16).unwrap();
        self.supervisor.taken.iter().map(|(name, digest)| (&**name, says(digest))).collect()
    }

    fn says(&self, path: &str) -> Option<u8> {
        self.files.get(path).and_then(|text| text.map(|text| text.0))
    }
}

#[test]
fn what_is_there_at_the_first_start_is_announced_to_nobody() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1), (WORLD, 2)]);
    bench.settle();
    assert!(bench.ready && bench.taken().is_empty());
    assert_eq!(bench.record.as_ref().unwrap().files.len(), 2);
    assert_eq!(bench.state(HELLO), State::Current);
}

#[test]
fn another_comment_changes_nothing_and_another_value_is_announced_once() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1), (WORLD, 2)]);
    bench.put(HELLO, Some((1, 9)));
    bench.settle();
    assert!(bench.taken().is_empty());
    bench.write(HELLO, 3);
    bench.settle();
    assert_eq!(bench.taken(), [("hello", 3)]);
    assert_eq!(bench.published.len(), 1);
    assert_eq!(bench.record.as_ref().unwrap().files[HELLO].digest, digest_of(3));
}

#[test]
fn a_change_is_looked_at_after_the_quiet_time_and_a_burst_is_one() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    for says in 2..=40 {
        bench.write(HELLO, says);
        bench.advance(Duration::from_millis(10));
        assert!(bench.taken().is_empty());
    }
    bench.advance(Duration::from_millis(39));
    assert!(bench.taken().is_empty());
    bench.advance(Duration::from_millis(1));
    assert_eq!(bench.taken(), [("hello", 40)]);
}

#[test]
fn there_and_back_within_the_quiet_time_is_no_change() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    bench.write(HELLO, 2);
    bench.write(HELLO, 1);
    bench.remove(WORLD);
    bench.settle();
    assert!(bench.taken().is_empty());
}

#[test]
fn a_new_file_and_one_that_is_gone_are_changes() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    bench.write(WORLD, 2);
    bench.settle();
    bench.remove(HELLO);
    bench.settle();
    assert_eq!(bench.taken(), [("world", 2), ("hello", 0)]);
    assert_eq!(bench.published[1].digest, "");
    assert_eq!(bench.status().packages.len(), 1);
}

#[test]
fn new_files_are_left_alone_where_that_is_wanted() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    let settings = Settings { new_files: false, ..(*bench.settings).clone() };
    bench.watcher.handle_event(Event::Settings(Arc::new(settings)), bench.now);
    bench.write(WORLD, 2);
    bench.settle();
    assert!(bench.taken().is_empty());
    bench.write(WORLD, 3);
    bench.settle();
    assert_eq!(bench.taken(), [("world", 3)]);
}

#[test]
fn an_unreadable_file_is_told_once_and_its_repair_to_what_it_was_raises_nothing() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    bench.put(HELLO, None);
    bench.settle();
    bench.put(HELLO, None);
    bench.settle();
    assert_eq!(bench.errors.len(), 1);
    assert_eq!(bench.state(HELLO), State::Error);
    assert_eq!(bench.status().packages[0].digest, digits(&digest_of(1)), "it stays in force");
    bench.put(HELLO, Some((1, 5)));
    bench.settle();
    assert!(bench.taken().is_empty());
    assert_eq!(bench.state(HELLO), State::Current);
}

#[test]
fn a_folder_that_goes_and_comes_is_no_change_and_what_changed_meanwhile_is() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1), (WORLD, 2)]);
    bench.folder = false;
    bench.watcher.handle_event(Event::Lost, bench.now);
    bench.settle();
    assert!(bench.taken().is_empty());
    assert_eq!(bench.status().problems, ["/c is not there"]);
    bench.kill();
    bench.settle();
    bench.files.insert(FilePath::from(WORLD), Some((3, 0)));
    bench.folder = true;
    bench.watcher.handle_event(Event::Lost, bench.now);
    bench.settle();
    assert_eq!(bench.taken(), [("world", 3)]);
    assert!(bench.status().problems.is_empty());
}

#[test]
fn a_change_that_the_supervisor_does_not_take_is_announced_until_it_does() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    bench.supervisor.away = true;
    bench.write(HELLO, 2);
    bench.advance(Duration::from_secs(100));
    assert!(bench.taken().is_empty() && bench.published.is_empty());
    assert_eq!(bench.state(HELLO), State::Changed);
    assert!(bench.status().problems[0].contains("cannot reach it"));
    bench.supervisor.away = false;
    bench.advance(RETRY_MAX);
    assert_eq!(bench.taken(), [("hello", 2)]);
    assert!(bench.status().problems.is_empty());
    assert_eq!(bench.watcher.next_deadline(), None, "nothing is left to wake up for");
}

#[test]
fn a_change_that_is_taken_back_before_the_supervisor_comes_is_none() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    bench.supervisor.away = true;
    bench.write(HELLO, 2);
    bench.settle();
    bench.write(HELLO, 1);
    bench.settle();
    bench.supervisor.away = false;
    bench.advance(RETRY_MAX);
    assert!(bench.taken().is_empty());
}

#[test]
fn a_change_whose_answer_was_lost_is_announced_again_even_when_it_was_taken_back() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    bench.supervisor.mute = true;
    bench.write(HELLO, 2);
    bench.settle();
    bench.write(HELLO, 1);
    bench.settle();
    assert_eq!(bench.taken(), [("hello", 2)]);
    bench.supervisor.mute = false;
    bench.kill();
    bench.advance(RETRY_MAX);
    assert_eq!(bench.taken(), [("hello", 2), ("hello", 1)]);
    assert_eq!(bench.state(HELLO), State::Current);
}

#[test]
fn in_manual_mode_only_a_reload_announces() {
    let mut bench = Bench::new(Mode::Manual, &[(HELLO, 1), (WORLD, 2)]);
    bench.files.insert(FilePath::from(HELLO), Some((3, 0)));
    bench.advance(Duration::from_secs(100));
    assert!(bench.taken().is_empty());
    assert_eq!(bench.state(HELLO), State::Changed);
    let Answer::Differences(changes) = bench.ask(Ask::Diff(None)) else { panic!() };
    assert_eq!(changes.len(), 1);
    assert!(bench.taken().is_empty());
    let reloaded = bench.reload();
    assert_eq!((reloaded.announced.len(), reloaded.unchanged), (1, 1));
    assert_eq!(bench.taken(), [("hello", 3)]);
    assert_eq!(bench.reload().announced.len(), 0);
}

#[test]
fn a_reload_of_one_package_leaves_the_others() {
    let mut bench = Bench::new(Mode::Manual, &[(HELLO, 1), (WORLD, 2)]);
    bench.files = [(FilePath::from(HELLO), Some((3, 0))), (FilePath::from(WORLD), None)].into();
    let Answer::Reloaded(reloaded) = bench.ask(Ask::Reload(Some("world".to_owned()))) else {
        panic!()
    };
    assert_eq!((reloaded.errors.len(), reloaded.announced.len()), (1, 0));
    assert!(bench.taken().is_empty());
    let failure = bench.refused(Ask::Reload(Some("helo".to_owned())));
    assert_eq!(failure.code, Code::NotFound);
    assert!(failure.text.contains("did you mean \"hello\"?"), "{}", failure.text);
}

#[test]
fn a_reload_that_the_supervisor_does_not_take_says_so_and_is_made_up_for() {
    let mut bench = Bench::new(Mode::Manual, &[(HELLO, 1)]);
    bench.files.insert(FilePath::from(HELLO), Some((3, 0)));
    bench.supervisor.away = true;
    let failure = bench.refused(Ask::Reload(None));
    assert!(failure.text.contains("hello was not taken: cannot reach it"), "{}", failure.text);
    bench.supervisor.away = false;
    bench.advance(RETRY_MAX);
    assert_eq!(bench.taken(), [("hello", 3)]);
}

#[test]
fn what_is_applied_and_not_confirmed_is_undone_and_announced() {
    let mut bench = Bench::new(Mode::Manual, &[(HELLO, 1), (WORLD, 2)]);
    bench.files.insert(FilePath::from(HELLO), Some((3, 0)));
    bench.files.insert(FilePath::from("/c/new"), Some((7, 0)));
    bench.files.remove(WORLD);
    let answer = bench.ask(Ask::Apply(Duration::from_secs(60)));
    assert!(matches!(&answer, Answer::Reloaded(it) if it.announced.len() == 3), "{answer:?}");
    let applying = bench.status().apply.unwrap();
    assert_eq!((applying.packages.len(), applying.left_ms), (3, 60_000));
    assert_eq!(bench.refused(Ask::Apply(Duration::from_secs(1))).code, Code::Busy);
    bench.advance(Duration::from_secs(30));
    // The way back is known to the next one as well.
    bench.kill();
    bench.advance(Duration::from_secs(29));
    assert_eq!(bench.says(HELLO), Some(3));
    bench.advance(Duration::from_secs(1));
    assert_eq!((bench.says(HELLO), bench.says(WORLD)), (Some(1), Some(2)));
    assert_eq!(bench.says("/c/new"), None);
    let taken = bench.taken();
    assert_eq!(taken[3..], [("hello", 1), ("new", 0), ("world", 2)], "{taken:?}");
    assert_eq!(bench.status().apply, None);
    assert_eq!(bench.record.as_ref().unwrap().trial, None);
    assert_eq!(bench.refused(Ask::Confirm).code, Code::Gone);
}

#[test]
fn what_is_confirmed_in_time_stays() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    bench.ask(Ask::Apply(Duration::from_secs(60)));
    bench.write(HELLO, 3);
    bench.settle();
    assert_eq!(bench.status().apply.unwrap().packages, ["hello"]);
    assert!(matches!(bench.ask(Ask::Confirm), Answer::Done));
    assert_eq!(bench.record.as_ref().unwrap().trial, None);
    bench.advance(Duration::from_secs(100));
    assert_eq!((bench.says(HELLO), bench.taken()), (Some(3), vec![("hello", 3)]));
    for within in [Duration::ZERO, Duration::from_secs(3601)] {
        assert_eq!(bench.refused(Ask::Apply(within)).code, Code::InvalidArgument);
    }
}

#[test]
fn a_bad_file_is_put_back_and_nothing_is_raised() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    bench.put(HELLO, None);
    bench.settle();
    assert!(matches!(bench.ask(Ask::Revert("hello".to_owned())), Answer::Done));
    assert_eq!(bench.says(HELLO), Some(1));
    assert_eq!(bench.state(HELLO), State::Current);
    assert!(bench.taken().is_empty());
    assert_eq!(bench.refused(Ask::Revert("none".to_owned())).code, Code::NotFound);
}

#[test]
fn a_file_that_is_always_being_written_is_an_error_in_the_end() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    bench.touch(HELLO);
    for _ in 0..=MOVING_MAX {
        bench.now += Duration::from_millis(50);
        bench.watcher.handle_timeout(bench.now);
        let Some(Action::Look(..)) = bench.watcher.poll_action() else { panic!() };
        let reading = Reading { path: FilePath::from(HELLO), source: 0, found: Found::Moving };
        let looked = Looked { readings: vec![reading], ..Looked::default() };
        bench.watcher.handle_event(Event::Looked(looked), bench.now);
    }
    bench.run();
    assert_eq!(bench.errors.len(), 1);
    assert_eq!(bench.watcher.next_deadline(), None, "it ends");
}

#[test]
fn only_so_many_may_wait() {
    let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1)]);
    for id in 0..100 {
        bench.watcher.handle_event(Event::Asked(id, Ask::Reload(None)), bench.now);
    }
    bench.run();
    let busy = |(_, answer): &&(u64, Answer)| matches!(answer, Answer::Failed(failure) if failure.code == Code::Busy);
    assert_eq!((bench.answers.len(), bench.answers.iter().filter(busy).count()), (100, 36));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(bool, u8),
    Comment(bool, u8),
    Break(bool),
    Remove(bool),
    Wait(u16),
    /// So many actions are carried out, and then it is killed.
    Kill(u8),
    Supervisor(bool, bool),
    Folder(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 1..6_u8).prop_map(|(which, says)| Step::Write(which, says)),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(which, how)| Step::Comment(which, how)),
        1 => any::<bool>().prop_map(Step::Break),
        1 => any::<bool>().prop_map(Step::Remove),
        3 => (0..600_u16).prop_map(Step::Wait),
        3 => (0..5_u8).prop_map(Step::Kill),
        1 => any::<(bool, bool)>().prop_map(|(away, mute)| Step::Supervisor(away, mute)),
        1 => any::<bool>().prop_map(Step::Folder),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn killed_anywhere_it_misses_nothing_and_invents_nothing(steps in prop::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new(Mode::Automatic, &[(HELLO, 1), (WORLD, 1)]);
        let path = |which| if which { HELLO } else { WORLD };
        let mut said = vec![("hello", 1), ("world", 1)];
        for step in steps {
            match step {
                Step::Write(which, says) => {
                    bench.write(path(which), says);
                    said.push((package(path(which)), says));
                }
                Step::Comment(which, how) => {
                    if let Some(says) = bench.says(path(which)) {
                        bench.put(path(which), Some((says, how)));
                    }
                }
                Step::Break(which) => bench.put(path(which), None),
                Step::Remove(which) => {
                    bench.remove(path(which));
                    said.push((package(path(which)), 0));
                }
                Step::Wait(ms) => bench.advance(Duration::from_millis(ms.into())),
                Step::Kill(actions) => {
                    bench.now += Duration::from_millis(500);
                    bench.watcher.handle_timeout(bench.now);
                    for _ in 0..actions {
                        bench.step();
                    }
                    bench.kill();
                }
                Step::Supervisor(away, mute) => {
                    (bench.supervisor.away, bench.supervisor.mute) = (away, mute);
                }
                Step::Folder(there) => {
                    bench.folder = there;
                    bench.watcher.handle_event(Event::Lost, bench.now);
                }
            }
        }
        (bench.supervisor.away, bench.supervisor.mute) = (false, false);
        bench.folder = true;
        bench.watcher.handle_event(Event::Lost, bench.now);
        bench.advance(RETRY_MAX * 2);
        // Nothing that was never written, never one state twice in a row, and in the end what the file says.
        for name in ["hello", "world"] {
            let mut last = 1;
            for (_, says) in bench.taken().iter().filter(|(taken, _)| *taken == name) {
                prop_assert!(said.contains(&(name, *says)));
                prop_assert_ne!(last, *says, "announced twice: {:?}", bench.taken());
                last = *says;
            }
            let path = format!("/c/{name}");
            match bench.files.get(&*path) {
                Some(None) => {}
                there => prop_assert_eq!(last, there.and_then(|it| *it).map_or(0, |it| it.0)),
            }
        }
        prop_assert_eq!(bench.watcher.next_deadline(), None);
        // The next one has nothing to say.
        let before = bench.supervisor.taken.len();
        bench.kill();
        bench.settle();
        prop_assert_eq!(bench.supervisor.taken.len(), before);
    }
}
