//! What probes saw, between the threads that call the driver and the one that reads: bounded, without a lock. A writer never
//! waits; where there is no room, what it saw is lost and counted.
//!
//! Each cell has a turn: at position `p`, a writer may write while the turn is `p`, and a reader may read while it is `p + 1`;
//! the reader hands the cell on with `p + cells`, which is the next writer's position. Who moves `tail` or `head` from `p` to
//! `p + 1` owns the cell until it stores the turn (release); who finds that turn (acquire) sees what was written.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::*},
};

/// One call of a probed function.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hit {
    /// [`crate::Function::address`].
    pub function: usize,
    pub tid: i32,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub started_ns: u64,
    pub duration_ns: u64,
    /// The registers that whole numbers and pointers are handed over in. A function that takes fewer has left anything in the rest.
    pub args: [u64; 6],
    /// The register that a whole number is answered in; anything where the function answers nothing.
    pub result: i64,
}

const WORDS: usize = 11;

impl Hit {
    fn words(&self) -> [u64; WORDS] {
        let [a, b, c, d, e, f] = self.args;
        let (tid, result) = (u64::from(self.tid.cast_unsigned()), self.result.cast_unsigned());
        [self.function as u64, tid, self.started_ns, self.duration_ns, a, b, c, d, e, f, result]
    }

    fn from_words(
        [function, tid, started_ns, duration_ns, a, b, c, d, e, f, result]: [u64; WORDS],
    ) -> Self {
        Self {
            function: usize::try_from(function).expect("it was an address before"),
            tid: i32::try_from(tid).unwrap_or_default(),
            started_ns,
            duration_ns,
            args: [a, b, c, d, e, f],
            result: result.cast_signed(),
        }
    }
}

struct Cell {
    turn: AtomicUsize,
    words: [AtomicU64; WORDS],
}

/// See the file's header.
pub struct Ring {
    cells: Box<[Cell]>,
    tail: Line<AtomicUsize>,
    head: Line<AtomicUsize>,
    lost: AtomicU64,
}

/// On cache lines of its own.
#[repr(align(128))]
struct Line<T>(T);

impl Ring {
    /// Room for this many hits, rounded up to a power of two; 2 to 65,536.
    #[must_use]
    pub fn new(capacity: usize) -> Arc<Self> {
        let capacity = capacity.clamp(2, 1 << 16).next_power_of_two();
        let cell = |turn| Cell { turn: AtomicUsize::new(turn), words: Default::default() };
        Arc::new(Self {
            cells: (0..capacity).map(cell).collect(),
            tail: Line(AtomicUsize::new(0)),
            head: Line(AtomicUsize::new(0)),
            lost: AtomicU64::new(0),
        })
    }

    /// Takes what is there, in the order in which the calls ended, at most as many as there is room for; answers how many were lost
    /// since it was asked last.
    pub fn take(&self, hits: &mut Vec<Hit>) -> u64 {
        for _ in 0..self.cells.len() {
            let Some(hit) = self.pop() else { break };
            hits.push(hit);
        }
        self.lost.swap(0, Relaxed)
    }

    pub(super) fn push(&self, hit: &Hit) {
        let mut at = self.tail.0.load(Relaxed);
        loop {
            let cell = self.cell(at);
            let turn = cell.turn.load(Acquire);
            if turn == at {
                match self.tail.0.compare_exchange_weak(at, at.wrapping_add(1), Relaxed, Relaxed) {
                    Ok(_) => {
                        for (word, value) in cell.words.iter().zip(hit.words()) {
                            word.store(value, Relaxed);
                        }
                        cell.turn.store(at.wrapping_add(1), Release);
                        return;
                    }
                    Err(now) => at = now,
                }
            } else if turn.wrapping_sub(at).cast_signed() < 0 {
                // Its reader is a whole round behind.
                return self.lose();
            } else {
                at = self.tail.0.load(Relaxed);
            }
        }
    }

    /// A call that could not be recorded.
    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    fn pop(&self) -> Option<Hit> {
        let mut at = self.head.0.load(Relaxed);
        loop {
            let cell = self.cell(at);
            let turn = cell.turn.load(Acquire);
            let ready = at.wrapping_add(1);
            if turn == ready {
                match self.head.0.compare_exchange_weak(at, ready, Relaxed, Relaxed) {
                    Ok(_) => {
                        let words = std::array::from_fn(|index| cell.words[index].load(Relaxed));
                        cell.turn.store(at.wrapping_add(self.cells.len()), Release);
                        return Some(Hit::from_words(words));
                    }
                    Err(now) => at = now,
                }
            } else if turn.wrapping_sub(ready).cast_signed() < 0 {
                return None;
            } else {
                at = self.head.0.load(Relaxed);
            }
        }
    }

    fn cell(&self, at: usize) -> &Cell {
        &self.cells[at & (self.cells.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(tid: i32, number: u64) -> Hit {
        Hit { tid, args: [number; 6], result: number.cast_signed(), ..Hit::default() }
    }

    #[test]
    fn what_is_taken_is_what_was_pushed_and_what_had_no_room_is_counted() {
        let ring = Ring::new(3);
        for round in 0..3 {
            for number in 0..6 {
                ring.push(&hit(round, number));
            }
            let mut hits = Vec::new();
            assert_eq!(ring.take(&mut hits), 2);
            assert_eq!(hits, [0, 1, 2, 3].map(|number| hit(round, number)));
            assert_eq!(ring.take(&mut hits), 0);
        }
        let extreme = Hit {
            function: usize::MAX,
            tid: i32::MAX,
            started_ns: u64::MAX,
            duration_ns: 1,
            args: [1, 2, 3, 4, 5, u64::MAX],
            result: i64::MIN,
        };
        ring.push(&extreme);
        let mut hits = Vec::new();
        ring.take(&mut hits);
        assert_eq!(hits, [extreme]);
    }

    #[test]
    fn many_writers_lose_nothing_but_what_is_counted() {
        const WRITERS: i32 = 3;
        const EACH: u64 = 20_000;
        let ring = Ring::new(64);
        let (mut hits, mut lost) = (Vec::new(), 0);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|tid| {
                    scope.spawn({
                        let ring = &ring;
                        move || (0..EACH).for_each(|number| ring.push(&hit(tid, number)))
                    })
                })
                .collect();
            while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                lost += ring.take(&mut hits);
            }
        });
        lost += ring.take(&mut hits);
        assert_eq!(hits.len() as u64 + lost, EACH * u64::try_from(WRITERS).unwrap());
        for tid in 0..WRITERS {
            let numbers: Vec<_> =
                hits.iter().filter(|hit| hit.tid == tid).map(|hit| hit.args[0]).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b));
        }
        // No hit is mixed from two.
        assert!(
            hits.iter().all(
                |hit| hit.args == [hit.args[0]; 6] && hit.result.cast_unsigned() == hit.args[0]
            )
        );
    }
}
