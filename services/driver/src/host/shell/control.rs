//! What the manager and people ask of a host: how it stands, its functions, its state, other code. Nothing of it holds up a
//! task's call: whatever takes time runs beside.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use driver_abi::{Op, State, kind};
use endpoint::{Incoming, Responder};
use hotpatch::{Module, Sealed};
use protocol::{
    driver::{Field, Function, OBJECT_MAX, Outcome, Probe, Settled, Standing, Status, Upgrade},
    failure::{Code, Failure},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{probes, start::Started, workshop::Workshop};
use crate::{
    cuse::Cuse,
    host::{core::Core, machine::recorder::Sample},
};

const CUSE_FILE: &str = "cuse";

pub(super) struct Control {
    shop: Arc<Workshop>,
    core: Core,
    run: PathBuf,
    cuse: Arc<Mutex<Option<Cuse>>>,
}

#[derive(Deserialize)]
struct Replace {
    replacement: Upgrade,
}

/// The manager names the driver, too, where it passes on what it was asked.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Back {
    reason: Option<String>,
}

impl Control {
    pub(super) fn new(started: &Started, run: &Path) -> Self {
        Self {
            shop: Arc::clone(&started.shop),
            core: started.core.clone(),
            run: run.to_owned(),
            cuse: Arc::default(),
        }
    }

    pub(super) fn call(&self, call: Incoming) {
        match &*call.method {
            "status" => call.responder.reply(&self.status()),
            "map" => self.beside(call.responder, |shop| Ok(map(shop))),
            "settled" => self.settled(call.responder),
            _ => {
                if let Err(failure) = self.privileged(&call) {
                    return call.responder.fail(failure);
                }
                self.privileged_call(call);
            }
        }
    }

    fn privileged_call(&self, mut call: Incoming) {
        match &*call.method {
            "state" => self.beside(call.responder, state),
            "probe" => match call.parse::<Probe>() {
                Ok(probe) => probes::stream(&self.shop, probe, call.responder),
                Err(failure) => call.responder.fail(failure),
            },
            "replace" => {
                let object = call.fds.pop();
                let Some(object) = object else {
                    let text = "replace: the descriptor of the object is missing";
                    return call.responder.fail(Failure::new(Code::InvalidArgument, text));
                };
                match call.parse::<Replace>() {
                    Ok(Replace { replacement }) => self.beside(call.responder, move |shop| {
                        let sealed = Sealed::adopt(object, OBJECT_MAX).map_err(|refusal| {
                            let details = json!({ "reason": refusal.code.name() });
                            Failure::new(Code::Failed, refusal.text).with_details(details)
                        })?;
                        shop.replace(&sealed, &replacement)
                    }),
                    Err(failure) => call.responder.fail(failure),
                }
            }
            "rollback" => match call.parse::<Back>() {
                Ok(back) => self.beside(call.responder, move |shop| shop.roll_back(back.reason)),
                Err(failure) => call.responder.fail(failure),
            },
            "trial" => self.trial(call.responder),
            "cuse" => self.cuse(call),
            // The endpoint lets only described methods through; an answer is sent when the call is dropped.
            _ => {}
        }
    }

    /// Root, the host's own user, and whose the run directory is; nobody else, whatever the policy opens to others.
    fn privileged(&self, call: &Incoming) -> Result<(), Failure> {
        let caller = call.caller();
        let owns = || std::fs::metadata(&self.run).is_ok_and(|about| about.uid() == caller.uid);
        if call.responder.peer().is_trusted() || owns() {
            return Ok(());
        }
        let text = format!(
            "driver/{}.{} is denied to user {} (pid {}): it is for root and the host's own user only; ask the object `driver`",
            self.shop.name, call.method, caller.uid, caller.pid
        );
        Err(Failure::new(Code::Denied, text).with_details(json!({ "reason": "privilege" })))
    }

    /// Does it on another thread, and answers.
    fn beside<T: Serialize + Send + 'static>(
        &self,
        responder: Responder,
        work: impl FnOnce(&Workshop) -> Result<T, Failure> + Send + 'static,
    ) {
        let shop = Arc::clone(&self.shop);
        tokio::task::spawn_blocking(move || responder.finish(work(&shop)));
    }

    fn status(&self) -> Status {
        let serving = self.shop.serving();
        let trials = self.shop.trials.borrow().clone();
        let (handles, calls, errors) = {
            let state = self.shop.desk.lock();
            (state.handles.count() as u64, state.calls, state.errors)
        };
        let cuse = self.cuse.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let device = self.shop.settings.device.as_ref().filter(|_| cuse);
        Status {
            name: self.shop.name.clone(),
            standing: if trials.open { Standing::Probation } else { Standing::Serving },
            version: serving.version,
            previous: serving.previous,
            pid: i32::try_from(std::process::id()).ok(),
            handles,
            calls,
            errors,
            upgrades: trials.upgrades,
            rollbacks: trials.rollbacks,
            last: trials.last,
            device: device.map(|name| format!("/dev/{name}")),
            own: serving.module.own_names().to_vec(),
            notes: self.shop.notes(),
        }
    }

    fn settled(&self, responder: Responder) {
        let mut trials = self.shop.trials.subscribe();
        let shop = Arc::clone(&self.shop);
        tokio::spawn(async move {
            let over = tokio::select! {
                over = trials.wait_for(|trials| !trials.open) => over,
                () = responder.cancelled() => return,
            };
            let Ok(last) = over.map(|trials| trials.last.clone()) else { return };
            let serves = shop.serving().version;
            // Nothing was ever tried here: what serves is what is confirmed.
            let settled = last.unwrap_or_else(|| Settled {
                name: shop.name.clone(),
                outcome: Outcome::Confirmed,
                tried: serves.clone(),
                serves,
                reason: None,
            });
            responder.reply(&settled);
        });
    }

    /// What a canary begins with: the state of now, and the last calls.
    fn trial(&self, responder: Responder) {
        let shop = Arc::clone(&self.shop);
        tokio::task::spawn_blocking(move || {
            let sample = shop.state().and_then(|state| {
                let failed = |text: String| Failure::new(Code::Failed, text);
                let state = state.encode().map_err(|error| failed(error.to_string()))?;
                let calls = shop.desk.lock().recorder.calls();
                let bytes = Sample { state, calls }.encode();
                let sealed = Sealed::new("trial", &bytes)
                    .and_then(|sealed| sealed.fd().try_clone_to_owned());
                sealed.map_err(|error| failed(format!("a memfd for the state: {error}")))
            });
            match sample {
                Ok(memfd) => responder.reply_with(&Value::Null, vec![memfd]),
                Err(failure) => responder.fail(failure),
            }
        });
    }

    fn cuse(&self, mut call: Incoming) {
        let mut cuse = self.cuse.lock().unwrap_or_else(PoisonError::into_inner);
        let given = call.fds.pop();
        let failed =
            |text: String| Failure::new(Code::Failed, format!("{}: {text}", self.shop.name));
        if let (None, Some(device)) = (&*cuse, given) {
            let Some(name) = &self.shop.settings.device else {
                let text = format!("driver.toml names no device for {}", self.shop.name);
                return call.responder.fail(Failure::new(Code::Unsupported, text));
            };
            let file = self.shop.folder.join(CUSE_FILE);
            match Cuse::start(device, name, &file, self.core.clone()) {
                Ok(started) => *cuse = Some(started),
                Err(text) => return call.responder.fail(failed(text)),
            }
        }
        match cuse.as_ref().map(Cuse::device) {
            Some(Ok(copy)) => call.responder.reply_with(&Value::Null, vec![copy]),
            Some(Err(error)) => {
                call.responder.fail(failed(format!("a copy of the device: {error}")))
            }
            None => call.responder.reply(&Value::Null),
        }
    }
}

/// The functions of what serves; and those that the table in use leads to, where the version came over it by jumps.
fn map(shop: &Workshop) -> Vec<Function> {
    let body = shop.body();
    let probed = shop.probed();
    let over = body.serves.height() > 1;
    let mut functions =
        shown(body.module(), |address| probed.contains(&address).then(|| "probe".to_owned()));
    if over {
        let version = body.version();
        let to = format!("{} ({})", version.version, version.hash);
        let jumps = body.redirected();
        functions.extend(shown(&body.serves.base().module, |address| {
            jumps.contains(&address).then(|| to.clone())
        }));
    }
    functions
}

fn shown(module: &Module, redirected: impl Fn(usize) -> Option<String>) -> Vec<Function> {
    let names = module.own_names();
    let name = |op: Op| match op {
        Op::Own(number) => {
            let known = usize::try_from(number).ok().and_then(|number| names.get(number));
            known.cloned().unwrap_or_else(|| op.to_string())
        }
        op => op.to_string(),
    };
    let functions = module.functions().iter().map(|function| Function {
        name: function.name.clone(),
        address: function.address as u64,
        size: function.size,
        hash: function.hash.iter().map(|octet| format!("{octet:02x}")).collect(),
        entry: probes::room(&function.room),
        operation: function.operation.map(name),
        redirected: redirected(function.address),
    });
    functions.collect()
}

/// The state by the names of its fields.
fn state(shop: &Workshop) -> Result<Vec<Field>, Failure> {
    let State { fields, .. } = shop.state()?;
    let serving = shop.serving();
    let known = serving.module.fields();
    let field = |(id, bytes): (u16, Vec<u8>)| {
        let about = known.iter().find(|(of, ..)| *of == id);
        let kind = about.map_or(kind::BYTES, |(_, kind, _)| *kind);
        Field { id, name: about.map(|(.., name)| name.clone()), value: value(kind, &bytes) }
    };
    Ok(fields.into_iter().map(field).collect())
}

/// A field's bytes for a person.
fn value(of: u16, bytes: &[u8]) -> Value {
    let hexadecimal =
        || bytes.iter().map(|octet| format!("{octet:02x}")).collect::<String>().into();
    let mut wide = [0; 8];
    let fits = matches!(bytes.len(), 1 | 2 | 4 | 8);
    if fits {
        wide[..bytes.len()].copy_from_slice(bytes);
    }
    match of {
        kind::UNSIGNED if fits => u64::from_le_bytes(wide).into(),
        kind::SIGNED if fits => {
            let unused = 64 - 8 * bytes.len();
            (i64::from_le_bytes(wide) << unused >> unused).into()
        }
        kind::TEXT => std::str::from_utf8(bytes).map_or_else(|_| hexadecimal(), Value::from),
        _ => hexadecimal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_shown_as_what_they_are() {
        assert_eq!(value(kind::UNSIGNED, &[0xff, 0xff]), json!(65535));
        assert_eq!(value(kind::SIGNED, &[0xff, 0xff]), json!(-1));
        assert_eq!(value(kind::SIGNED, &(-7i64).to_le_bytes()), json!(-7));
        assert_eq!(value(kind::UNSIGNED, &[1, 2, 3]), json!("010203"), "no number has three bytes");
        assert_eq!(value(kind::TEXT, b"on"), json!("on"));
        assert_eq!(value(kind::TEXT, &[0xff]), json!("ff"));
        assert_eq!(value(kind::BYTES, b"on"), json!("6f6e"));
    }
}
