//! The journal of handles in the run directory: lines in shared memory, so that what was written last is there whenever
//! and however this process ends. It is written word by word; the order of the words is what keeps it true.

use std::{
    fs, io,
    path::Path,
    sync::atomic::Ordering::{Acquire, Release},
};

use hotpatch::Shared;
use protocol::driver::HANDLES_MAX;

use crate::host::machine::line::{Line, WORDS};

const FILE: &str = "handles";
const MAGIC: u64 = u64::from_le_bytes(*b"VDHANDL1");
/// Before the lines: the magic number, the next handle, the boot.
const HEAD: usize = 8;
const NEXT: usize = 1;
const BOOT: usize = 2;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The journal of one driver.
pub(super) struct Journal {
    shared: Shared,
}

impl Journal {
    /// Opens it in the driver's run folder; one of an earlier boot, or of another form, is begun anew.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let shared = Shared::open(&folder.join(FILE), HEAD + HANDLES_MAX * WORDS)?;
        let boot = boot();
        let words = shared.words();
        if words[0].load(Acquire) != MAGIC || words[BOOT].load(Acquire) != boot {
            words.iter().for_each(|word| word.store(0, Release));
            words[BOOT].store(boot, Release);
            words[NEXT].store(1, Release);
            words[0].store(MAGIC, Release);
        }
        Ok(Self { shared })
    }

    /// The first number that no handle had yet.
    pub(super) fn next(&self) -> u64 {
        self.shared.words()[NEXT].load(Acquire)
    }

    pub(super) fn set_next(&self, next: u64) {
        self.shared.words()[NEXT].store(next, Release);
    }

    /// What the host before has left, with the places.
    pub(super) fn lines(&self) -> Vec<(Line, usize)> {
        let lines = self.shared.words()[HEAD..].chunks_exact(WORDS).enumerate();
        let read = lines.filter_map(|(slot, words)| {
            let words: [u64; WORDS] = std::array::from_fn(|at| words[at].load(Acquire));
            Line::from_words(words).map(|line| (line, slot))
        });
        read.collect()
    }

    /// Writes a new line; its first word last, because with it the line begins to count.
    pub(super) fn write(&self, slot: usize, line: &Line) {
        let words = line.words();
        for at in (0..WORDS).rev() {
            self.word(slot, at).store(words[at], Release);
        }
    }

    /// The driver is given a call.
    pub(super) fn begin(&self, slot: usize, line: &Line) {
        self.word(slot, 4).store(line.started, Release);
    }

    /// It has answered.
    pub(super) fn end(&self, slot: usize, line: &Line) {
        let words = line.words();
        self.word(slot, 7).store(words[7], Release);
        self.word(slot, 6).store(words[6], Release);
        self.word(slot, 5).store(words[5], Release);
    }

    pub(super) fn clear(&self, slot: usize) {
        self.word(slot, 0).store(0, Release);
    }

    fn word(&self, slot: usize, at: usize) -> &std::sync::atomic::AtomicU64 {
        &self.shared.words()[HEAD + slot * WORDS + at]
    }
}

/// The boot's id as a number; 0 where the kernel doesn't tell.
fn boot() -> u64 {
    let text = fs::read_to_string(BOOT_ID).unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use driver_abi::Op;

    use super::*;
    use crate::host::core::Owner;

    #[test]
    fn lines_and_the_next_number_outlive_who_wrote_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut line = Line::new(1, Owner::Process { pid: 9, start: 3 }, 5);
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!((journal.next(), journal.lines()), (1, vec![]));
        journal.set_next(2);
        journal.write(4, &line);
        line.begin(1, Op::Write);
        journal.begin(4, &line);
        drop(journal);

        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!((journal.next(), journal.lines()), (2, vec![(line, 4)]));
        line.end(1, Op::Write, 12, false);
        journal.end(4, &line);
        assert_eq!(journal.lines(), [(line, 4)]);
        journal.clear(4);
        assert_eq!(journal.lines(), []);
    }

    #[test]
    fn a_journal_of_an_earlier_boot_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.write(0, &Line::new(1, Owner::Kernel, 0));
        journal.shared.words()[BOOT].store(1, Release);
        drop(journal);
        assert_eq!(Journal::open(folder.path()).unwrap().lines(), []);
    }
}
