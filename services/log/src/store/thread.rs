//! The writer on a thread of its own, so that a disk that hangs holds up nothing else, and the queue before it.
//!
//! Whoever appends waits until it is written, so that nothing is taken from a pipe that isn't stored; but not for ever:
//! after [`PATIENCE`] it goes on, and what the full queue doesn't take is dropped and counted.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::timeout,
};

use super::{
    Place, Shared,
    reader::{Filter, Reader},
    record::Entry,
    writer::Writer,
};
use crate::shell::now;

/// Appends that may wait for the disk; each has at most what one read of a pipe brought.
const QUEUE: usize = 64;
/// How long a pipe is left alone for the disk's sake.
const PATIENCE: Duration = Duration::from_secs(1);

/// The store, as everybody else sees it. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    place: Arc<Place>,
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    /// The queue was full for longer than anybody's patience.
    stuck: Arc<AtomicBool>,
    written: watch::Receiver<u64>,
    boot: u32,
}

#[derive(Debug)]
enum Job {
    Append {
        entries: Vec<Entry>,
        position: Option<u64>,
        done: oneshot::Sender<()>,
        _room: OwnedSemaphorePermit,
    },
    Close(oneshot::Sender<()>),
}

impl Store {
    /// Opens the store and starts its thread. Answers where the kernel's messages go on, too.
    ///
    /// # Errors
    /// Where there can be no further thread.
    pub(crate) async fn open(place: Place, boot: u32) -> io::Result<(Self, Option<u64>)> {
        let shared = Arc::new(Shared::default());
        let (jobs, queue) = mpsc::channel();
        let (tell, written) = watch::channel(0);
        let (ready, position) = oneshot::channel();
        let (its_place, its_shared) = (place.clone(), Arc::clone(&shared));
        std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            let writer = Writer::open(its_place, boot, its_shared, now());
            // Nobody waits any more where the process is ending.
            let _ = ready.send(writer.position());
            work(writer, &queue, &tell);
        })?;
        let store = Self {
            place: Arc::new(place),
            shared,
            jobs,
            room: Arc::new(Semaphore::new(QUEUE)),
            stuck: Arc::default(),
            written,
            boot,
        };
        // A disk that hangs at the start is no reason not to drain.
        let position = timeout(PATIENCE * 5, position).await;
        Ok((store, position.ok().and_then(Result::ok).flatten()))
    }

    /// Keeps the entries; returns when they are written, or after [`PATIENCE`].
    pub(crate) async fn append(&self, entries: Vec<Entry>, position: Option<u64>) {
        if entries.is_empty() && position.is_none() {
            return;
        }
        let patience = if self.stuck.load(Relaxed) { Duration::ZERO } else { PATIENCE };
        let room = timeout(patience, Arc::clone(&self.room).acquire_owned()).await;
        let Ok(Ok(room)) = room else {
            if !self.stuck.swap(true, Relaxed) {
                let folder = self.place.folder.display();
                tracing::error!("the store in {folder} hangs; records are dropped");
            }
            return self.shared.lose(&entries);
        };
        self.stuck.store(false, Relaxed);
        let (done, stored) = oneshot::channel();
        let job = Job::Append { entries, position, done, _room: room };
        if let Err(mpsc::SendError(Job::Append { entries, .. })) = self.jobs.send(job) {
            // The thread panicked; the supervisor is told by our status, the records by their number.
            return self.shared.lose(&entries);
        }
        // In the queue it is as good as stored, if the disk only takes its time.
        let _ = timeout(PATIENCE, stored).await;
    }

    /// Ends in order: everything that waits is written, and brought to the disk.
    pub(crate) async fn close(&self, within: Duration) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).is_ok() && timeout(within, closed).await.is_err() {
            tracing::warn!("the store did not end in time; its last records may be missing");
        }
    }

    pub(crate) fn reader(&self, filter: Filter) -> Reader {
        Reader::new(Arc::clone(&self.shared), self.place.folder.clone(), filter)
    }

    /// Changes whenever something was written.
    pub(crate) fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn boot(&self) -> u32 {
        self.boot
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Relaxed)
    }
}

/// The first 8 digits of the boot's id; 0 where the kernel doesn't tell.
pub(crate) fn boot(path: &Path) -> u32 {
    let id = std::fs::read_to_string(path).unwrap_or_default();
    id.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

fn work(mut writer: Writer, queue: &mpsc::Receiver<Job>, tell: &watch::Sender<u64>) {
    loop {
        let job = match writer.sync_due() {
            None => queue.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(due) => queue.recv_timeout(due.since(now().monotonic)),
        };
        match job {
            Ok(Job::Append { entries, position, done, _room }) => {
                writer.append(&entries, position, now());
                tell.send_modify(|times| *times += 1);
                let _ = done.send(());
            }
            Ok(Job::Close(done)) => {
                writer.close(now().monotonic);
                let _ = done.send(());
                return;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => writer.sync_or_tell(now().monotonic),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}
