//! A TCP relay between hosts and the device: its port stays the same when the agent is restarted, it counts what hosts send, and it
//! cuts or holds them up as it is told.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

/// So much at once; small beside what a test cuts after.
const PIECE: usize = 4096;

/// What happens once so much was sent in all.
#[derive(Clone, Copy)]
enum Fault {
    None,
    /// Every connection is cut, once.
    Cut(u64),
    /// Nothing more goes through.
    Hold(u64),
}

/// Runs until it is dropped.
pub(super) struct Relay {
    pub(super) port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Where the agent says which address it has.
    address: PathBuf,
    stop: AtomicBool,
    sent: AtomicU64,
    fault: Mutex<Fault>,
    changed: Condvar,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    pub(super) fn start(address: PathBuf) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            address,
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            fault: Mutex::new(Fault::None),
            changed: Condvar::new(),
            open: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while let Ok((host, _)) = listener.accept() {
                if theirs.stop.load(Relaxed) {
                    return;
                }
                // A device that is not there, or a line that is cut: the host sees the end of the connection.
                let _ = theirs.join(host);
            }
        });
        Self { port, shared, thread: Some(thread) }
    }

    /// What hosts have sent so far, TLS and all.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    /// Cuts all connections after so many more bytes. Those that are made afterwards stay.
    pub(super) fn cut_after(&self, bytes: u64) {
        self.shared.set(Fault::Cut(self.sent() + bytes));
    }

    /// Holds everything back after so many more bytes.
    pub(super) fn hold_after(&self, bytes: u64) {
        self.shared.set(Fault::Hold(self.sent() + bytes));
    }

    pub(super) fn go_on(&self) {
        self.shared.set(Fault::None);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        // It only wakes the thread, which then looks at `stop`.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        self.go_on();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.shared.cut();
    }
}

impl Shared {
    fn join(self: &Arc<Self>, host: TcpStream) -> std::io::Result<()> {
        let address = fs::read_to_string(&self.address)?;
        let address: SocketAddr = address.trim().parse().map_err(std::io::Error::other)?;
        let device = TcpStream::connect(address)?;
        let pairs = [
            (host.try_clone()?, device.try_clone()?, true),
            (device.try_clone()?, host.try_clone()?, false),
        ];
        self.open.lock().unwrap().extend([host, device]);
        for (from, to, counts) in pairs {
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.pump(from, to, counts));
        }
        Ok(())
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, counts: bool) {
        let mut piece = [0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            if counts {
                let sent = self.sent.fetch_add(length as u64, Relaxed) + length as u64;
                self.fail(sent);
            }
            if to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        self.changed.notify_all();
    }

    /// Does what is to happen once so much was sent.
    fn fail(&self, sent: u64) {
        let mut fault = self.fault.lock().unwrap();
        if matches!(*fault, Fault::Cut(at) if sent >= at) {
            *fault = Fault::None;
            return self.cut();
        }
        let held = |fault: &mut Fault| matches!(*fault, Fault::Hold(at) if sent >= at);
        drop(self.changed.wait_while(fault, held).unwrap());
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
