//! One pipe of a service: looked at, stored, and only then taken from the pipe. Killed in between, the log finds a line
//! again that it has stored already; it never loses one.
//!
//! The beginning of a line stays in the pipe until its end comes, the process ends, or the pipe is full.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use rustix::fs::{FileType, Mode, OFlags};
use tokio::{net::unix::pipe, sync::watch, task::JoinHandle};

use super::{Desk, now, peek};
use crate::machine::{
    Printer,
    lines::{Lines, Rest},
};

/// When a process has ended, another one may go on filling the pipe; as much as the largest pipe of an ordinary process holds.
const LAST_READS: usize = 16;

/// What is known of who prints, and what is to be done.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) printer: Printer,
    /// Nobody else drains it.
    pub(super) reading: bool,
    /// Counts ends of processes.
    pub(super) ends: u64,
    /// The instance is forgotten.
    pub(super) gone: bool,
}

/// A pipe that is drained.
#[derive(Debug)]
pub(super) struct Fifo {
    pub(super) control: watch::Sender<Control>,
    pub(super) task: JoinHandle<()>,
}

struct Drain {
    desk: Arc<Desk>,
    fifo: pipe::Receiver,
    lines: Lines,
    printer: Printer,
}

impl Fifo {
    /// Opens the pipe and drains it as long as the control says so, and lives.
    pub(super) fn open(desk: &Arc<Desk>, path: &Path, control: Control) -> io::Result<Self> {
        let fifo = pipe::Receiver::from_owned_fd(open(path)?)?;
        let printer = control.printer.clone();
        let (control, changes) = watch::channel(control);
        let drain = Drain { desk: Arc::clone(desk), fifo, lines: Lines::default(), printer };
        let task = tokio::spawn(drain.run(changes));
        Ok(Self { control, task })
    }
}

/// For reading and writing, as everybody opens it: so it has no end, whoever comes and goes.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let fifo = rustix::fs::open(path, flags, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fifo)?.st_mode);
    match kind {
        FileType::Fifo => Ok(fifo),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no FIFO")),
    }
}

impl Drain {
    async fn run(mut self, mut changes: watch::Receiver<Control>) {
        self.desk.pipes.fetch_add(1, Relaxed);
        let mut ends = 0;
        loop {
            let Control { printer, reading, ends: ended, gone } =
                changes.borrow_and_update().clone();
            if reading && (ended != ends || gone) {
                ends = ended;
                self.finish().await;
            }
            if gone {
                break;
            }
            self.printer = printer;
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { break },
                readable = self.fifo.readable(), if reading => {
                    if readable.is_err() {
                        break;
                    }
                    // What comes from now on wakes us again, also behind the beginning of a line that we leave.
                    let _ = self.fifo.try_io(|| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                    if let Err(error) = self.drain().await {
                        let Printer { service, .. } = &self.printer;
                        let text = format!("a pipe of {service} can't be read: {error}");
                        self.desk.missing("pipe", text).await;
                        break;
                    }
                }
            }
        }
        self.desk.pipes.fetch_sub(1, Relaxed);
    }

    /// Stores all whole lines that are in the pipe.
    async fn drain(&mut self) -> io::Result<()> {
        while self.step(Rest::Stays).await? {}
        if peek::is_full(self.fd()) {
            // One line fills the pipe: who writes it must not wait for its end.
            self.step(Rest::Continues).await?;
        }
        Ok(())
    }

    /// The process has ended: stores what is left, a line without end too.
    async fn finish(&mut self) {
        for _ in 0..LAST_READS {
            if !matches!(self.step(Rest::Stays).await, Ok(true)) {
                break;
            }
        }
        if let Err(error) = self.step(Rest::Ends).await {
            tracing::warn!("the last of what {} printed: {error}", self.printer.service);
        }
    }

    /// Looks at the pipe once, stores what is to be stored and takes it out. `false`: nothing was.
    async fn step(&mut self, rest: Rest) -> io::Result<bool> {
        let bytes = self.desk.peek().look(self.fd())?;
        if bytes.is_empty() && rest == Rest::Stays {
            return Ok(false);
        }
        let now = now();
        let (entries, used) =
            self.desk.intake().printed(&self.printer, &mut self.lines, &bytes, rest, now);
        self.desk.keep(entries, None).await;
        if used > 0 {
            peek::take(self.fd(), used)?;
        }
        Ok(used > 0)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }
}
