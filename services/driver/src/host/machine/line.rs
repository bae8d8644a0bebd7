//! One line of the journal of handles: whose a handle is, and how far its calls have come. It outlives the process, and
//! says of a call that is made again whether the driver has carried it out.

use driver_abi::Op;

use crate::host::core::Owner;

/// Words of a line in the shared file.
pub(crate) const WORDS: usize = 8;
/// The call in the line brought bytes, which nobody has kept.
const BROUGHT_DATA: u64 = 1 << 32;
/// In the flags: the kernel has the handle, no process.
const OF_KERNEL: u64 = 1 << 32;
/// -EIO.
const LOST: i64 = -5;

/// What is kept of one handle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Line {
    /// Never 0, never used twice in a run directory.
    pub(crate) handle: u64,
    pub(crate) owner: Owner,
    /// What the driver's `open` got.
    pub(crate) flags: u32,
    /// The last call with a number that the driver was given.
    pub(crate) started: u64,
    /// The last one that it has answered.
    pub(crate) done: u64,
    /// What it answered to that.
    pub(crate) result: i64,
    pub(crate) op: u32,
    /// That answer had bytes.
    pub(crate) brought_data: bool,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    CarryOut,
    /// It was carried out, or the driver was in it when the host died.
    Answer(i64),
}

impl Line {
    pub(crate) fn new(handle: u64, owner: Owner, flags: u32) -> Self {
        Self { handle, owner, flags, started: 0, done: 0, result: 0, op: 0, brought_data: false }
    }

    /// What becomes of the call with this number: never twice what may change something.
    pub(crate) fn judge(&self, sequence: u64, op: Op) -> Verdict {
        if sequence == 0 || op == Op::Poll || sequence > self.started {
            return Verdict::CarryOut;
        }
        if sequence == self.done && !self.brought_data && self.op == op.index() {
            return Verdict::Answer(self.result);
        }
        Verdict::Answer(LOST)
    }

    /// The driver is given the call now.
    pub(crate) fn begin(&mut self, sequence: u64, op: Op) {
        if sequence > self.started && op != Op::Poll {
            self.started = sequence;
        }
    }

    /// It has answered.
    pub(crate) fn end(&mut self, sequence: u64, op: Op, result: i64, brought_data: bool) {
        if sequence == self.started && sequence > self.done && op != Op::Poll {
            self.done = sequence;
            self.op = op.index();
            self.result = result;
            self.brought_data = brought_data;
        }
    }

    /// It was ended before it had done anything: as if it had never begun.
    pub(crate) fn take_back(&mut self, sequence: u64) {
        if sequence != 0 && sequence == self.started && sequence > self.done {
            self.started = self.done;
        }
    }

    /// As it stands in the shared file; the first word is written last, because a line without a handle is no line.
    pub(crate) fn words(&self) -> [u64; WORDS] {
        let (pid, start, kernel) = match self.owner {
            Owner::Process { pid, start } => (u64::from(pid.unsigned_abs()), start, 0),
            Owner::Kernel => (0, 0, OF_KERNEL),
        };
        let data = if self.brought_data { BROUGHT_DATA } else { 0 };
        [
            self.handle,
            pid,
            start,
            u64::from(self.flags) | kernel,
            self.started,
            self.done,
            self.result.cast_unsigned(),
            u64::from(self.op) | data,
        ]
    }

    /// Reads it back; nothing where there is no handle, or whose it is makes no sense.
    pub(crate) fn from_words(words: [u64; WORDS]) -> Option<Self> {
        let [handle, pid, start, flags, started, done, result, op] = words;
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default();
        let owner = match i32::try_from(pid).ok()? {
            0 if flags & OF_KERNEL != 0 => Owner::Kernel,
            0 => return None,
            pid => Owner::Process { pid, start },
        };
        (handle != 0).then_some(Self {
            handle,
            owner,
            flags: low(flags),
            started,
            done,
            result: result.cast_signed(),
            op: low(op),
            brought_data: op & BROUGHT_DATA != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWNER: Owner = Owner::Process { pid: 7, start: 99 };

    fn line() -> Line {
        Line::new(1, OWNER, 0)
    }

    #[test]
    fn a_call_that_never_began_is_carried_out() {
        let mut line = line();
        line.begin(1, Op::Write);
        line.end(1, Op::Write, 5, false);
        assert_eq!(line.judge(2, Op::Write), Verdict::CarryOut);
    }

    #[test]
    fn a_call_that_was_answered_is_answered_the_same_again() {
        let mut line = line();
        line.begin(1, Op::Write);
        line.end(1, Op::Write, 5, false);
        assert_eq!(line.judge(1, Op::Write), Verdict::Answer(5));
        line.begin(2, Op::Ioctl);
        line.end(2, Op::Ioctl, -22, false);
        assert_eq!(line.judge(2, Op::Ioctl), Verdict::Answer(-22));
        assert_eq!(line.judge(1, Op::Write), Verdict::Answer(-5), "only the last answer is kept");
    }

    #[test]
    fn the_call_that_the_driver_was_in_when_it_died_is_an_error() {
        let mut line = line();
        line.begin(1, Op::Write);
        let line = Line::from_words(line.words()).unwrap();
        assert_eq!(line.judge(1, Op::Write), Verdict::Answer(-5));
        assert_eq!(line.judge(2, Op::Write), Verdict::CarryOut);
    }

    #[test]
    fn bytes_that_were_read_are_not_kept_and_so_an_error() {
        let mut line = line();
        line.begin(1, Op::Read);
        line.end(1, Op::Read, 3, true);
        assert_eq!(line.judge(1, Op::Read), Verdict::Answer(-5));
        line.begin(2, Op::Read);
        line.end(2, Op::Read, 0, false);
        assert_eq!(line.judge(2, Op::Read), Verdict::Answer(0), "the end of the data has none");
    }

    #[test]
    fn polls_and_calls_without_a_number_can_always_be_made_again() {
        let mut line = line();
        line.begin(4, Op::Write);
        line.end(4, Op::Write, 1, false);
        line.begin(0, Op::Write);
        line.end(0, Op::Write, 9, false);
        line.begin(9, Op::Poll);
        line.end(9, Op::Poll, 1, false);
        assert_eq!((line.started, line.done, line.result), (4, 4, 1));
        assert_eq!(line.judge(0, Op::Write), Verdict::CarryOut);
        assert_eq!(line.judge(3, Op::Poll), Verdict::CarryOut);
    }

    #[test]
    fn a_call_that_was_taken_back_is_carried_out() {
        let mut line = line();
        line.begin(1, Op::Write);
        line.end(1, Op::Write, 5, false);
        line.begin(2, Op::Read);
        line.take_back(2);
        assert_eq!(line.judge(2, Op::Read), Verdict::CarryOut);
        assert_eq!(line.judge(1, Op::Write), Verdict::Answer(5));
        line.take_back(1);
        assert_eq!(line.judge(1, Op::Write), Verdict::Answer(5), "it was answered");
    }

    #[test]
    fn a_number_of_another_operation_is_no_answer() {
        let mut line = line();
        line.begin(1, Op::Write);
        line.end(1, Op::Write, 5, false);
        assert_eq!(line.judge(1, Op::Ioctl), Verdict::Answer(-5));
    }

    #[test]
    fn an_empty_line_and_one_of_nobody_are_none() {
        assert_eq!(Line::from_words([0; WORDS]), None);
        assert_eq!(Line::from_words([1, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Line::from_words([1, u64::MAX, 0, 0, 0, 0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn a_line_is_read_as_it_was_written(
            handle in 1u64.., pid in 0i32.., start: u64, flags: u32, started: u64, done: u64,
            result: i64, op: u32, brought_data: bool,
        ) {
            let owner = if pid == 0 { Owner::Kernel } else { Owner::Process { pid, start } };
            let line = Line { handle, owner, flags, started, done, result, op, brought_data };
            prop_assert_eq!(Line::from_words(line.words()), Some(line));
        }
    }
}
