//! procd's methods that look at firmware and install it, as commands to the upgrade agent: `vestalctl` sends the bundle, beside
//! the loop and one at a time. What a good bundle is, and what is written where, the agent decides; nothing here waits for it.

mod said;
mod tool;

use daemon::clock;
use endpoint::{Incoming, Responder};
use protocol::{
    failure::{Code, Failure},
    system::{self, Accepted, Installed},
    time::Moment,
};
use serde_json::json;
use tokio::sync::mpsc;

use self::{
    said::{Outcome, Verdict},
    tool::{Record, Tool},
};
use super::{Inbound, Shell};
use crate::machine::Happening;

/// PATH_MAX of Linux, less its NUL.
const PATH_MAX: usize = 4095;
const SYSUPGRADE: &str = "sysupgrade";
const VALIDATE: &str = "validate_firmware_image";

/// What is being looked at or installed; there is at most one.
#[derive(Debug)]
pub(crate) struct Work {
    method: String,
    path: String,
    uid: u32,
    since: Moment,
}

/// What a caller wants.
struct Wish {
    method: &'static str,
    path: String,
    force: bool,
    /// Arguments that are not used.
    ignored: Vec<String>,
    uid: u32,
}

impl Shell {
    /// `sysupgrade`, `validate_firmware_image` and the older names: begun here, answered beside the loop.
    pub(super) fn firmware_call(&mut self, call: Incoming) {
        let wish = match wish(&call) {
            Ok(Some(wish)) => wish,
            Ok(None) => {
                let text = "nothing is done: `upgrade` without a path only said that services were about to be updated";
                tracing::info!("system upgrade by uid {}: {text}", call.caller().uid);
                let ignored = Vec::new();
                return call.responder.reply(&Accepted { text: text.to_owned(), ignored });
            }
            Err(failure) => return call.responder.fail(failure),
        };
        if let Some(work) = &self.firmware {
            return call.responder.fail(busy(work));
        }
        let places = self.definitions.places().clone();
        let tool = match Tool::new(&places) {
            Ok(tool) => tool,
            Err(error) => {
                let text = format!("find vestalctl: {error:#}");
                return call.responder.fail(Failure::new(Code::Failed, text));
            }
        };
        let (method, path) = (wish.method.to_owned(), wish.path.clone());
        self.firmware = Some(Work { method, path, uid: wish.uid, since: clock::now() });
        let inbox = self.back.clone();
        tokio::spawn(async move {
            match wish.method {
                VALIDATE => validate(&tool, &wish, call.responder, &inbox).await,
                _ => install(&tool, wish, call.responder, &inbox).await,
            }
        });
    }

    /// Goes on with what the supervisor before this one has accepted.
    pub(super) fn resume_firmware(&mut self) {
        let places = self.definitions.places().clone();
        let Some(record) = Record::left(&places) else { return };
        let (method, path) = (record.method.clone(), record.path.clone());
        self.firmware = Some(Work { method, path, uid: record.uid, since: clock::now() });
        let inbox = self.back.clone();
        tokio::spawn(async move {
            let outcome = record.end(&places).await;
            over(&inbox, Some(told(record, outcome))).await;
        });
    }

    /// What was looked at or installed is over; an installation's end is told.
    pub(super) fn firmware_over(&mut self, ended: Option<system::Ended>) {
        self.firmware = None;
        let Some(ended) = ended else { return };
        if ended.result == Installed::Failed {
            let text = ended.text.as_deref().unwrap_or("it is not known why");
            tracing::warn!("system {}: {} is not installed: {text}", ended.method, ended.path);
        }
        self.publish(&Happening { topic: system::SYSUPGRADE, data: json!(ended) });
        Record::forget(self.definitions.places());
    }
}

/// What is asked for; nothing where it is `upgrade` without a path.
fn wish(call: &Incoming) -> Result<Option<Wish>, Failure> {
    let uid = call.caller().uid;
    let plain = |method, path| Wish { method, path, force: false, ignored: Vec::new(), uid };
    let wish = match &*call.method {
        VALIDATE => plain(VALIDATE, call.parse::<system::Image>()?.path),
        "nandupgrade" => plain("nandupgrade", call.parse::<system::Image>()?.path),
        "upgrade" => match call.parse::<system::Upgrade>()?.path {
            Some(path) => plain("upgrade", path),
            None => return Ok(None),
        },
        _ => {
            let args: system::Sysupgrade = call.parse()?;
            let unused = [
                ("prefix", args.prefix.is_some()),
                ("backup", args.backup.is_some()),
                ("command", args.command.is_some()),
                ("options", args.options.is_some()),
            ];
            let given = unused.iter().filter(|(_, is_given)| *is_given);
            let ignored = given.map(|(name, _)| (*name).to_owned()).collect();
            Wish { method: SYSUPGRADE, path: args.path, force: args.force, ignored, uid }
        }
    };
    if !wish.path.starts_with('/') || wish.path.len() > PATH_MAX || wish.path.contains('\0') {
        let text = format!(
            "`path`: {:?} is no path from the root folder on, of at most {PATH_MAX} bytes",
            wish.path.chars().take(80).collect::<String>()
        );
        return Err(Failure::new(Code::InvalidArgument, text));
    }
    Ok(Some(wish))
}

fn busy(work: &Work) -> Failure {
    let Work { method, path, uid, since } = work;
    let seconds = clock::now().since(*since).as_secs();
    let text = format!(
        "system {method} of {path}, asked for by uid {uid} {seconds} s ago, has not ended: wait for it"
    );
    let details = json!({ "method": method, "path": path, "uid": uid, "since_s": seconds });
    Failure::new(Code::Busy, text).with_details(details)
}

/// Comes before the answer, so that a caller's next wish is not `busy` with this one.
async fn over(inbox: &mpsc::Sender<Inbound>, ended: Option<system::Ended>) {
    // Nobody listens where the supervisor is leaving: what was accepted is on record for the next one.
    let _ = inbox.send(Inbound::Firmware(ended)).await;
}

async fn validate(tool: &Tool, wish: &Wish, responder: Responder, inbox: &mpsc::Sender<Inbound>) {
    let validation = tokio::select! {
        biased;
        () = responder.cancelled() => Err(gone()),
        verdict = tool.look(&wish.path, false) => verdict.validation(),
    };
    over(inbox, None).await;
    responder.finish(validation);
}

/// Looks at the bundle first, so that a bad one is refused to the caller's face; what was accepted goes on without him.
async fn install(tool: &Tool, wish: Wish, responder: Responder, inbox: &mpsc::Sender<Inbound>) {
    let permitted = tokio::select! {
        biased;
        () = responder.cancelled() => Err(gone()),
        permitted = permitted(tool, &wish) => permitted,
    };
    let Wish { method, path, ignored, uid, .. } = wish;
    let begun = permitted.and_then(|allow_unsigned| {
        tool.begin(method, &path, uid, allow_unsigned)
            .map_err(|error| Failure::new(Code::Failed, error.to_string()))
    });
    let running = match begun {
        Ok(running) => running,
        Err(failure) => {
            over(inbox, None).await;
            return responder.fail(failure);
        }
    };
    tracing::warn!("system {method}: {path} is being installed, as uid {uid} wants");
    if !ignored.is_empty() {
        tracing::info!("system {method}: not used: {}", ignored.join(", "));
    }
    let text = format!(
        "the upgrade agent installs {path}: see vestalctl upgrade status; the event {} tells the end",
        system::SYSUPGRADE
    );
    responder.reply(&Accepted { text, ignored });
    let record = running.record.clone();
    let outcome = running.end().await;
    over(inbox, Some(told(record, outcome))).await;
}

/// For a caller who doesn't wait any more: nothing was begun.
fn gone() -> Failure {
    Failure::new(Code::Cancelled, "nobody waits for the answer")
}

/// Whether it has to be installed without a believed signature.
async fn permitted(tool: &Tool, wish: &Wish) -> Result<bool, Failure> {
    let complaint = match tool.look(&wish.path, false).await {
        Verdict::Good => return Ok(false),
        Verdict::Unknown(failure) => return Err(failure),
        Verdict::Refused(complaint) => complaint,
    };
    if !(wish.force && complaint.is_forceable()) {
        return Err(complaint.failure());
    }
    if wish.uid != 0 {
        let text = format!("{}; only root may force it", complaint.text);
        return Err(Failure::new(Code::Denied, text));
    }
    match tool.look(&wish.path, true).await {
        Verdict::Good => Ok(true),
        Verdict::Unknown(failure) => Err(failure),
        Verdict::Refused(complaint) => Err(complaint.failure()),
    }
}

fn told(record: Record, outcome: Outcome) -> system::Ended {
    let Outcome { result, state, complaint } = outcome;
    let (code, text) = complaint.map_or((None, None), |it| (it.code, Some(it.text)));
    system::Ended { path: record.path, method: record.method, result, state, code, text }
}
