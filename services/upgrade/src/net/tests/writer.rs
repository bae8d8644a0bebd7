//! A writer that keeps chunks in memory, wants those it doesn't have, and checks each as the real one does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use bundle::{
    Manifest, PublicKey,
    index::{Page, PageTable, Wanted},
};
use protocol::{
    failure::{Code, Failure},
    upgrade::{Begun, PAGE_TABLE, State, Status},
};
use serde_json::Value;
use tokio::{
    net::UnixStream,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::link;
use crate::{
    channel::{self, Device, Order, What, Word},
    net::desk,
};

/// What outlives a writer.
#[derive(Clone)]
pub(super) struct Memory(Arc<Mutex<Kept>>);

pub(super) struct Kept {
    pub(super) device: Device,
    pub(super) chunks: BTreeMap<(u32, u32), Vec<u8>>,
    /// Chunks that came, again or not.
    pub(super) received: u64,
    pub(super) left: Vec<u64>,
    /// Whose orders came.
    pub(super) who: Vec<String>,
    /// Nothing is answered before this is `None`.
    pub(super) gate: Option<Arc<tokio::sync::Semaphore>>,
}

#[derive(Default)]
struct Running {
    sessions: u64,
    manifest: Option<Manifest>,
    tables: HashMap<u32, PageTable>,
    pages: HashMap<u32, Page>,
}

impl Memory {
    pub(super) fn new(operators: [PublicKey; 2]) -> Self {
        let device = Device {
            product: "demo".to_owned(),
            revision: "a".to_owned(),
            keyring: 1,
            operators: operators.iter().map(PublicKey::to_string).collect(),
        };
        Self(Arc::new(Mutex::new(Kept {
            device,
            chunks: BTreeMap::new(),
            received: 0,
            left: Vec::new(),
            who: Vec::new(),
            gate: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    pub(super) fn image(&self) -> Vec<u8> {
        self.lock().chunks.values().flatten().copied().collect()
    }

    /// Starts a writer and the conversation with it.
    pub(super) fn serve(
        &self,
        tasks: &mut JoinSet<()>,
        requests: Arc<tokio::sync::Mutex<mpsc::Receiver<link::Request>>>,
        words: mpsc::Sender<Word>,
    ) -> AbortHandle {
        let (here, there) = UnixStream::pair().unwrap();
        tasks.spawn(async move {
            let mut requests = requests.lock().await;
            link::converse(here, &mut requests, &words).await;
        });
        let memory = self.clone();
        tasks.spawn(async move { memory.run(there).await })
    }

    async fn run(self, mut stream: UnixStream) {
        let mut running = Running::default();
        while let Some((order, data)) = channel::read::<Order>(&mut stream).await.unwrap() {
            let gate = self.lock().gate.clone();
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            self.lock().who.push(order.who);
            let number = order.number;
            let (outcome, raw) = match running.take(&self, order.what, &data) {
                Ok((value, raw)) => (Ok(value), raw),
                Err(failure) => (Err(failure), Vec::new()),
            };
            let word = Word::Answer { number, outcome };
            channel::write(&mut stream, &word, &raw).await.unwrap();
        }
    }
}

impl Running {
    fn take(
        &mut self,
        memory: &Memory,
        what: What,
        data: &[u8],
    ) -> Result<(Value, Vec<u8>), Failure> {
        let json = |value| Ok((value, Vec::new()));
        match what {
            What::Device => json(serde_json::to_value(&memory.lock().device).unwrap()),
            What::Begin { .. } => {
                let parts = bundle::split(data).map_err(desk::refused)?;
                self.manifest = Some(Manifest::parse(parts.manifest).map_err(desk::refused)?);
                self.sessions += 1;
                let begun = Begun {
                    session: self.sessions,
                    window: 8,
                    components: vec![0],
                    current: false,
                };
                json(serde_json::to_value(begun).unwrap())
            }
            What::Pages { component, page, .. } => self.pages(memory, component, page, data),
            What::Chunk { component, chunk, .. } => {
                let page = self.pages.get(&component).ok_or_else(nothing)?;
                let at = usize::try_from(chunk - page.first_chunk()).unwrap();
                page.chunks[at].check(data).map_err(desk::refused)?;
                let mut kept = memory.lock();
                kept.received += 1;
                kept.chunks.insert((component, chunk), data.to_vec());
                json(Value::Null)
            }
            What::Leave { session } => {
                memory.lock().left.push(session);
                json(Value::Null)
            }
            What::Finish(_) | What::Status => {
                let status = Status { state: State::Confirmed, ..Status::default() };
                json(serde_json::to_value(status).unwrap())
            }
            other => json(format!("{other:?}").into()),
        }
    }

    fn pages(
        &mut self,
        memory: &Memory,
        component: u32,
        page: u32,
        data: &[u8],
    ) -> Result<(Value, Vec<u8>), Failure> {
        let manifest = self.manifest.as_ref().ok_or_else(nothing)?;
        let row = &manifest.components[component as usize];
        if page == PAGE_TABLE {
            let table = PageTable::parse(data, row).map_err(desk::refused)?;
            self.tables.insert(component, table);
            return Ok((Value::Null, Vec::new()));
        }
        let table = self.tables.get(&component).ok_or_else(nothing)?;
        let page = table.page(page, data, row).map_err(desk::refused)?;
        let mut wanted = Wanted::none(page.chunks.len());
        for at in 0..page.chunks.len() {
            let number = page.first_chunk() + u32::try_from(at).unwrap();
            if !memory.lock().chunks.contains_key(&(component, number)) {
                wanted.want(at);
            }
        }
        self.pages.insert(component, page);
        Ok((Value::Null, wanted.bytes().to_vec()))
    }
}

fn nothing() -> Failure {
    Failure::new(Code::Gone, "nothing is under way")
}
