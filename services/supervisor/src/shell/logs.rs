//! What services print: drained from their pipes into bounded files that rotate, or into the ring that the log service will
//! ask for; and left in the pipes as long as the log service reads them. Which of these, [`super::pipes`] says.
//!
//! A full disk, or a service that prints without end, costs lines and never stops a service: what was dropped is counted
//! and told in the next line that fits.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use protocol::{keeper::ring, name::Name};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionread},
    pipe::fcntl_getpipe_size,
};
use tokio::{net::unix::pipe, task::JoinHandle};

use super::pipes::{How, Switch};

/// A file is rotated at this size; two files are kept an instance.
const FILE_MAX: u64 = 256 * 1024;
/// A pipe's whole buffer (pipe(7)): one read empties it.
const READ_SIZE: usize = 64 * 1024;
/// A pipe that was made as large as an ordinary process may (pipe(7): 1 MiB) is empty after so many.
const FLUSH_READS: usize = 16;
/// A longer line is cut into pieces of this size, each marked.
const LINE_MAX: usize = 16 * 1024;

/// Drains one instance's pipes as long as it is kept. It holds them open even where it doesn't read them: what is in a pipe
/// that nobody holds is gone.
#[derive(Debug)]
pub(crate) struct Drain {
    pipes: Vec<Arc<Pipe>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Which pipe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stream {
    Out,
    Err,
}

#[derive(Debug)]
struct Pipe {
    fifo: pipe::Receiver,
    stream: Stream,
    path: PathBuf,
    owner: (Name, Name),
    lines: Mutex<Lines>,
    file: Arc<Mutex<LogFile>>,
    switch: Arc<Switch>,
}

impl Drain {
    /// Starts draining what `owner`, a service and its instance, prints; `pipes` are FIFOs that exist.
    pub(crate) fn start(
        file: PathBuf,
        owner: (&Name, &Name),
        pipes: &[(Stream, PathBuf)],
        switch: &Arc<Switch>,
    ) -> io::Result<Self> {
        let file = Arc::new(Mutex::new(LogFile::new(file)));
        let mut drain = Self { pipes: Vec::new(), tasks: Vec::new() };
        for (stream, path) in pipes {
            let pipe = Arc::new(Pipe {
                // Read-write: the pipe never ends, whoever comes and goes at its other end.
                fifo: pipe::OpenOptions::new().read_write(true).open_receiver(path)?,
                stream: *stream,
                path: path.clone(),
                owner: (owner.0.clone(), owner.1.clone()),
                lines: Mutex::default(),
                file: Arc::clone(&file),
                switch: Arc::clone(switch),
            });
            drain.pipes.push(Arc::clone(&pipe));
            drain.tasks.push(tokio::spawn(async move { pipe.copy().await }));
        }
        Ok(drain)
    }

    /// Whether these are its pipes, and all of them.
    pub(crate) fn has(&self, pipes: &[(Stream, PathBuf)]) -> bool {
        let own = self.pipes.iter().map(|pipe| (pipe.stream, &pipe.path));
        own.eq(pipes.iter().map(|(stream, path)| (*stream, path)))
    }

    /// Where a stream's FIFO is, if the stream is kept.
    pub(crate) fn path(&self, stream: Stream) -> Option<&Path> {
        let found = self.pipes.iter().find(|pipe| pipe.stream == stream);
        found.map(|pipe| pipe.path.as_path())
    }

    /// The process has ended: keeps what is still in the pipes, and a last line without an end. Whoever else drains them does
    /// that himself.
    pub(crate) fn flush(&self) {
        let how = self.pipes.first().map(|pipe| pipe.switch.how());
        if matches!(how, Some(How::Files | How::Ring)) {
            self.pipes.iter().for_each(|pipe| pipe.flush());
        }
    }

    /// The pipes are about to be removed, and nobody reads them who could still do it.
    pub(crate) fn save(&self) {
        if self.pipes.first().is_some_and(|pipe| pipe.switch.how() != How::Given) {
            self.pipes.iter().for_each(|pipe| pipe.flush());
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Pipe {
    async fn copy(&self) {
        let mut switch = self.switch.watch();
        let mut before = None;
        loop {
            let how = *switch.borrow_and_update();
            if before.replace(how) != Some(how) {
                self.switched(how);
            }
            let read = tokio::select! {
                biased;
                changed = switch.changed() => match changed {
                    Ok(()) => Ok(()),
                    Err(_) => return,
                },
                ready = self.fifo.readable(), if how != How::Given => {
                    ready.and_then(|()| self.ready(how))
                }
            };
            if let Err(error) = read
                && !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            {
                tracing::error!(
                    "read what a service prints: {error}; its output is no longer kept"
                );
                return;
            }
        }
    }

    /// Somebody else has read the pipe, or will.
    fn switched(&self, how: How) {
        match how {
            // There may be something in it that woke nobody.
            How::Files | How::Ring => self.empty(),
            How::Waiting => self.escalate(),
            How::Given => {
                let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                let text = lines.end(self.stream, daemon::clock::wall());
                self.write(&text);
            }
        }
    }

    /// There is something to read.
    fn ready(&self, how: How) -> io::Result<()> {
        if how == How::Waiting {
            self.escalate();
            // It stays there; only more of it wakes us again.
            return self.fifo.try_io(|| Err(io::ErrorKind::WouldBlock.into()));
        }
        self.fifo.try_io(|| self.read())
    }

    /// A service must not wait for a reader: who is half full is not left any longer.
    fn escalate(&self) {
        let held = ioctl_fionread(&self.fifo).unwrap_or(u64::MAX);
        let size = fcntl_getpipe_size(&self.fifo).unwrap_or(0) as u64;
        let mut one = [PollFd::new(&self.fifo, PollFlags::OUT)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = poll(&mut one, Some(&at_once));
        let is_full = polled.is_err() || !one[0].revents().contains(PollFlags::OUT);
        if is_full || held.saturating_mul(2) >= size {
            self.switch.stop_waiting();
        }
    }

    /// One read, kept. The buffer lives only while there is something to read: a quiet service costs none.
    fn read(&self) -> io::Result<()> {
        let mut buffer = vec![0; READ_SIZE];
        let length = rustix::io::read(self.fifo.as_fd(), &mut buffer[..])?;
        self.keep(&buffer[..length]);
        Ok(())
    }

    fn empty(&self) {
        // Somebody may go on writing for ever: a process that the instance left behind.
        for _ in 0..FLUSH_READS {
            match self.read() {
                Err(error) if error.raw_os_error() != Some(Errno::INTR.raw_os_error()) => break,
                _ => {}
            }
        }
    }

    fn flush(&self) {
        self.empty();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let text = lines.end(self.stream, daemon::clock::wall());
        self.write(&text);
    }

    fn keep(&self, bytes: &[u8]) {
        if self.switch.keeps_in_ring() {
            let stream = match self.stream {
                Stream::Out => ring::Stream::Out,
                Stream::Err => ring::Stream::Err,
            };
            return self.switch.ring().push(&self.owner, stream, daemon::clock::now(), bytes);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let text = lines.take(bytes, self.stream, daemon::clock::wall());
        self.write(&text);
    }

    fn write(&self, text: &[u8]) {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(text);
    }
}

/// Makes whole, stamped lines of what arrives in pieces.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl Lines {
    /// What was left of a line whose end never came.
    pub(crate) fn end(&mut self, stream: Stream, wall: std::time::Duration) -> Vec<u8> {
        match self.rest.is_empty() {
            true => Vec::new(),
            false => self.take(b"\n", stream, wall),
        }
    }

    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        stream: Stream,
        wall: std::time::Duration,
    ) -> Vec<u8> {
        let stamp = format!(
            "{}.{:03} {} ",
            wall.as_secs(),
            wall.subsec_millis(),
            match stream {
                Stream::Out => "out",
                Stream::Err => "err",
            }
        );
        let mut text = Vec::with_capacity(bytes.len() + 64);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(piece);
            let whole = self.rest.ends_with(b"\n");
            while whole && !self.rest.is_empty() || self.rest.len() >= LINE_MAX {
                let cut = self.rest.len().min(LINE_MAX);
                text.extend_from_slice(stamp.as_bytes());
                text.extend(self.rest.drain(..cut));
                if !text.ends_with(b"\n") {
                    text.extend_from_slice(b"\\\n");
                }
            }
        }
        text
    }
}

/// A file with a limit, and the one before it (`.1`).
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    open: Option<(File, u64)>,
    dropped: u64,
}

impl LogFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, open: None, dropped: 0 }
    }

    pub(crate) fn write(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        if let Err(error) = self.try_write(text) {
            if self.dropped == 0 {
                tracing::warn!(
                    "log file {}: {error}; output is dropped until it can be written",
                    self.path.display()
                );
            }
            self.dropped += text.len() as u64;
            // Opened again next time: the disk may have room then, or the folder may be back.
            self.open = None;
        }
    }

    fn try_write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(_, size)| *size >= FILE_MAX) {
            self.open = None;
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(open(&self.path)?),
        };
        if self.dropped > 0 {
            let note = format!("0.000 err [{} bytes were dropped here]\n", self.dropped);
            file.write_all(note.as_bytes())?;
            self.dropped = 0;
        }
        file.write_all(text)?;
        *size += text.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn pieces_become_whole_stamped_lines() {
        let mut lines = Lines::default();
        let wall = Duration::from_millis(7_005);
        assert_eq!(lines.take(b"hel", Stream::Out, wall), b"");
        assert_eq!(lines.take(b"lo\nwor", Stream::Out, wall), b"7.005 out hello\n");
        assert_eq!(lines.take(b"ld\n\n", Stream::Err, wall), b"7.005 err world\n7.005 err \n");
    }

    #[test]
    fn a_line_without_end_is_cut_and_marked() {
        let mut lines = Lines::default();
        let text = lines.take(&vec![b'x'; LINE_MAX + 10], Stream::Out, Duration::ZERO);
        assert!(text.ends_with(b"x\\\n"));
        assert_eq!(lines.rest.len(), 10);
    }

    #[tokio::test]
    async fn a_pipe_that_somebody_fills_without_end_is_flushed_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        let file = folder.path().join("log");
        let name = Name::new("a").unwrap();
        let pipes = [(Stream::Out, fifo.clone())];
        let drain = Drain::start(file.clone(), (&name, &name), &pipes, &Arc::default()).unwrap();
        let writer = std::thread::spawn(move || {
            let mut end = OpenOptions::new().write(true).open(fifo).unwrap();
            // Ends when nobody reads any more.
            while end.write_all(&[b'\n'; READ_SIZE]).is_ok() {}
        });
        drain.pipes[0].fifo.readable().await.unwrap();
        drain.flush();
        assert!(fs::metadata(file).unwrap().len() > 0);
        drop(drain);
        tokio::task::yield_now().await;
        writer.join().unwrap();
    }

    #[test]
    fn files_rotate_and_stay_bounded() {
        let folder = std::env::temp_dir().join(format!("vestal-log-{}", std::process::id()));
        let path = folder.join("a.log");
        let mut file = LogFile::new(path.clone());
        let line = vec![b'x'; 10_000];
        (0..200).for_each(|_| file.write(&line));
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&path) < FILE_MAX + 10_000);
        assert!(size(&path.with_extension("log.1")) < FILE_MAX + 20_000);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_could_not_be_written_is_counted_and_told() {
        let folder = std::env::temp_dir().join(format!("vestal-log-full-{}", std::process::id()));
        fs::write(&folder, "a file where the folder should be").unwrap();
        let mut file = LogFile::new(folder.join("a.log"));
        file.write(b"lost\n");
        fs::remove_file(&folder).unwrap();
        file.write(b"kept\n");
        let text = fs::read_to_string(folder.join("a.log")).unwrap();
        assert!(text.contains("5 bytes were dropped"), "{text}");
        assert!(text.ends_with("kept\n"));
        fs::remove_dir_all(folder).unwrap();
    }
}
