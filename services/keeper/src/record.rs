//! The record file `RUN_DIR/keeper/records`: which process each slot has, for a keeper that starts after another one was
//! killed. Mapped shared and touched at start, so that writing it can't fail later and the kernel itself can write a pid.
//!
//! ```text
//! head, 64 bytes                              record, 64 bytes, from 64 + 64 * slot on
//! 0   "VESRECS1"                              0   u32 state: 0 free, 1 idle, 2 starting, 3 running
//! 8   u32 number of records                   4   i32 pid, written by clone3
//! 12  i32 pid of the supervisor               8   u64 identity
//! 16  boot id, 16 bytes                       16  u32 generation
//! 32  u64 pidfs inode of the supervisor       20  i32 session
//! 40  u64 start time of the supervisor        24  u64 pidfs inode, 0 without pidfs
//! 48  zeros                                   32  u64 start time in clock ticks; while starting: the time before clone
//!                                             40  u64 when it was spawned, monotonic nanoseconds
//!                                             48  zeros
//! ```
//! All in the machine's byte order: the file never leaves it.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use protocol::{keeper::SLOTS_MAX, time::Moment};
use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::{memory, proc};

const WORDS: usize = 16;
const MAGIC: [u32; 2] = [u32::from_ne_bytes(*b"VESR"), u32::from_ne_bytes(*b"ECS1")];
const FREE: u32 = 0;
const IDLE: u32 = 1;
const STARTING: u32 = 2;
const RUNNING: u32 = 3;
/// A child whose clone was interrupted started at most this many ticks after the time that was noted (2 s of 100 Hz).
const START_WINDOW: u64 = 200;

/// How a process is known again. Zero where the kernel doesn't say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    pub(crate) started: u64,
}

/// What the records say of a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) identity: u64,
    pub(crate) generation: u32,
    pub(crate) session: i32,
    pub(crate) spawned_at: Moment,
    pub(crate) process: Option<Known>,
}

/// A process that a record names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Known {
    pub(crate) pid: i32,
    by: Identity,
    /// The keeper died between clone and the note of the child's identity.
    starting: bool,
}

impl Known {
    /// A descriptor of that very process, if it is still there.
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        let pidfd = proc::open(self.pid)?;
        let found = proc::identify(self.pid, pidfd.as_fd());
        self.is(found).then_some(pidfd)
    }

    fn is(&self, found: Identity) -> bool {
        if self.starting {
            let window = self.by.started.saturating_sub(1)..=self.by.started + START_WINDOW;
            found.started != 0 && window.contains(&found.started)
        } else if self.by.inode != 0 {
            self.by.inode == found.inode
        } else {
            self.by.started != 0 && self.by.started == found.started
        }
    }
}

/// The mapped file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records(&'static [AtomicU32]);

impl Records {
    /// Opens or makes the file; a file of another boot or another layout is begun afresh.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
        let words = WORDS * (SLOTS_MAX as usize + 1);
        let size = (words * 4) as u64;
        let foreign = rustix::fs::fstat(&file)?.st_size.cast_unsigned() != size;
        if foreign {
            rustix::fs::ftruncate(&file, 0)?;
        }
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)?;
        let records = Self(memory::map_shared_words(file.as_fd(), words)?);
        let boot = proc::boot_id()?;
        if records.head() != (MAGIC, SLOTS_MAX, boot) {
            records.begin_afresh(boot);
        }
        Ok(records)
    }

    fn head(self) -> ([u32; 2], u32, [u32; 4]) {
        let word = |at: usize| self.0[at].load(Relaxed);
        ([word(0), word(1)], word(2), [word(4), word(5), word(6), word(7)])
    }

    fn begin_afresh(self, boot: [u32; 4]) {
        self.0.iter().for_each(|word| word.store(0, Relaxed));
        for (at, value) in [(2, SLOTS_MAX), (4, boot[0]), (5, boot[1]), (6, boot[2]), (7, boot[3])]
        {
            self.0[at].store(value, Relaxed);
        }
        self.0[0].store(MAGIC[0], Relaxed);
        self.0[1].store(MAGIC[1], Relaxed);
    }

    /// What an earlier keeper of this boot wrote of a slot.
    pub(crate) fn read(self, slot: u32) -> Option<Record> {
        let words = self.words(slot);
        let word = |at: usize| words[at].load(Relaxed);
        let state = word(0);
        let pid = word(1).cast_signed();
        let by = Identity { inode: long(words, 6), started: long(words, 8) };
        let starting = state == STARTING;
        let has_process = pid > 0 && (starting || state == RUNNING);
        (state != FREE).then(|| Record {
            identity: long(words, 2),
            generation: word(4),
            session: if starting { pid } else { word(5).cast_signed() },
            spawned_at: Moment(long(words, 10)),
            process: has_process.then_some(Known { pid, by, starting }),
        })
    }

    /// Where clone3 puts the pid.
    pub(crate) fn pid_place(self, slot: u32) -> &'static AtomicU32 {
        &self.words(slot)[1]
    }

    /// Before the clone.
    pub(crate) fn starting(self, slot: u32, identity: u64, generation: u32, spawned_at: Moment) {
        let words = self.words(slot);
        words[0].store(IDLE, Relaxed);
        words[1].store(0, Relaxed);
        set_long(words, 2, identity);
        words[4].store(generation, Relaxed);
        set_long(words, 6, 0);
        set_long(words, 8, proc::ticks_now());
        set_long(words, 10, spawned_at.0);
        words[0].store(STARTING, Relaxed);
    }

    /// After the clone, and when another process becomes the main one.
    pub(crate) fn running(self, slot: u32, pid: i32, session: i32, known: Identity) {
        let words = self.words(slot);
        words[1].store(pid.cast_unsigned(), Relaxed);
        words[5].store(session.cast_unsigned(), Relaxed);
        set_long(words, 6, known.inode);
        set_long(words, 8, known.started);
        words[0].store(RUNNING, Relaxed);
    }

    /// Nothing runs, or what ran is being killed.
    pub(crate) fn idle(self, slot: u32, identity: u64, generation: u32) {
        let words = self.words(slot);
        words[0].store(IDLE, Relaxed);
        words[1].store(0, Relaxed);
        set_long(words, 2, identity);
        words[4].store(generation, Relaxed);
    }

    pub(crate) fn free(self, slot: u32) {
        self.words(slot).iter().for_each(|word| word.store(0, Relaxed));
    }

    pub(crate) fn set_supervisor(self, pid: i32, known: Identity) {
        self.0[3].store(0, Relaxed);
        set_long(self.0, 8, known.inode);
        set_long(self.0, 10, known.started);
        self.0[3].store(pid.cast_unsigned(), Relaxed);
    }

    /// Where clone3 puts the supervisor's pid.
    pub(crate) fn supervisor_pid_place(self) -> &'static AtomicU32 {
        &self.0[3]
    }

    pub(crate) fn supervisor(self) -> Option<Known> {
        let by = Identity { inode: long(self.0, 8), started: long(self.0, 10) };
        let pid = self.0[3].load(Relaxed).cast_signed();
        (pid > 0).then_some(Known { pid, by, starting: false })
    }

    fn words(self, slot: u32) -> &'static [AtomicU32] {
        let at = WORDS * (slot as usize + 1);
        &self.0[at..at + WORDS]
    }
}

fn long(words: &[AtomicU32], at: usize) -> u64 {
    u64::from(words[at].load(Relaxed)) | u64::from(words[at + 1].load(Relaxed)) << 32
}

fn set_long(words: &[AtomicU32], at: usize, value: u64) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    words[at].store(u32::from_le_bytes([a, b, c, d]), Relaxed);
    words[at + 1].store(u32::from_le_bytes([e, f, g, h]), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("vestal-records-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder.join(name)
    }

    #[test]
    fn a_second_keeper_of_the_same_boot_reads_what_the_first_wrote() {
        let path = file("same-boot");
        let first = Records::open(&path).unwrap();
        let me = std::process::id().cast_signed();
        let pidfd = proc::open(me).unwrap();
        let known = proc::identify(me, pidfd.as_fd());
        first.starting(7, u64::MAX - 1, 5, Moment(99));
        first.running(7, me, me, known);
        first.idle(8, 1, 2);

        let second = Records::open(&path).unwrap();
        let record = second.read(7).unwrap();
        assert_eq!((record.identity, record.generation), (u64::MAX - 1, 5));
        assert!(record.process.unwrap().open().is_some());
        assert_eq!(second.read(8).unwrap().process, None);
        assert_eq!(second.read(9), None);
    }

    #[test]
    fn row_11_a_pid_that_belongs_to_another_process_now_is_not_taken_for_ours() {
        let records = Records::open(&file("other-process")).unwrap();
        let me = std::process::id().cast_signed();
        records.starting(0, 1, 1, Moment(0));
        records.running(0, me, me, Identity { inode: 1, started: 1 });
        assert!(records.read(0).unwrap().process.unwrap().open().is_none());
    }

    #[test]
    fn a_file_of_another_boot_is_begun_afresh() {
        let path = file("other-boot");
        let first = Records::open(&path).unwrap();
        first.idle(1, 1, 1);
        first.0[5].fetch_xor(1, Relaxed);
        assert_eq!(Records::open(&path).unwrap().read(1), None);
    }
}
