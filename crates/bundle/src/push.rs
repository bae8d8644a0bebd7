//! Sends a bundle: says which call of the object `upgrade` comes next, and takes what was answered. It does no call
//! itself, so that the host's TLS and the device's Unix socket share it. Delta, resume and repetition are the same to
//! it: the device says which chunks it wants.
//!
//! ```text
//!          begun            taken           bitmap            nothing is left, all is answered
//! Begin ----------> Table ---------> Page ---------> Chunks ------------------------------------> Finish ---> Done
//!                     ^               ^   next page   |  |
//!                     |               +---------------+  |
//!                     +----------------------------------+  next component
//! ```
//! Chunks of one page go out, up to the device's window, while those before them are unanswered; a page is asked for only
//! when all chunks of the page before it are on their way. Calls are answered in any order.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{Read, Seek},
};

use protocol::upgrade::{BEGIN_MAGIC, Begun, DRY_RUN, Finish, PAGE_TABLE, head};

use crate::{
    Code, Reader, Refusal,
    index::{Page, PageTable, Wanted},
    reader::ReadError,
};

/// No device gets more calls at once, whatever it offers.
const WINDOW_MAX: usize = 64;

/// A call of the object `upgrade`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// Names it in [`Sender::answered`].
    pub id: u64,
    pub method: &'static str,
    /// Its arguments, as they go into the frame.
    pub args: Vec<u8>,
}

/// What is to be done next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    Call(Call),
    /// Nothing before one of the calls under way is answered.
    Wait,
    /// Everything was sent and answered.
    Done(Outcome),
}

/// How it ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The device runs all of it already.
    Current,
    /// With [`protocol::upgrade::DRY_RUN`]: the device would take it.
    Acceptable,
    /// What `finish` answered: a `Status` as JSON.
    Finished(Vec<u8>),
}

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// Bytes of images that are on the device, or need not be sent.
    pub settled: u64,
    /// Bytes of all images.
    pub total: u64,
    /// Stored bytes of chunks that went over the wire.
    pub sent: u64,
    pub chunks: u64,
}

/// Sends one bundle once.
pub struct Sender<R> {
    bundle: Reader<R>,
    flags: u32,
    activate: Option<bool>,
    stage: Stage,
    next_id: u64,
    under_way: BTreeMap<u64, Kind>,
    sent: Sent,
}

#[derive(Debug)]
enum Stage {
    Begin,
    Sending(Sending),
    Done(Outcome),
}

#[derive(Debug)]
struct Sending {
    session: u64,
    window: usize,
    /// Components that are not yet begun.
    components: VecDeque<usize>,
    now: Now,
}

#[derive(Debug)]
enum Now {
    NextComponent,
    /// The device has not yet taken this table.
    Told {
        component: usize,
        table: PageTable,
    },
    Page {
        component: usize,
        table: PageTable,
        page: u32,
    },
    /// The bitmap of this page is awaited.
    Asked {
        component: usize,
        table: PageTable,
        page: Page,
    },
    Chunks {
        component: usize,
        table: PageTable,
        page: Page,
        wanted: Wanted,
        next: usize,
    },
    Finished,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Begin,
    Table,
    Page,
    Chunk { raw_len: u32 },
    Finish,
}

/// A call that has no number yet.
type Next = (&'static str, Vec<u8>, Kind);

impl<R: Read + Seek> Sender<R> {
    /// `flags` are those of [`protocol::upgrade`]; `activate` as in [`Finish`].
    pub fn new(bundle: Reader<R>, flags: u32, activate: Option<bool>) -> Self {
        let sent = Sent { total: bundle.manifest().size(), ..Sent::default() };
        let (under_way, stage) = (BTreeMap::new(), Stage::Begin);
        Self { bundle, flags, activate, stage, next_id: 1, under_way, sent }
    }

    /// What was sent so far.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// The session, once the device has begun: for `abort` and for the progress of the right transfer.
    #[must_use]
    pub fn session(&self) -> Option<u64> {
        match &self.stage {
            Stage::Sending(sending) => Some(sending.session),
            _ => None,
        }
    }

    /// What is to be done next.
    ///
    /// # Errors
    /// The bundle can't be read, or is not what its manifest says; the transfer is over then.
    pub fn next_step(&mut self) -> Result<Step, ReadError> {
        let (method, args, kind) = match &mut self.stage {
            Stage::Done(outcome) => return Ok(Step::Done(outcome.clone())),
            Stage::Begin if !self.under_way.is_empty() => return Ok(Step::Wait),
            Stage::Begin => ("begin", begin(&self.bundle, self.flags), Kind::Begin),
            Stage::Sending(sending) => {
                let waiting = self.under_way.len();
                match sending.next(&mut self.bundle, waiting, &mut self.sent, self.activate)? {
                    Some(call) => call,
                    None => return Ok(Step::Wait),
                }
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        self.under_way.insert(id, kind);
        Ok(Step::Call(Call { id, method, args }))
    }

    /// A call was answered well. (One that was refused ends the transfer; push again.)
    ///
    /// # Errors
    /// An answer that makes no sense; the transfer is over then.
    pub fn answered(&mut self, id: u64, answer: &[u8]) -> Result<(), Refusal> {
        let Some(kind) = self.under_way.remove(&id) else {
            return Err(wrong(format!("an answer to call {id}, which is not under way")));
        };
        match (kind, &mut self.stage) {
            (Kind::Begin, stage) => {
                let begun: Begun = serde_json::from_slice(answer)
                    .map_err(|error| wrong(format!("the device's answer to begin: {error}")))?;
                *stage = self.sent.begun(&self.bundle, &begun, self.flags)?;
            }
            (Kind::Page, Stage::Sending(sending)) => sending.bitmap(answer)?,
            (Kind::Chunk { raw_len }, _) => self.sent.settled += u64::from(raw_len),
            (Kind::Finish, stage) => {
                self.sent.settled = self.sent.total;
                *stage = Stage::Done(Outcome::Finished(answer.to_vec()));
            }
            (Kind::Table, Stage::Sending(sending)) => sending.table_taken(),
            (Kind::Table | Kind::Page, _) => {}
        }
        Ok(())
    }
}

/// The arguments of `begin`.
fn begin<R: Read + Seek>(bundle: &Reader<R>, flags: u32) -> Vec<u8> {
    let header = bundle.header().encode();
    [&BEGIN_MAGIC[..], &flags.to_le_bytes(), &header, bundle.signatures(), bundle.manifest_bytes()]
        .concat()
}

impl Sent {
    fn begun<R: Read + Seek>(
        &mut self,
        bundle: &Reader<R>,
        begun: &Begun,
        flags: u32,
    ) -> Result<Stage, Refusal> {
        if begun.current {
            self.settled = self.total;
            return Ok(Stage::Done(Outcome::Current));
        }
        if flags & DRY_RUN != 0 {
            return Ok(Stage::Done(Outcome::Acceptable));
        }
        let rows = &bundle.manifest().components;
        let mut components = VecDeque::new();
        for number in &begun.components {
            let number = *number as usize;
            if number >= rows.len() || components.back().is_some_and(|last| *last >= number) {
                return Err(wrong(format!(
                    "the device asks for component {number} of {} out of order",
                    rows.len()
                )));
            }
            components.push_back(number);
        }
        let asked: u64 = components.iter().map(|number| rows[*number].size).sum();
        self.settled = self.total - asked;
        let window = (begun.window as usize).clamp(1, WINDOW_MAX);
        Ok(Stage::Sending(Sending {
            session: begun.session,
            window,
            components,
            now: Now::NextComponent,
        }))
    }
}

impl Sending {
    /// The next call; nothing while an answer has to come first.
    fn next<R: Read + Seek>(
        &mut self,
        bundle: &mut Reader<R>,
        under_way: usize,
        sent: &mut Sent,
        activate: Option<bool>,
    ) -> Result<Option<Next>, ReadError> {
        loop {
            if under_way >= self.window {
                return Ok(None);
            }
            match std::mem::replace(&mut self.now, Now::Finished) {
                Now::NextComponent => match self.components.pop_front() {
                    Some(component) => {
                        let bytes = bundle.table_bytes(component)?;
                        let table = bundle.table(component)?;
                        self.now = Now::Told { component, table };
                        return Ok(Some((
                            "pages",
                            self.args(component, PAGE_TABLE, &bytes),
                            Kind::Table,
                        )));
                    }
                    // Whatever is under way has to be on the device before it can be finished.
                    None if under_way > 0 => {
                        self.now = Now::NextComponent;
                        return Ok(None);
                    }
                    None => {
                        let finish = Finish { session: self.session, activate };
                        let args = serde_json::to_vec(&finish)
                            .expect("a number and a word can always be written");
                        return Ok(Some(("finish", args, Kind::Finish)));
                    }
                },
                Now::Page { component, table, page }
                    if page < bundle.manifest().components[component].pages =>
                {
                    let bytes = bundle.page_bytes(component, page)?;
                    let parsed = bundle.page(component, &table, page)?;
                    self.now = Now::Asked { component, table, page: parsed };
                    return Ok(Some(("pages", self.args(component, page, &bytes), Kind::Page)));
                }
                Now::Page { .. } => self.now = Now::NextComponent,
                Now::Chunks { component, table, page, wanted, next } => {
                    let at = first_wanted(&page, &wanted, next, sent);
                    let Some((chunk, _, stored_at)) = page.placed().nth(at) else {
                        self.now = Now::Page { component, table, page: page.number + 1 };
                        continue;
                    };
                    let bytes = bundle.stored(chunk, stored_at)?;
                    sent.sent += bytes.len() as u64;
                    sent.chunks += 1;
                    let number = page.first_chunk()
                        + u32::try_from(at).expect("a page has at most 512 chunks");
                    let kind = Kind::Chunk { raw_len: chunk.raw_len };
                    self.now = Now::Chunks { component, table, page, wanted, next: at + 1 };
                    return Ok(Some(("chunk", self.args(component, number, &bytes), kind)));
                }
                waiting @ (Now::Told { .. } | Now::Asked { .. } | Now::Finished) => {
                    self.now = waiting;
                    return Ok(None);
                }
            }
        }
    }

    fn args(&self, component: usize, number: u32, bytes: &[u8]) -> Vec<u8> {
        let component = u32::try_from(component).expect("a bundle has at most 64 components");
        [&head(self.session, component, number)[..], bytes].concat()
    }

    fn table_taken(&mut self) {
        self.now = match std::mem::replace(&mut self.now, Now::Finished) {
            Now::Told { component, table } => Now::Page { component, table, page: 0 },
            other => other,
        };
    }

    fn bitmap(&mut self, answer: &[u8]) -> Result<(), Refusal> {
        match std::mem::replace(&mut self.now, Now::Finished) {
            Now::Asked { component, table, page } => {
                let wanted = Wanted::parse(answer, page.chunks.len())?;
                self.now = Now::Chunks { component, table, page, wanted, next: 0 };
            }
            other => self.now = other,
        }
        Ok(())
    }
}

/// The first chunk from `next` on that is wanted; those before it are settled.
fn first_wanted(page: &Page, wanted: &Wanted, next: usize, sent: &mut Sent) -> usize {
    let rest = page.chunks.iter().enumerate().skip(next);
    let unwanted = rest.take_while(|(at, _)| !wanted.wants(*at));
    unwanted.fold(next, |at, (_, chunk)| {
        sent.settled += u64::from(chunk.raw_len);
        at + 1
    })
}

fn wrong(text: String) -> Refusal {
    Refusal::new(Code::Unknown, text)
}
