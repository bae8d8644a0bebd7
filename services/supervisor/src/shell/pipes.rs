//! Who drains the services' pipes: the log service as long as it asks for the list of them (`service.pipes`), else the
//! supervisor. A log service that is on its way is waited for, but no service is ever made to wait with it.
//!
//! ```text
//!            log service defined               half a pipe full, or 10 s over
//! (start) ------------------------> Waiting -----------------------------------> Ring
//!    |                               |   ^                                         |
//!    | no log service     pipes call |   | its stream ends (then 1 s, not 10)      | pipes call
//!    v                               v   |                                         |
//!  Files ----------------------->    Given   <--------------------------------------
//!            pipes call
//! ```
//! Without a log service Waiting ends in Files, and so does Ring when the log service is taken off the device.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use endpoint::{Chunks, Incoming};
use protocol::{keeper::SlotState, service};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::{Inbound, Shell, logs::Stream, ring::Kept};

/// How long a log service may take to come at the start, as long as the pipes hold what is printed.
const START_TIME: Duration = Duration::from_secs(10);
/// How long it may take to come back.
const RETURN_TIME: Duration = Duration::from_secs(1);
/// Changes that may wait for a log service that doesn't read; then it has to ask again.
const CHANGES: usize = 256;
/// The service that is waited for; another one that happens to have its name (OpenWrt's) is none of the suite's own.
const LOG: &str = "log";

/// Where what services print goes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum How {
    /// Into files, by us.
    #[default]
    Files,
    /// Into the ring, by us, until the log service asks for it.
    Ring,
    /// Nowhere: it stays in the pipes.
    Waiting,
    /// The log service takes it.
    Given,
}

/// What all drains look at.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    how: watch::Sender<How>,
    /// There is a log service: what we drain is kept for it.
    for_log: AtomicBool,
    ring: Mutex<Kept>,
}

/// Something that happened beside the loop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// Nobody reads the list of pipes any more.
    Ended { id: u64 },
    /// The log service did not come in time.
    TimeUp { id: u64 },
}

/// The log service's stream, and what it was told.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    stream: Option<(mpsc::Sender<Vec<u8>>, Option<u32>)>,
    /// Counts streams and waits, so that an event about an old one is recognised.
    id: u64,
    told: BTreeMap<u32, service::Pipes>,
}

impl Switch {
    pub(crate) fn how(&self) -> How {
        *self.how.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<How> {
        self.how.subscribe()
    }

    /// What must not wait any longer is drained by us.
    pub(crate) fn stop_waiting(&self) {
        let own = if self.keeps_in_ring() { How::Ring } else { How::Files };
        self.how.send_if_modified(|how| {
            let waited = *how == How::Waiting;
            if waited {
                *how = own;
            }
            waited
        });
    }

    pub(crate) fn keeps_in_ring(&self) -> bool {
        self.for_log.load(Relaxed)
    }

    pub(crate) fn ring(&self) -> MutexGuard<'_, Kept> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, how: How) {
        self.how.send_replace(how);
    }
}

impl Shell {
    /// At the start: a log service that is on this device is waited for.
    pub(crate) fn begin_draining(&mut self) {
        self.note_log_service();
        if self.workshop.switch().keeps_in_ring() {
            self.wait_for_log(START_TIME);
        }
    }

    /// `service.pipes`: from now on the caller drains.
    pub(crate) fn pipes_call(&mut self, call: Incoming) {
        let caller = call.caller();
        self.pipes.id += 1;
        let (changes, receiver) = mpsc::channel(CHANGES);
        // Who isn't root opens them as a member of their group.
        let group = (rustix::process::geteuid().is_root() && caller.uid != 0).then_some(caller.gid);
        self.pipes.stream = Some((changes, group));
        self.pipes.told.clear();
        let slots: Vec<u32> = self.states.keys().copied().collect();
        let mut lines = Vec::new();
        for slot in slots {
            let Some(line) = self.line(slot) else { continue };
            open_to(group, &line);
            push_line(&mut lines, &line);
            self.pipes.told.insert(line.slot, line);
        }
        // The list is complete.
        lines.push(b'\n');
        self.workshop.switch().set(How::Given);
        tracing::info!("process {} drains what services print", caller.pid);
        let (id, back) = (self.pipes.id, self.back.clone());
        tokio::spawn(async move {
            stream(call.responder.chunks(), lines, receiver).await;
            // The loop is gone only where the whole process is.
            let _ = back.send(Inbound::Pipes(Event::Ended { id })).await;
        });
    }

    /// Something about a slot may have changed that its reader has to know; that a process has ended always is.
    pub(crate) fn pipes_changed(&mut self, slot: u32, ended: bool) {
        if self.workshop.switch().how() == How::Ring {
            self.note_log_service();
        }
        if self.pipes.stream.is_none() {
            return;
        }
        let Some(line) = self.line(slot) else { return };
        if !ended && self.pipes.told.get(&slot) == Some(&line) {
            return;
        }
        let known = self.pipes.told.insert(slot, line.clone());
        // They are as they were made, whenever they are made again.
        if known.is_none_or(|known| (&known.out, &known.err) != (&line.out, &line.err)) {
            open_to(self.pipes.stream.as_ref().and_then(|(_, group)| *group), &line);
        }
        self.tell(&line);
    }

    /// The instance is about to be forgotten, and its pipes with it.
    pub(crate) fn pipes_gone(&mut self, slot: u32) {
        if let Some(prepared) = self.workshop.slot(slot)
            && let Some(drain) = &prepared.drain
        {
            drain.save();
        }
        if let Some(line) = self.pipes.told.remove(&slot) {
            self.tell(&service::Pipes { gone: true, pid: 0, ..line });
        }
    }

    pub(crate) fn pipes_event(&mut self, event: Event) {
        match event {
            Event::Ended { id } if id == self.pipes.id => {
                self.pipes.stream = None;
                self.note_log_service();
                self.wait_for_log(RETURN_TIME);
            }
            Event::TimeUp { id } if id == self.pipes.id => self.workshop.switch().stop_waiting(),
            // Another stream or wait has begun since.
            Event::Ended { .. } | Event::TimeUp { .. } => {}
        }
    }

    fn wait_for_log(&mut self, time: Duration) {
        self.workshop.switch().set(How::Waiting);
        self.pipes.id += 1;
        let (id, back) = (self.pipes.id, self.back.clone());
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = back.send(Inbound::Pipes(Event::TimeUp { id })).await;
        });
    }

    /// Whether this device has a log service, as far as the definitions say now. Where it has none any more, nobody will ask
    /// for the ring.
    fn note_log_service(&mut self) {
        let mut definitions = self.machine.definitions();
        let for_log = definitions.any(|service| service.core && service.name.as_str() == LOG);
        let switch = Arc::clone(self.workshop.switch());
        switch.for_log.store(for_log, Relaxed);
        if !for_log && switch.how() == How::Ring {
            switch.set(How::Files);
            let kept = std::mem::take(&mut *switch.ring());
            self.keep_in_files(&kept);
        }
    }

    /// What the reader has to know of a slot; none where nothing of it is kept.
    fn line(&mut self, slot: u32) -> Option<service::Pipes> {
        let SlotState { generation, pid, .. } = self.states.get(&slot).copied()?;
        let prepared = self.workshop.slot(slot)?;
        let drain = prepared.drain.as_ref();
        let path = |stream| {
            drain
                .and_then(|drain| drain.path(stream))
                .map(|path| path.to_string_lossy().into_owned())
        };
        let line = service::Pipes {
            slot,
            service: prepared.service.name.clone(),
            instance: prepared.instance.clone(),
            generation,
            pid,
            out: path(Stream::Out),
            err: path(Stream::Err),
            gone: false,
        };
        let known = self.pipes.told.contains_key(&slot);
        (known || line.out.is_some() || line.err.is_some()).then_some(line)
    }

    fn tell(&mut self, line: &service::Pipes) {
        let Some((changes, _)) = &self.pipes.stream else { return };
        let mut text = Vec::new();
        push_line(&mut text, line);
        if changes.try_send(text).is_err() {
            // It doesn't read; when it does, it finds the end and asks again. Its task tells us that it has ended.
            tracing::warn!(
                "the log service doesn't read which pipes there are; it has to ask again"
            );
            self.pipes.stream = None;
        }
    }
}

fn push_line(lines: &mut Vec<u8>, line: &service::Pipes) {
    let json = serde_json::to_vec(line).expect("a line holds only texts and numbers");
    lines.extend_from_slice(&json);
    lines.push(b'\n');
}

/// Lets the members of a group open an instance's FIFOs.
fn open_to(group: Option<u32>, line: &service::Pipes) {
    let Some(group) = group else { return };
    for path in line.out.iter().chain(&line.err) {
        if let Err(error) = open_one(Path::new(path), group) {
            tracing::warn!("give {path} to group {group}: {error}");
        }
    }
}

fn open_one(path: &Path, group: u32) -> io::Result<()> {
    chown(path, None, Some(group))?;
    fs::set_permissions(path, Permissions::from_mode(0o660))
}

/// Sends the list and then every change, until nobody reads them or there are none any more.
async fn stream(mut chunks: Chunks, lines: Vec<u8>, mut changes: mpsc::Receiver<Vec<u8>>) {
    let mut next = Some(lines);
    while let Some(lines) = next {
        if chunks.send(&lines).await.is_err() {
            return;
        }
        next = tokio::select! {
            change = changes.recv() => change,
            () = chunks.cancelled() => return,
        };
    }
    chunks.finish(&Value::Null);
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, path::PathBuf};

    use protocol::name::Name;

    use super::*;
    use crate::shell::logs::Drain;

    /// One pipe, its drain, and the end that a service prints to.
    struct Bench {
        folder: tempfile::TempDir,
        switch: Arc<Switch>,
        drain: Drain,
        service: fs::File,
    }

    impl Bench {
        fn new(how: How) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let fifo = folder.path().join("fifo");
            rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
            let switch = Arc::<Switch>::default();
            switch.for_log.store(true, Relaxed);
            switch.set(how);
            let name = Name::new("web").unwrap();
            let pipes = [(Stream::Out, fifo.clone())];
            let file = folder.path().join("log");
            let drain = Drain::start(file, (&name, &name), &pipes, &switch).unwrap();
            let service = fs::OpenOptions::new().read(true).write(true).open(fifo).unwrap();
            Self { folder, switch, drain, service }
        }

        fn print(&mut self, length: usize) {
            self.service.write_all(&vec![b'x'; length]).unwrap();
        }

        fn in_pipe(&self) -> u64 {
            rustix::io::ioctl_fionread(&self.service).unwrap()
        }

        fn in_ring(&self) -> usize {
            self.switch.ring().bytes()
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("log")
        }

        async fn until_ring(&self) {
            let mut watch = self.switch.watch();
            let ring = watch.wait_for(|how| *how == How::Ring);
            let limit = Duration::from_secs(10);
            drop(tokio::time::timeout(limit, ring).await.expect("it is left in the pipe").unwrap());
        }

        /// Lets the drain's tasks do what they can.
        async fn settle(&self) {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn what_waits_for_the_log_service_stays_in_the_pipe_until_it_is_half_full() {
        let mut bench = Bench::new(How::Waiting);
        bench.print(30_000);
        bench.settle().await;
        assert_eq!((bench.in_pipe(), bench.switch.how()), (30_000, How::Waiting));
        bench.print(3_000);
        bench.until_ring().await;
        bench.settle().await;
        assert_eq!((bench.in_pipe(), bench.in_ring()), (0, 33_000));
        assert!(!bench.file().exists());
    }

    #[tokio::test]
    async fn a_pipe_without_room_is_not_left_although_it_holds_little() {
        let mut bench = Bench::new(How::Waiting);
        rustix::pipe::fcntl_setpipe_size(&bench.service, 4096).unwrap();
        bench.print(1);
        bench.until_ring().await;
    }

    #[tokio::test]
    async fn what_is_given_to_the_log_service_is_never_touched() {
        let mut bench = Bench::new(How::Given);
        bench.print(60_000);
        bench.settle().await;
        bench.drain.flush();
        bench.drain.save();
        assert_eq!((bench.in_pipe(), bench.in_ring()), (60_000, 0));
    }

    #[tokio::test]
    async fn what_was_waited_for_in_vain_is_kept_without_another_byte() {
        let mut bench = Bench::new(How::Waiting);
        bench.print(10);
        bench.settle().await;
        bench.switch.stop_waiting();
        bench.settle().await;
        assert_eq!((bench.in_pipe(), bench.in_ring()), (0, 10));
        // What is waited for no longer is not waited for twice.
        bench.switch.set(How::Given);
        bench.switch.stop_waiting();
        assert_eq!(bench.switch.how(), How::Given);
    }

    #[tokio::test]
    async fn without_a_log_service_it_goes_into_files() {
        let mut bench = Bench::new(How::Files);
        bench.switch.for_log.store(false, Relaxed);
        bench.print(10);
        bench.drain.flush();
        assert!(fs::read_to_string(bench.file()).unwrap().ends_with("xxxxxxxxxx\n"));
    }

    #[tokio::test]
    async fn the_pipe_of_an_instance_that_is_forgotten_is_emptied_while_the_log_service_is_away() {
        let mut bench = Bench::new(How::Waiting);
        bench.print(10);
        bench.drain.flush();
        assert_eq!(bench.in_pipe(), 10);
        bench.drain.save();
        assert_eq!((bench.in_pipe(), bench.in_ring()), (0, 10));
    }

    #[tokio::test]
    async fn a_fifo_that_is_given_to_a_group_is_for_its_members_and_its_owner() {
        use std::os::unix::fs::MetadataExt as _;
        let bench = Bench::new(How::Given);
        let path = bench.folder.path().join("fifo");
        let own = rustix::process::getegid().as_raw();
        open_one(&path, own).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o660, own));
    }
}
