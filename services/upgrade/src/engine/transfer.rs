//! One transfer: pages say what a slot shall hold, chunks bring what the device lacks. What is at its place already stays, what
//! the slot in use holds is copied from there, zeros are made here; all of it is hashed before it is written.
//!
//! Pages come in order, and the next one only after all chunks that were wanted of the one before; so what is not known of a
//! transfer after a crash is at most one stretch between two checkpoints.

use std::{collections::VecDeque, io};

use bundle::{
    CHUNK_MAX, Code, Component, Refusal,
    index::{Chunk, PageTable, Wanted},
};
use protocol::upgrade::PAGE_TABLE;

use super::{
    content::{Content, Lookup},
    contract::{Caller, Letter},
    journal::Position,
    run::Run,
};
use crate::disk::{Buffer, Disk, read_exact};

/// Sizes that the simulation makes small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of a write to a slot.
    pub(crate) run: usize,
    /// Bytes that are written between two checkpoints: what a loss of power costs.
    pub(crate) checkpoint: u64,
    /// Chunks before the last checkpoint that are hashed again after a crash.
    pub(crate) distrust: u32,
    /// Bytes that one call of `work` reads.
    pub(crate) slice: usize,
}

impl Limits {
    pub(crate) const REAL: Self =
        Self { run: 1 << 20, checkpoint: 16 << 20, distrust: 16, slice: 1 << 20 };
}

/// What went wrong, and whether the transfer can go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The caller made a mistake; nothing was changed.
    Refused(Refusal),
    /// A slot can't be written, or the state can't be kept: the transfer is over.
    Broken(String),
}

/// A transfer under way.
pub(crate) struct Transfer {
    pub(crate) session: u64,
    pub(crate) caller: Caller,
    pub(crate) since: u64,
    parts: Vec<Part>,
    /// The part that is being received.
    current: usize,
    limits: Limits,
    run: Run,
    /// For one chunk that is read.
    buffer: Buffer,
    /// How readily chunks are looked for at their place.
    credit: u32,
    pub(crate) counts: Counts,
    since_checkpoint: u64,
}

/// For the progress.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    /// Bytes of slots that say what they shall say.
    pub(crate) done: u64,
    pub(crate) total: u64,
    /// Bytes of chunks that came from the caller, as they are in the slot.
    pub(crate) received: u64,
    pub(crate) written: u64,
}

/// One component that is received.
pub(crate) struct Part {
    /// Its place in the plan.
    pub(crate) planned: usize,
    /// Its number in the manifest, by which the caller names it.
    pub(crate) number: u32,
    pub(crate) letter: Letter,
    pub(crate) component: Component,
    pub(crate) disk: Box<dyn Disk>,
    /// The slot in use, to copy from.
    pub(crate) source: Option<(Box<dyn Disk>, Lookup)>,
    /// Chunks that the journal says are in their place.
    pub(crate) trusted: u32,
    /// What a read shows of the slot is not believed.
    pub(crate) fresh: bool,
    pub(crate) content: Content,
    table: Option<PageTable>,
    pages: u32,
    /// Chunks that pages told of.
    chunks: u32,
    /// Where the next page begins.
    end: u64,
    /// What was wanted and has not come, in order.
    wanted: VecDeque<(u32, u64, Chunk)>,
    saved: bool,
}

/// What to do once the caller's chunks are all there, or after so many bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Due {
    Nothing,
    /// Flushed up to here: into the journal with it.
    Checkpoint(Position),
}

/// A look at a chunk's place is worth so many of them in vain.
const CREDIT: u32 = 32;
const CREDIT_MAX: u32 = 256;
/// Where looking is not worth it, so seldom it is tried all the same.
const FEELER: u32 = 64;

impl Part {
    pub(crate) fn new(
        planned: usize,
        number: u32,
        letter: Letter,
        component: Component,
        disk: Box<dyn Disk>,
    ) -> Self {
        Self {
            planned,
            number,
            letter,
            component,
            disk,
            source: None,
            trusted: 0,
            fresh: false,
            content: Content::default(),
            table: None,
            pages: 0,
            chunks: 0,
            end: 0,
            wanted: VecDeque::new(),
            saved: false,
        }
    }

    fn is_complete(&self) -> bool {
        self.table.is_some() && self.pages == self.component.pages && self.wanted.is_empty()
    }

    /// Everything before this chunk is in its place.
    fn reached(&self) -> u32 {
        self.wanted.front().map_or(self.chunks, |(number, _, _)| *number)
    }
}

impl Transfer {
    pub(crate) fn new(
        session: u64,
        caller: Caller,
        since: u64,
        parts: Vec<Part>,
        limits: Limits,
    ) -> Self {
        let total = parts.iter().map(|part| part.component.size).sum();
        Self {
            session,
            caller,
            since,
            parts,
            current: 0,
            limits,
            run: Run::new(limits.run),
            buffer: Buffer::new(CHUNK_MAX),
            credit: CREDIT,
            counts: Counts { total, ..Counts::default() },
            since_checkpoint: 0,
        }
    }

    /// The component that is being received.
    pub(crate) fn component(&self) -> Option<&str> {
        self.parts.get(self.current).map(|part| part.component.id.as_str())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.parts.iter().all(Part::is_complete)
    }

    /// Parts that are complete, to note what is where in them; each is given once.
    pub(crate) fn take_complete(&mut self) -> Option<&Part> {
        let part = self.parts.iter_mut().find(|part| !part.saved && part.is_complete())?;
        part.saved = true;
        Some(part)
    }

    /// The table of a component's pages, or a page. Answers which chunks are wanted.
    pub(crate) fn pages(
        &mut self,
        number: u32,
        page: u32,
        data: &[u8],
    ) -> Result<Vec<u8>, Trouble> {
        let part = self.part(number)?;
        if page == PAGE_TABLE {
            if part.pages > 0 {
                return Err(refuse(format!("{}: its pages have begun to come", part.component.id)));
            }
            let table = PageTable::parse(data, &part.component).map_err(Trouble::Refused)?;
            part.table = Some(table);
            return Ok(Vec::new());
        }
        let Some(table) = &part.table else {
            return Err(refuse(format!(
                "{}: the table of its pages comes first",
                part.component.id
            )));
        };
        if page != part.pages || !part.wanted.is_empty() {
            let id = &part.component.id;
            let waiting = part.wanted.len();
            let text = format!(
                "{id}: page {page} is not due; page {} is, after {waiting} chunks",
                part.pages
            );
            return Err(refuse(text));
        }
        let read = table.page(page, data, &part.component).map_err(Trouble::Refused)?;
        if read.first_target != part.end {
            let text = format!("{}: page {page} leaves a hole before it", part.component.id);
            return Err(refuse(text));
        }
        let mut wanted = Wanted::none(read.chunks.len());
        for (at, chunk) in read.chunks.iter().enumerate() {
            if !self.have(chunk)? {
                wanted.want(at);
            }
        }
        let Self { parts, current, run, .. } = self;
        let part = &mut parts[*current];
        run.spill(&mut *part.disk).map_err(|error| part.broken("write", &error))?;
        part.pages += 1;
        self.account();
        Ok(wanted.bytes().to_vec())
    }

    /// Whether the next chunk of the current part is in its place, or can be brought there without the caller.
    fn have(&mut self, chunk: &Chunk) -> Result<bool, Trouble> {
        let Self { parts, current, run, buffer, credit, .. } = self;
        let part = &mut parts[*current];
        let (number, at, length) = (part.chunks, part.end, chunk.raw_len as usize);
        part.chunks += 1;
        part.end += u64::from(chunk.raw_len);
        part.content.push(&chunk.hash, chunk.raw_len);
        let place = &mut buffer.get()[..length];
        let zero = chunk.codec == bundle::Codec::Zero;
        let trusted = number < part.trusted;
        let surely = number.saturating_add(self.limits.distrust) < part.trusted;
        let likely = trusted || zero || *credit > 0 || number.is_multiple_of(FEELER);
        let look = likely && !part.fresh;
        let mut there = surely;
        if !surely && look {
            read_exact(&mut *part.disk, at, place).map_err(|error| part.broken("read", &error))?;
            there = match zero {
                true => place.iter().all(|octet| *octet == 0),
                false => chunk.check(place).is_ok(),
            };
            *credit = match there {
                true => credit.saturating_add(4).min(CREDIT_MAX),
                false => credit.saturating_sub(1),
            };
        }
        if !there && zero {
            run.put_zeros(&mut *part.disk, at, length)
                .map_err(|error| part.broken("write", &error))?;
            there = true;
        }
        if !there
            && let Some((source, lookup)) = &mut part.source
            && lookup.read(&mut **source, chunk, place)
        {
            run.put(&mut *part.disk, at, place).map_err(|error| part.broken("write", &error))?;
            there = true;
        }
        match there {
            true => self.counts.done += length as u64,
            false => part.wanted.push_back((number, at, *chunk)),
        }
        Ok(there)
    }

    /// The bytes of a chunk that was wanted, as they are in the image.
    pub(crate) fn chunk(&mut self, number: u32, chunk: u32, raw: &[u8]) -> Result<(), Trouble> {
        self.part(number)?;
        let Self { parts, current, run, counts, .. } = self;
        let part = &mut parts[*current];
        let Some((due, at, expected)) = part.wanted.front() else {
            return Err(refuse(format!("{}: chunk {chunk} is not wanted", part.component.id)));
        };
        if *due != chunk {
            let text = format!("{}: chunk {chunk} is not due; chunk {due} is", part.component.id);
            return Err(refuse(text));
        }
        expected.check(raw).map_err(Trouble::Refused)?;
        let at = *at;
        part.wanted.pop_front();
        run.put(&mut *part.disk, at, raw).map_err(|error| part.broken("write", &error))?;
        counts.received += raw.len() as u64;
        counts.done += raw.len() as u64;
        self.account();
        Ok(())
    }

    /// Makes durable what was written since the last checkpoint, if it is enough of it.
    pub(crate) fn due(&mut self) -> Result<Due, Trouble> {
        if self.since_checkpoint < self.limits.checkpoint {
            return Ok(Due::Nothing);
        }
        self.checkpoint().map(Due::Checkpoint)
    }

    /// Makes durable what was written, and says how far that is.
    pub(crate) fn checkpoint(&mut self) -> Result<Position, Trouble> {
        let Self { parts, current, run, .. } = self;
        if let Some(part) = parts.get_mut(*current) {
            run.spill(&mut *part.disk).map_err(|error| part.broken("write", &error))?;
            part.disk.flush().map_err(|error| part.broken("flush", &error))?;
        }
        self.account();
        self.since_checkpoint = 0;
        let position = match self.parts.get(self.current) {
            Some(part) => Position { component: part.planned, chunk: part.reached() },
            None => Position { component: usize::MAX, chunk: 0 },
        };
        Ok(position)
    }

    fn account(&mut self) {
        let written = self.run.take_written();
        self.counts.written += written;
        self.since_checkpoint += written;
    }

    /// The part that is received now, or the next one where that is complete.
    fn part(&mut self, number: u32) -> Result<&mut Part, Trouble> {
        let complete = self.parts.get(self.current).is_some_and(Part::is_complete);
        let next = self.parts.get(self.current + 1);
        if complete && next.is_some_and(|next| next.number == number) {
            self.checkpoint()?;
            self.current += 1;
            self.credit = CREDIT;
        }
        let current = self.parts.get_mut(self.current);
        let due = current.as_ref().map_or(u32::MAX, |part| part.number);
        match current.filter(|part| part.number == number) {
            Some(part) => Ok(part),
            None => Err(refuse(format!("component {number} is not due; component {due} is"))),
        }
    }
}

impl Part {
    fn broken(&self, what: &str, error: &io::Error) -> Trouble {
        let (id, letter) = (&self.component.id, self.letter.as_char());
        Trouble::Broken(format!("{what} slot {letter} of {id}: {error}"))
    }
}

fn refuse(text: String) -> Trouble {
    Trouble::Refused(Refusal::new(Code::BadIndex, text))
}
