//! The network side with everything but its writer: real TCP, TLS and Unix sockets, and a writer that keeps chunks in memory.

mod attacks;
mod transfers;
mod writer;

use std::{
    io::Cursor,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bundle::{
    Kind, Reader, SecretKey, build,
    push::{Outcome, Sender, Step},
};
use endpoint::{
    CallError, CallOptions, Client, Code, Dial, Failure, Options,
    tls::{Connector, KeyPair},
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use self::writer::Memory;
use super::{
    desk::Desk,
    link::{self, Link},
    listener::{self, Limits},
    object::{Callers, UpgradeObject},
};

const DEVICE: [u8; 32] = [1; 32];
const ANNA: [u8; 32] = [2; 32];
const BOB: [u8; 32] = [3; 32];
/// Nobody knows him.
const EVE: [u8; 32] = [4; 32];
/// No step takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(30);
const FOREVER: Duration = Duration::from_secs(3600);

/// A device whose operators are Anna and Bob.
struct Device {
    address: SocketAddr,
    memory: Memory,
    desk: Arc<Desk>,
    tasks: JoinSet<()>,
    writer: AbortHandle,
    requests: Arc<tokio::sync::Mutex<mpsc::Receiver<link::Request>>>,
    words: mpsc::Sender<crate::channel::Word>,
}

impl Device {
    async fn start(limits: Limits) -> Self {
        let memory = Memory::new([ANNA, BOB].map(|seed| public(&seed)));
        let (link, requests) = Link::new();
        let (words, mut said) = mpsc::channel(8);
        let pair = KeyPair::from_seed(&DEVICE).unwrap();
        let desk = Desk::new(link, &SecretKey::new(&DEVICE).public()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { while said.recv().await.is_some() {} });
        let requests = Arc::new(tokio::sync::Mutex::new(requests));
        let writer = memory.serve(&mut tasks, Arc::clone(&requests), words.clone());
        desk.learn().await.unwrap();
        let listener = listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&desk);
        tasks.spawn(async move {
            listener::run(listener, &pair, serving, limits).await.unwrap();
        });
        Self { address, memory, desk, tasks, writer, requests, words }
    }

    /// The writer dies, and another one is started.
    async fn kill_writer(&mut self) {
        self.writer.abort();
        self.desk.forget();
        let (requests, words) = (Arc::clone(&self.requests), self.words.clone());
        self.writer = self.memory.serve(&mut self.tasks, requests, words);
    }

    fn host(&self, seed: &[u8; 32]) -> Host {
        Host::new(self.address, seed)
    }

    /// A client on the Unix socket, as root.
    fn local(&self) -> Client {
        let server = endpoint::Server::new(endpoint::Settings::default()).unwrap();
        let root = rustix::process::geteuid().as_raw();
        let (desk, callers) = (Arc::clone(&self.desk), Callers::Local { root });
        server.add("upgrade", UpgradeObject { desk, callers, server: 0 }).unwrap();
        let dial: Dial = Arc::new(move || {
            let server = server.clone();
            Box::pin(async move {
                let (here, there) = std::os::unix::net::UnixStream::pair()?;
                server.serve(there)?;
                here.set_nonblocking(true)?;
                tokio::net::UnixStream::from_std(here)
            })
        });
        Client::over("local", dial, Options { patience: Duration::ZERO, ..Options::default() })
    }
}

fn public(seed: &[u8; 32]) -> bundle::PublicKey {
    SecretKey::new(seed).public()
}

fn fingerprint(seed: &[u8; 32]) -> String {
    bundle::hex::encode(&public(seed).fingerprint())
}

/// An operator's client, and its connections, which a test can cut.
struct Host {
    client: Client,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Host {
    fn new(address: SocketAddr, seed: &[u8; 32]) -> Self {
        let pair = KeyPair::from_seed(seed).unwrap();
        let device = *public(&DEVICE).octets();
        let connector = Connector::new(&pair, Arc::new(move |shown| *shown == device)).unwrap();
        let connections: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let kept = Arc::clone(&connections);
        let dial: Dial = Arc::new(move || {
            let (connector, kept) = (connector.clone(), Arc::clone(&kept));
            Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                let (carrier, _) = connector.connect(stream).await?;
                let (here, there) = tokio::net::UnixStream::pair()?;
                let carrying = tokio::spawn(carrier.carry(there, FOREVER));
                kept.lock().unwrap().push(carrying.abort_handle());
                Ok(here)
            })
        });
        let options = Options { patience: Duration::ZERO, ..Options::default() };
        Self { client: Client::over("device", dial, options), connections }
    }

    fn cut(&self) {
        self.connections.lock().unwrap().drain(..).for_each(|carrying| carrying.abort());
    }

    async fn push(&self, bundle: &[u8]) -> Result<Outcome, CallError> {
        push(&self.client, bundle, |_| {}).await
    }
}

/// Sends a bundle once; `seen` hears how many chunks were sent before each call.
async fn push(
    client: &Client,
    bundle: &[u8],
    mut seen: impl FnMut(u64),
) -> Result<Outcome, CallError> {
    let mut sender = Sender::new(Reader::open(Cursor::new(bundle)).unwrap(), 0, None);
    let mut calls = JoinSet::new();
    loop {
        seen(sender.sent().chunks);
        match sender.next_step().unwrap() {
            Step::Done(outcome) => return Ok(outcome),
            Step::Call(call) => {
                let client = client.clone();
                calls.spawn(async move {
                    let options = CallOptions::default();
                    let answer =
                        client.call_bytes("upgrade", call.method, &call.args, options).await;
                    (call.id, answer)
                });
            }
            Step::Wait => {
                let (id, answer) = calls.join_next().await.unwrap().unwrap();
                sender.answered(id, &answer?.result).unwrap();
            }
        }
    }
}

/// A bundle of one image that zstd can do little about, and the image.
fn bundle_of(size: usize) -> (Vec<u8>, Vec<u8>) {
    let mut word = 7_u64;
    let image: Vec<u8> = std::iter::repeat_with(|| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Half of it repeats, so that all three ways of storing a chunk occur.
        word.to_be_bytes()[0] & 0x3f
    })
    .take(size)
    .collect();
    let outline = build::Outline {
        product: "demo".to_owned(),
        revisions: vec!["*".to_owned()],
        version: "2".to_owned(),
        ..build::Outline::default()
    };
    let part = build::Part {
        id: "application".to_owned(),
        version: "2".to_owned(),
        rollback_index: 1,
        kind: Kind::Image,
        allow_special: false,
        requires: Vec::new(),
        image: Box::new(&image[..]),
        size: size as u64,
    };
    let (mut scratch, mut output) = (Cursor::new(Vec::new()), Vec::new());
    let options = build::Options { level: 1, ..build::Options::default() };
    let parts = vec![part];
    build::build(outline, parts, &[], options, &mut scratch, &mut output, &mut |_| {}).unwrap();
    (output, image)
}

/// Lets everything else go on until something is so.
async fn until(mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("it happens in time");
}

#[track_caller]
fn refused(outcome: Result<impl std::fmt::Debug, CallError>) -> Failure {
    match outcome {
        Err(CallError::Refused(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn code(outcome: Result<impl std::fmt::Debug, CallError>) -> Code {
    refused(outcome).code
}
