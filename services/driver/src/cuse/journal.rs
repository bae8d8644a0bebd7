//! What a device's requests and open files are, in words that outlive the host: whoever is started after a crash, and is handed the same
//! descriptor, finds here which calls the old one has taken and not answered.
//!
//! The words may have been written by a process that went mad: nothing in them is believed unchecked, and the worst that they can do is
//! that calls of this device get an error or no answer.
//!
//! ```text
//!   magic, highest number noted | the request that is being read | FILES x { file, waiter, sequence } | SLOTS x { unique, number, tries, length, request }, most of them for short ones
//! ```

use std::{
    collections::HashMap,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use super::wire::{Operation, REQUEST_MAX, Request};

/// Most files that are open at once; the host has not more handles.
const FILES: usize = protocol::driver::HANDLES_MAX;
const FILE: usize = 3;
/// Most requests without an answer: so many without data or with little of it, and so many of any length.
const SMALL: usize = 448;
const LARGE: usize = 64;
const SLOTS: usize = SMALL + LARGE;
const SLOT_HEAD: usize = 4;
const SMALL_ROOM: usize = 128;
const SMALL_SLOT: usize = SLOT_HEAD + SMALL_ROOM / 8;
const LARGE_SLOT: usize = SLOT_HEAD + REQUEST_MAX.div_ceil(8);
const HEAD: usize = 8;
const LANDING: usize = REQUEST_MAX.div_ceil(8);
const FILES_START: usize = HEAD + LANDING;
const SLOTS_START: usize = FILES_START + FILES * FILE;
/// How many words the file has: about a mebibyte.
pub(super) const WORDS: usize = SLOTS_START + SMALL * SMALL_SLOT + LARGE * LARGE_SLOT;

/// Says that the words are of this layout.
const MAGIC: u64 = u64::from_be_bytes(*b"VCUSE\0\0\x01");
/// A request is carried out anew at most so often; then it is what kills the host.
const TRIES: u64 = 2;
const RELAXED: Ordering = Ordering::Relaxed;

/// A request that an earlier host has taken and not answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Left {
    pub(super) unique: u64,
    pub(super) request: Vec<u8>,
    /// It was begun so often that it had better fail.
    pub(super) hopeless: bool,
}

/// The words, and where in them is what.
pub(super) struct Journal<'w> {
    words: &'w [AtomicU64],
    files: HashMap<u64, usize>,
    slots: HashMap<u64, usize>,
    free_small: Vec<usize>,
    free_large: Vec<usize>,
}

fn slot_start(place: usize) -> usize {
    let large = place.saturating_sub(SMALL);
    SLOTS_START + (place - large) * SMALL_SLOT + large * LARGE_SLOT
}

fn room(place: usize) -> usize {
    if place < SMALL { SMALL_ROOM } else { REQUEST_MAX }
}

impl<'w> Journal<'w> {
    /// # Panics
    /// With fewer than [`WORDS`] words.
    pub(super) fn new(words: &'w [AtomicU64]) -> Self {
        assert!(words.len() >= WORDS, "the file is made with so many words");
        let mut journal = Self {
            words,
            files: HashMap::new(),
            slots: HashMap::new(),
            free_small: Vec::new(),
            free_large: Vec::new(),
        };
        if words[0].load(RELAXED) != MAGIC {
            journal.wipe();
            words[0].store(MAGIC, Ordering::Release);
        }
        for place in 0..FILES {
            let file = journal.file_word(place, 0).load(Ordering::Acquire);
            if file != 0 {
                journal.files.insert(file, place);
            }
        }
        for place in (0..SLOTS).rev() {
            let unique = journal.slot_word(place, 0).load(Ordering::Acquire);
            if unique == 0 {
                journal.give_back(place);
            } else {
                journal.slots.insert(unique, place);
            }
        }
        journal
    }

    /// A new connection begins: nothing of an earlier one is left. Returns the files that were open.
    pub(super) fn begin(&mut self) -> Vec<u64> {
        let files = self.files.keys().copied().collect();
        self.wipe();
        self.files.clear();
        self.slots.clear();
        self.free_small = (0..SMALL).rev().collect();
        self.free_large = (SMALL..SLOTS).rev().collect();
        files
    }

    fn give_back(&mut self, place: usize) {
        if place < SMALL { &mut self.free_small } else { &mut self.free_large }.push(place);
    }

    fn free_place(&mut self, length: usize) -> Option<usize> {
        let small = if length <= SMALL_ROOM { self.free_small.pop() } else { None };
        small.or_else(|| self.free_large.pop())
    }

    fn wipe(&self) {
        for word in &self.words[1..SLOTS_START] {
            word.store(0, RELAXED);
        }
        for place in 0..SLOTS {
            self.slot_word(place, 0).store(0, RELAXED);
        }
    }

    fn file_word(&self, place: usize, word: usize) -> &'w AtomicU64 {
        &self.words[FILES_START + place * FILE + word]
    }

    fn slot_word(&self, place: usize, word: usize) -> &'w AtomicU64 {
        &self.words[slot_start(place) + word]
    }

    fn highest(&self) -> &'w AtomicU64 {
        &self.words[1]
    }

    /// Notes a request, before anything is done for it. False: there is no room, and it has to be answered at once.
    #[must_use]
    pub(super) fn take(&mut self, unique: u64, request: &[u8]) -> bool {
        let fits = request.len() <= REQUEST_MAX && !self.slots.contains_key(&unique);
        let place = if fits { self.free_place(request.len()) } else { None };
        if let Some(place) = place {
            self.fill(place, unique, request);
        }
        // Not before: what has landed counts until then.
        self.highest().fetch_max(unique, Ordering::Release);
        place.is_some()
    }

    fn fill(&mut self, place: usize, unique: u64, request: &[u8]) {
        for (at, octets) in request.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..octets.len()].copy_from_slice(octets);
            self.slot_word(place, SLOT_HEAD + at).store(u64::from_ne_bytes(word), RELAXED);
        }
        self.slot_word(place, 1).store(0, RELAXED);
        self.slot_word(place, 2).store(1, RELAXED);
        self.slot_word(place, 3).store(request.len() as u64, RELAXED);
        // Last: from here on it counts.
        self.slot_word(place, 0).store(unique, Ordering::Release);
        self.slots.insert(unique, place);
    }

    /// Forgets a request, after it was answered.
    pub(super) fn answered(&mut self, unique: u64) {
        if let Some(place) = self.slots.remove(&unique) {
            self.slot_word(place, 0).store(0, Ordering::Release);
            self.give_back(place);
        }
    }

    pub(super) fn is_open(&self, unique: u64) -> bool {
        self.slots.contains_key(&unique)
    }

    /// The number of a request among those of its file: another one for each, and the same where it is carried out anew. `None`: there
    /// is no such file.
    pub(super) fn sequence(&mut self, unique: u64, file: u64) -> Option<u64> {
        let counter = self.file_word(*self.files.get(&file)?, 2);
        let Some(place) = self.slots.get(&unique) else { return Some(0) };
        let number = self.slot_word(*place, 1);
        if number.load(RELAXED) == 0 {
            number.store(counter.fetch_add(1, RELAXED).wrapping_add(1), Ordering::Release);
        }
        Some(number.load(RELAXED))
    }

    /// A file is open; its request names it from now on. False: there are too many.
    #[must_use]
    pub(super) fn opened(&mut self, unique: u64, file: u64) -> bool {
        let place = (0..FILES).find(|place| self.file_word(*place, 0).load(RELAXED) == 0);
        let (Some(place), true) = (place, file != 0) else { return false };
        self.file_word(place, 1).store(0, RELAXED);
        self.file_word(place, 2).store(0, RELAXED);
        self.file_word(place, 0).store(file, Ordering::Release);
        self.files.insert(file, place);
        if let Some(slot) = self.slots.get(&unique) {
            self.slot_word(*slot, 1).store(file, Ordering::Release);
        }
        true
    }

    /// The file that this request has opened already.
    pub(super) fn opened_by(&self, unique: u64) -> Option<u64> {
        let file = self.slot_word(*self.slots.get(&unique)?, 1).load(RELAXED);
        self.files.contains_key(&file).then_some(file)
    }

    /// A file has ended.
    pub(super) fn closed(&mut self, file: u64) {
        if let Some(place) = self.files.remove(&file) {
            self.file_word(place, 0).store(0, Ordering::Release);
        }
    }

    /// Who polls this file is woken by `waiter`.
    pub(super) fn polled(&mut self, file: u64, waiter: u64) {
        if let Some(place) = self.files.get(&file) {
            self.file_word(*place, 1).store(waiter, RELAXED);
        }
    }

    /// What wakes those who poll a file; nothing where nobody ever did.
    pub(super) fn waiter(&self, file: u64) -> Option<u64> {
        let waiter = self.file_word(*self.files.get(&file)?, 1).load(RELAXED);
        (waiter != 0).then_some(waiter)
    }

    /// What wakes those who poll any file.
    pub(super) fn waiters(&self) -> Vec<u64> {
        self.files.keys().filter_map(|file| self.waiter(*file)).collect()
    }

    /// The requests that are not answered, in the order in which they came. They count as tried once more.
    pub(super) fn left(&mut self) -> Vec<Left> {
        let mut left: Vec<_> = self
            .slots
            .iter()
            .map(|(unique, place)| {
                let tries = self.slot_word(*place, 2).fetch_add(1, RELAXED);
                let length = self.slot_word(*place, 3).load(RELAXED);
                let length = usize::try_from(length).unwrap_or(usize::MAX).min(room(*place));
                let request = self.bytes(slot_start(*place) + SLOT_HEAD, length);
                Left { unique: *unique, request, hopeless: tries >= TRIES }
            })
            .collect();
        left.sort_by_key(|left| left.unique);
        left
    }

    /// Where the kernel writes the next request: a host that dies right then has not lost it.
    pub(super) fn landing(&self) -> Range<usize> {
        HEAD..HEAD + LANDING
    }

    /// The first bytes of what was read.
    pub(super) fn landed(&self, length: usize) -> Vec<u8> {
        self.bytes(HEAD, length.min(REQUEST_MAX))
    }

    /// What the host before has read, where it came no further. The words are touched, so that the kernel finds their pages.
    pub(super) fn landed_before(&self) -> Option<Vec<u8>> {
        for word in &self.words[self.landing()] {
            word.fetch_or(0, RELAXED);
        }
        let length = u32::from_ne_bytes(*self.landed(4).first_chunk()?);
        let landed = self.landed(usize::try_from(length).ok()?);
        let request = Request::parse(&landed).ok()?;
        let interrupt = matches!(request.operation, Operation::Interrupt { .. });
        let new = interrupt || request.unique > self.highest().load(RELAXED);
        new.then_some(landed)
    }

    fn bytes(&self, start: usize, length: usize) -> Vec<u8> {
        let words = &self.words[start..start + length.div_ceil(8)];
        let mut bytes: Vec<u8> =
            words.iter().flat_map(|word| word.load(RELAXED).to_ne_bytes()).collect();
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cuse::wire::tests::request;

    fn words() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_request_that_was_not_answered_is_found_by_the_next_host() {
        let words = words();
        let mut journal = Journal::new(&words);
        assert!(journal.take(4, b"a request of some length"));
        assert!(journal.take(2, &[7; REQUEST_MAX]));
        assert!(journal.take(6, b"answered"));
        journal.answered(6);
        let mut next = Journal::new(&words);
        let left = next.left();
        assert_eq!(left.len(), 2);
        assert_eq!((left[0].unique, &left[0].request[..]), (2, &[7; REQUEST_MAX][..]));
        assert_eq!((left[1].unique, &left[1].request[..]), (4, &b"a request of some length"[..]));
    }

    #[test]
    fn a_request_keeps_its_number_over_a_restart_and_no_other_one_gets_it() {
        let words = words();
        let mut journal = Journal::new(&words);
        assert!(journal.take(2, b"open") && journal.opened(2, 70));
        assert_eq!(journal.opened_by(2), Some(70));
        journal.answered(2);
        assert!(journal.take(4, b"x") && journal.take(6, b"y"));
        assert_eq!(journal.sequence(4, 70), Some(1));
        assert_eq!(journal.sequence(6, 70), Some(2));
        journal.answered(6);
        let mut next = Journal::new(&words);
        assert_eq!(next.sequence(4, 70), Some(1));
        assert!(next.take(8, b"z"));
        assert_eq!(next.sequence(8, 70), Some(3));
        assert_eq!(next.sequence(8, 71), None, "that file is not open");
        next.closed(70);
        assert_eq!(Journal::new(&words).sequence(8, 70), None);
    }

    #[test]
    fn a_request_that_kills_each_host_is_given_up() {
        let words = words();
        assert!(Journal::new(&words).take(2, b"poison"));
        let hopeless = || Journal::new(&words).left()[0].hopeless;
        assert_eq!([hopeless(), hopeless(), hopeless()], [false, true, true]);
    }

    #[test]
    fn there_is_room_for_so_many_and_what_was_answered_makes_room() {
        let words = words();
        let mut journal = Journal::new(&words);
        for number in 1..=64 {
            assert!(journal.take(number * 2, &[1; 200]));
        }
        assert!(!journal.take(2000, &[1; 200]), "no long one, but short ones");
        for number in 65..=512 {
            assert!(journal.take(number * 2, b"x"));
        }
        assert!(!journal.take(2000, b"x"));
        assert!(!journal.take(2, b"twice"));
        journal.answered(10);
        assert!(journal.take(2000, b"x"));
        journal.answered(12);
        assert!(!journal.take(2002, &[0; REQUEST_MAX + 1]));
        assert!(journal.take(2002, &[0; REQUEST_MAX]));
    }

    #[test]
    fn who_polls_is_known_to_the_next_host() {
        let words = words();
        let mut journal = Journal::new(&words);
        assert!(journal.opened(2, 70) && journal.opened(4, 71));
        journal.polled(71, 9);
        let next = Journal::new(&words);
        assert_eq!((next.waiter(70), next.waiter(71)), (None, Some(9)));
        assert_eq!(next.waiters(), [9]);
    }

    #[test]
    fn a_new_connection_begins_with_nothing() {
        let words = words();
        let mut journal = Journal::new(&words);
        assert!(journal.take(2, b"x") && journal.opened(2, 70));
        assert_eq!(journal.begin(), [70]);
        assert!(journal.left().is_empty());
        assert!(Journal::new(&words).waiters().is_empty());
    }

    /// As the kernel does.
    fn land(words: &[AtomicU64], request: &[u8]) {
        for (word, octets) in words[HEAD..].iter().zip(request.chunks_exact(8)) {
            word.store(u64::from_ne_bytes(octets.try_into().unwrap()), RELAXED);
        }
    }

    #[test]
    fn a_request_that_was_read_and_not_noted_is_found_by_the_next_host() {
        let words = words();
        let mut journal = Journal::new(&words);
        assert_eq!(journal.landed_before(), None);
        let (one, two) = (request(14, 2, &[0; 8]), request(18, 4, &[0; 24]));
        land(&words, &one);
        assert!(journal.take(2, &one));
        assert_eq!(Journal::new(&words).landed_before(), None, "that one is noted");
        land(&words, &two);
        let mut next = Journal::new(&words);
        assert_eq!(next.landed_before(), Some(two.clone()));
        assert_eq!(next.left().len(), 1);
        assert!(next.take(4, &two));
        assert_eq!(next.landed_before(), None);
    }

    #[test]
    fn a_request_that_there_was_no_room_for_was_refused_and_is_not_carried_out_later() {
        let words = words();
        let mut journal = Journal::new(&words);
        let long = request(14, 2, &[0; REQUEST_MAX]);
        land(&words, &long);
        assert!(!journal.take(2, &long));
        assert_eq!(journal.landed_before(), None);
    }

    #[test]
    fn words_of_another_layout_are_none() {
        let words = words();
        assert!(Journal::new(&words).take(2, b"x"));
        words[0].store(1, RELAXED);
        assert!(Journal::new(&words).left().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whatever_a_mad_process_wrote_does_no_harm(
            garbage in proptest::collection::vec((0..WORDS, any::<u64>()), 0..60),
            heads in proptest::collection::vec((0..SLOTS, 0..SLOT_HEAD, any::<u64>()), 0..60),
        ) {
            let words = words();
            for (at, word) in garbage {
                words[at].store(word, RELAXED);
            }
            for (slot, word, value) in heads {
                words[slot_start(slot) + word].store(value, RELAXED);
            }
            words[0].store(MAGIC, RELAXED);
            let mut journal = Journal::new(&words);
            for left in journal.left() {
                prop_assert!(left.request.len() <= REQUEST_MAX);
                let _ = journal.sequence(left.unique, 1);
                journal.answered(left.unique);
            }
            let _ = journal.landed_before();
            journal.begin();
            prop_assert!(journal.take(2, b"x"));
        }
    }
}
