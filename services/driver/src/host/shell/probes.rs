//! Looking at calls while they are made: at the entries of functions, or, where an entry has no room for that, around the
//! host's own calls of an operation. One watcher at a time; an upgrade takes the probes out and puts them into the new code.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use driver_abi::Op;
use endpoint::{Chunks, Responder};
use hotpatch::{Module, Probe, Refusal, Ring, Room};
use protocol::{
    driver::{Hit, Probe as Wanted},
    failure::{Code, Failure},
};

use super::{
    body::Body,
    workshop::{Shut, Workshop},
};

/// Hits that may wait to be sent.
const RING: usize = 4096;
/// How often they are sent.
const PERIOD: Duration = Duration::from_millis(50);
/// Functions that one watcher looks at.
const FUNCTIONS_MAX: usize = 64;
/// How often it is tried to take probes out while somebody stays inside.
const TRIES: u32 = 100;

/// What is looked at now.
#[derive(Default)]
pub(super) struct Probes {
    watcher: Option<Watcher>,
}

struct Watcher {
    wanted: Vec<String>,
    ring: Arc<Ring>,
    probes: Vec<Probe>,
    /// What is shown for a hit, by the function's address.
    names: HashMap<usize, String>,
    /// What is shown for an operation that is measured.
    measured: HashMap<String, String>,
}

/// How one name of a function or an operation is looked at.
enum Way<'m> {
    Entry(&'m hotpatch::Function),
    Measured(Op, &'static str),
}

/// Sends hits until nobody takes them any more.
pub(super) fn stream(shop: &Arc<Workshop>, wanted: Wanted, responder: Responder) {
    let shop = Arc::clone(shop);
    tokio::spawn(async move {
        let its = Arc::clone(&shop);
        let begun = tokio::task::spawn_blocking(move || its.begin_watching(wanted.functions));
        let ring = match begun.await {
            Ok(Ok(ring)) => ring,
            Ok(Err(failure)) => return responder.fail(failure),
            Err(error) => return responder.fail(Failure::new(Code::Failed, error.to_string())),
        };
        send(&shop, &ring, responder.chunks()).await;
        // Also the last attempt may find somebody inside: then the next upgrade takes the probes out.
        let _ = tokio::task::spawn_blocking(move || shop.end_watching()).await;
    });
}

async fn send(shop: &Workshop, ring: &Ring, mut chunks: Chunks) {
    let mut timer = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = chunks.cancelled() => return,
        }
        if shop.desk.lock().stopping {
            return chunks.finish(&serde_json::Value::Null);
        }
        let mut lines = Vec::new();
        for hit in shop.hits(ring) {
            if serde_json::to_writer(&mut lines, &hit).is_ok() {
                lines.push(b'\n');
            }
        }
        if chunks.send(&lines).await.is_err() {
            return;
        }
    }
}

impl Workshop {
    fn begin_watching(&self, wanted: Vec<String>) -> Result<Arc<Ring>, Failure> {
        let failed = |code, text| Err(Failure::new(code, format!("{}: {text}", self.name)));
        if wanted.is_empty() || wanted.len() > FUNCTIONS_MAX {
            let text = format!("{} functions to probe; name 1 to {FUNCTIONS_MAX}", wanted.len());
            return failed(Code::InvalidArgument, text);
        }
        let body = self.body();
        let unknown = wanted.iter().find(|name| way(body.module(), name).is_none());
        if let Some(unknown) = unknown {
            let text = format!(
                "no function and no operation is called {unknown:.64?}; `driver map` names them"
            );
            return failed(Code::NotFound, text);
        }
        let ring = Ring::new(RING);
        {
            let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
            if probes.watcher.is_some() {
                return failed(Code::Busy, "somebody probes it already; one at a time".to_owned());
            }
            probes.watcher = Some(Watcher {
                wanted,
                ring: Arc::clone(&ring),
                probes: Vec::new(),
                names: HashMap::new(),
                measured: HashMap::new(),
            });
        }
        if let Err(failure) = self.put_in_place(&body) {
            self.probes.lock().unwrap_or_else(PoisonError::into_inner).watcher = None;
            return Err(failure);
        }
        Ok(ring)
    }

    /// Takes the probes out for good.
    fn end_watching(&self) {
        for _ in 0..TRIES {
            let body = self.body();
            if let Ok(shut) = self.shut(self.settings.drain) {
                let out = self.take_probes_out(&shut);
                drop(shut);
                drop(body);
                if let Err(refusal) = out {
                    self.note(format!("a probe can't be taken out: {refusal}"));
                }
                break;
            }
        }
        self.desk.measured.store(0, Relaxed);
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).watcher = None;
    }

    /// Into other code that serves now, if somebody watches.
    pub(super) fn put_probes_in(&self, body: &Body) {
        let watched = self.probes.lock().unwrap_or_else(PoisonError::into_inner).watcher.is_some();
        if watched && let Err(failure) = self.put_in_place(body) {
            self.note(format!("the probes are not in the new code: {failure}"));
        }
    }

    /// Behind the closed gate: the entries are as they were.
    pub(super) fn take_probes_out(&self, shut: &Shut) -> Result<(), Refusal> {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watcher) = &mut probes.watcher else { return Ok(()) };
        while let Some(probe) = watcher.probes.last_mut() {
            probe.undo(shut.closed())?;
            watcher.probes.pop();
        }
        Ok(())
    }

    /// Addresses of functions that are probed.
    pub(super) fn probed(&self) -> BTreeSet<usize> {
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let all = probes.watcher.iter().flat_map(|watcher| &watcher.probes);
        all.map(|probe| probe.function().address).collect()
    }

    fn put_in_place(&self, body: &Body) -> Result<(), Failure> {
        let module = Arc::clone(body.module());
        let shut = self.shut(self.settings.drain).map_err(|busy| self.busy(&busy))?;
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watcher) = &mut probes.watcher else { return Ok(()) };
        watcher.measured.clear();
        let (mut measured, mut notes) = (0, Vec::new());
        for name in watcher.wanted.clone() {
            let mut measure = |op: Op, why: &str| {
                notes.push(format!("the host measures {name} around its own calls: {why}"));
                measured |= 1u64.checked_shl(op.index()).unwrap_or(0);
                watcher.measured.insert(op.to_string(), name.clone());
            };
            match way(&module, &name) {
                None => notes
                    .push(format!("{name} can't be probed in {}: it has none", module.version())),
                Some(Way::Measured(op, why)) => measure(op, why),
                Some(Way::Entry(function)) => {
                    let probe =
                        Probe::new(function, Arc::clone(&watcher.ring)).and_then(|mut probe| {
                            probe.apply(shut.closed())?;
                            Ok(probe)
                        });
                    match (probe, function.operation) {
                        (Ok(probe), _) => {
                            watcher.names.insert(function.address, name.clone());
                            watcher.probes.push(probe);
                        }
                        (Err(refusal), Some(op)) => measure(op, &refusal.text),
                        (Err(refusal), None) => notes.push(refusal.text),
                    }
                }
            }
        }
        self.desk.measured.store(measured, Relaxed);
        drop(probes);
        drop(shut);
        notes.into_iter().for_each(|note| self.note(note));
        Ok(())
    }

    /// What was seen since it was asked last.
    fn hits(&self, ring: &Ring) -> Vec<Hit> {
        let mut seen = Vec::new();
        let lost = ring.take(&mut seen);
        let (measured, lost_here) = {
            let mut state = self.desk.lock();
            (std::mem::take(&mut state.hits), std::mem::take(&mut state.hits_lost))
        };
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let watcher = probes.watcher.as_ref();
        let name = |address: usize| {
            let known = watcher.and_then(|watcher| watcher.names.get(&address));
            known.cloned().unwrap_or_else(|| format!("{address:#x}"))
        };
        let of_entries = seen.into_iter().map(|hit| Hit {
            function: name(hit.function),
            tid: hit.tid,
            at_us: hit.started_ns / 1000,
            arguments: hit.args,
            result: Some(hit.result),
            duration_ns: Some(hit.duration_ns),
            lost: 0,
        });
        let of_host = measured.into_iter().map(|hit| {
            let shown = watcher.and_then(|watcher| watcher.measured.get(&hit.function));
            Hit { function: shown.unwrap_or(&hit.function).clone(), ..hit }
        });
        let mut hits: Vec<Hit> = of_entries.chain(of_host).collect();
        hits.sort_by_key(|hit| hit.at_us);
        if let Some(first) = hits.first_mut() {
            first.lost = lost + lost_here;
        }
        hits
    }
}

/// A function by its name, or an operation: by its function's entry where that is known.
fn way<'m>(module: &'m Module, name: &str) -> Option<Way<'m>> {
    if let Some(function) = module.functions().iter().find(|function| function.name == name) {
        return Some(Way::Entry(function));
    }
    let op = operation(module, name)?;
    let function = module.functions().iter().find(|function| function.operation == Some(op));
    Some(match function {
        Some(function) => Way::Entry(function),
        None => Way::Measured(op, "its function is not in the object's symbol table"),
    })
}

fn operation(module: &Module, name: &str) -> Option<Op> {
    let common = [Op::Open, Op::Close, Op::Read, Op::Write, Op::Ioctl, Op::Poll, Op::Interrupt];
    if let Some(op) = common.into_iter().find(|op| op.to_string() == name) {
        return Some(op);
    }
    let own = module.own_names().iter().position(|own| own == name)?;
    u32::try_from(own).ok().map(Op::Own)
}

/// What there is at an entry, in a word.
pub(super) fn room(room: &Room) -> String {
    match room {
        Room::Patchable { .. } => "nops",
        Room::Code { .. } => "code",
        Room::None => "too short, or its first instructions can't be replaced",
    }
    .to_owned()
}
