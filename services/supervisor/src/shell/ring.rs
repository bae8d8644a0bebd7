//! What services printed while nobody drained their pipes for good: the keeper's ring from the time without a supervisor, and
//! ours from the time without a log service. The log service asks for both; where there is none, they go into files.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt as _, time::Duration};

use daemon::clock;
use endpoint::Incoming;
use protocol::{
    keeper::{
        DepositName, Request as Order, SLOTS_MAX,
        ring::{self, RING_NAME, RING_SIZE},
    },
    name::Name,
    service::{Ring, RingSlot, push_ring_part},
    time::Moment,
};

use super::{
    Pending, Shell,
    logs::{Lines, LogFile, Stream},
};

/// A ring, and whose text is in it.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Empty until there is something to keep.
    memory: Vec<u8>,
    /// Services and instances by the ring's slots. In our ring they count up: the keeper's slots are given to others in time.
    owners: BTreeMap<u32, (Name, Name)>,
}

/// What waits for the log service, with the ids by which it says that it has stored it.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    keeper: Option<(u64, Kept)>,
    /// Answered once already, and repeated until it is stored.
    own: Option<(u64, Kept)>,
    last: u64,
}

impl Kept {
    /// Adds what was read from a pipe; the oldest is dropped to make room.
    pub(crate) fn push(
        &mut self,
        owner: &(Name, Name),
        stream: ring::Stream,
        at: Moment,
        text: &[u8],
    ) {
        let known = self.owners.iter().find(|(_, known)| *known == owner).map(|(slot, _)| *slot);
        let new = u32::try_from(self.owners.len()).ok().filter(|slot| *slot < SLOTS_MAX);
        let Some(slot) = known.or(new) else {
            tracing::warn!("what {} prints is not kept: too many have printed", owner.0);
            return;
        };
        if known.is_none() {
            self.owners.insert(slot, owner.clone());
        }
        if self.memory.is_empty() {
            self.memory = vec![0; RING_SIZE];
            ring::clear(&mut self.memory);
        }
        for piece in text.chunks(ring::TEXT_MAX) {
            ring::push(&mut self.memory, slot, stream, at, piece);
        }
    }

    /// A copy of the keeper's ring, with the keeper's slots.
    fn of_keeper(file: &File, owner: impl Fn(u32) -> Option<(Name, Name)>) -> io::Result<Self> {
        let mut memory = vec![0; RING_SIZE];
        file.read_exact_at(&mut memory, 0)?;
        let mut owners = BTreeMap::new();
        for record in ring::records(&memory).map_err(io::Error::other)? {
            if !owners.contains_key(&record.slot)
                && let Some(owner) = owner(record.slot)
            {
                owners.insert(record.slot, owner);
            }
        }
        Ok(Self { memory, owners })
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let records = ring::records(&self.memory);
        records.map_or(0, |records| records.map(|record| record.text.len()).sum())
    }

    fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// As a part of the answer to `ring`.
    fn push_part(&self, answer: &mut Vec<u8>, id: u64) {
        let slots = self.owners.iter().map(|(slot, (service, instance))| RingSlot {
            slot: *slot,
            service: service.clone(),
            instance: instance.clone(),
        });
        push_ring_part(answer, id, slots.collect(), &self.memory);
    }
}

impl Parts {
    /// An id that is new, also to somebody who spoke with a supervisor before us.
    fn next_id(&mut self) -> u64 {
        self.last = clock::now().0.max(self.last + 1);
        self.last
    }
}

impl Shell {
    /// Takes the keeper's ring over, if the keeper had to make use of it. The keeper empties it once it is stored elsewhere; if
    /// we die before, the next supervisor is given it again.
    pub(crate) fn take_ring(&mut self) {
        let Some(ring) = self.workshop.take(RING_NAME) else { return };
        let owner = |slot| {
            let (service, instance) = self.machine.owner(slot)?;
            Some((service.name.clone(), instance.clone()))
        };
        match Kept::of_keeper(&ring.into(), owner) {
            Ok(kept) if self.workshop.switch().keeps_in_ring() => {
                let id = self.parts.next_id();
                self.parts.keeper = Some((id, kept));
                return;
            }
            Ok(kept) => self.keep_in_files(&kept),
            Err(error) => {
                tracing::warn!("what was printed while no supervisor lived is lost: {error}");
            }
        }
        self.empty_keepers_ring();
    }

    fn empty_keepers_ring(&mut self) {
        if let Ok(name) = DepositName::new(RING_NAME) {
            self.order(&Order::Withdraw { name }, Pending::Other("empty the ring"));
        }
    }

    /// `service.ring`: what was kept for the log service, until it says that it is stored.
    pub(crate) fn ring_call(&mut self, call: Incoming) {
        let Ring { stored } = match call.parse() {
            Ok(args) => args,
            Err(failure) => return call.responder.fail(failure),
        };
        let is_stored = |part: &mut (u64, Kept)| part.0 <= stored;
        if self.parts.keeper.take_if(is_stored).is_some() {
            self.empty_keepers_ring();
        }
        drop(self.parts.own.take_if(is_stored));
        if self.parts.own.is_none() {
            let kept = std::mem::take(&mut *self.workshop.switch().ring());
            if !kept.is_empty() {
                let id = self.parts.next_id();
                self.parts.own = Some((id, kept));
            }
        }
        let mut answer = Vec::new();
        for (id, kept) in self.parts.keeper.iter().chain(&self.parts.own) {
            kept.push_part(&mut answer, *id);
        }
        call.responder.reply_bytes(answer);
    }

    /// Writes a ring into the files that services have without a log service.
    pub(crate) fn keep_in_files(&self, kept: &Kept) {
        if kept.is_empty() {
            return;
        }
        let records = match ring::records(&kept.memory) {
            Ok(records) => records,
            Err(error) => return tracing::warn!("what was printed before is lost: {error}"),
        };
        let mut pieces: BTreeMap<(u32, bool), (Lines, LogFile)> = BTreeMap::new();
        for record in records {
            let Some((service, instance)) = kept.owners.get(&record.slot) else { continue };
            let stream = match record.stream {
                ring::Stream::Out => Stream::Out,
                ring::Stream::Err => Stream::Err,
            };
            let key = (record.slot, stream == Stream::Err);
            let (lines, file) = pieces.entry(key).or_insert_with(|| {
                let path = self.workshop.log_file(service, instance);
                (Lines::default(), LogFile::new(path))
            });
            file.write(&lines.take(record.text, stream, wall_at(record.at)));
        }
        let dropped = ring::dropped(&kept.memory).unwrap_or(0);
        if dropped > 0 {
            tracing::warn!("{dropped} bytes of what was printed while nobody drained were dropped");
        }
        for ((_, is_err), (lines, file)) in &mut pieces {
            let stream = if *is_err { Stream::Err } else { Stream::Out };
            file.write(&lines.end(stream, clock::wall()));
        }
    }
}

/// The time of day at a monotonic moment, as far as the clock was not set since.
fn wall_at(at: Moment) -> Duration {
    clock::wall().saturating_sub(clock::now().since(at))
}

#[cfg(test)]
mod tests {
    use protocol::service::ring_parts;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_under_its_service_however_often_slots_change_hands() {
        let mut kept = Kept::default();
        assert!(kept.is_empty());
        for service in ["web", "cam", "web"] {
            let owner = (name(service), name("i"));
            kept.push(&owner, ring::Stream::Err, Moment(3), service.as_bytes());
        }
        let mut answer = Vec::new();
        kept.push_part(&mut answer, 9);
        let (part, memory) = ring_parts(&answer).unwrap().pop().unwrap();
        let whose =
            |slot| part.slots.iter().find(|it| it.slot == slot).unwrap().service.to_string();
        let texts = ring::records(memory).unwrap();
        let texts: Vec<_> = texts.map(|it| (whose(it.slot), it.text.to_vec())).collect();
        let expected = ["web", "cam", "web"].map(|it| (it.to_owned(), it.as_bytes().to_vec()));
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_long_text_is_kept_whole() {
        let mut kept = Kept::default();
        let text = vec![b'x'; 64 << 10];
        kept.push(&(name("web"), name("i")), ring::Stream::Out, Moment(0), &text);
        let kept: usize = ring::records(&kept.memory).unwrap().map(|it| it.text.len()).sum();
        assert_eq!(kept, text.len());
    }

    #[test]
    fn every_part_has_a_higher_id_than_all_before() {
        let mut parts = Parts::default();
        let before = clock::now().0;
        let first = parts.next_id();
        assert!(first >= before && parts.next_id() > first);
    }
}
