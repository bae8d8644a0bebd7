//! Waits for a socket to appear: the kernel tells of it (inotify on its folder), beside a pause that ends anyway.
//! Where the folder can't be watched only the pause is left.

use std::{
    ffi::OsString,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::{io::unix::AsyncFd, sync::watch};

/// A socket appears in its folder before anybody listens on it: so many tries follow at once, the first after
/// a millisecond, each pause twice as long.
const EAGER: u32 = 8;

/// First pause between two tries that nobody counts, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A connection that lasted so long was worth making.
const STEADY: Duration = Duration::from_secs(1);

/// Where a socket is to appear. All who wait in a process share one watch, which is there only while somebody waits.
pub(crate) struct Place {
    folder: PathBuf,
    name: OsString,
    watch: Mutex<Weak<Watch>>,
}

struct Watch {
    inotify: AsyncFd<OwnedFd>,
    /// How often the name appeared.
    count: watch::Sender<u64>,
}

/// One who waits, from before the first try, so that nothing between a try and the wait for the next is missed.
pub(crate) struct Waiting {
    watch: Option<(Arc<Watch>, watch::Receiver<u64>)>,
    name: OsString,
    /// How many of the eager tries are left.
    eager: u32,
}

/// Why a pause ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Woken {
    Passed,
    /// The socket has just appeared.
    Appeared,
}

/// Tries that go on until they succeed, or whoever makes them gives up.
pub(crate) struct Backoff {
    place: Arc<Place>,
    /// From the first failed try until one succeeds.
    waiting: Option<Waiting>,
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new(place: &Arc<Place>) -> Self {
        Self { place: Arc::clone(place), waiting: None, pause: Duration::ZERO }
    }

    /// Waits after a failed try. The first one is made again at once, because nobody watched when it failed.
    pub(crate) async fn pause(&mut self) {
        let waiting = self.waiting.get_or_insert_with(|| self.place.waiting());
        if self.pause.is_zero() {
            self.pause = PAUSE;
        } else if waiting.pause(self.pause).await == Woken::Passed {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    /// What a try made has ended after so long. One that lasted is followed by the next at once, others after a pause.
    pub(crate) async fn ended(&mut self, lived: Duration) {
        if lived >= STEADY {
            *self = Self::new(&self.place);
        } else {
            self.pause = self.pause.max(PAUSE);
            self.pause().await;
        }
    }

    /// A try succeeded: nobody need watch.
    pub(crate) fn rest(&mut self) {
        self.waiting = None;
    }
}

impl Place {
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            folder: socket.parent().unwrap_or(Path::new("/")).to_owned(),
            name: socket.file_name().unwrap_or_default().to_owned(),
            watch: Mutex::default(),
        }
    }

    /// Begins to watch.
    pub(crate) fn waiting(&self) -> Waiting {
        let mut kept = self.watch.lock().expect("nothing panics while it holds the watch");
        let watch = kept.upgrade().or_else(|| {
            // Without (no such folder yet, too many watches of this user) the pauses alone must do.
            let fresh = Arc::new(Watch::new(&self.folder).ok()?);
            *kept = Arc::downgrade(&fresh);
            Some(fresh)
        });
        let watch = watch.map(|watch| {
            let seen = watch.count.subscribe();
            (watch, seen)
        });
        Waiting { watch, name: self.name.clone(), eager: 0 }
    }
}

impl Watch {
    fn new(folder: &Path) -> std::io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // ATTRIB: it may be opened to others only after it was made.
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB;
        inotify::add_watch(&inotify, folder, flags | WatchFlags::ONLYDIR)?;
        #[expect(
            deprecated,
            reason = "the function in its place is unsafe for types whose descriptor may change; an OwnedFd's can't"
        )]
        let inotify = AsyncFd::with_interest(inotify, tokio::io::Interest::READABLE)?;
        Ok(Self { inotify, count: watch::Sender::new(0) })
    }

    /// Counts until nothing is left to read; `false` once the folder is gone.
    fn read(&self, name: &OsString) -> bool {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut space);
        let (mut seen, mut there) = (false, true);
        while let Ok(event) = reader.next() {
            seen |= event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                || event.file_name().is_some_and(|file| file.to_bytes() == name.as_bytes());
            there &= !event.events().contains(ReadFlags::IGNORED);
        }
        if seen {
            self.count.send_modify(|count| *count += 1);
        }
        there
    }
}

impl Waiting {
    /// Waits, at most so long.
    pub(crate) async fn pause(&mut self, pause: Duration) -> Woken {
        if self.eager > 0 {
            let eager = Duration::from_millis(1) * (1 << (EAGER - self.eager));
            self.eager -= 1;
            if eager < pause {
                // What appears meanwhile is seen by the next, longer wait.
                tokio::time::sleep(eager).await;
                return Woken::Appeared;
            }
        }
        match tokio::time::timeout(pause, self.appeared()).await {
            Ok(()) => {
                self.eager = EAGER;
                Woken::Appeared
            }
            Err(_) => Woken::Passed,
        }
    }

    /// Returns when the socket has appeared since the last return; never where the folder can't be watched.
    async fn appeared(&mut self) {
        while let Some((watch, seen)) = &mut self.watch {
            let there = tokio::select! {
                // The sender is in the same Arc, so this is no end.
                _ = seen.changed() => return,
                ready = watch.inotify.readable() => match ready {
                    Ok(mut ready) => {
                        ready.clear_ready();
                        watch.read(&self.name)
                    }
                    Err(_) => false,
                },
            };
            if !there {
                self.watch = None;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_socket_that_appears_wakes_all_who_wait_for_it_and_others_dont() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(&folder.path().join("registry.sock"));
        let (mut one, mut two) = (place.waiting(), place.waiting());
        std::fs::write(folder.path().join("other.sock"), "").unwrap();
        assert_eq!(one.pause(Duration::from_millis(20)).await, Woken::Passed);
        std::fs::write(folder.path().join("registry.sock"), "").unwrap();
        assert_eq!(two.pause(LONG).await, Woken::Appeared);
        assert_eq!(one.pause(LONG).await, Woken::Appeared);
    }

    #[tokio::test]
    async fn what_appeared_before_the_wait_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let mut waiting = Place::new(&folder.path().join("registry.sock")).waiting();
        std::fs::write(folder.path().join("registry.sock"), "").unwrap();
        assert_eq!(waiting.pause(LONG).await, Woken::Appeared);
    }

    #[tokio::test]
    async fn after_it_appeared_a_few_tries_follow_at_once_and_then_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut waiting = Place::new(&folder.path().join("registry.sock")).waiting();
        std::fs::write(folder.path().join("registry.sock"), "").unwrap();
        for _ in 0..=EAGER {
            assert_eq!(waiting.pause(LONG).await, Woken::Appeared);
        }
        assert_eq!(waiting.pause(Duration::from_millis(20)).await, Woken::Passed);
    }

    #[tokio::test]
    async fn without_its_folder_the_pause_still_ends() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let mut never = Place::new(&gone.join("registry.sock")).waiting();
        assert_eq!(never.pause(Duration::from_millis(10)).await, Woken::Passed);
        std::fs::create_dir(&gone).unwrap();
        let mut removed = Place::new(&gone.join("registry.sock")).waiting();
        std::fs::remove_dir(&gone).unwrap();
        assert_eq!(removed.pause(Duration::from_millis(10)).await, Woken::Passed);
    }
}
