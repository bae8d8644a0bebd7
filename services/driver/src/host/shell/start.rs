//! The first moments of a host: which version, why not the one that was on probation, which state, which handles.

use std::{path::Path, sync::Arc};

use daemon::places::Places;
use driver_abi::REOPEN;
use hotpatch::{Args, Code, Gate, Module, Refusal, Sealed, Shared, Slot, Table, Writable, fault};
use protocol::driver::{Outcome, Settled, Version};

use super::{
    body::{Body, Stack},
    desk::Desk,
    files,
    journal::Journal,
    owners::Owners,
    replace::{errno, load},
    services::Callbacks,
    worker::{EXTRA_MAX, OTHERS},
    workshop::Workshop,
};
use crate::{
    host::{
        core::{Core, Owner},
        machine::states,
    },
    record,
    settings::Driver,
};

const FAULT: &str = "fault";

/// A driver that is ready to be called.
pub(super) struct Started {
    pub(super) shop: Arc<Workshop>,
    pub(super) core: Core,
    pub(super) owners: Arc<Owners>,
}

/// What was found out before the desk is there.
struct Found {
    version: Version,
    module: Module,
    last: Option<Settled>,
    notes: Vec<String>,
}

/// Loads what is to serve, and gives it back what its callers had of the host before. Needs a tokio runtime.
///
/// # Errors
/// Why no version of the driver can serve.
pub(super) fn start(name: &str, driver: Driver, places: &Places) -> Result<Started, String> {
    let folder = places.run.join("driver").join(name);
    let record = places.state.join("driver").join(name);
    let told =
        |what: &str, error: std::io::Error| format!("{what} in {}: {error}", folder.display());
    let reason = install(&folder).map_err(|error| told("the file of faults", error))?;
    let journal = Journal::open(&folder).map_err(|error| told("the journal of handles", error))?;
    let callbacks: &'static Callbacks = Box::leak(Box::new(Callbacks::new(name)));
    let host = hotpatch::host(callbacks);
    let found = find(name, &driver, &record, reason)?;
    let Found { version, module, last, mut notes } = found;
    begin(&module, host, &folder, &mut notes)?;
    let gate = Gate::new(driver.threads + EXTRA_MAX + OTHERS)
        .map_err(|error| format!("the gate of the driver: {error}"))?;
    if let Writable::Blocked(why) = hotpatch::code_writable() {
        notes
            .push(format!("code can't be written here ({why}): no jumps and no probes at entries"));
    }
    let module = Arc::new(module);
    let slot = Slot::new(&gate, Table::clone(&module.table()));
    let runtime = tokio::runtime::Handle::current();
    let desk = Arc::new(Desk::new(gate, slot, journal, driver.threads, driver.hang, runtime));
    callbacks.connect(&desk);
    let owners = Arc::new(Owners::default());
    give_back(&desk, &owners, &mut notes);
    for note in &notes {
        tracing::warn!("{name}: {note}");
    }
    let body = Body::new(Stack::new(module, version));
    let places = (folder, record);
    let shop = Workshop::new(name, driver, places, (Arc::clone(&desk), host), body, (last, notes));
    Ok(Started { shop: Arc::new(shop), core: Core::new(desk), owners })
}

/// From now on a fault is written down; why the host before ended, if it could say so.
fn install(folder: &Path) -> std::io::Result<Option<String>> {
    let shared = Shared::open(&folder.join(FAULT), fault::WORDS)?;
    let crash = fault::read(&shared).map(|fault| {
        let place = match fault.inside {
            Some((op, handle)) => format!("in {op} of handle {handle}"),
            None => "outside of any call".to_owned(),
        };
        format!("the host died of signal {} at address {:#x} {place}", fault.signal, fault.address)
    });
    let words = files::take_last_words(folder);
    fault::clear(&shared);
    // There is one in a process, and it is written to until the process ends.
    fault::install(Box::leak(Box::new(shared)))?;
    Ok(words.or(crash))
}

/// The version that is to serve, loaded; what can't be loaded gives way to the factory's.
fn find(
    name: &str,
    driver: &Driver,
    folder: &Path,
    reason: Option<String>,
) -> Result<Found, String> {
    let start = record::start(folder, &driver.object)?;
    let mut notes = start.notes;
    let mut version = start.version;
    let module = match load_bytes(name, &start.object) {
        Ok(module) => module,
        Err(refusal) => {
            let factory = record::read_object(&driver.object).map_err(|error| {
                format!("the factory object {}: {error}", driver.object.display())
            })?;
            let hash = record::hash_of(&factory);
            if hash == version.hash {
                return Err(format!("the object of {}: {refusal}", record::shown(&version)));
            }
            notes.push(format!(
                "the object of {} is refused, the factory version serves: {refusal}",
                record::shown(&version)
            ));
            version = record::factory(&hash);
            load_bytes(name, &factory)
                .map_err(|refusal| format!("the factory object: {refusal}"))?
        }
    };
    if version.version.is_empty() {
        module.version().clone_into(&mut version.version);
    }
    if start.rolled_back.is_none()
        && let Some(reason) = &reason
    {
        notes.push(reason.clone());
    }
    let last = start.rolled_back.map(|tried| Settled {
        name: name.to_owned(),
        outcome: Outcome::RolledBack,
        tried,
        serves: version.clone(),
        reason: Some(reason.unwrap_or_else(|| {
            "its host ended while it was on probation, and could not say why".to_owned()
        })),
    });
    if let Some(Settled { tried, reason: Some(reason), .. }) = &last {
        tracing::warn!("{name}: version {} was rolled back: {reason}", tried.version);
    }
    Ok(Found { version, module, last, notes })
}

fn load_bytes(name: &str, bytes: &[u8]) -> Result<Module, Refusal> {
    let sealed = Sealed::new(name, bytes)
        .map_err(|error| Refusal::new(Code::System, format!("a memfd for it: {error}")))?;
    load(&sealed)
}

/// The driver begins with the state that was written down last, or anew.
fn begin(
    module: &Module,
    host: &'static driver_abi::Host,
    folder: &Path,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let kept = files::read_state(folder).unwrap_or_else(|error| {
        notes.push(format!(
            "the state in {} can't be read: {error}; the driver begins anew",
            folder.display()
        ));
        None
    });
    for state in kept.map(|bytes| states::decode(&bytes, module.layout())).unwrap_or_default() {
        let result = module.import(host, &state);
        if result >= 0 {
            return tested(module);
        }
        notes.push(format!(
            "version {} does not take the state: {}",
            module.version(),
            errno(result)
        ));
    }
    match module.import(host, &[]) {
        0.. => tested(module),
        result => Err(format!("version {} can't begin: {}", module.version(), errno(result))),
    }
}

fn tested(module: &Module) -> Result<(), String> {
    match module.self_test() {
        0.. => Ok(()),
        result => {
            Err(format!("the self test of version {} fails: {}", module.version(), errno(result)))
        }
    }
}

/// Gives the driver the handles back that callers still have, and ends those whose callers have gone meanwhile.
fn give_back(desk: &Arc<Desk>, owners: &Arc<Owners>, notes: &mut Vec<String>) {
    let lines = desk.journal.lines();
    if lines.is_empty() {
        return;
    }
    let Some(mut caller) = desk.gate.register() else { return };
    let mut gone = Vec::new();
    for (line, slot) in lines {
        let args = Args::Open { flags: line.flags | REOPEN };
        let result = desk.slot.call(&mut caller, line.handle, args);
        if result < 0 {
            notes.push(format!(
                "the driver does not take handle {} back: {}",
                line.handle,
                errno(result)
            ));
            desk.journal.clear(slot);
            continue;
        }
        desk.lock().handles.adopt(line, slot);
        if matches!(line.owner, Owner::Process { .. }) && !owners.adopt(line.owner, desk) {
            gone.push(line);
        }
    }
    for line in gone {
        desk.owner_ended(line.owner);
    }
    desk.journal.set_next(desk.lock().handles.next_handle());
}
