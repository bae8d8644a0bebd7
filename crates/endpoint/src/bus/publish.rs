//! Events on their way to the registry: a bounded buffer that never makes its writer wait, and the values that are
//! to be there again whenever the registry is.
//!
//! In order, and each at least once: what the registry may or may not have taken when its connection ended is sent
//! again. What doesn't fit is dropped, the oldest first, and counted; the last retained value of a topic is never dropped.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard},
};

use protocol::{
    failure::{Code, Failure},
    message::TOPIC_MAX,
    registry::DATA_MAX,
};
use serde::Serialize;
use tokio::sync::Notify;

/// Most events that wait, and most bytes of them.
pub(super) const EVENTS_MAX: usize = 1024;
const BYTES_MAX: usize = 1 << 20;
/// Most topics of one process with a retained value, and most bytes of these.
const RETAINED_MAX: usize = 256;
const RETAINED_BYTES_MAX: usize = 1 << 20;

/// What waits to be sent, and what is to be sent again.
#[derive(Default)]
pub(crate) struct Outgoing {
    state: Mutex<State>,
    /// Something waits.
    work: Notify,
    /// Nothing waits any more.
    idle: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    bytes: usize,
    /// Taken to be sent, not settled yet.
    in_flight: bool,
    /// Never sent, since it was last told.
    dropped: u64,
    retained: BTreeMap<String, Retained>,
    retained_bytes: usize,
    /// Topics of `retained` whose value the registry doesn't have.
    unsent: BTreeSet<String>,
    serial: u64,
}

/// An event that waits.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) topic: String,
    /// Arguments of `publish`.
    pub(crate) args: Vec<u8>,
    serial: u64,
    retain: bool,
    /// It has no value: the registry forgets the topic's.
    forget: bool,
}

/// A topic whose last value stays.
struct Retained {
    /// The last value that was sent, or that had to leave the buffer for others.
    value: Option<Queued>,
    /// Of the newest value, which may still be in the buffer: its serial number and length.
    newest: u64,
    length: usize,
}

/// What became of an event that was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Settled {
    /// The registry has it.
    Sent,
    /// The registry doesn't want it.
    Refused,
}

impl Outgoing {
    /// Puts an event on its way. `true`: others had to be dropped for it, the first ones since [`Outgoing::take_dropped`].
    pub(crate) fn push<T: Serialize + ?Sized>(
        &self,
        topic: &str,
        data: &T,
        retain: bool,
    ) -> Result<bool, Failure> {
        let data = arguments(topic, data, retain)?;
        let mut state = self.lock();
        state.serial += 1;
        let queued = Queued {
            topic: topic.to_owned(),
            args: data.args,
            serial: state.serial,
            retain,
            forget: retain && data.is_null,
        };
        if retain {
            state.reserve(&queued)?;
        }
        state.bytes += queued.args.len();
        state.queue.push_back(queued);
        let before = state.dropped;
        while state.queue.len() > EVENTS_MAX || state.bytes > BYTES_MAX {
            state.drop_oldest();
        }
        let first = before == 0 && state.dropped > 0;
        drop(state);
        self.work.notify_one();
        Ok(first)
    }

    /// The next event; to be settled, or given to this again after the connection ended.
    pub(crate) fn next(&self) -> Option<Queued> {
        let mut state = self.lock();
        let next = state.next();
        state.in_flight = next.is_some();
        if next.is_none() {
            drop(state);
            self.idle.notify_waiters();
        }
        next
    }

    pub(crate) fn settle(&self, queued: Queued, how: Settled) {
        let mut state = self.lock();
        state.in_flight = false;
        if queued.retain {
            state.settle_retained(queued, how);
        }
    }

    /// The event was not delivered, and the line is gone: whether it is still to be sent, on the next one.
    pub(crate) fn is_current(&self, queued: &Queued) -> bool {
        let mut state = self.lock();
        let newer = state
            .retained
            .get(&queued.topic)
            .and_then(|retained| retained.value.as_ref())
            .is_some_and(|value| value.serial >= queued.serial);
        let superseded = queued.retain && newer;
        if superseded {
            state.in_flight = false;
        }
        !superseded
    }

    /// A new line: the registry has none of the retained values.
    pub(crate) fn resend_retained(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        let valued = state.retained.iter().filter(|(_, retained)| retained.value.is_some());
        state.unsent = valued.map(|(topic, _)| topic.clone()).collect();
    }

    /// Returns when something waits.
    pub(crate) async fn work(&self) {
        loop {
            let work = self.work.notified();
            if self.lock().has_work() {
                return;
            }
            work.await;
        }
    }

    /// Returns when everything was sent or refused.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            {
                let state = self.lock();
                if !state.has_work() && !state.in_flight {
                    return;
                }
            }
            idle.await;
        }
    }

    /// How many events were dropped since this was last asked.
    pub(crate) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the events")
    }
}

impl State {
    fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.unsent.is_empty()
    }

    fn next(&mut self) -> Option<Queued> {
        // These are older than everything in the buffer.
        while let Some(topic) = self.unsent.pop_first() {
            let value = self.retained.get(&topic).and_then(|retained| retained.value.clone());
            if value.is_some() {
                return value;
            }
        }
        let queued = self.queue.pop_front()?;
        self.bytes -= queued.args.len();
        Some(queued)
    }

    /// Makes room for a retained value before it is queued.
    fn reserve(&mut self, queued: &Queued) -> Result<(), Failure> {
        let before = self.retained.get(&queued.topic);
        let held = before.map_or(0, |retained| retained.length);
        let length = if queued.forget { 0 } else { queued.args.len() };
        if before.is_none() && self.retained.len() >= RETAINED_MAX {
            let text = format!(
                "topic {:?} can't be retained: this process retains {RETAINED_MAX} topics already; publish null to forget one",
                queued.topic
            );
            return Err(Failure::new(Code::Limit, text));
        }
        let bytes = self.retained_bytes - held + length;
        if bytes > RETAINED_BYTES_MAX {
            let text = format!(
                "topic {:?} can't be retained: this process would retain {bytes} bytes, at most {RETAINED_BYTES_MAX} are allowed",
                queued.topic
            );
            return Err(Failure::new(Code::Limit, text));
        }
        self.retained_bytes = bytes;
        let fresh = || Retained { value: None, newest: 0, length: 0 };
        let retained = self.retained.entry(queued.topic.clone()).or_insert_with(fresh);
        (retained.newest, retained.length) = (queued.serial, length);
        Ok(())
    }

    fn drop_oldest(&mut self) {
        let Some(queued) = self.queue.pop_front() else { return };
        self.bytes -= queued.args.len();
        let Some(retained) = self.retained.get_mut(&queued.topic).filter(|_| queued.retain) else {
            self.dropped += 1;
            return;
        };
        // A value that waited already is lost for this newer one; one that was sent is not.
        let waited = !self.unsent.insert(queued.topic.clone());
        retained.value = Some(queued);
        self.dropped += u64::from(waited);
    }

    fn settle_retained(&mut self, queued: Queued, how: Settled) {
        let Some(retained) = self.retained.get_mut(&queued.topic) else { return };
        let is_newest = retained.newest == queued.serial;
        if is_newest && (queued.forget || how == Settled::Refused) {
            self.retained_bytes -= retained.length;
            self.retained.remove(&queued.topic);
            return;
        }
        let newer = retained.value.as_ref().is_some_and(|value| value.serial > queued.serial);
        if !newer {
            retained.value = (how == Settled::Sent && !queued.forget).then_some(queued);
        }
    }
}

/// Arguments of `publish`, written once.
struct Arguments {
    args: Vec<u8>,
    is_null: bool,
}

fn arguments<T: Serialize + ?Sized>(
    topic: &str,
    data: &T,
    retain: bool,
) -> Result<Arguments, Failure> {
    if topic.is_empty() || topic.len() > TOPIC_MAX {
        let text = format!("the topic {topic:?} is empty or longer than {TOPIC_MAX} bytes");
        return Err(Failure::new(Code::InvalidArgument, text));
    }
    let unwritable = |error| {
        let text = format!("the data of event {topic} can't be written as JSON: {error}");
        Failure::new(Code::InvalidArgument, text)
    };
    let data = serde_json::to_vec(data).map_err(unwritable)?;
    if data.len() > DATA_MAX {
        let text = format!(
            "the data of event {topic} has {} bytes, at most {DATA_MAX} are allowed; publish where it can be read instead",
            data.len()
        );
        return Err(Failure::new(Code::Limit, text));
    }
    let topic = serde_json::to_vec(topic).map_err(unwritable)?;
    let retain: &[u8] = if retain { b",\"retain\":true}" } else { b"}" };
    let args = [b"{\"topic\":", &*topic, b",\"data\":", &*data, retain].concat();
    Ok(Arguments { args, is_null: data == b"null" })
}

#[cfg(test)]
mod tests {
    use protocol::registry::Publish;

    use super::*;

    fn data(queued: &Queued) -> serde_json::Value {
        let publish: Publish = serde_json::from_slice(&queued.args).unwrap();
        assert_eq!((publish.topic, publish.retain), (queued.topic.clone(), queued.retain));
        publish.data
    }

    /// Sends all that waits; topics and data.
    fn drain(outgoing: &Outgoing) -> Vec<(String, serde_json::Value)> {
        let mut sent = Vec::new();
        while let Some(queued) = outgoing.next() {
            sent.push((queued.topic.clone(), data(&queued)));
            outgoing.settle(queued, Settled::Sent);
        }
        sent
    }

    fn row(topic: &str, data: impl Into<serde_json::Value>) -> (String, serde_json::Value) {
        (topic.to_owned(), data.into())
    }

    #[test]
    fn the_oldest_are_dropped_and_counted_and_the_order_stays() {
        let outgoing = Outgoing::default();
        let first: Vec<usize> =
            (0..EVENTS_MAX + 10).filter(|at| outgoing.push("tick", at, false).unwrap()).collect();
        assert_eq!(first, [EVENTS_MAX]);
        assert_eq!(outgoing.take_dropped(), 10);
        assert_eq!(outgoing.take_dropped(), 0);
        let sent = drain(&outgoing);
        assert_eq!((sent.len(), &sent[0]), (EVENTS_MAX, &row("tick", 10)));
        assert!(sent.windows(2).all(|pair| pair[0].1.as_u64() < pair[1].1.as_u64()));
    }

    #[test]
    fn the_bytes_are_limited_too() {
        let outgoing = Outgoing::default();
        let long = "x".repeat(DATA_MAX - 2);
        for _ in 0..17 {
            outgoing.push("long", &long, false).unwrap();
        }
        assert_eq!(outgoing.take_dropped(), 2);
        assert_eq!(drain(&outgoing).len(), 15);
    }

    #[test]
    fn a_retained_value_is_sent_again_on_a_new_line_until_it_is_forgotten() {
        let outgoing = Outgoing::default();
        outgoing.push("state", &1, true).unwrap();
        outgoing.push("tick", &1, false).unwrap();
        outgoing.push("state", &2, true).unwrap();
        assert_eq!(drain(&outgoing), [row("state", 1), row("tick", 1), row("state", 2)]);
        outgoing.resend_retained();
        assert_eq!(drain(&outgoing), [row("state", 2)]);
        outgoing.push("state", &(), true).unwrap();
        assert_eq!(drain(&outgoing), [row("state", serde_json::Value::Null)]);
        outgoing.resend_retained();
        assert_eq!(drain(&outgoing), []);
        assert_eq!(outgoing.lock().retained_bytes, 0);
    }

    #[test]
    fn a_retained_value_outlives_the_overflow_of_the_buffer() {
        let outgoing = Outgoing::default();
        outgoing.push("state", &1, true).unwrap();
        for at in 0..EVENTS_MAX {
            outgoing.push("tick", &at, false).unwrap();
        }
        assert_eq!(outgoing.take_dropped(), 0);
        let sent = drain(&outgoing);
        assert_eq!((sent.len(), &sent[0]), (EVENTS_MAX + 1, &row("state", 1)));
    }

    #[test]
    fn a_value_in_flight_never_overtakes_a_newer_one() {
        let outgoing = Outgoing::default();
        outgoing.push("state", &1, true).unwrap();
        let in_flight = outgoing.next().unwrap();
        outgoing.push("state", &2, true).unwrap();
        for at in 0..EVENTS_MAX {
            outgoing.push("tick", &at, false).unwrap();
        }
        // The line ends: value 2 has left the buffer, and is newer than what was in flight.
        outgoing.resend_retained();
        assert!(!outgoing.is_current(&in_flight));
        assert_eq!(drain(&outgoing)[0], row("state", 2));

        outgoing.push("state", &3, true).unwrap();
        let in_flight = outgoing.next().unwrap();
        outgoing.resend_retained();
        assert!(outgoing.is_current(&in_flight));
        assert_eq!(drain(&outgoing), [row("state", 2)]);
        outgoing.settle(in_flight, Settled::Sent);
        outgoing.resend_retained();
        assert_eq!(drain(&outgoing), [row("state", 3)]);
    }

    #[test]
    fn what_the_registry_refuses_is_not_sent_again() {
        let outgoing = Outgoing::default();
        outgoing.push("others.state", &1, true).unwrap();
        let queued = outgoing.next().unwrap();
        outgoing.settle(queued, Settled::Refused);
        outgoing.resend_retained();
        assert!(outgoing.next().is_none());
        assert_eq!(outgoing.lock().retained_bytes, 0);
    }

    #[test]
    fn too_long_too_many_and_nameless_are_refused_with_the_limit() {
        let outgoing = Outgoing::default();
        let long = outgoing.push("long", &"x".repeat(DATA_MAX), false).unwrap_err();
        assert_eq!(long.code, Code::Limit);
        assert!(long.text.contains("65536"), "{long}");
        assert_eq!(outgoing.push("", &1, false).unwrap_err().code, Code::InvalidArgument);
        for at in 0..RETAINED_MAX {
            outgoing.push(&format!("state.{at}"), &at, true).unwrap();
        }
        assert_eq!(outgoing.push("one.more", &1, true).unwrap_err().code, Code::Limit);
        outgoing.push("state.0", &7, true).unwrap();
        let long = "x".repeat(DATA_MAX - 2);
        let outcomes = (0..17).map(|at| outgoing.push(&format!("state.{at}"), &long, true));
        assert_eq!(outcomes.filter(Result::is_err).count(), 2);
    }
}
