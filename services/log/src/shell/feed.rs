//! The supervisor's list of pipes, followed for as long as both live: what was printed before is taken over first, then the
//! pipes are drained. Between two sessions nothing is drained here, because the supervisor does it then; the pipes stay open.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use endpoint::{CallError, CallOptions, Client, Options};
use protocol::{
    keeper::ring,
    log::Source,
    service::{Pipes, Ring, RingPart, ring_parts},
};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Desk,
    fifo::{Control, Fifo},
    now,
};
use crate::machine::{
    Printer,
    lines::{Lines, Rest},
};

/// First pause after a session that failed; it doubles up to the last. Where there is no supervisor at all, trying costs one
/// system call every so often.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest line of the supervisor's answer: names and paths.
const LINE_MAX: usize = 64 << 10;

/// The task that follows the list.
#[derive(Debug)]
pub(super) struct Feed {
    ready: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// A slot's pipes.
struct Slot {
    line: Pipes,
    fifos: Vec<Fifo>,
    /// This session has named it.
    named: bool,
}

struct Session {
    desk: Arc<Desk>,
    slots: HashMap<u32, Slot>,
    ready: watch::Sender<bool>,
}

impl Feed {
    pub(super) fn start(desk: Arc<Desk>, supervisor: PathBuf) -> Self {
        let (ready, is_ready) = watch::channel(false);
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut session = Session { desk, slots: HashMap::new(), ready };
            tokio::select! {
                () = session.follow(&supervisor) => {}
                // Also where whoever could stop us is gone.
                _ = stopped.wait_for(|stop| *stop) => {}
            }
            session.end().await;
        });
        Self { ready: is_ready, stop, task }
    }

    /// Returns once everything is drained that can be.
    pub(super) async fn ready(&mut self) {
        // The task only ends where the whole log does.
        if self.ready.wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Stores what was begun; what is in the pipes stays there.
    pub(super) async fn stop(self, within: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(within, self.task).await.is_err() {
            tracing::warn!("the pipes were not left in time; a line may be there twice");
        }
    }
}

impl Session {
    async fn follow(&mut self, supervisor: &Path) {
        let client =
            Client::new(supervisor, Options { patience: Duration::ZERO, ..Options::default() });
        let mut pause = PAUSE;
        loop {
            let Err(error) = self.session(&client, &mut pause).await;
            self.pause_draining();
            if *self.ready.borrow() && pause == PAUSE {
                tracing::info!("the supervisor's list of pipes ended: {error}");
            } else {
                let text = format!("nothing that services print is drained here: {error}");
                self.desk.missing("supervisor", text).await;
            }
            // Without a supervisor, or one that doesn't want us to, there is nothing to wait for.
            self.ready.send_replace(true);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One session; it ends with the reason.
    async fn session(
        &mut self,
        client: &Client,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, CallError> {
        self.slots.values_mut().for_each(|slot| slot.named = false);
        let options = CallOptions { deadline: Duration::MAX, ..CallOptions::default() };
        // From now on the supervisor leaves the pipes alone; the next call is answered after this one.
        self.desk.there("pipe");
        let mut stream = client.call_stream("service", "pipes", b"{}", options).await?;
        self.take_rings(client).await?;
        let mut bytes = Vec::new();
        let broken = |text: &str| CallError::Violation {
            path: client.path().to_owned(),
            text: format!("service.pipes: {text}"),
        };
        while let Some(piece) = stream.next().await? {
            bytes.extend_from_slice(&piece);
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = bytes.drain(..=end).collect();
                if line.len() == 1 {
                    self.listed().await;
                    *pause = PAUSE;
                    continue;
                }
                let line = serde_json::from_slice(&line).map_err(|it| broken(&it.to_string()))?;
                self.change(line).await;
            }
            if bytes.len() > LINE_MAX {
                return Err(broken("a line is longer than 64 KiB"));
            }
        }
        Err(broken("the supervisor ended it"))
    }

    /// What was printed while nobody drained here, from the oldest on, until there is no more.
    async fn take_rings(&mut self, client: &Client) -> Result<(), CallError> {
        let mut stored = 0;
        loop {
            let options = CallOptions::safe();
            let answer = client.call("service", "ring", &Ring { stored }, options).await?;
            let broken = |text| CallError::Violation { path: client.path().to_owned(), text };
            let parts = ring_parts(&answer.result).map_err(broken)?;
            let Some((last, _)) = parts.last() else { return Ok(()) };
            if last.id <= stored {
                return Err(broken(format!("service.ring answers part {stored} again")));
            }
            stored = last.id;
            for (part, memory) in parts {
                self.keep_ring(&part, memory).await;
            }
        }
    }

    async fn keep_ring(&self, part: &RingPart, memory: &[u8]) {
        let owner = |slot: u32| part.slots.iter().find(|owner| owner.slot == slot);
        let mut streams: HashMap<(u32, bool), (Printer, Lines, Vec<u8>)> = HashMap::new();
        let now = now();
        let Ok(records) = ring::records(memory) else {
            let text = format!("what was printed before is lost: part {} is no ring", part.id);
            return self.desk.keep(vec![now.remark(text)], None).await;
        };
        let dropped = ring::dropped(memory).unwrap_or(0);
        if dropped > 0 {
            let text =
                format!("{dropped} bytes of what was printed while the log was away were dropped");
            self.desk.keep(vec![now.remark(text)], None).await;
        }
        for record in records {
            let Some(owner) = owner(record.slot) else { continue };
            let is_err = record.stream == ring::Stream::Err;
            let (printer, lines, rest) =
                streams.entry((record.slot, is_err)).or_insert_with(|| {
                    let printer = Printer {
                        service: owner.service.as_str().into(),
                        instance: owner.instance.as_str().into(),
                        pid: 0,
                        source: if is_err { Source::Stderr } else { Source::Stdout },
                    };
                    (printer, Lines::default(), Vec::new())
                });
            rest.extend_from_slice(record.text);
            let then = now.at(record.at);
            let (entries, used) =
                self.desk.intake().printed(printer, lines, rest, Rest::Stays, then);
            rest.drain(..used);
            self.desk.keep(entries, None).await;
        }
        // A line that goes on in the pipe: what is here must not wait for that in our memory.
        for (printer, mut lines, rest) in streams.into_values() {
            let (entries, _) =
                self.desk.intake().printed(&printer, &mut lines, &rest, Rest::Continues, now);
            self.desk.keep(entries, None).await;
        }
    }

    /// The list is complete: what it didn't name is no longer there.
    async fn listed(&mut self) {
        let gone: Vec<u32> =
            self.slots.iter().filter(|(_, slot)| !slot.named).map(|(slot, _)| *slot).collect();
        for slot in gone {
            self.close(slot).await;
        }
        self.desk.there("supervisor");
        self.ready.send_replace(true);
    }

    /// A line of the list.
    async fn change(&mut self, line: Pipes) {
        let same = |slot: &Slot| {
            let known = &slot.line;
            (&known.service, &known.instance, &known.out, &known.err)
                == (&line.service, &line.instance, &line.out, &line.err)
        };
        if line.gone || self.slots.get(&line.slot).is_some_and(|slot| !same(slot)) {
            self.close(line.slot).await;
        }
        if line.gone {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&line.slot) {
            slot.update(line);
            return;
        }
        let mut fifos = Vec::new();
        for (path, source) in [(&line.out, Source::Stdout), (&line.err, Source::Stderr)] {
            let Some(path) = path else { continue };
            // Whoever printed may be gone already, and nobody will say so again.
            let ends = u64::from(line.pid == 0);
            let control =
                Control { printer: printer(&line, source), reading: true, ends, gone: false };
            match Fifo::open(&self.desk, Path::new(path), control) {
                Ok(fifo) => fifos.push(fifo),
                Err(error) => {
                    let text = format!("open {path}, where {} prints: {error}", line.service);
                    self.desk.missing("pipe", text).await;
                }
            }
        }
        self.slots.insert(line.slot, Slot { line, fifos, named: true });
    }

    /// The instance is forgotten: what is left in its pipes is stored, then they are closed.
    async fn close(&mut self, slot: u32) {
        let Some(slot) = self.slots.remove(&slot) else { return };
        for fifo in slot.fifos {
            fifo.control.send_modify(|control| {
                control.reading = true;
                control.gone = true;
            });
            // It ends after a bounded number of reads.
            let _ = fifo.task.await;
        }
    }

    fn pause_draining(&self) {
        for fifo in self.slots.values().flat_map(|slot| &slot.fifos) {
            fifo.control.send_modify(|control| control.reading = false);
        }
    }

    async fn end(&mut self) {
        for (_, slot) in self.slots.drain() {
            for Fifo { control, task } in slot.fifos {
                drop(control);
                // It stores what it has looked at, and ends.
                let _ = task.await;
            }
        }
    }
}

impl Slot {
    /// The same pipes; perhaps another process.
    fn update(&mut self, line: Pipes) {
        // One may have come and gone between two lines: where nobody runs, whatever is there was said to its end.
        let another = (line.generation, line.pid) != (self.line.generation, self.line.pid);
        let ended = line.pid == 0 || another && self.line.pid != 0;
        for fifo in &self.fifos {
            fifo.control.send_modify(|control| {
                control.printer.pid = line.pid;
                control.reading = true;
                control.ends += u64::from(ended);
            });
        }
        self.named = true;
        self.line = line;
    }
}

fn printer(line: &Pipes, source: Source) -> Printer {
    Printer {
        service: line.service.as_str().into(),
        instance: line.instance.as_str().into(),
        pid: line.pid,
        source,
    }
}
