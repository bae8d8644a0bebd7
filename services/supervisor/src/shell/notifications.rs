//! What is done with what instances say of themselves, and in which order to the keeper's reports.

use std::os::fd::OwnedFd;

use daemon::clock;
use protocol::keeper::Request as Order;

use super::{
    Pending, Shell,
    notify::{Line, Notification},
};
use crate::machine::{Event, Notice};

impl Shell {
    /// A notification arrived. What says "I am ready" may be read before the keeper's report that a new process was spawned:
    /// it waits until the keeper has answered, which it does only after it has told all that happened to the slot. What the
    /// instance said after that waits too: a barrier must not overtake what it stands behind.
    pub(super) fn notified(&mut self, slot: u32, notification: Notification) {
        if let Some(generation) = notification.generation {
            return self.deliver(slot, generation, notification);
        }
        // 0: the first report of this slot has not come yet.
        let generation = self.states.get(&slot).map_or(0, |state| state.generation);
        let of_slot =
            |one: &Pending| matches!(one, Pending::Notification { slot: its } if *its == slot);
        let mut before = self.held.keys().filter_map(|sequence| self.pending.get(sequence));
        let waits = notification.lines.iter().any(Line::is_of_a_generation) || before.any(of_slot);
        match waits {
            true => self.hold(slot, generation, notification),
            false => self.deliver(slot, generation, notification),
        }
    }

    /// Keeps a notification until the keeper has done everything that it was asked before.
    fn hold(&mut self, slot: u32, generation: u32, notification: Notification) {
        let nothing = Order::Signal { slot, generation, signal: 0, tree: false };
        let sequence = self.order(&nothing, Pending::Notification { slot });
        self.held.insert(sequence, notification);
    }

    pub(super) fn deliver(&mut self, slot: u32, generation: u32, notification: Notification) {
        let mut descriptors = notification.descriptors.into_iter();
        for line in notification.lines {
            match line {
                Line::Notice(notice) => {
                    if notice == Notice::Ready
                        && let Some(prepared) = self.workshop.slot(slot)
                    {
                        prepared.probe = None;
                    }
                    let event = Event::Notify { slot, generation, notice };
                    self.machine.handle_event(event, clock::now());
                }
                Line::MainPid(pid) => self.main_pid(slot, generation, pid),
                Line::Store { name } => self.store(slot, &name, &mut descriptors),
                Line::Remove { name } => {
                    if let Err(error) = self.workshop.unstore(slot, &name, &mut self.channel) {
                        tracing::warn!(
                            "{}: give back descriptor {name:?}: {error:#}",
                            self.owner(slot)
                        );
                    }
                }
            }
        }
        // What is left was sent without FDSTORE, or is a barrier: closing it is the answer. Who named another main process
        // may leave as soon as it is closed, so the keeper has to know that process first.
        let is_main = |one: &Pending| matches!(one, Pending::Main { slot: its } if *its == slot);
        let descriptors: Vec<_> = descriptors.collect();
        if !descriptors.is_empty() && self.pending.values().any(is_main) {
            let barrier = Notification { generation: None, lines: Vec::new(), descriptors };
            self.hold(slot, generation, barrier);
        }
    }

    fn main_pid(&mut self, slot: u32, generation: u32, pid: i32) {
        if self.states.get(&slot).is_some_and(|state| state.pid != pid) {
            self.order(&Order::Main { slot, generation, pid }, Pending::Main { slot });
        }
    }

    fn store(&mut self, slot: u32, name: &str, descriptors: &mut impl Iterator<Item = OwnedFd>) {
        for descriptor in descriptors {
            match self.workshop.store(slot, name, descriptor, &mut self.channel) {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(
                        "{}: descriptor {name:?} is not kept: its fd-store is full",
                        self.owner(slot)
                    );
                }
                Err(error) => {
                    tracing::warn!("{}: keep descriptor {name:?}: {error:#}", self.owner(slot))
                }
            }
        }
    }
}
