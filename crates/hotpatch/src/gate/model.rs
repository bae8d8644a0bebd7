//! The protocol of the gate in small: two callers and two closers, every order of their steps, stores that other processors see
//! later than the thread that made them, a holder that dies anywhere, a watchdog that may open whenever it is allowed to. It has
//! the steps of `mod.rs`, `closed.rs` and `watchdog.rs` in their order, and no code of theirs.

use std::collections::HashSet;

const CALLERS: usize = 2;
const CLOSERS: usize = 2;
/// Calls of each caller: two beside each other, and one that comes back with stores of its first call on their way.
const CALLS: [[u8; CALLERS]; 2] = [[1, 1], [2, 0]];

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Phase {
    Open,
    Held,
    Changing,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Caller {
    /// About to store `active = 1`.
    Outside,
    /// About to load the word.
    Entering,
    Inside,
    /// Has stored `active = 0`, not looked at the word again.
    Left,
    /// Found it closed.
    Retreating,
    Waiting,
    /// In the kernel, until woken.
    Asleep,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Closer {
    Closing,
    /// Membarrier has reached so many callers.
    Barrier(usize),
    /// So many callers were seen outside.
    Drain(usize),
    Drained,
    Changing,
    Opening,
    Waking,
    Done,
    /// Before it woke the others, if `asleep`.
    Dead,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct World {
    phase: Phase,
    /// Counts closings.
    number: u8,
    active: [bool; CALLERS],
    /// Stores to `active` that nobody else sees yet.
    buffers: [Buffer; CALLERS],
    callers: [Caller; CALLERS],
    left: [u8; CALLERS],
    closers: [Closer; CLOSERS],
    numbers: [u8; CLOSERS],
}

/// The oldest store is the lowest bit.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Buffer {
    bits: u16,
    length: u8,
}

impl Buffer {
    fn push(&mut self, value: bool) {
        assert!(self.length < 16);
        self.bits |= u16::from(value) << self.length;
        self.length += 1;
    }

    fn pop(&mut self) -> bool {
        let oldest = self.bits & 1 == 1;
        self.bits >>= 1;
        self.length -= 1;
        oldest
    }
}

/// Parts that can be taken away, to see what they are for.
#[derive(Clone, Copy)]
struct Rules {
    barrier: bool,
    /// The watchdog spares who changes.
    spare_changes: bool,
    /// Closings are numbered.
    numbers: bool,
    /// The watchdog wakes once more.
    wake_again: bool,
}

const ALL: Rules = Rules { barrier: true, spare_changes: true, numbers: true, wake_again: true };

#[derive(Debug, Eq, PartialEq)]
enum Fault {
    /// A caller is inside while code is changed.
    Torn,
    /// Two change at the same time.
    Two,
    /// Nothing happens any more, and a caller has not had its calls.
    Forgotten,
}

impl World {
    fn new(calls: [u8; CALLERS]) -> Self {
        Self {
            phase: Phase::Open,
            number: 0,
            active: [false; CALLERS],
            buffers: Default::default(),
            callers: [Caller::Outside; CALLERS],
            left: calls,
            closers: [Closer::Closing; CLOSERS],
            numbers: [0; CLOSERS],
        }
    }

    fn wake_all(&mut self) {
        for caller in &mut self.callers {
            if *caller == Caller::Asleep {
                *caller = Caller::Waiting;
            }
        }
    }

    /// The process has ended: the watchdog gave up on a change. The order is that of `give_up`.
    fn over(&self) -> bool {
        self.phase == Phase::Changing && !self.closers.contains(&Closer::Changing)
    }

    fn is_mine(&self, closer: usize, phase: Phase, rules: Rules) -> bool {
        self.phase == phase && (!rules.numbers || self.number == self.numbers[closer])
    }

    fn caller_steps(&self, at: usize, next: &mut Vec<Self>) {
        let mut step = |change: &dyn Fn(&mut Self)| {
            let mut world = *self;
            change(&mut world);
            next.push(world);
        };
        if self.buffers[at].length > 0 {
            step(&|world| world.flush_one(at));
        }
        let closed = self.phase != Phase::Open;
        match self.callers[at] {
            Caller::Outside if self.left[at] > 0 => step(&|world| {
                world.buffers[at].push(true);
                world.callers[at] = Caller::Entering;
            }),
            Caller::Outside => {}
            Caller::Entering => step(&|world| {
                world.callers[at] = if closed { Caller::Retreating } else { Caller::Inside };
            }),
            Caller::Inside => step(&|world| {
                world.buffers[at].push(false);
                world.callers[at] = Caller::Left;
            }),
            // Waking who drains changes nothing here: its naps end by themselves.
            Caller::Left => step(&|world| {
                world.left[at] -= 1;
                world.callers[at] = Caller::Outside;
            }),
            Caller::Retreating => step(&|world| {
                world.buffers[at].push(false);
                world.callers[at] = Caller::Waiting;
            }),
            // The kernel compares again before it puts a thread to sleep; so load and sleep are one step.
            Caller::Waiting => step(&|world| {
                world.callers[at] = if closed { Caller::Asleep } else { Caller::Outside };
            }),
            Caller::Asleep => {}
        }
    }

    fn flush_one(&mut self, at: usize) {
        self.active[at] = self.buffers[at].pop();
    }

    fn closer_steps(&self, at: usize, rules: Rules, next: &mut Vec<Self>) {
        let mut step = |to: Closer, change: &dyn Fn(&mut Self)| {
            let mut world = *self;
            world.closers[at] = to;
            change(&mut world);
            next.push(world);
        };
        let nothing = |_: &mut Self| {};
        match self.closers[at] {
            Closer::Closing if self.phase == Phase::Open => {
                let to = if rules.barrier { Closer::Barrier(0) } else { Closer::Drain(0) };
                step(to, &|world| {
                    world.phase = Phase::Held;
                    world.number += 1;
                    world.numbers[at] = world.number;
                });
            }
            Closer::Closing => {}
            Closer::Barrier(CALLERS) => step(Closer::Drain(0), &nothing),
            Closer::Barrier(reached) => step(Closer::Barrier(reached + 1), &|world| {
                while world.buffers[reached].length > 0 {
                    world.flush_one(reached);
                }
            }),
            Closer::Drain(CALLERS) => step(Closer::Drained, &nothing),
            Closer::Drain(seen) => {
                if !self.active[seen] {
                    step(Closer::Drain(seen + 1), &nothing);
                }
                // The limit is over.
                step(Closer::Opening, &nothing);
            }
            Closer::Drained if self.is_mine(at, Phase::Held, rules) => {
                step(Closer::Changing, &|world| world.phase = Phase::Changing);
            }
            Closer::Drained => step(Closer::Done, &nothing),
            Closer::Changing => step(Closer::Opening, &|world| world.phase = Phase::Held),
            Closer::Opening if self.is_mine(at, Phase::Held, rules) => {
                step(Closer::Waking, &|world| world.phase = Phase::Open);
            }
            Closer::Opening => step(Closer::Waking, &nothing),
            Closer::Waking => step(Closer::Done, &Self::wake_all),
            Closer::Done | Closer::Dead => {}
        }
        if at == 0 && !matches!(self.closers[at], Closer::Closing | Closer::Done | Closer::Dead) {
            step(Closer::Dead, &nothing);
        }
    }

    fn watchdog_steps(&self, rules: Rules, next: &mut Vec<Self>) {
        if self.phase == Phase::Held || (self.phase == Phase::Changing && !rules.spare_changes) {
            let mut world = *self;
            world.phase = Phase::Open;
            world.wake_all();
            next.push(world);
        }
        if self.phase == Phase::Open && rules.wake_again && self.callers.contains(&Caller::Asleep) {
            let mut world = *self;
            world.wake_all();
            next.push(world);
        }
    }

    fn fault(&self, steps: &[Self]) -> Option<Fault> {
        let changing = self.closers.iter().filter(|closer| **closer == Closer::Changing).count();
        if changing > 1 {
            return Some(Fault::Two);
        }
        if changing == 1 && self.callers.contains(&Caller::Inside) {
            return Some(Fault::Torn);
        }
        let waiting = self.left.iter().any(|left| *left > 0);
        (steps.is_empty() && waiting).then_some(Fault::Forgotten)
    }
}

/// How many worlds there are, or what is wrong in one of them.
fn explore(rules: Rules) -> Result<usize, Fault> {
    let mut seen: HashSet<World> = CALLS.map(World::new).into();
    let mut open: Vec<World> = seen.iter().copied().collect();
    while let Some(world) = open.pop() {
        let mut next = Vec::new();
        if world.over() {
            continue;
        }
        (0..CALLERS).for_each(|at| world.caller_steps(at, &mut next));
        (0..CLOSERS).for_each(|at| world.closer_steps(at, rules, &mut next));
        world.watchdog_steps(rules, &mut next);
        if let Some(fault) = world.fault(&next) {
            return Err(fault);
        }
        for world in next {
            if seen.insert(world) {
                open.push(world);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn in_no_order_is_anyone_inside_while_code_is_changed_and_nobody_is_forgotten() {
    let worlds = explore(ALL).unwrap();
    assert!(worlds > 10_000, "only {worlds}");
}

#[test]
fn without_the_barrier_a_caller_is_missed() {
    assert_eq!(explore(Rules { barrier: false, ..ALL }), Err(Fault::Torn));
}

#[test]
fn a_watchdog_that_opens_in_the_middle_of_a_change_lets_callers_into_it() {
    assert_eq!(explore(Rules { spare_changes: false, ..ALL }), Err(Fault::Torn));
}

#[test]
fn without_numbers_an_old_holder_takes_the_next_closing_for_its_own() {
    assert!(explore(Rules { numbers: false, ..ALL }).is_err());
}

#[test]
fn a_holder_that_dies_before_it_wakes_leaves_callers_asleep() {
    assert_eq!(explore(Rules { wake_again: false, ..ALL }), Err(Fault::Forgotten));
}
