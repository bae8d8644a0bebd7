//! What services printed while no supervisor lived: the keeper's ring, written into the same files as everything else.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt as _, time::Duration};

use daemon::clock;
use protocol::{
    keeper::{
        DepositName, Request as Order,
        ring::{self, RING_NAME, RING_SIZE},
    },
    time::Moment,
};

use super::{
    Pending, Shell,
    logs::{Lines, LogFile, Stream},
};

impl Shell {
    /// Takes the ring over, if the keeper had to make use of it, and lets the keeper empty it.
    pub(crate) fn take_ring(&mut self) {
        let Some(ring) = self.workshop.take(RING_NAME) else { return };
        if let Err(error) = self.keep_ring(ring.into()) {
            tracing::warn!("what was printed while no supervisor lived is lost: {error}");
        }
        if let Ok(name) = DepositName::new(RING_NAME) {
            self.order(&Order::Withdraw { name }, Pending::Other("empty the ring"));
        }
    }

    fn keep_ring(&self, ring: File) -> io::Result<()> {
        let mut memory = vec![0; RING_SIZE];
        ring.read_exact_at(&mut memory, 0)?;
        let mut pieces: BTreeMap<(u32, bool), (Lines, LogFile)> = BTreeMap::new();
        for record in ring::records(&memory).map_err(io::Error::other)? {
            let Some((service, instance)) = self.machine.owner(record.slot) else { continue };
            let stream = match record.stream {
                ring::Stream::Out => Stream::Out,
                ring::Stream::Err => Stream::Err,
            };
            let key = (record.slot, matches!(stream, Stream::Err));
            let (lines, file) = pieces.entry(key).or_insert_with(|| {
                let path = self.workshop.log_file(&service.name, instance);
                (Lines::default(), LogFile::new(path))
            });
            file.write(&lines.take(record.text, stream, wall_at(record.at)));
        }
        for ((_, is_err), (lines, file)) in &mut pieces {
            let stream = if *is_err { Stream::Err } else { Stream::Out };
            file.write(&lines.end(stream, clock::wall()));
        }
        let dropped = ring::dropped(&memory).map_err(io::Error::other)?;
        if dropped > 0 {
            tracing::warn!(
                "{dropped} bytes of what was printed while no supervisor lived were dropped"
            );
        }
        Ok(())
    }
}

/// The time of day at a monotonic moment, as far as the clock was not set since.
fn wall_at(at: Moment) -> Duration {
    clock::wall().saturating_sub(clock::now().since(at))
}
