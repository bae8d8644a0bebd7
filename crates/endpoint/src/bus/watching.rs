//! Which objects there are, kept up to date. A registry that was away is asked again, and only what is really gone
//! counts as removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use protocol::{
    failure::{Code, Failure},
    registry::{Found, Handle, Matching},
};
use serde::Deserialize;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{
    arrival::{Backoff, Place},
    line::Line,
};
use crate::{client::Event, error::CallError};

/// How long the registry may take to answer `watch`.
const ANSWER: Duration = Duration::from_secs(10);
/// How long after its restart the registry may not know an object yet that is still there. It keeps names for their
/// owners for 5 seconds.
const GRACE: Duration = Duration::from_secs(6);
/// Changes of a registry that this process doesn't get round to; beyond it the whole list is read again.
const CHANGES_MAX: usize = 1024;

/// What happened to an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It is there. Those that were there before are told first.
    Added(Found),
    /// Another process serves it now, or it serves it in another way.
    Changed(Found),
    /// It can't be called any more; how it was.
    Removed(Found),
}

/// The objects of a pattern. Dropped, it ends.
pub struct Watch {
    view: Arc<View>,
    active: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("active", &*self.active.borrow()).finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn new(pattern: &str, registry: PathBuf, place: Arc<Place>) -> Self {
        let view = Arc::new(View::default());
        let (told, active) = watch::channel(false);
        let matching = Matching { pattern: Some(pattern.to_owned()) };
        let task = Task { matching, registry, place, view: Arc::clone(&view), active: told };
        let task = tokio::spawn(task.run()).abort_handle();
        Self { view, active, task }
    }

    /// The next change. Several changes of one object that were not taken in time are one.
    ///
    /// # Errors
    /// Why no more come: the registry refuses the watch. Then it is over.
    pub async fn next(&mut self) -> Result<Change, Failure> {
        loop {
            if let Some(next) = self.view.lock().next() {
                return next;
            }
            self.view.changed.notified().await;
        }
    }

    /// Returns once the registry has said what there is; [`Watch::objects`] is complete then.
    ///
    /// # Errors
    /// `timeout`, or why the registry refuses it.
    pub async fn active(&mut self, within: Duration) -> Result<(), Failure> {
        match tokio::time::timeout(within, self.active.wait_for(|active| *active)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self.view.lock().end.clone().unwrap_or_else(|| {
                Failure::new(Code::Cancelled, "the runtime of this watch ends")
            })),
            Err(_) => {
                let text = format!("the registry did not answer within {within:?}");
                Err(Failure::new(Code::Timeout, text))
            }
        }
    }

    /// What is there, as far as known, whether [`Watch::next`] has told it or not.
    #[must_use]
    pub fn objects(&self) -> Vec<Found> {
        self.view.lock().known.values().cloned().collect()
    }
}

#[derive(Default)]
struct View {
    state: Mutex<Objects>,
    changed: Notify,
}

impl View {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.state.lock().expect("nothing panics while it holds the objects")
    }

    fn change(&self, change: impl FnOnce(&mut Objects)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }
}

#[derive(Default)]
struct Objects {
    known: BTreeMap<String, Found>,
    /// As the reader was told.
    told: BTreeMap<String, Found>,
    /// Where these two may differ.
    dirty: BTreeSet<String>,
    /// Known from before the registry's restart, and not confirmed since.
    missing: BTreeSet<String>,
    end: Option<Failure>,
}

impl Objects {
    fn next(&mut self) -> Option<Result<Change, Failure>> {
        while let Some(name) = self.dirty.pop_first() {
            let change = match (self.told.get(&name), self.known.get(&name)) {
                (None, None) => continue,
                (Some(before), Some(now)) if before == now => continue,
                (None, Some(now)) => Change::Added(now.clone()),
                (Some(_), Some(now)) => Change::Changed(now.clone()),
                (Some(before), None) => Change::Removed(before.clone()),
            };
            match &change {
                Change::Added(now) | Change::Changed(now) => {
                    self.told.insert(name, now.clone());
                }
                Change::Removed(_) => {
                    self.told.remove(&name);
                }
            }
            return Some(Ok(change));
        }
        self.end.clone().map(Err)
    }

    /// What the registry lists. What it doesn't list is gone, or, `after_restart`, missing for now.
    fn list(&mut self, found: Vec<Found>, after_restart: bool) {
        let names: BTreeSet<_> = found.iter().map(|found| found.object.name.clone()).collect();
        let unlisted = self.known.keys().filter(|name| !names.contains(*name)).cloned();
        self.missing = unlisted.collect();
        found.into_iter().for_each(|found| self.add(found));
        if !after_restart {
            self.give_up_missing();
        }
    }

    fn add(&mut self, found: Found) {
        let name = found.object.name.clone();
        self.missing.remove(&name);
        self.dirty.insert(name.clone());
        self.known.insert(name, found);
    }

    /// `handle`: whose it was. Another process may serve it by now.
    fn remove(&mut self, name: &str, handle: Option<Handle>) {
        let known = self.known.get(name);
        if known.is_some_and(|known| handle.is_none_or(|handle| handle == known.handle)) {
            self.known.remove(name);
            self.missing.remove(name);
            self.dirty.insert(name.to_owned());
        }
    }

    fn give_up_missing(&mut self) {
        for name in std::mem::take(&mut self.missing) {
            self.remove(&name, None);
        }
    }
}

/// `object.remove`.
#[derive(Deserialize)]
struct Removed {
    name: String,
    #[serde(default)]
    handle: Option<Handle>,
}

struct Task {
    matching: Matching,
    registry: PathBuf,
    place: Arc<Place>,
    view: Arc<View>,
    active: watch::Sender<bool>,
}

impl Task {
    async fn run(self) {
        let mut again = false;
        let mut backoff = Backoff::new(&self.place);
        loop {
            let (line, events, found) = match self.begin(&mut backoff).await {
                Ok(begun) => begun,
                Err(failure) => return self.view.change(|objects| objects.end = Some(failure)),
            };
            self.view.change(|objects| objects.list(found, again));
            self.active.send_replace(true);
            let began = Instant::now();
            self.follow(events).await;
            drop(line);
            self.active.send_replace(false);
            again = true;
            backoff.ended(began.elapsed()).await;
        }
    }

    /// A line that is watched over, and what there is; however long that takes.
    async fn begin(
        &self,
        backoff: &mut Backoff,
    ) -> Result<(Line, mpsc::Receiver<Event>, Vec<Found>), Failure> {
        loop {
            let (sender, events) = mpsc::channel(CHANGES_MAX);
            // Where it is full the events are of no use, and their end says so.
            let sender = Mutex::new(Some(sender));
            let deliver = move |event| {
                let mut sender = sender.lock().expect("nothing panics while it holds the sender");
                if sender.as_ref().is_some_and(|sender| sender.try_send(event).is_err()) {
                    *sender = None;
                }
            };
            if let Ok(line) = Line::open(&self.registry, deliver).await {
                match line.ask("watch", &self.matching, ANSWER).await {
                    Ok(found) => {
                        backoff.rest();
                        return Ok((line, events, found));
                    }
                    Err(CallError::Refused(failure)) if failure.code == Code::Busy => {
                        tokio::time::sleep(super::retry_after(&failure)).await;
                    }
                    Err(CallError::Refused(failure)) => return Err(failure),
                    // Whatever else it was, another connection may do better.
                    Err(_) => {}
                }
            }
            backoff.pause().await;
        }
    }

    /// Follows the changes until the connection has ended, or was too fast.
    async fn follow(&self, mut events: mpsc::Receiver<Event>) {
        let grace = Instant::now() + GRACE;
        let mut settled = false;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = sleep_until(grace), if !settled => {
                    settled = true;
                    self.view.change(Objects::give_up_missing);
                    continue;
                }
            };
            let Some(event) = event else { return };
            let lost = event.lost > 0;
            match &*event.topic {
                "object.add" => {
                    if let Ok(found) = event.parse() {
                        self.view.change(|objects| objects.add(found));
                    }
                }
                "object.remove" => {
                    if let Ok(Removed { name, handle }) = event.parse() {
                        self.view.change(|objects| objects.remove(&name, handle));
                    }
                }
                _ => {}
            }
            if lost {
                // The list must be read again, whole.
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::objects::Served;

    use super::*;

    fn found(name: &str, number: u32) -> Found {
        let object = Served {
            name: name.into(),
            token: 0,
            generation: 1,
            interface: "test".into(),
            version: 1,
            hash: 0,
        };
        let handle = Handle { epoch: 1, number };
        Found { object, handle, socket: "/run/x.sock".into(), pid: 7, uid: 0 }
    }

    fn changes(objects: &mut Objects) -> Vec<Change> {
        std::iter::from_fn(|| objects.next()).map(Result::unwrap).collect()
    }

    #[test]
    fn a_restart_removes_nothing_that_comes_back() {
        let mut objects = Objects::default();
        objects.list(vec![found("a", 1), found("b", 2)], false);
        let all = [Change::Added(found("a", 1)), Change::Added(found("b", 2))];
        assert_eq!(changes(&mut objects), all);
        // After the restart only one of them has registered again.
        objects.list(vec![found("b", 2)], true);
        assert_eq!(changes(&mut objects), []);
        assert_eq!(objects.known.len(), 2);
        objects.add(found("a", 1));
        objects.give_up_missing();
        assert_eq!(changes(&mut objects), []);
    }

    #[test]
    fn what_does_not_come_back_after_a_restart_is_removed_in_the_end() {
        let mut objects = Objects::default();
        objects.list(vec![found("a", 1), found("b", 2)], false);
        changes(&mut objects);
        objects.list(vec![found("b", 3)], true);
        assert_eq!(changes(&mut objects), [Change::Changed(found("b", 3))]);
        objects.give_up_missing();
        assert_eq!(changes(&mut objects), [Change::Removed(found("a", 1))]);
    }

    #[test]
    fn the_old_owners_end_does_not_remove_what_the_new_one_serves() {
        let mut objects = Objects::default();
        objects.list(vec![found("a", 1)], false);
        changes(&mut objects);
        objects.add(found("a", 2));
        objects.remove("a", Some(Handle { epoch: 1, number: 1 }));
        assert_eq!(changes(&mut objects), [Change::Changed(found("a", 2))]);
        objects.remove("a", Some(Handle { epoch: 1, number: 2 }));
        assert_eq!(changes(&mut objects), [Change::Removed(found("a", 2))]);
    }

    #[test]
    fn what_nobody_was_told_need_not_be_taken_back() {
        let mut objects = Objects::default();
        objects.add(found("a", 1));
        objects.remove("a", None);
        assert_eq!(changes(&mut objects), []);
    }
}
