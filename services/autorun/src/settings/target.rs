//! One file of `autorun.d`: the program or service that is to be there after a resume. Refuses what would run twice what may
//! run only once.

use std::{collections::BTreeMap, time::Duration};

use daemon::{
    accounts::{Accounts, number},
    table::{Item, Table, absolute},
};
use protocol::name::Name;

use super::{
    BeforeImage, Identity, OnFail, Once, Phase, Probe, ProbeBy, Target, Work, file::command,
};
use crate::journal::NameHash;

const KEYS: [&str; 18] = [
    "phase",
    "command",
    "service",
    "user",
    "group",
    "environment",
    "after",
    "before-image",
    "on-resume",
    "probe",
    "limit",
    "retries",
    "backoff",
    "once",
    "idempotent",
    "on-fail",
    "on-any-wake",
    "description",
];
const PROBE: [&str; 4] = ["command", "file", "heartbeat", "within"];
const LIMIT: [&str; 2] = ["soft", "hard"];
const ON_RESUME: [&str; 5] = ["start", "restart", "restart-if-broken", "none", "signal"];
const SIGNALS: i64 = 64;
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const HARD: Duration = Duration::from_secs(30);
const WITHIN: Duration = Duration::from_secs(5);

/// A target whose `after` is still names.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) target: Target,
    pub(super) after: Vec<Name>,
}

/// What `on-resume` says.
#[derive(Clone, Copy, Eq, PartialEq)]
enum OnResume {
    Start,
    Restart,
    RestartIfBroken,
    None,
    Signal(i32),
}

/// Nothing, and a report, where it can't be understood.
pub(super) fn read(top: &Table<'_>, name: Name, accounts: &Accounts) -> Option<Written> {
    top.refuse_others(&KEYS);
    let word = |key, words: &[&str]| top.get(key).and_then(|item: Item<'_>| item.word(words));
    // For its readers only.
    let _ = top.text("description");
    let service = top.get("service").and_then(|item| item.parsed(named));
    let (soft, hard) = limit(top);
    let probe = top.get("probe").and_then(|item| probe(&item));
    let on_resume = top.get("on-resume").map_or(Some(OnResume::Start), |item| on_resume(&item))?;
    let work = work(top, on_resume, service.as_ref(), probe.is_some())?;
    let environment = top.table("environment").map(|table| environment(&table));
    let target = Target {
        hash: NameHash::of(name.as_str()),
        name,
        phase: match word("phase", &["early", "ui", "late"]) {
            Some(0) => Phase::Early,
            Some(1) => Phase::Ui,
            _ => Phase::Late,
        },
        level: 0,
        after: Vec::new(),
        if_broken: on_resume == OnResume::RestartIfBroken,
        identity: identity(top, accounts),
        environment: environment.unwrap_or_default(),
        before_image: before_image(top, service.is_some()),
        work,
        service,
        probe,
        soft,
        hard,
        retries: top.integer("retries", 0..=100).unwrap_or(0),
        backoff: top.duration("backoff", MS..=HOUR).unwrap_or(Duration::from_secs(1)),
        once: match word("once", &["resume", "image", "always"]) {
            Some(1) => Once::Image,
            Some(2) => Once::Always,
            _ => Once::Resume,
        },
        idempotent: top.boolean("idempotent").unwrap_or(false),
        on_fail: match word("on-fail", &["continue", "stop", "reboot-cold"]) {
            Some(1) => OnFail::Stop,
            Some(2) => OnFail::RebootCold,
            _ => OnFail::Continue,
        },
        on_any_wake: top.boolean("on-any-wake").unwrap_or(false),
    };
    only_once(top, &target);
    let after = top.get("after").map(|item| item.some(named)).unwrap_or_default();
    Some(Written { target, after })
}

/// Whatever would run a target a second time needs a target that may run a second time.
fn only_once(top: &Table<'_>, target: &Target) {
    let again = [
        ("retries", target.retries > 0),
        ("once", target.once == Once::Always),
        ("on-any-wake", target.on_any_wake),
    ];
    for (key, again) in again {
        if let Some(item) = top.get(key).filter(|_| again && !target.idempotent) {
            item.wrong(
                "this may run it twice in one life; say idempotent = true where that does no harm",
            );
        }
    }
}

fn named(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|why| why.to_string())
}

fn on_resume(item: &Item<'_>) -> Option<OnResume> {
    if item.value().is_table() {
        let table = item.table()?;
        table.refuse_others(&["signal"]);
        return table.integer("signal", 1..=SIGNALS).map(OnResume::Signal);
    }
    Some(match item.word(&ON_RESUME)? {
        0 => OnResume::Start,
        1 => OnResume::Restart,
        2 => OnResume::RestartIfBroken,
        3 => OnResume::None,
        _ => {
            item.wrong("which signal? write on-resume = { signal = 1 }");
            return None;
        }
    })
}

fn work(top: &Table<'_>, how: OnResume, service: Option<&Name>, probe: bool) -> Option<Work> {
    let program = top.get("command").map(|item| command(&item));
    let wrong = |key: &str, text: &str| {
        if let Some(item) = top.get(key) {
            item.wrong(text);
        }
    };
    if how == OnResume::RestartIfBroken && !probe {
        wrong(
            "on-resume",
            "how to see that it is broken? write probe = { file = \"/run/ui/frames\" }",
        );
    }
    match (how, program, service) {
        (OnResume::None, None, _) => Some(Work::Nothing),
        (OnResume::Start | OnResume::RestartIfBroken, Some(program), _) => {
            Some(Work::Program(program))
        }
        (OnResume::Start, None, Some(service)) => Some(Work::Start(service.clone())),
        (OnResume::Restart | OnResume::RestartIfBroken, None, Some(service)) => {
            Some(Work::Restart(service.clone()))
        }
        (OnResume::Signal(signal), None, Some(service)) => {
            Some(Work::Signal(service.clone(), signal))
        }
        (_, Some(_), _) => {
            wrong("command", "this on-resume never runs a command; take one of them out");
            None
        }
        // Told by who reads the file: no key of it is the wrong one.
        (_, None, None) => None,
    }
}

fn before_image(top: &Table<'_>, service: bool) -> BeforeImage {
    let word = top
        .get("before-image")
        .and_then(|item| item.word(&["stop", "freeze", "quiesce", "keep"]).map(|at| (at, item)));
    match word {
        Some((3, _)) => BeforeImage::Keep,
        Some((_, item)) if !service => {
            item.wrong("of what? write service = \"ui\" beside it");
            BeforeImage::Keep
        }
        Some((1, _)) => BeforeImage::Freeze,
        Some((2, _)) => BeforeImage::Quiesce,
        // What was half-drawn in the image seldom works after it.
        None if service => BeforeImage::Stop,
        None => BeforeImage::Keep,
        Some(_) => BeforeImage::Stop,
    }
}

/// `limit = "30s"`, or `limit = { soft = "10s", hard = "30s" }`.
fn limit(top: &Table<'_>) -> (Option<Duration>, Duration) {
    let Some(item) = top.get("limit") else { return (None, HARD) };
    if item.value().as_str().is_some() {
        return (None, top.duration("limit", MS..=HOUR).unwrap_or(HARD));
    }
    let Some(table) = item.table() else { return (None, HARD) };
    table.refuse_others(&LIMIT);
    let soft = table.duration("soft", MS..=HOUR);
    let hard = table.duration("hard", MS..=HOUR).unwrap_or(HARD);
    if soft.is_some_and(|soft| soft > hard) {
        item.wrong("soft is a note on the way to hard; make it the shorter one");
    }
    (soft, hard)
}

fn probe(item: &Item<'_>) -> Option<Probe> {
    let table = item.table()?;
    table.refuse_others(&PROBE);
    let within = table.duration("within", MS..=HOUR).unwrap_or(WITHIN);
    let file = table.get("file").and_then(|item| item.parsed(absolute));
    let app = table.integer("heartbeat", i64::from(i32::MIN)..=i64::from(i32::MAX));
    let by = match (table.get("command"), table.get("file"), table.get("heartbeat")) {
        (Some(item), None, None) => ProbeBy::Command(command(&item)),
        (None, Some(_), None) => ProbeBy::File(file?),
        (None, None, Some(_)) => ProbeBy::Heartbeat(app?),
        _ => {
            item.wrong("one of command, file and heartbeat says how to see that it works");
            return None;
        }
    };
    Some(Probe { by, within })
}

fn environment(table: &Table<'_>) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for key in table.keys() {
        let Some(item) = table.get(key) else { continue };
        let Some(value) = item.text() else { continue };
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            item.wrong("a variable has a name without =, and neither has a NUL");
        }
        environment.insert(key.to_owned(), value.to_owned());
    }
    environment
}

fn identity(top: &Table<'_>, accounts: &Accounts) -> Option<Identity> {
    let user = top.get("user").and_then(|item| {
        item.parsed(|text| {
            let account = accounts.user(text).or_else(|| accounts.user_of(number(text)?));
            match (account, number(text)) {
                (Some(account), _) => {
                    let groups = accounts.groups_with(&account.name).collect();
                    Ok(Identity { uid: account.uid, gid: account.gid, groups })
                }
                (None, Some(uid)) => Ok(Identity { uid, gid: uid, groups: Vec::new() }),
                (None, None) => Err(format!("{text:?} is no user of this device; see /etc/passwd")),
            }
        })
    });
    let Some(item) = top.get("group") else { return user };
    let gid = item.parsed(|text| {
        let gid = accounts.group(text).or_else(|| number(text));
        gid.ok_or_else(|| format!("{text:?} is no group of this device; see /etc/group"))
    })?;
    if top.get("user").is_none() {
        item.wrong("a group without a user; write user beside it");
    }
    user.map(|user| Identity { gid, ..user })
}
