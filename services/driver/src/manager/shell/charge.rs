//! One driver in the manager's care: its settings, its record, and what was noted about it. Changes of its record are written
//! before they count.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use endpoint::CallError;
use protocol::{
    driver::{Standing, Status},
    failure::{Code, Failure},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::{
    folders::{self, User},
    host::Host,
};
use crate::{
    manager::machine::refusal,
    record::{self, Record},
    settings::Driver,
};

/// See the header.
pub(super) struct Charge {
    pub(super) name: String,
    pub(super) settings: Driver,
    /// `STATE_DIR/driver/NAME`.
    pub(super) folder: PathBuf,
    /// `RUN_DIR/driver/NAME`.
    pub(super) own: PathBuf,
    pub(super) host: Host,
    /// Whoever changes its code or its host has the permit, so that a second one is told `busy`.
    changing: Arc<Semaphore>,
    /// Held while record and host are compared or changed.
    pub(super) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// Rises with each change of the record.
    changed: watch::Sender<u64>,
    poked: Notify,
}

#[derive(Default)]
struct State {
    record: Option<Record>,
    /// What falls short, by what it is about.
    notes: BTreeMap<&'static str, String>,
    /// `/dev/cuse`, and the host that has a copy of it.
    cuse: Option<Arc<OwnedFd>>,
    given_to: Option<i32>,
}

impl Charge {
    pub(super) fn new(name: &str, settings: Driver, run: &Path, state: &Path) -> Self {
        Self {
            name: name.to_owned(),
            folder: state.join(name),
            own: run.join("driver").join(name),
            host: Host::new(run, name),
            settings,
            changing: Arc::new(Semaphore::new(1)),
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            poked: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a driver's state")
    }

    /// The right to change it.
    ///
    /// # Errors
    /// `busy`, where somebody does.
    pub(super) fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.changing).try_acquire_owned().map_err(|_| {
            let text = format!(
                "{}: another upgrade, rollback, load or unload runs; try again when it has ended",
                self.name
            );
            let mut failure = refusal(Code::Busy, "busy", text);
            if let Some(details) = &mut failure.details {
                details["retry_after_ms"] = 500.into();
                details["not_started"] = true.into();
            }
            failure
        })
    }

    /// The same, when it is its turn.
    pub(super) async fn permit_at_last(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.changing).acquire_owned().await.ok()
    }

    /// Its host may have changed, or something has to be looked at for another reason.
    pub(super) fn poke(&self) {
        self.poked.notify_one();
    }

    pub(super) async fn poked(&self) {
        self.poked.notified().await;
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn record(&self) -> Option<Record> {
        self.lock().record.clone()
    }

    /// # Errors
    /// Where it has never had an object.
    pub(super) fn record_or_fail(&self) -> Result<Record, Failure> {
        self.record().ok_or_else(|| {
            let why = self.lock().notes.get("begin").cloned();
            let text = why
                .unwrap_or_else(|| format!("{}: its record is being read; try again", self.name));
            refusal(Code::Failed, "no-record", text)
        })
    }

    /// What was read counts.
    pub(super) fn set_record(&self, record: Record) {
        self.lock().record = Some(record);
        self.changed.send_modify(|number| *number += 1);
    }

    /// Writes a record; it counts once it is written.
    pub(super) async fn write(&self, record: Record) -> io::Result<()> {
        let (folder, written) = (self.folder.clone(), record.clone());
        blocking(move || record::write(&folder, &written)).await?;
        self.set_record(record);
        Ok(())
    }

    /// Removes the objects that its record doesn't need.
    pub(super) async fn sweep(&self) {
        let Some(record) = self.record() else { return };
        let folder = self.folder.clone();
        let swept = blocking(move || record::sweep(&folder, &record)).await;
        self.say(
            "sweep",
            swept
                .err()
                .map(|error| format!("remove objects from {}: {error}", self.folder.display())),
        );
    }

    /// Notes what falls short, once in the log and for as long as it does in `list`; `None`: it doesn't any more.
    pub(super) fn say(&self, about: &'static str, note: Option<String>) {
        let mut state = self.lock();
        let Some(note) = note else {
            state.notes.remove(about);
            return;
        };
        if state.notes.get(about) != Some(&note) {
            tracing::warn!(driver = self.name, "{note}");
            state.notes.insert(about, note);
        }
    }

    pub(super) fn user(&self) -> Result<Option<User>, String> {
        folders::user(self.settings.user.as_deref())
    }

    pub(super) fn cuse(&self) -> Option<Arc<OwnedFd>> {
        self.lock().cuse.clone()
    }

    /// This descriptor is the device, and the host of this pid has it too.
    pub(super) fn set_cuse(&self, device: Option<Arc<OwnedFd>>, given_to: Option<i32>) {
        let mut state = self.lock();
        (state.cuse, state.given_to) = (device, given_to);
    }

    pub(super) fn has_cuse(&self, pid: Option<i32>) -> bool {
        let state = self.lock();
        state.cuse.is_some() && pid.is_some() && state.given_to == pid
    }

    /// How it stands, asked of the host now.
    pub(super) async fn status(&self) -> Status {
        let mut status = match self.host.status().await {
            Ok(status) => status,
            Err(CallError::Unreachable { .. }) => {
                Status { standing: Standing::Down, ..Status::default() }
            }
            Err(_) => Status { standing: Standing::Starting, ..Status::default() },
        };
        let state = self.lock();
        status.name.clone_from(&self.name);
        if let Some(record) = &state.record {
            let down = status.version.hash.is_empty();
            if down || status.version.hash == record.current.hash {
                let told = std::mem::replace(&mut status.version, record.current.clone());
                // What came from the factory is told by the object itself.
                if status.version.version.is_empty() {
                    status.version.version = told.version;
                }
            }
            status.previous.clone_from(&record.previous);
            status.last = record.last.clone().or(status.last);
        }
        status.notes.extend(state.notes.values().cloned());
        status
    }
}

/// Files may be on a disk that takes its time.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(io::Error::other(error)),
    }
}
