//! What services print: drained from their pipes into bounded files that rotate, until the log service takes over.
//!
//! A full disk, or a service that prints without end, costs lines and never stops a service: what was dropped is counted
//! and told in the next line that fits.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::unix::pipe, task::JoinHandle};

/// A file is rotated at this size; two files are kept an instance.
const FILE_MAX: u64 = 256 * 1024;
/// A pipe's whole buffer (pipe(7)): one read empties it.
const READ_SIZE: usize = 64 * 1024;
/// A pipe that was made as large as an ordinary process may (pipe(7): 1 MiB) is empty after so many.
const FLUSH_READS: usize = 16;
/// A longer line is cut into pieces of this size, each marked.
const LINE_MAX: usize = 16 * 1024;

/// Drains one instance's pipes as long as it is kept.
#[derive(Debug)]
pub(crate) struct Drain {
    pipes: Vec<Arc<Pipe>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Which pipe.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Out,
    Err,
}

#[derive(Debug)]
struct Pipe {
    fifo: pipe::Receiver,
    stream: Stream,
    lines: Mutex<Lines>,
    file: Arc<Mutex<LogFile>>,
}

impl Drain {
    /// Starts draining; `pipes` are FIFOs that exist.
    pub(crate) fn start(file: PathBuf, pipes: &[(Stream, PathBuf)]) -> io::Result<Self> {
        let file = Arc::new(Mutex::new(LogFile::new(file)));
        let mut drain = Self { pipes: Vec::new(), tasks: Vec::new() };
        for (stream, path) in pipes {
            // Read-write: the pipe never ends, whoever comes and goes at its other end.
            let fifo = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
            let file = Arc::clone(&file);
            let pipe = Arc::new(Pipe { fifo, stream: *stream, lines: Mutex::default(), file });
            drain.pipes.push(Arc::clone(&pipe));
            drain.tasks.push(tokio::spawn(async move { pipe.copy().await }));
        }
        Ok(drain)
    }

    /// The process has ended: keeps what is still in the pipes, and a last line without an end.
    pub(crate) fn flush(&self) {
        for pipe in &self.pipes {
            pipe.flush();
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
        while self.fifo.readable().await.is_ok() {
            match self.read() {
                Err(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    tracing::error!(
                        "read what a service prints: {error}; its output is no longer kept"
                    );
                    return;
                }
                _ => {}
            }
        }
    }

    /// One read, kept. The buffer lives only while there is something to read: a quiet service costs none.
    fn read(&self) -> io::Result<()> {
        let mut buffer = vec![0; READ_SIZE];
        let length = self.fifo.try_read(&mut buffer)?;
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let text = lines.take(&buffer[..length], self.stream, daemon::clock::wall());
        self.keep(&text);
        Ok(())
    }

    fn flush(&self) {
        // Somebody may go on writing for ever: a process that the instance left behind.
        for _ in 0..FLUSH_READS {
            if self.read().is_err() {
                break;
            }
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let text = lines.end(self.stream, daemon::clock::wall());
        self.keep(&text);
    }

    fn keep(&self, text: &[u8]) {
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
        let drain = Drain::start(file.clone(), &[(Stream::Out, fifo.clone())]).unwrap();
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
