//! Calls of operations, and the slot with the table that they go through.

use std::{
    ffi::{c_long, c_void},
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicU32, Ordering::*},
    },
};

use driver_abi::{OPS, Op, Ops, Own, RESTART};

use crate::{
    gate::{Caller, Closed, Core, Gate, Seat},
    inside::{self, Inside},
    refusal::Refusal,
};

/// A driver's operations: where its table is, and how many it has. It does not keep the code loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Table {
    ops: *const Ops,
    length: u32,
}

#[expect(unsafe_code, reason = "a table is read by every thread that calls")]
// SAFETY: who makes a table answers for what is behind the pointer; it is only read.
unsafe impl Send for Table {}
#[expect(unsafe_code, reason = "a table is read by every thread that calls")]
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// # Safety
    /// `ops` leads to `length` pointers, [`OPS`] or more, each null or a function as [`Ops`] declares it, the same for as long
    /// as this table is in a [`Slot`] or a call that began in it has not ended.
    #[expect(unsafe_code, reason = "the caller answers for the pointer")]
    #[must_use]
    pub unsafe fn new(ops: *const Ops, length: u32) -> Self {
        Self { ops, length }
    }

    /// Where it is.
    #[must_use]
    pub fn ops(&self) -> *const Ops {
        self.ops
    }

    /// How many operations there are, null ones among them.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.length
    }

    #[expect(unsafe_code, reason = "calls into a driver")]
    #[inline]
    fn invoke(self, handle: u64, args: &mut Args<'_>) -> c_long {
        // SAFETY: `new` was promised that the seven are there.
        let ops = unsafe { &*self.ops };
        let nothing: c_long = 0;
        let missing = -c_long::from(libc::ENOSYS);
        // SAFETY: the functions are as declared, and buffers are as long as they are said to be.
        unsafe {
            match args {
                Args::Open { flags } => ops.open.map_or(nothing, |open| open(handle, *flags)),
                Args::Close => ops.close.map_or(nothing, |close| close(handle)),
                Args::Poll { events } => ops.poll.map_or(missing, |poll| poll(handle, *events)),
                Args::Interrupt => ops.interrupt.map_or(nothing, |interrupt| interrupt(handle)),
                Args::Read(room) => {
                    let read = ops.read;
                    let result = read.map_or(missing, |read| read(handle, start(room), room.len()));
                    at_most(room.len(), result)
                }
                Args::Write(data) => {
                    let (start, length) = (data.as_ptr().cast(), data.len());
                    let result = ops.write.map_or(missing, |write| write(handle, start, length));
                    at_most(length, result)
                }
                Args::Ioctl { command, room, input } => {
                    let result = ops.ioctl.map_or(missing, |ioctl| {
                        ioctl(handle, *command, start(room), (*input).min(room.len()), room.len())
                    });
                    at_most(room.len(), result)
                }
                Args::Own { number, room, input } => {
                    let result = self.own(*number).map_or(missing, |own| {
                        own(handle, start(room), (*input).min(room.len()), room.len())
                    });
                    at_most(room.len(), result)
                }
            }
        }
    }

    #[expect(unsafe_code, reason = "own operations follow the common ones in memory")]
    fn own(self, number: u32) -> Option<Own> {
        let index = OPS.checked_add(number).filter(|index| *index < self.length)?;
        // SAFETY: `new` was promised `length` pointers; a null one is None.
        unsafe { *self.ops.cast::<Option<Own>>().add(usize::try_from(index).ok()?) }
    }
}

fn start(room: &mut [u8]) -> *mut c_void {
    room.as_mut_ptr().cast()
}

/// More bytes than there were would be read from memory of others: such an answer is none.
#[inline]
fn at_most(length: usize, result: c_long) -> c_long {
    let lie = usize::try_from(result).is_ok_and(|bytes| bytes > length);
    if lie { -c_long::from(libc::EIO) } else { result }
}

#[cfg_attr(
    target_pointer_width = "64",
    expect(clippy::useless_conversion, reason = "a long has 32 bits on other machines")
)]
#[inline]
fn wide(result: c_long) -> i64 {
    i64::from(result)
}

/// What an operation is called with; in the order of the table.
#[derive(Debug)]
pub enum Args<'b> {
    Open {
        flags: u32,
    },
    Close,
    Read(&'b mut [u8]),
    Write(&'b [u8]),
    /// The argument are the first `input` bytes of `room`, which takes the answer.
    Ioctl {
        command: u32,
        room: &'b mut [u8],
        input: usize,
    },
    Poll {
        events: u32,
    },
    Interrupt,
    /// An own operation, counted from 0; the rest as with `Ioctl`.
    Own {
        number: u32,
        room: &'b mut [u8],
        input: usize,
    },
}

impl Args<'_> {
    #[inline]
    #[must_use]
    pub fn operation(&self) -> Op {
        match self {
            Self::Open { .. } => Op::Open,
            Self::Close => Op::Close,
            Self::Read(_) => Op::Read,
            Self::Write(_) => Op::Write,
            Self::Ioctl { .. } => Op::Ioctl,
            Self::Poll { .. } => Op::Poll,
            Self::Interrupt => Op::Interrupt,
            Self::Own { number, .. } => Op::Own(*number),
        }
    }
}

/// The table in use. Calls go through it; it changes only behind a closed gate.
pub struct Slot {
    core: Arc<Core>,
    ops: AtomicPtr<Ops>,
    length: AtomicU32,
}

impl Slot {
    #[must_use]
    pub fn new(gate: &Gate, table: Table) -> Self {
        Self {
            core: Arc::clone(gate.core()),
            ops: AtomicPtr::new(table.ops.cast_mut()),
            length: AtomicU32::new(table.length),
        }
    }

    /// The table that the next call goes through. Not to be called: it may be replaced at any time.
    #[inline]
    #[must_use]
    pub fn table(&self) -> Table {
        // Both were written before the gate was opened to who is inside now.
        Table { ops: self.ops.load(Relaxed), length: self.length.load(Relaxed) }
    }

    /// Waits while the gate is closed, calls the driver, and answers what it does: 0 or more, or `-errno`. A call that other code
    /// replaced while it waited is made again in that. An operation that the driver hasn't answers `-ENOSYS`, of open, close and
    /// interrupt 0; an answer that cannot be true becomes `-EIO`.
    ///
    /// A driver's call of itself through here goes ahead even while the gate closes, as part of the outer one.
    ///
    /// # Panics
    /// If `caller` belongs to another gate.
    pub fn call(&self, caller: &mut Caller, handle: u64, mut args: Args<'_>) -> i64 {
        assert!(Arc::ptr_eq(caller.core(), &self.core), "the caller registered at another gate");
        if inside::anywhere()
            && let Some(result) = self.call_nested(handle, &mut args)
        {
            return result;
        }
        let seat = caller.seat();
        seat.begin(args.operation(), handle);
        loop {
            let visit = Visit::new(&self.core, seat);
            let result = visit.0.during(|| wide(self.table().invoke(handle, &mut args)));
            let restarted = seat.drop_frames();
            drop(visit);
            if result != RESTART {
                return result;
            }
            if !restarted {
                // Nothing was replaced, so there is no reason to make the call again.
                return -i64::from(libc::EIO);
            }
        }
    }

    /// Only where this thread is inside already.
    #[cold]
    fn call_nested(&self, handle: u64, args: &mut Args<'_>) -> Option<i64> {
        inside::with(|outer| {
            let ours = std::ptr::eq(outer.core, &raw const *self.core);
            // Old code may go nowhere but back.
            let stale = outer.generation != self.core.generation();
            ours.then(|| if stale { RESTART } else { wide(self.table().invoke(handle, args)) })
        })?
    }

    /// Puts another table in the place of the one in use, and answers that. Calls that wait in the driver are made again. To be called with
    /// the same table where the code behind it was replaced otherwise: by jumps at the entries of its functions.
    ///
    /// # Errors
    /// The watchdog opened the gate.
    ///
    /// # Panics
    /// If `closed` is of another gate.
    pub fn swap(&self, closed: &Closed, table: Table) -> Result<Table, Refusal> {
        assert!(closed.of(&self.core), "another gate was closed");
        let _change = closed.change()?;
        let before = self.table();
        self.ops.store(table.ops.cast_mut(), Relaxed);
        self.length.store(table.length, Relaxed);
        self.core.replaced();
        Ok(before)
    }
}

/// Inside, until dropped.
struct Visit<'c>(Inside<'c>);

impl<'c> Visit<'c> {
    #[inline]
    fn new(core: &'c Core, seat: &'c Seat) -> Self {
        core.enter(seat);
        Self(Inside { core, seat, generation: core.generation() })
    }
}

impl Drop for Visit<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.core.leave(self.0.seat);
    }
}

const _: () = assert!(size_of::<Option<Own>>() == size_of::<*const c_void>());
