//! What a connection costs in memory: a steady flow allocates nothing, an idle connection stays below 1 KiB.
#![expect(unsafe_code, reason = "only a global allocator can count what is allocated")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rudp::{Config, Endpoint, Event, Handle, Limits};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static OCTETS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        OCTETS.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises about the layout are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        OCTETS.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above, with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGE: [u8; 40] = [7; 40];

/// A broker and one endpoint that plays its clients; datagrams go straight across.
struct Pair {
    now: Instant,
    broker: Endpoint,
    clients: Endpoint,
    out: Vec<u8>,
    received: usize,
}

impl Pair {
    fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to make an Instant; nothing depends on its value"
        )]
        let now = Instant::now();
        let endpoint = |seed| {
            let config = Config::heartbeat(60_000);
            Endpoint::new(config, Limits::default(), [seed, seed]).expect("valid")
        };
        Self {
            now,
            broker: endpoint(1),
            clients: endpoint(2),
            out: Vec::with_capacity(2_048),
            received: 0,
        }
    }

    /// Everybody has a port here; both endpoints name the other side of a connection by the same one.
    fn exchange(&mut self) {
        loop {
            let mut moved = false;
            for (from, to) in [(&mut self.clients, &mut self.broker)] {
                while let Some((address, length)) = from.poll_transmit(&mut self.out) {
                    to.handle_datagram(address, &self.out[..length], self.now);
                    self.out.clear();
                    moved = true;
                }
                let mut opened = None;
                while let Some((handle, event)) = to.poll_event() {
                    match event {
                        Event::Opened => opened = Some(handle),
                        Event::Data(message) => self.received += usize::from(message == MESSAGE),
                        _ => panic!("nothing goes wrong here"),
                    }
                }
                if let Some(handle) = opened {
                    to.verify(handle);
                }
                while let Some((address, length)) = to.poll_transmit(&mut self.out) {
                    from.handle_datagram(address, &self.out[..length], self.now);
                    self.out.clear();
                    moved = true;
                }
                while from.poll_event().is_some() {}
            }
            if !moved {
                return;
            }
        }
    }

    fn open(&mut self, port: u16) -> Handle {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let handle = self.clients.connect(address, self.now).expect("a new port");
        self.exchange();
        handle
    }

    fn advance(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
        self.broker.handle_timeout(self.now);
        self.clients.handle_timeout(self.now);
        self.exchange();
    }
}

/// One test, since the counters are the process's.
#[test]
fn a_steady_flow_allocates_nothing_and_an_idle_connection_is_small() {
    let mut pair = Pair::new();
    let count: u16 = 4_000;
    let before = OCTETS.load(Ordering::Relaxed);
    let handles: Vec<Handle> = (1..=count).map(|port| pair.open(port)).collect();
    for _ in 0..5 {
        for handle in &handles {
            pair.clients.send(*handle, &MESSAGE, pair.now).expect("open");
            pair.exchange();
        }
        pair.advance(1_000);
    }
    let taken = OCTETS.load(Ordering::Relaxed) - before;
    let each = taken / (2 * usize::from(count));
    println!("{each} octets an idle connection");
    assert!(each <= 1_024, "{each} octets an idle connection");

    // Heartbeats, then bursts that fill the window, then loss: after a first round nothing is allocated any more.
    let mut pair = Pair::new();
    let handle = pair.open(1);
    let round = |pair: &mut Pair| {
        for _ in 0..100 {
            for _ in 0..40 {
                pair.clients.send(handle, &MESSAGE, pair.now).expect("room for 64");
            }
            // One datagram in eight is lost.
            let mut number = 0;
            while let Some((address, length)) = pair.clients.poll_transmit(&mut pair.out) {
                number += 1;
                if number % 8 != 0 {
                    pair.broker.handle_datagram(address, &pair.out[..length], pair.now);
                }
                pair.out.clear();
            }
            pair.exchange();
            for _ in 0..4 {
                pair.advance(130);
            }
        }
    };
    round(&mut pair);
    let received = pair.received;
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    round(&mut pair);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "a steady flow allocates");
    assert_eq!(pair.received - received, 4_000);

    // What a burst needed is given back: by a flow that needs less, and by an idle connection.
    let before = OCTETS.load(Ordering::Relaxed);
    let burst = |pair: &mut Pair, message: &[u8]| {
        for _ in 0..60 {
            pair.clients.send(handle, message, pair.now).expect("room for 64");
        }
        pair.exchange();
        assert!(OCTETS.load(Ordering::Relaxed) > before + 60 * message.len());
    };
    let kept = || OCTETS.load(Ordering::Relaxed).saturating_sub(before);
    burst(&mut pair, &[1; 50]);
    for _ in 0..3_000 {
        pair.clients.send(handle, &MESSAGE, pair.now).expect("open");
        pair.advance(1_000);
    }
    assert!(kept() < 1_024, "{} octets more than before the burst", kept());
    burst(&mut pair, &[1; 1_300]);
    for _ in 0..300 {
        pair.advance(1_000);
    }
    assert!(kept() < 1_024, "{} octets more than before the burst", kept());
}
