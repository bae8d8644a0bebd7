//! Tasks that call a driver without a pause and check each answer: through the gate, or as if there were none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::*},
    },
    time::Duration,
};

use daemon::clock;
use driver_abi::Ops;
use hotpatch::{Args, Caller, Gate, Slot};

/// Commands of the example driver.
const READ: u32 = 2;
const ADD: u32 = 3;
const ROOM: usize = 64;

pub(crate) enum Way {
    Gated(Arc<Gate>, Slot),
    /// Nobody waits: the pointer to the table, and how often it was exchanged.
    Bare(Arc<Gate>, AtomicPtr<Ops>, AtomicU64),
}

impl Way {
    pub(crate) fn register(&self) -> anyhow::Result<Caller> {
        let (Self::Gated(gate, _) | Self::Bare(gate, ..)) = self;
        gate.register().ok_or_else(|| anyhow::anyhow!("all places at the gate are taken"))
    }

    pub(crate) fn generation(&self) -> u64 {
        match self {
            Self::Gated(gate, _) => gate.generation(),
            Self::Bare(_, _, generation) => generation.load(SeqCst),
        }
    }

    #[inline]
    #[expect(unsafe_code, reason = "the control calls the driver without a gate")]
    fn ioctl(&self, caller: &mut Caller, handle: u64, command: u32, room: &mut [u8]) -> i64 {
        let input = room.len();
        match self {
            Self::Gated(_, slot) => slot.call(caller, handle, Args::Ioctl { command, room, input }),
            Self::Bare(_, ops, _) => {
                // SAFETY: both versions stay loaded; the room is as long as it is said to be.
                unsafe {
                    (*ops.load(SeqCst)).ioctl.map_or(0, |ioctl| {
                        ioctl(handle, command, room.as_mut_ptr().cast(), input, input)
                    })
                }
            }
        }
    }

    /// How many calls the driver has counted.
    pub(crate) fn counted(&self) -> anyhow::Result<u64> {
        let mut room = [0; ROOM];
        let answer = self.ioctl(&mut self.register()?, 1, READ, &mut room);
        anyhow::ensure!(
            answer == 32,
            "the driver answers {answer} when it is asked what it counted"
        );
        Ok(word(&room, 0))
    }
}

fn word(room: &[u8], at: usize) -> u64 {
    room[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What one task saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    /// Answers of another version than the one that had to serve, or with another checksum.
    pub(crate) wrong: u64,
    /// How long calls took during which code was replaced.
    pub(crate) held: Vec<Duration>,
}

pub(crate) fn task(way: &Way, caller: &mut Caller, handle: u64, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut payload = [0; ROOM];
    while !stop.load(Relaxed) {
        payload[..8].copy_from_slice(&handle.to_le_bytes());
        payload[8..16].copy_from_slice(&seen.calls.to_le_bytes());
        let mut room = payload;
        let (before, began) = (way.generation(), clock::now());
        let answer = way.ioctl(caller, handle, ADD, &mut room);
        let (after, ended) = (way.generation(), clock::now());
        seen.calls += 1;
        if answer == 16 {
            let version = before != after || word(&room, 0) == 1 + before % 2;
            seen.wrong += u64::from(!version || word(&room, 8) != fnv(&payload));
        } else {
            seen.failed += 1;
        }
        if before != after {
            seen.held.push(ended.since(began));
        }
    }
    seen
}

fn fnv(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
