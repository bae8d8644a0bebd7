//! Long passes over slots, a slice at a time: copying a slot to the other one where they differ, and reading one back to hash
//! it. Between two slices the engine answers calls.

use std::{collections::VecDeque, io};

use sha2::{Digest as _, Sha256};

use super::run::Run;
use crate::disk::{Buffer, Disk, read_exact};

/// One pass over a slot.
pub(crate) struct Pass {
    pub(crate) task: Task,
    from: Box<dyn Disk>,
    /// Absent: it is only read.
    to: Option<(Box<dyn Disk>, Run, Buffer)>,
    buffer: Buffer,
    slice: usize,
    /// What a read shows of the slot that is written is not believed.
    fresh: bool,
    at: u64,
    size: u64,
    hasher: Sha256,
}

/// What is to be done to the slots of an upgrade, by place in its plan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Task {
    /// The slot in use is copied: the bundle does not carry this component of the set.
    Copy(usize),
    /// What was written is read back.
    Verify(usize),
    /// The second slot, verified, is copied to the first.
    Mirror(usize),
    /// The first is read back.
    VerifyMirror(usize),
}

/// All that is still to be done.
#[derive(Default)]
pub(crate) struct Passes {
    pub(crate) queue: VecDeque<Task>,
    pub(crate) current: Option<Pass>,
}

impl Passes {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.current.is_none()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Task {
    /// Place in the plan.
    pub(crate) fn planned(self) -> usize {
        match self {
            Self::Copy(at) | Self::Verify(at) | Self::Mirror(at) | Self::VerifyMirror(at) => at,
        }
    }
}

impl Pass {
    pub(crate) fn read(task: Task, from: Box<dyn Disk>, size: u64, slice: usize) -> Self {
        let (buffer, hasher) = (Buffer::new(slice), Sha256::new());
        Self { task, from, to: None, buffer, slice, fresh: false, at: 0, size, hasher }
    }

    pub(crate) fn copy(
        task: Task,
        from: Box<dyn Disk>,
        to: Box<dyn Disk>,
        size: u64,
        slice: usize,
        fresh: bool,
    ) -> Self {
        let to = Some((to, Run::new(slice), Buffer::new(slice)));
        Self { to, fresh, ..Self::read(task, from, size, slice) }
    }

    /// One slice. Says the hash of what was read once that is all of it; what was copied is then flushed.
    pub(crate) fn step(&mut self) -> io::Result<Option<[u8; 32]>> {
        let left = self.size - self.at;
        let length = usize::try_from(left).unwrap_or(self.slice).min(self.slice);
        let data = &mut self.buffer.get()[..length];
        read_exact(&mut *self.from, self.at, data)?;
        self.hasher.update(&*data);
        if let Some((to, run, there)) = &mut self.to {
            let there = &mut there.get()[..length];
            read_exact(&mut **to, self.at, there)?;
            if self.fresh || data != there {
                run.put(&mut **to, self.at, data)?;
            }
        }
        self.at += length as u64;
        if self.at < self.size {
            return Ok(None);
        }
        if let Some((to, run, _)) = &mut self.to {
            run.spill(&mut **to)?;
            to.flush()?;
        }
        Ok(Some(std::mem::take(&mut self.hasher).finalize().into()))
    }

    pub(crate) fn done(&self) -> (u64, u64) {
        (self.at, self.size)
    }

    /// Bytes that were written to a slot since this was last asked.
    pub(crate) fn take_written(&mut self) -> u64 {
        self.to.as_mut().map_or(0, |(_, run, _)| run.take_written())
    }
}
