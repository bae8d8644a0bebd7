//! How many calls of a client are under way at once. A server whose queue is full says `busy`; then the calls wait here, in
//! their order, instead of being sent again and again: the window shrinks with each refusal, and grows while none comes.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

/// As many as a server of the suite has open for one connection.
const FIRST: usize = 256;
const MOST: usize = 4096;
/// Where nothing has ended for so long, the calls under way are long ones, and one more is tried.
const STALL: Duration = Duration::from_millis(50);

pub(super) struct Window {
    places: Semaphore,
    size: AtomicUsize,
    ended: AtomicU64,
    /// What `ended` was when a place was last made for a stall.
    probed: AtomicU64,
    /// Calls that ended well since the window last grew.
    since: AtomicUsize,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            places: Semaphore::new(FIRST),
            size: AtomicUsize::new(FIRST),
            ended: AtomicU64::new(0),
            probed: AtomicU64::new(u64::MAX),
            since: AtomicUsize::new(0),
        }
    }

    /// A place, when it is this call's turn.
    pub(super) async fn enter(&self) -> SemaphorePermit<'_> {
        if let Ok(place) = self.places.try_acquire() {
            return place;
        }
        let mut turn = std::pin::pin!(self.places.acquire());
        loop {
            let before = self.ended.load(Relaxed);
            match tokio::time::timeout(STALL, &mut turn).await {
                Ok(place) => return place.expect("the window is never closed"),
                Err(_) if self.ended.load(Relaxed) == before => self.probe(before),
                Err(_) => {}
            }
        }
    }

    /// The call was refused for want of room: its place is gone, and so are those nobody uses.
    pub(super) fn refused(&self, place: SemaphorePermit<'_>) {
        place.forget();
        let unused = self.places.forget_permits(MOST);
        self.size.fetch_sub(unused + 1, Relaxed);
        self.since.store(0, Relaxed);
    }

    /// The call has ended. As many good ends as there are places make one place more.
    pub(super) fn ended(&self, place: SemaphorePermit<'_>) {
        drop(place);
        self.ended.fetch_add(1, Relaxed);
        let size = self.size.load(Relaxed);
        if self.since.fetch_add(1, Relaxed) >= size && size < MOST {
            self.since.store(0, Relaxed);
            self.grow();
        }
    }

    /// One of all that wait makes a place, once for each stall.
    fn probe(&self, seen: u64) {
        if self.probed.swap(seen, Relaxed) != seen || self.size.load(Relaxed) == 0 {
            self.grow();
        }
    }

    fn grow(&self) {
        self.size.fetch_add(1, Relaxed);
        self.places.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_shrink_the_window_to_what_fits_and_good_ends_widen_it() {
        let window = Window::new();
        let mut places = Vec::new();
        for _ in 0..100 {
            places.push(window.enter().await);
        }
        // The other side took 64 of the hundred.
        for place in places.drain(64..) {
            window.refused(place);
        }
        assert_eq!(window.size.load(Relaxed), 64);
        assert_eq!(window.places.available_permits(), 0);
        for place in places {
            window.ended(place);
        }
        for _ in 0..2 {
            window.ended(window.enter().await);
        }
        assert_eq!(window.size.load(Relaxed), 65);
    }

    #[tokio::test(start_paused = true)]
    async fn long_calls_keep_nobody_out_for_ever() {
        let window = Window::new();
        let mut places: Vec<_> = Vec::new();
        for _ in 0..FIRST {
            places.push(window.enter().await);
        }
        let begun = tokio::time::Instant::now();
        places.push(window.enter().await);
        assert!(begun.elapsed() >= STALL);
        for place in places {
            window.refused(place);
        }
        assert_eq!(window.size.load(Relaxed), 0);
        window.ended(window.enter().await);
    }
}
