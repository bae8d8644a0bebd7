//! One line between the machine and its test: whatever QEMU says on it is kept, and a test waits for what it wants to read.
//!
//! QEMU calls us, never the other way round: so nothing is lost that is said before we listen.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Child,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use crate::within;

/// A guest that prints more than this is out of its mind; what follows is not kept.
const KEPT_MAX: usize = 64 << 20;
/// How long QEMU may take to start and call us.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Both directions of one line, and everything that was heard on it.
pub(super) struct Line {
    stream: UnixStream,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// ASCII, so that places in it are places in what was sent; anything else became a question mark.
    text: String,
    /// QEMU has hung up, or talks too much.
    ended: bool,
}

/// Why what was waited for did not come.
#[derive(Debug)]
pub(super) enum Silence {
    /// The other end hung up.
    Ended,
    /// It was not said in time.
    Late,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("whoever holds it only appends and searches")
    }
}

/// A place where QEMU can call us.
pub(super) fn listen(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).expect("the scratch folder is ours, its path short");
    listener.set_nonblocking(true).expect("a socket can be told not to block");
    listener
}

impl Line {
    /// Waits for QEMU's call, as long as it lives.
    pub(super) fn accept(listener: &UnixListener, qemu: &mut Child) -> Result<Self, String> {
        let stream = within(CALL_LIMIT, || match listener.accept() {
            Ok((stream, _)) => Some(Ok(stream)),
            Err(_) => {
                let ended = qemu.try_wait().expect("it is our child");
                ended.map(|status| Err(format!("QEMU ended with {status}")))
            }
        });
        let stream =
            stream.unwrap_or_else(|| Err(format!("QEMU did not call in {CALL_LIMIT:?}")))?;
        stream.set_nonblocking(false).expect("a socket can be told to block");
        let heard = Arc::new(Heard::default());
        let reader = stream.try_clone().expect("descriptors are left");
        thread::spawn({
            let heard = Arc::clone(&heard);
            move || listen_on(reader, &heard)
        });
        Ok(Self { stream, heard })
    }

    /// Sends; a machine that has gone is noticed by whoever waits for its answer.
    pub(super) fn say(&self, text: &str) {
        let _ = (&self.stream).write_all(text.as_bytes());
    }

    /// How much was heard so far.
    pub(super) fn length(&self) -> usize {
        self.heard.lock().text.len()
    }

    /// What was heard from this place on.
    pub(super) fn text(&self, from: usize) -> String {
        self.heard.lock().text[from..].to_owned()
    }

    /// Waits until `look` finds something in what was heard from this place on.
    pub(super) fn until<T>(
        &self,
        from: usize,
        limit: Duration,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, Silence> {
        let mut found = None;
        let state = self.heard.lock();
        let (state, _) = self
            .heard
            .changed
            .wait_timeout_while(state, limit, |state| {
                found = look(&state.text[from..]);
                found.is_none() && !state.ended
            })
            .expect("whoever holds it only appends and searches");
        found.ok_or(if state.ended { Silence::Ended } else { Silence::Late })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // So that the reader ends too; it may have ended by itself.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn listen_on(mut stream: UnixStream, heard: &Heard) {
    let mut piece = [0; 4096];
    loop {
        let length = stream.read(&mut piece).unwrap_or(0);
        let mut state = heard.lock();
        state.text.extend(piece[..length].iter().map(|octet| match octet.is_ascii() {
            true => char::from(*octet),
            false => '?',
        }));
        state.ended = length == 0 || state.text.len() > KEPT_MAX;
        heard.changed.notify_all();
        if state.ended {
            return;
        }
    }
}
