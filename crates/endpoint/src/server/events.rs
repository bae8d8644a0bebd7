//! The events that wait for one reader: bounded, and what is lost is counted and told. Nobody waits for a slow reader.

use std::{collections::VecDeque, sync::Arc};

use protocol::registry::Overflow;

/// How many events wait at most, where nobody set another limit.
const LIMIT: usize = 256;
/// Most bytes of events that wait for one reader.
const BYTES_MAX: usize = 4 << 20;

/// An event; its parts are shared by all who get it.
pub(crate) struct Waiting {
    pub(crate) topic: Arc<str>,
    pub(crate) data: Arc<[u8]>,
}

pub(crate) struct Events {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    limit: usize,
    overflow: Overflow,
    /// Lost and not told yet.
    untold: u32,
    /// Lost since the connection began.
    lost: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            limit: LIMIT,
            overflow: Overflow::default(),
            untold: 0,
            lost: 0,
        }
    }
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.topic.len() + self.data.len()
    }
}

impl Events {
    pub(crate) fn set(&mut self, limit: usize, overflow: Overflow) {
        (self.limit, self.overflow) = (limit.max(1), overflow);
        while self.is_over() {
            self.drop_oldest();
        }
    }

    /// `false` where the reader is to be disconnected for it.
    pub(crate) fn push(&mut self, topic: Arc<str>, data: Arc<[u8]>) -> bool {
        let event = Waiting { topic, data };
        self.bytes += event.bytes();
        self.waiting.push_back(event);
        if !self.is_over() {
            return true;
        }
        match self.overflow {
            Overflow::DropOldest => {
                while self.is_over() {
                    self.drop_oldest();
                }
                true
            }
            Overflow::DropNew | Overflow::Disconnect => {
                if let Some(event) = self.waiting.pop_back() {
                    self.bytes -= event.bytes();
                    self.count_lost();
                }
                self.overflow == Overflow::DropNew
            }
        }
    }

    /// The next event, and how many before it were lost.
    pub(crate) fn pop(&mut self) -> Option<(Waiting, u32)> {
        let event = self.waiting.pop_front()?;
        self.bytes -= event.bytes();
        Some((event, std::mem::take(&mut self.untold)))
    }

    /// One that was popped can't be sent; with it goes the word of those lost before it.
    pub(crate) fn unsendable(&mut self, lost_before: u32) {
        self.untold = self.untold.saturating_add(lost_before);
        self.count_lost();
    }

    pub(crate) fn clear(&mut self) {
        self.waiting = VecDeque::new();
        self.bytes = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    fn is_over(&self) -> bool {
        !self.waiting.is_empty() && (self.waiting.len() > self.limit || self.bytes > BYTES_MAX)
    }

    fn drop_oldest(&mut self) {
        if let Some(event) = self.waiting.pop_front() {
            self.bytes -= event.bytes();
            self.count_lost();
        }
    }

    fn count_lost(&mut self) {
        self.untold = self.untold.saturating_add(1);
        self.lost += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push(events: &mut Events, number: usize) -> bool {
        events.push(number.to_string().into(), Arc::from(&b""[..]))
    }

    /// Takes everything: the topics, and how many were lost before the first.
    fn drain(events: &mut Events) -> (Vec<String>, u32) {
        let mut lost = 0;
        let mut topics = Vec::new();
        while let Some((event, before)) = events.pop() {
            topics.push(event.topic.to_string());
            lost += before;
        }
        (topics, lost)
    }

    #[test]
    fn each_way_of_overflowing_keeps_what_it_promises() {
        let cases: [(_, &[&str], _); 3] = [
            (Overflow::DropOldest, &["2", "3"], [true; 4]),
            (Overflow::DropNew, &["0", "1"], [true; 4]),
            (Overflow::Disconnect, &["0", "1"], [true, true, false, false]),
        ];
        for (overflow, kept, pushed) in cases {
            let mut events = Events::default();
            events.set(2, overflow);
            assert_eq!([0, 1, 2, 3].map(|n| push(&mut events, n)), pushed, "{overflow:?}");
            assert_eq!((events.len(), events.lost()), (2, 2), "{overflow:?}");
            let (topics, lost) = drain(&mut events);
            assert_eq!(
                (topics.iter().map(String::as_str).collect::<Vec<_>>(), lost),
                (kept.to_vec(), 2)
            );
        }
    }

    #[test]
    fn bytes_are_limited_as_well_as_events() {
        let mut events = Events::default();
        for n in 0..10_usize {
            events.push(n.to_string().into(), vec![0; 1 << 20].into());
        }
        assert_eq!((events.len(), events.lost()), (3, 7));
        // One that alone is too large is lost itself.
        assert!(events.push("large".into(), vec![0; 5 << 20].into()));
        assert_eq!((events.len(), events.lost()), (0, 11));
    }

    #[test]
    fn a_lower_limit_takes_the_oldest_at_once() {
        let mut events = Events::default();
        (0..10).for_each(|n| assert!(push(&mut events, n)));
        events.set(3, Overflow::DropNew);
        assert_eq!(drain(&mut events), (vec!["7".into(), "8".into(), "9".into()], 7));
    }

    proptest! {
        #[test]
        fn every_event_arrives_or_is_told_as_lost(
            limit in 1_usize..8,
            overflow in prop_oneof![Just(Overflow::DropOldest), Just(Overflow::DropNew), Just(Overflow::Disconnect)],
            steps in proptest::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut events = Events::default();
            events.set(limit, overflow);
            let (mut pushed, mut arrived, mut told) = (0_usize, Vec::new(), 0);
            for push_one in steps {
                if push_one {
                    push(&mut events, pushed);
                    pushed += 1;
                } else if let Some((event, lost)) = events.pop() {
                    arrived.push(event.topic.parse::<usize>().unwrap());
                    told += u64::from(lost);
                }
                prop_assert!(events.len() <= limit);
                prop_assert!(told <= events.lost());
            }
            let (rest, lost) = drain(&mut events);
            arrived.extend(rest.iter().map(|topic| topic.parse::<usize>().unwrap()));
            prop_assert!(arrived.is_sorted());
            let untold = events.lost() - told - u64::from(lost);
            // What is lost behind the last event is told with the next one only.
            prop_assert!(untold == 0 || arrived.is_empty() || overflow != Overflow::DropOldest);
            prop_assert_eq!(arrived.len() as u64 + events.lost(), pushed as u64);
        }
    }
}
