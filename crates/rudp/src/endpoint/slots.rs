//! The table of connections. A slot is used again, a handle is not.

use core::net::SocketAddr;

use super::Handle;
use crate::connection::Connection;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) address: SocketAddr,
    pub(super) generation: u32,
    /// Its place among the half-open ones.
    pub(super) half_open: Option<u32>,
    /// It is in the endpoint's queues.
    pub(super) will_transmit: bool,
    pub(super) will_tell: bool,
    pub(super) connection: Connection,
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Boxed, so that growing the table doesn't double what every connection takes.
    entries: Vec<Option<Box<Entry>>>,
    free: Vec<u32>,
    /// Of the next connection, whatever its slot.
    generation: u32,
}

impl Slots {
    pub(super) fn get(&self, handle: Handle) -> Option<&Entry> {
        self.at(handle.slot).filter(|entry| entry.generation == handle.generation)
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut Entry> {
        self.at_mut(handle.slot).filter(|entry| entry.generation == handle.generation)
    }

    pub(super) fn at(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(slot).ok()?)?.as_deref()
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(slot).ok()?)?.as_deref_mut()
    }

    pub(super) fn insert(&mut self, address: SocketAddr, connection: Connection) -> Handle {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let entry = Box::new(Entry {
            address,
            generation,
            half_open: None,
            will_transmit: false,
            will_tell: false,
            connection,
        });
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).expect("connections are limited to fewer")
        });
        if let Some(place) = usize::try_from(slot).ok().and_then(|at| self.entries.get_mut(at)) {
            *place = Some(entry);
        }
        Handle { slot, generation }
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Entry>> {
        let entry = self.entries.get_mut(usize::try_from(slot).ok()?)?.take()?;
        self.free.push(slot);
        Some(entry)
    }
}
