//! Broadcast: who hears what, and what is kept for those who come later. An event is encoded once, and each connection gets
//! it once, however many of its patterns hold the topic.

use std::sync::Arc;

use protocol::{
    failure::{Code, Failure},
    policy::matches,
    registry::{DATA_MAX, Handle, Overflow, Published, Subscribe},
    time::Moment,
};
use serde::Serialize;

use super::{
    Action, Answer, CallId, Connection, Publication, Registry, Request,
    access::{Access, ParkedCall},
    limit,
    limits::{QUEUE_MAX, RETAINED_BYTES_MAX, RETAINED_MAX, user},
    names::{check_name, check_pattern, check_topic},
};

/// What waits for a connection that didn't say how much may.
const QUEUE: usize = 256;

/// One pattern of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Subscription {
    pub(super) pattern: String,
    /// Only what the owner of this object publishes.
    pub(super) sender: Option<String>,
}

/// The last value of a topic.
#[derive(Debug)]
pub(super) struct Retained {
    data: Arc<[u8]>,
    /// It ends with it.
    connection: Connection,
    uid: u32,
}

impl Registry {
    pub(super) fn publish(
        &mut self,
        call: CallId,
        connection: Connection,
        publication: Publication,
        now: Moment,
    ) {
        if let Err(failure) = check_topic(&publication.topic) {
            return self.reply(call, Err(failure));
        }
        if publication.data.len() > DATA_MAX {
            let text = format!(
                "the data of {} has {} bytes, at most {DATA_MAX} are allowed; publish where it is, and let subscribers fetch it",
                publication.topic,
                publication.data.len()
            );
            return self.refuse(call, Code::Limit, text);
        }
        match self.may_publish(connection, &publication.topic) {
            Access::Allowed => {}
            Access::Denied(denial) => {
                let topic = publication.topic;
                let failure = self.denied(connection, "publish", &topic, denial, now);
                return self.reply(call, Err(failure));
            }
            Access::Ask => {
                let request = Request::Publish(publication);
                let parked = ParkedCall::Request { deadline: None, request };
                return self.park(call, connection, parked);
            }
        }
        let Publication { topic, data, retain } = publication;
        let topic: Arc<str> = topic.into();
        if retain && let Err(failure) = self.retain(connection, &topic, &data) {
            return self.reply(call, Err(failure));
        }
        self.published += 1;
        let handle = self.connections.get(&connection).and_then(|client| client.handle);
        let subscribers = self.send(topic, data, handle);
        self.reply(call, Ok(Answer::Published(Published { subscribers })));
    }

    /// Keeps the value; `null` forgets what was kept.
    fn retain(
        &mut self,
        connection: Connection,
        topic: &Arc<str>,
        data: &Arc<[u8]>,
    ) -> Result<(), Failure> {
        let size = |topic: &str, kept: &Retained| topic.len() + kept.data.len();
        let before = self.retained.get(topic);
        let freed = before.map_or(0, |kept| size(topic, kept));
        if **data == *b"null" {
            self.retained.remove(topic);
            self.retained_bytes -= freed;
            return Ok(());
        }
        let uid = self.caller(connection).uid;
        let bytes = topic.len() + data.len();
        let cure = "retain null to forget a topic, or publish without retain";
        if before.is_none() && self.retained.len() >= RETAINED_MAX {
            return Err(limit("retained topics", None, RETAINED_MAX, cure));
        }
        if self.retained_bytes - freed + bytes > RETAINED_BYTES_MAX {
            return Err(limit("bytes of retained values", None, RETAINED_BYTES_MAX, cure));
        }
        let of_user = self.retained.iter().filter(|(_, kept)| kept.uid == uid);
        let of_user: usize = of_user.map(|(topic, kept)| size(topic, kept)).sum();
        let freed_own = before.filter(|kept| kept.uid == uid).map_or(0, |kept| size(topic, kept));
        if !self.is_trusted(uid) && of_user - freed_own + bytes > user::RETAINED_BYTES {
            let what = "bytes of retained values";
            return Err(limit(what, Some(uid), user::RETAINED_BYTES, cure));
        }
        self.retained_bytes = self.retained_bytes - freed + bytes;
        let kept = Retained { data: Arc::clone(data), connection, uid };
        self.retained.insert(Arc::clone(topic), kept);
        Ok(())
    }

    /// Their publisher has ended.
    pub(super) fn forget_retained_of(&mut self, connection: Connection) {
        let mut freed = 0;
        self.retained.retain(|topic, kept| {
            let keep = kept.connection != connection;
            if !keep {
                freed += topic.len() + kept.data.len();
            }
            keep
        });
        self.retained_bytes -= freed;
    }

    pub(super) fn subscribe(&mut self, call: CallId, connection: Connection, wanted: Subscribe) {
        if let Err(failure) = self.subscribable(connection, &wanted) {
            return self.reply(call, Err(failure));
        }
        let Subscribe { patterns, sender, retained, queue, overflow } = wanted;
        let Some(client) = self.connections.get_mut(&connection) else { return };
        let added: Vec<Subscription> = patterns
            .into_iter()
            .map(|pattern| Subscription { pattern, sender: sender.clone() })
            .collect();
        for one in &added {
            if !client.subscriptions.contains(one) {
                client.subscriptions.push(one.clone());
            }
        }
        self.listeners.insert(connection);
        if queue.is_some() || overflow.is_some() {
            let limit = queue.and_then(|queue| usize::try_from(queue).ok()).unwrap_or(QUEUE);
            let overflow: Overflow = overflow.unwrap_or_default();
            self.actions.push_back(Action::Queue { connection, limit, overflow });
        }
        self.reply(call, Ok(Answer::Nothing));
        if !retained {
            return;
        }
        let wanted = |(topic, kept): (&Arc<str>, &Retained)| {
            let handle = self.connections.get(&kept.connection).and_then(|client| client.handle);
            let holds = added.iter().any(|one| self.holds(one, topic, handle));
            holds.then(|| (Arc::clone(topic), Arc::clone(&kept.data)))
        };
        let values: Vec<_> = self.retained.iter().filter_map(wanted).collect();
        for (topic, data) in values {
            self.actions.push_back(Action::Send { to: vec![connection], topic, data });
        }
    }

    fn subscribable(&self, connection: Connection, wanted: &Subscribe) -> Result<(), Failure> {
        let invalid = |text: String| Err(Failure::new(Code::InvalidArgument, text));
        if wanted.patterns.is_empty() {
            return invalid("no pattern is given; \"*\" holds every topic".to_owned());
        }
        if let Some(queue) = wanted.queue
            && !(1..=QUEUE_MAX).contains(&queue)
        {
            return invalid(format!("queue {queue} is out of range; allowed are 1 to {QUEUE_MAX}"));
        }
        if let Some(sender) = &wanted.sender {
            check_name(sender)?;
        }
        wanted.patterns.iter().try_for_each(|pattern| check_pattern(pattern))?;
        self.room_for_patterns(connection, wanted.patterns.len())
    }

    /// These patterns no longer; without patterns nothing at all, not what is watched either.
    pub(super) fn unsubscribe(
        &mut self,
        call: CallId,
        connection: Connection,
        patterns: &[String],
    ) {
        if let Some(client) = self.connections.get_mut(&connection) {
            if patterns.is_empty() {
                client.subscriptions.clear();
                client.watches.clear();
            }
            client.subscriptions.retain(|one| !patterns.contains(&one.pattern));
            if client.subscriptions.is_empty() && client.watches.is_empty() {
                self.listeners.remove(&connection);
            }
        }
        self.reply(call, Ok(Answer::Nothing));
    }

    /// An event of the registry's own.
    pub(super) fn tell<T: Serialize>(&mut self, topic: &str, data: &T) {
        if !self.listeners.is_empty() {
            self.send(topic.into(), json(data), Some(Handle::default()));
        }
    }

    /// As [`Registry::tell`], and also to who watches the object.
    pub(super) fn tell_watchers<T: Serialize>(&mut self, topic: &str, name: &str, data: &T) {
        if self.listeners.is_empty() {
            return;
        }
        let to: Vec<Connection> = self
            .listening()
            .filter(|(_, client)| {
                client.watches.iter().any(|pattern| matches(pattern, name))
                    || self.hears(client, topic, Some(Handle::default()))
            })
            .map(|(connection, _)| connection)
            .collect();
        self.send_to(to, topic.into(), json(data));
    }

    /// Sends to all who hear it; how many these are.
    fn send(&mut self, topic: Arc<str>, data: Arc<[u8]>, from: Option<Handle>) -> u64 {
        let hearing = self.listening().filter(|(_, client)| self.hears(client, &topic, from));
        let to: Vec<Connection> = hearing.map(|(connection, _)| connection).collect();
        let subscribers = to.len() as u64;
        self.send_to(to, topic, data);
        subscribers
    }

    fn send_to(&mut self, to: Vec<Connection>, topic: Arc<str>, data: Arc<[u8]>) {
        if !to.is_empty() {
            self.actions.push_back(Action::Send { to, topic, data });
        }
    }

    fn listening(&self) -> impl Iterator<Item = (Connection, &super::Client)> {
        let listeners = self.listeners.iter();
        listeners.filter_map(|connection| Some((*connection, self.connections.get(connection)?)))
    }

    fn hears(&self, client: &super::Client, topic: &str, from: Option<Handle>) -> bool {
        client.subscriptions.iter().any(|one| self.holds(one, topic, from))
    }

    fn holds(&self, one: &Subscription, topic: &str, from: Option<Handle>) -> bool {
        let sent_by = |name: &String| {
            let owner = self.objects.get(name).map(|entry| entry.handle);
            owner.is_some() && owner == from
        };
        matches(&one.pattern, topic) && one.sender.as_ref().is_none_or(sent_by)
    }
}

pub(super) fn json<T: Serialize>(data: &T) -> Arc<[u8]> {
    serde_json::to_vec(data).expect("our own events hold only texts and numbers").into()
}
