//! 40 octets there and back: bare UDP, Reliable UDP, and a report until the broker has acknowledged it.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Context as _;
use rudp::{Config, Connection, Event, State};

use crate::{
    broker::{Broker, Company},
    ground::{Cores, Ground, LIMIT, now},
    numbers::{Report, Rounds, Table, Times},
    session::Session,
};

const COUNT: usize = 20_000;
/// What of it doesn't count.
const WARM_UP: usize = 1_000;
const RATIO: f64 = 1.3;
const PERIOD_MS: u32 = 3_600_000;

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let columns = &["raw p50 µs", "raw p99", "rudp p50", "rudp p99", "times raw", "report p50"];
    let mut table = Table::new("ping", columns);
    let (_bare, bare) = ground.start("echo")?;
    let (_reliable, reliable) = ground.start("reliable-echo")?;
    let broker = Broker::start(ground, Company::Nobody, 1)?;
    let count = ground.scaled(COUNT);
    for cores in Cores::BOTH {
        ground.stand(cores)?;
        let mut clients =
            [Client::bare(bare)?, Client::reliable(reliable)?, Client::report(broker.address)?];
        let mut rounds = Rounds::default();
        for _ in 0..ground.rounds() {
            let mut times = Vec::new();
            for client in &mut clients {
                times.push(client.pings(count)?);
            }
            let [raw, rudp, report] = [times[0], times[1], times[2]];
            rounds.push(&[raw.p50, raw.p99, rudp.p50, rudp.p99, rudp.p50 / raw.p50, report.p50]);
        }
        let medians = rounds.medians();
        table.row(cores.name(), &medians);
        let what = format!("ping over rudp, {}, times a raw one (p50)", cores.name());
        report.goal(what, RATIO, medians[4]);
    }
    report.add(&table);
    Ok(())
}

/// One that asks and waits.
struct Client {
    socket: UdpSocket,
    line: Line,
    out: Vec<u8>,
}

enum Line {
    Bare,
    Reliable(Box<Connection>),
    Report(Box<Session>),
}

impl Client {
    fn bare(server: SocketAddr) -> anyhow::Result<Self> {
        Self::new(server, Line::Bare)
    }

    fn reliable(server: SocketAddr) -> anyhow::Result<Self> {
        let connection = Connection::connect(Config::heartbeat(60_000), 1, [3, 4], now());
        let mut client = Self::new(server, Line::Reliable(Box::new(connection)))?;
        client.until(
            |line| matches!(line, Line::Reliable(connection) if connection.state() == State::Open),
        )?;
        Ok(client)
    }

    fn report(broker: SocketAddr) -> anyhow::Result<Self> {
        let session = Session::new(1, 60_000, PERIOD_MS, now());
        let mut client = Self::new(broker, Line::Report(Box::new(session)))?;
        client.until(|line| matches!(line, Line::Report(session) if session.is_settled()))?;
        Ok(client)
    }

    fn new(server: SocketAddr, line: Line) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((server.ip(), 0))?;
        socket.connect(server)?;
        // Nothing is lost here; a loss would show as a slow ping.
        socket.set_read_timeout(Some(Duration::from_millis(120)))?;
        let mut client = Self { socket, line, out: Vec::new() };
        client.flush()?;
        Ok(client)
    }

    fn pings(&mut self, count: usize) -> anyhow::Result<Times> {
        let mut times = Vec::with_capacity(count);
        for at in 0..count + WARM_UP {
            let before = now();
            self.ping()?;
            if at >= WARM_UP {
                times.push(now() - before);
            }
        }
        Ok(Times::of(times))
    }

    fn ping(&mut self) -> anyhow::Result<()> {
        let time = now();
        match &mut self.line {
            Line::Bare => {
                self.socket.send(&[7; 40])?;
                let mut octets = [0; 64];
                self.socket.recv(&mut octets).context("the echo")?;
                return Ok(());
            }
            Line::Reliable(connection) => connection.send(&[7; 40], time)?,
            Line::Report(session) => session.report(time),
        }
        self.flush()?;
        let is_report = matches!(self.line, Line::Report(_));
        if is_report {
            return self
                .until(|line| matches!(line, Line::Report(session) if session.is_settled()));
        }
        self.until(|line| {
            let Line::Reliable(connection) = line else { return true };
            matches!(connection.poll_event(), Some(Event::Data(_)))
        })
    }

    /// Takes in datagrams until it holds.
    fn until(&mut self, mut holds: impl FnMut(&mut Line) -> bool) -> anyhow::Result<()> {
        let began = now();
        while !holds(&mut self.line) {
            let mut octets = [0; 1_536];
            let received = self.socket.recv(&mut octets);
            let time = now();
            anyhow::ensure!(time - began < LIMIT, "no answer");
            match (&mut self.line, received) {
                (Line::Bare, _) => {}
                (Line::Reliable(line), Ok(length)) => line.handle_datagram(&octets[..length], time),
                (Line::Report(line), Ok(length)) => line.handle_datagram(&octets[..length], time),
                (Line::Reliable(line), Err(_)) => line.handle_timeout(time),
                (Line::Report(line), Err(_)) => line.handle_timeout(time),
            }
            // What acknowledges a ping's answer goes with the next ping.
            if !matches!(&self.line, Line::Reliable(line) if line.unacknowledged() == 0 && line.state() == State::Open)
            {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        loop {
            let sent = match &mut self.line {
                Line::Bare => None,
                Line::Reliable(connection) => connection.poll_transmit(&mut self.out),
                Line::Report(session) => session.poll_transmit(&mut self.out),
            };
            if sent.is_none() {
                return Ok(());
            }
            self.socket.send(&self.out)?;
            self.out.clear();
        }
    }
}
