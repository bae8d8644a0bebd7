//! The session on a UDP socket: sends, waits, receives, always inside a call of the user.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    Error, Settings, clock,
    session::{Application, Session},
    settings::DEFAULT_PERIOD,
};

/// Longest datagram that the transport takes.
const DATAGRAM_MAX: usize = 1_500;
/// Datagrams of one call: who floods us must not keep us.
const BATCH: usize = 256;
/// How long the last word waits for its acknowledgement.
const GOODBYE_TIME: Duration = Duration::from_millis(300);

/// An application's line to the broker. Used by one thread at a time, by the process that opened it.
pub struct Client {
    settings: Settings,
    socket: UdpSocket,
    session: Option<Session>,
    /// Registering was asked for: from then on sessions are made and made again.
    registered_once: bool,
    pid: u32,
    status: u8,
    progress: u32,
    out: Vec<u8>,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reported {
    /// It has arrived.
    Acknowledged,
    /// It is on its way: a later call sends it again if need be.
    Queued,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Client {
    /// Opens and binds the socket; says nothing yet.
    ///
    /// # Errors
    /// Where the socket can't be had: a local port that is taken, no descriptor left.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let system = |what| move |source| Error::System { what, source };
        let any = match settings.server {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, settings.local_port)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, settings.local_port)),
        };
        let socket = UdpSocket::bind(any).map_err(system("bind the heartbeat socket"))?;
        socket.connect(settings.server).map_err(system("connect the heartbeat socket"))?;
        socket.set_nonblocking(true).map_err(system("set up the heartbeat socket"))?;
        Ok(Self {
            settings,
            socket,
            session: None,
            registered_once: false,
            pid: std::process::id(),
            status: 0,
            progress: 0,
            out: Vec::new(),
        })
    }

    /// Waits until the broker has said yes, at most [`Settings::timeout`]; it is asked again where it may not have heard of
    /// this start yet. Once that is done, a session that ends is made anew by the calls that follow.
    ///
    /// # Errors
    /// [`Error::Refused`] with the broker's reason, [`Error::Timeout`] where it says nothing.
    pub fn register(&mut self) -> Result<(), Error> {
        self.check_owner()?;
        let started = clock::now();
        self.registered_once = true;
        // A no from before is not the answer to this question.
        if !self.session.as_ref().is_some_and(Session::is_registered) {
            self.session = None;
        }
        let until = started + self.settings.timeout;
        self.run_until(until, Session::is_settled)?;
        match self.session.as_ref() {
            Some(session) if session.is_registered() => Ok(()),
            session => Err(match session.and_then(Session::refused) {
                Some(code) => Error::Refused { app_id: self.settings.app_id, code },
                None => Error::Timeout {
                    server: self.settings.server,
                    after_ms: self.settings.timeout.as_millis(),
                },
            }),
        }
    }

    /// Says that the application is alive, and waits for the acknowledgement as [`Settings::block`] says.
    ///
    /// # Errors
    /// [`Error::NotRegistered`] before the first [`Client::register`], [`Error::Refused`] where the broker no longer wants us.
    pub fn report(&mut self) -> Result<Reported, Error> {
        self.check_owner()?;
        if !self.registered_once {
            return Err(Error::NotRegistered);
        }
        let now = clock::now();
        let (status, progress) = (self.status, self.progress);
        self.session(now).report(status, progress, now);
        let until = now + self.patience();
        self.run_until(until, Session::is_acknowledged)?;
        let session = self.session(now);
        match (session.is_acknowledged(), session.refused()) {
            (true, _) => Ok(Reported::Acknowledged),
            (false, Some(code)) => Err(Error::Refused { app_id: self.settings.app_id, code }),
            (false, None) => Ok(Reported::Queued),
        }
    }

    /// As [`Client::report`], with a number that changes as long as the real work goes on: a thread that only beats is
    /// noticed when it stands still (`progress` of the service's `[heartbeat]`).
    ///
    /// # Errors
    /// As [`Client::report`].
    pub fn report_progress(&mut self, progress: u32) -> Result<Reported, Error> {
        self.progress = progress;
        self.report()
    }

    /// What the application says of itself in the reports that follow; 0 is fine, the rest is its own.
    pub fn set_status(&mut self, status: u8) {
        self.status = status;
    }

    /// Receives, sends again, begins anew; returns at once.
    ///
    /// # Errors
    /// Where the socket failed, or another process calls.
    pub fn service(&mut self) -> Result<(), Error> {
        self.check_owner()?;
        self.exchange(clock::now())
    }

    /// When [`Client::service`] is to be called at the latest; `None` is never.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        let deadline = self.session.as_ref()?.next_deadline()?;
        Some(deadline.saturating_duration_since(clock::now()))
    }

    /// The period that the broker granted, and how many may be missed in a row; `None` before the first registration.
    #[must_use]
    pub fn granted(&self) -> Option<(Duration, u8)> {
        let granted = self.session.as_ref()?.granted()?;
        Some((granted.period, granted.misses))
    }

    /// Says that no more reports will come, then closes. Only dropping it leaves the broker to wait until the deadline.
    pub fn close(mut self) {
        if self.check_owner().is_err() {
            return;
        }
        let now = clock::now();
        if self.session.as_mut().is_some_and(|session| session.bye(now)) {
            // Whether it arrived changes nothing for us any more.
            let _ = self.run_until(now + GOODBYE_TIME, Session::is_acknowledged);
        }
    }

    /// How long a report waits.
    fn patience(&self) -> Duration {
        self.settings.block.unwrap_or_else(|| {
            let granted = self.session.as_ref().and_then(Session::granted);
            let period = granted.map_or(self.settings.period, |granted| granted.period);
            if period.is_zero() { DEFAULT_PERIOD / 2 } else { period / 2 }
        })
    }

    fn check_owner(&self) -> Result<(), Error> {
        let used_by = std::process::id();
        if used_by == self.pid {
            return Ok(());
        }
        Err(Error::Forked { opened_by: self.pid, used_by })
    }

    fn session(&mut self, now: Instant) -> &mut Session {
        let Settings { app_id, generation, key, period, misses, .. } = self.settings;
        self.session.get_or_insert_with(|| {
            let period_ms = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
            let pid = self.pid;
            let application = Application { app_id, generation, key, pid, period_ms, misses };
            Session::new(application, clock::since_boot(), draw, now)
        })
    }

    /// Exchanges datagrams until `done` or `until`, whichever comes first. Always looks at the socket at least once.
    fn run_until(&mut self, until: Instant, done: impl Fn(&Session) -> bool) -> Result<(), Error> {
        loop {
            let now = clock::now();
            self.session(now);
            self.exchange(now)?;
            let session = self.session(now);
            if done(session) || now >= until {
                return Ok(());
            }
            let deadline = session.next_deadline().map_or(until, |deadline| deadline.min(until));
            self.wait(deadline.saturating_duration_since(clock::now()))?;
        }
    }

    /// Takes what has come, does what is due, sends what is to be sent.
    fn exchange(&mut self, now: Instant) -> Result<(), Error> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut datagram = [0; DATAGRAM_MAX];
        for _ in 0..BATCH {
            match self.socket.recv(&mut datagram) {
                Ok(length) => session.handle_datagram(&datagram[..length], now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // ECONNREFUSED: nobody listens there now. The transport notices by itself.
                Err(error) if is_passing(&error) => {}
                Err(source) => {
                    return Err(Error::System {
                        what: "receive from the heartbeat broker",
                        source,
                    });
                }
            }
        }
        session.handle_timeout(now);
        loop {
            self.out.clear();
            if session.poll_transmit(&mut self.out).is_none() {
                return Ok(());
            }
            match self.socket.send(&self.out) {
                Ok(_) => {}
                // As if it had been lost on its way: it is sent again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_passing(&error) => {}
                Err(source) => {
                    return Err(Error::System { what: "send to the heartbeat broker", source });
                }
            }
        }
    }

    fn wait(&self, time: Duration) -> Result<(), Error> {
        // Rounded up: a timer that is nearly due would make us look too early, again and again.
        let time = time + Duration::from_micros(100);
        let limit = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&limit)) {
            // A signal: the loop looks at the time.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => {
                Err(Error::System { what: "wait for the heartbeat broker", source: errno.into() })
            }
        }
    }
}

/// Errors of a UDP socket that say something about the way, not about the socket.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::PermissionDenied
    ) || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::NOBUFS)
}

/// Random numbers for a new connection; where the kernel has none yet, the time since boot is what there is.
fn draw() -> [u64; 2] {
    let mut octets = [0; 16];
    let filled =
        rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::NONBLOCK).unwrap_or(0);
    if filled < octets.len() {
        return [clock::since_boot(), u64::from(std::process::id())];
    }
    let (a, b) = octets.split_at(8);
    [a, b].map(|half| u64::from_le_bytes(half.try_into().expect("half of sixteen octets is eight")))
}
