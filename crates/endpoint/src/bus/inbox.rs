//! Events that came and were not taken yet: bounded, and what it had to leave out is told.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use protocol::{
    failure::{Code, Failure},
    registry::Overflow,
};
use tokio::sync::Notify;

use crate::client::Event;

/// Most bytes of events that wait.
const BYTES_MAX: usize = 4 << 20;

/// Filled by the connection, emptied by one reader.
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Notify,
    limit: usize,
    overflow: Overflow,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    bytes: usize,
    /// Left out since the last event that was kept.
    lost: u32,
    /// The connection was made again, and nothing came over the new one yet.
    gap: bool,
    end: Option<Failure>,
}

impl Inbox {
    pub(crate) fn new(limit: usize, overflow: Overflow) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), limit: limit.max(1), overflow }
    }

    /// Takes an event from the connection.
    pub(crate) fn push(&self, event: Event) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        state.tell_gap();
        state.push(event, self.limit, self.overflow);
        drop(state);
        self.changed.notify_one();
    }

    /// The connection ended: who knows what is published until there is a new one.
    pub(crate) fn interrupted(&self) {
        self.lock().gap = true;
    }

    /// There is a new one.
    pub(crate) fn resumed(&self) {
        self.lock().tell_gap();
        self.changed.notify_one();
    }

    /// Nothing comes any more.
    pub(crate) fn end(&self, failure: Failure) {
        self.lock().end.get_or_insert(failure);
        self.changed.notify_one();
    }

    /// The next event; after the last one why it is the last.
    pub(crate) async fn next(&self) -> Result<Event, Failure> {
        loop {
            if let Some(next) = self.lock().next() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    pub(crate) fn why_ended(&self) -> Option<Failure> {
        self.lock().end.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the events")
    }
}

impl State {
    fn tell_gap(&mut self) {
        if !std::mem::take(&mut self.gap) {
            return;
        }
        match self.events.back_mut() {
            Some(last) if last.is_gap() => last.lost = last.lost.saturating_add(1),
            _ => {
                let lost = std::mem::take(&mut self.lost).saturating_add(1);
                self.events.push_back(Event { topic: String::new(), data: Vec::new(), lost });
            }
        }
    }

    fn push(&mut self, mut event: Event, limit: usize, overflow: Overflow) {
        let length = size(&event);
        while self.events.len() >= limit || self.bytes + length > BYTES_MAX {
            match overflow {
                Overflow::DropOldest => {
                    let Some(dropped) = self.events.pop_front() else { break };
                    self.bytes -= size(&dropped);
                    let missed = dropped.lost.saturating_add(u32::from(!dropped.is_gap()));
                    let next =
                        self.events.front_mut().map_or(&mut self.lost, |next| &mut next.lost);
                    *next = next.saturating_add(missed);
                }
                Overflow::DropNew => {
                    self.lost = self.lost.saturating_add(event.lost).saturating_add(1);
                    return;
                }
                Overflow::Disconnect => {
                    let text = format!(
                        "{} events wait for this subscriber, which wants no more of them",
                        self.events.len()
                    );
                    self.end = Some(Failure::new(Code::Limit, text));
                    return;
                }
            }
        }
        event.lost = event.lost.saturating_add(std::mem::take(&mut self.lost));
        self.bytes += length;
        self.events.push_back(event);
    }

    fn next(&mut self) -> Option<Result<Event, Failure>> {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= size(&event);
            return Some(Ok(event));
        }
        self.end.clone().map(Err)
    }
}

fn size(event: &Event) -> usize {
    event.topic.len() + event.data.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u32) -> Event {
        Event { topic: "tick".into(), data: number.to_string().into_bytes(), lost: 0 }
    }

    /// What a reader gets: numbers, `-1` for a gap, with what was lost before.
    async fn read(inbox: &Inbox, count: usize) -> Vec<(i32, u32)> {
        let mut read = Vec::new();
        for _ in 0..count {
            let event = inbox.next().await.unwrap();
            let number = String::from_utf8(event.data.clone()).unwrap();
            let number = if event.is_gap() { -1 } else { number.parse().unwrap() };
            read.push((number, event.lost));
        }
        read
    }

    fn filled(overflow: Overflow) -> Inbox {
        let inbox = Inbox::new(3, overflow);
        (0..5).for_each(|number| inbox.push(event(number)));
        inbox
    }

    #[tokio::test]
    async fn the_oldest_are_left_out_and_told_with_the_next() {
        let inbox = filled(Overflow::DropOldest);
        assert_eq!(read(&inbox, 3).await, [(2, 2), (3, 0), (4, 0)]);
    }

    #[tokio::test]
    async fn new_ones_are_left_out_and_told_with_the_next_that_is_kept() {
        let inbox = filled(Overflow::DropNew);
        assert_eq!(read(&inbox, 3).await, [(0, 0), (1, 0), (2, 0)]);
        inbox.push(event(9));
        assert_eq!(read(&inbox, 1).await, [(9, 2)]);
    }

    #[tokio::test]
    async fn who_wants_to_be_disconnected_reads_what_came_before_and_then_why() {
        let inbox = filled(Overflow::Disconnect);
        assert_eq!(read(&inbox, 3).await, [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(inbox.next().await.unwrap_err().code, Code::Limit);
    }

    #[tokio::test]
    async fn a_gap_comes_before_what_the_new_connection_brings() {
        let inbox = Inbox::new(8, Overflow::DropOldest);
        inbox.push(event(1));
        inbox.interrupted();
        inbox.push(event(2));
        inbox.resumed();
        assert_eq!(read(&inbox, 3).await, [(1, 0), (-1, 1), (2, 0)]);
        inbox.interrupted();
        inbox.resumed();
        inbox.interrupted();
        inbox.resumed();
        inbox.push(event(3));
        assert_eq!(read(&inbox, 2).await, [(-1, 2), (3, 0)]);
    }

    #[tokio::test]
    async fn what_another_side_lost_is_not_forgotten_with_the_event_that_told_it() {
        let inbox = Inbox::new(1, Overflow::DropOldest);
        inbox.push(Event { lost: 7, ..event(1) });
        inbox.push(event(2));
        assert_eq!(read(&inbox, 1).await, [(2, 8)]);
    }

    #[tokio::test]
    async fn bytes_are_limited_too() {
        let inbox = Inbox::new(1000, Overflow::DropOldest);
        let large = Event { data: vec![b'1'; 1 << 20], ..event(1) };
        (0..6).for_each(|_| inbox.push(large.clone()));
        inbox.push(event(5));
        assert_eq!(inbox.next().await.unwrap().lost, 3);
    }
}
