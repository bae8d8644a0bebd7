//! All applications in one process: a socket and a session each, one wait for all of them.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};

use crate::{
    ground::{LIMIT, now},
    session::Session,
};

/// Sessions that are opened at the same time; the broker takes no more than 1,024.
const OPENING: usize = 256;
/// Answers that are taken in before anything is said.
const EVENTS: usize = 1_024;
/// What a bare server is sent: as long as a heartbeat with its header.
const BARE: [u8; 46] = [7; 46];

/// Whom the applications speak to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    Broker,
    /// One that answers 46 octets with 6 and knows of nothing else.
    Bare,
}

pub(crate) struct Member {
    socket: UdpSocket,
    pub(crate) session: Session,
    /// The entry of the schedule that counts.
    armed: Option<Instant>,
    /// Just before it reported last.
    pub(crate) reported: Instant,
    /// It doesn't report any more.
    pub(crate) silent: bool,
}

pub(crate) struct Fleet {
    pub(crate) members: Vec<Member>,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    schedule: BinaryHeap<Reverse<(Instant, usize)>>,
    out: Vec<u8>,
    peer: Peer,
}

/// Everybody reports once a period, evenly spread over it.
pub(crate) struct Rhythm {
    began: Instant,
    step: Duration,
    made: u32,
}

impl Rhythm {
    pub(crate) fn new(period: Duration, members: usize) -> anyhow::Result<Self> {
        let step = period / u32::try_from(members).context("few enough members")?;
        Ok(Self { began: now(), step, made: 0 })
    }

    fn next(&self) -> Instant {
        self.began + self.step * self.made
    }
}

impl Fleet {
    /// So many sessions, registered.
    pub(crate) fn register(
        broker: SocketAddr,
        count: usize,
        null_ms: u16,
        period_ms: u32,
    ) -> anyhow::Result<Self> {
        let mut fleet = Self {
            members: Vec::with_capacity(count),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
            schedule: BinaryHeap::new(),
            out: Vec::with_capacity(2_048),
            peer: Peer::Broker,
        };
        let (mut done, until) = (0, now() + LIMIT);
        while done < count {
            while fleet.members.len() < count && fleet.members.len() - done < OPENING {
                fleet.add(broker, null_ms, period_ms)?;
            }
            fleet.pump(Some(Duration::from_millis(100)), |_, _| done += 1)?;
            let refused = fleet.members.iter().find_map(|member| member.session.refused);
            anyhow::ensure!(refused.is_none(), "the broker says {refused:?}");
            anyhow::ensure!(now() < until, "{done} of {count} sessions are registered");
        }
        Ok(fleet)
    }

    fn add(&mut self, broker: SocketAddr, null_ms: u16, period_ms: u32) -> anyhow::Result<()> {
        let place = self.members.len();
        let socket = UdpSocket::bind((broker.ip(), 0))
            .with_context(|| format!("socket {place}; `ulimit -n` may be too low"))?;
        socket.connect(broker)?;
        socket.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(u64::try_from(place)?);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        let time = now();
        let session = Session::new(i32::try_from(place + 1)?, null_ms, period_ms, time);
        self.members.push(Member { socket, session, armed: None, reported: time, silent: false });
        self.flush(place);
        Ok(())
    }

    /// Turns all to another server; sessions stand still while it is a bare one.
    pub(crate) fn turn_to(&mut self, peer: Peer, address: SocketAddr) -> anyhow::Result<()> {
        self.peer = peer;
        for member in &self.members {
            member.socket.connect(address)?;
        }
        Ok(())
    }

    pub(crate) fn beat(&mut self, place: usize, time: Instant) {
        let member = &mut self.members[place];
        member.reported = time;
        if self.peer == Peer::Bare {
            // A datagram that is not sent is missed in the end.
            let _ = member.socket.send(&BARE);
            return;
        }
        member.session.report(time);
        self.flush(place);
    }

    fn flush(&mut self, place: usize) {
        let member = &mut self.members[place];
        while member.session.poll_transmit(&mut self.out).is_some() {
            // A broker that is away refuses; it is sent again.
            let _ = member.socket.send(&self.out);
            self.out.clear();
        }
        if let Some(deadline) = member.session.next_deadline()
            && member.armed.is_none_or(|armed| deadline < armed)
        {
            member.armed = Some(deadline);
            self.schedule.push(Reverse((deadline, place)));
        }
    }

    /// Waits for answers and takes them in, does what is due; tells whose report has arrived.
    pub(crate) fn pump(
        &mut self,
        wait: Option<Duration>,
        mut arrived: impl FnMut(usize, Instant),
    ) -> anyhow::Result<()> {
        let due = match (self.peer, self.schedule.peek()) {
            (Peer::Broker, Some(Reverse((deadline, _)))) => {
                Some(deadline.saturating_duration_since(now()))
            }
            _ => None,
        };
        let wait = wait.into_iter().chain(due).min();
        let wait = wait.map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), wait.as_ref());
        anyhow::ensure!(
            waited.is_ok() || waited == Err(rustix::io::Errno::INTR),
            "wait for answers: {waited:?}"
        );
        let time = now();
        for event in &events {
            let place = usize::try_from(event.data.u64())?;
            if self.receive(place, time) {
                arrived(place, time);
            }
        }
        self.events = events;
        while self.peer == Peer::Broker
            && let Some(Reverse((deadline, place))) = self.schedule.peek().copied()
            && deadline <= time
        {
            self.schedule.pop();
            let member = &mut self.members[place];
            if member.armed == Some(deadline) {
                member.armed = None;
                if member.session.next_deadline().is_some_and(|deadline| deadline <= time) {
                    member.session.handle_timeout(time);
                }
                self.flush(place);
            }
        }
        Ok(())
    }

    /// Takes one datagram; says whether it was the answer that was waited for.
    fn receive(&mut self, place: usize, time: Instant) -> bool {
        let mut octets = [0; 1_536];
        let member = &mut self.members[place];
        let Ok(length) = member.socket.recv(&mut octets) else { return false };
        if self.peer == Peer::Bare {
            return true;
        }
        let before = member.session.is_settled();
        member.session.handle_datagram(&octets[..length], time);
        let settled = member.session.is_settled();
        self.flush(place);
        settled && !before
    }

    /// The first `active` members make `count` reports, `window` of them under way at a time.
    pub(crate) fn saturate(
        &mut self,
        active: usize,
        window: usize,
        count: usize,
    ) -> anyhow::Result<()> {
        let mut free: VecDeque<usize> = (0..active).collect();
        let (mut sent, mut done) = (0, 0);
        while done < count {
            let time = now();
            while sent < count
                && sent - done < window
                && let Some(place) = free.pop_front()
            {
                self.beat(place, time);
                sent += 1;
            }
            let before = done;
            self.pump(Some(LIMIT), |place, _| {
                free.push_back(place);
                done += 1;
            })?;
            anyhow::ensure!(done > before || now() - time < LIMIT, "{done} of {count} arrived");
        }
        Ok(())
    }

    /// Lets everybody who isn't silent report in its turn, until then.
    pub(crate) fn live(
        &mut self,
        rhythm: &mut Rhythm,
        until: Instant,
        mut arrived: impl FnMut(usize, Instant),
    ) -> anyhow::Result<()> {
        loop {
            let mut time = now();
            if time >= until {
                return Ok(());
            }
            while rhythm.next() <= time {
                let place = usize::try_from(rhythm.made)? % self.members.len();
                rhythm.made += 1;
                if !self.members[place].silent {
                    self.beat(place, time);
                    time = now();
                }
            }
            let wait = rhythm.next().min(until).saturating_duration_since(now());
            self.pump(Some(wait), &mut arrived)?;
        }
    }
}
