//! Peers that speak the protocol without the library, because it would not let them behave like this: one that asks for
//! events and never reads them, and one that calls without regard for the answers. And the reader of the raw baseline.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use protocol::{
    frame::{decode, encode},
    message::{Call, Hello, Kind, Message, Reply},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::OwnedReadHalf,
    time::MissedTickBehavior,
};

use crate::ground::now_ns;

/// Calls that a flooder sends at a time.
const BATCH: u32 = 100;

/// A greeted connection, blocking.
pub(crate) struct Raw {
    stream: UnixStream,
    /// Token and generation of the object that was asked for.
    target: (u32, u32),
}

impl Raw {
    pub(crate) fn connect(socket: &Path, object: &str) -> anyhow::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        let mut hello = Vec::new();
        encode(&mut hello, 0, &Message::Hello(Hello::OURS))?;
        stream.write_all(&hello)?;
        let mut buffer = Vec::new();
        let target = loop {
            if let Some((_, message, _)) = decode(&buffer)? {
                let Message::Welcome(welcome) = message else {
                    anyhow::bail!("no Welcome but {message:?}");
                };
                let found = welcome.objects.iter().find(|found| found.name == object);
                let found = found.with_context(|| format!("no object {object} is served there"))?;
                break (found.token, found.generation);
            }
            receive(&mut stream, &mut buffer)?;
        };
        Ok(Self { stream, target })
    }

    fn call<'a>(&self, method: &'a str, args: &'a [u8]) -> Message<'a> {
        let (token, generation) = self.target;
        Message::Call(Call { token, generation, method, args, ..Call::default() })
    }

    /// Subscribes; whoever keeps what is returned never reads an event.
    pub(crate) fn subscribe(mut self, pattern: &str) -> anyhow::Result<Self> {
        let args = json!({ "patterns": [pattern] }).to_string();
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, &self.call("subscribe", args.as_bytes()))?;
        self.stream.write_all(&bytes)?;
        let mut buffer = Vec::new();
        loop {
            if let Some((_, message, _)) = decode(&buffer)? {
                let done = matches!(message, Message::Reply(Reply::Done { .. }));
                anyhow::ensure!(done, "subscribe was answered with {message:?}");
                return Ok(self);
            }
            receive(&mut self.stream, &mut buffer)?;
        }
    }
}

fn receive(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut bytes = [0; 4096];
    let length = stream.read(&mut bytes)?;
    anyhow::ensure!(length > 0, "the other side closed the connection");
    buffer.extend_from_slice(&bytes[..length]);
    Ok(())
}

#[derive(Default)]
struct Flood {
    sent: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
}

/// Calls `bench.echo` so often a second, over so many connections and as far as the other side reads them, until standard
/// input ends; then tells how often.
pub(crate) async fn flood(socket: &Path, per_second: u32, connections: u32) -> anyhow::Result<()> {
    let flood = Arc::new(Flood::default());
    let every = Duration::from_secs(1) * BATCH * connections / per_second;
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let raw = Raw::connect(socket, "bench")?;
        tasks.push(tokio::spawn(flood_one(raw, every, Arc::clone(&flood))));
    }
    println!("ready");
    std::thread::spawn(move || {
        // Whatever ends it, it is over.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let Flood { sent, done, refused } = &*flood;
        let [sent, done, refused] = [sent, done, refused].map(|count| count.load(Relaxed));
        println!("{}", json!({ "sent": sent, "done": done, "refused": refused }));
        std::process::exit(0);
    });
    for task in tasks {
        task.await??;
    }
    anyhow::bail!("the flooded endpoint closed the connection")
}

async fn flood_one(raw: Raw, every: Duration, flood: Arc<Flood>) -> anyhow::Result<()> {
    let mut frame = Vec::new();
    encode(&mut frame, 1, &raw.call("echo", &[7; 64]))?;
    raw.stream.set_nonblocking(true)?;
    let (reading, mut writing) = tokio::net::UnixStream::from_std(raw.stream)?.into_split();
    let counting = tokio::spawn(count(reading, Arc::clone(&flood)));
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut id = 0_u32;
    while !counting.is_finished() {
        tick.tick().await;
        let mut bytes = Vec::with_capacity(frame.len() * 100);
        for _ in 0..BATCH {
            id = id.wrapping_add(1).max(1);
            frame[4..8].copy_from_slice(&id.to_le_bytes());
            bytes.extend_from_slice(&frame);
        }
        writing.write_all(&bytes).await.context("flood")?;
        flood.sent.fetch_add(u64::from(BATCH), Relaxed);
    }
    counting.await?
}

async fn count(mut reading: OwnedReadHalf, flood: Arc<Flood>) -> anyhow::Result<()> {
    let mut buffer = Vec::with_capacity(1 << 16);
    while reading.read_buf(&mut buffer).await? > 0 {
        let mut used = 0;
        while let Some((_, message, length)) = decode(&buffer[used..])? {
            match message {
                Message::Reply(Reply::Failed { .. }) => flood.refused.fetch_add(1, Relaxed),
                message if message.kind() == Kind::Reply => flood.done.fetch_add(1, Relaxed),
                message => anyhow::bail!("the flooded endpoint says {message:?}"),
            };
            used += length;
        }
        buffer.drain(..used);
    }
    Ok(())
}

/// Connects `count` times and reads `bytes` from each, again and again; tells the moment at which all have them.
pub(crate) async fn sink(socket: &Path, count: usize, bytes: usize) -> anyhow::Result<()> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(tokio::net::UnixStream::connect(socket).await?);
    }
    println!("ready");
    loop {
        let readers = streams.into_iter().map(|mut stream| {
            tokio::spawn(async move {
                let mut buffer = Vec::with_capacity(1 << 16);
                let mut left = bytes;
                while left > 0 {
                    buffer.clear();
                    let length = stream.read_buf(&mut buffer).await?;
                    anyhow::ensure!(length > 0, "the writer closed the connection");
                    left -= length;
                }
                anyhow::Ok(stream)
            })
        });
        let readers: Vec<_> = readers.collect();
        streams = Vec::new();
        for reader in readers {
            streams.push(reader.await??);
        }
        println!("{}", now_ns());
    }
}
